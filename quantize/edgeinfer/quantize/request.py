"""What a search is asked for, as a value, and whether that makes sense before anything is opened."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgeinfer.quantize.dataset import SampleOptions
from edgeinfer.quantize.feeding import FED_ALONE, Feeding
from edgeinfer.quantize.pack import Identity
from edgeinfer.quantize.search.goal import Objective
from edgeinfer.quantize.targets.base import Fleet
from edgeinfer.runtime.errors import UsageError

__all__ = ["Request", "check_numbers"]


@dataclass(frozen=True, slots=True)
class Request:
    """What to quantize: one model, or an ONNX and a TFLite file of the same one.

    `max_drop` is in points (per cent for an error without a bound), `min_agreement` a share, `time_s` the time budget.
    `target` is `local`, the name of a profile, `ssh://user@host` or `device:ID`. `converter` is the command `onnx2tf`,
    None: the one on the PATH, where there is one. `page`: where the report is written as a page, None: nowhere.
    `command`: how the search can be made again. `fleet`: how the device of a target `device:ID` is asked.
    """

    models: Sequence[Path]
    data: Path
    identity: Identity
    max_drop: float = 1.0
    min_agreement: float | None = None
    max_bytes: int | None = None
    objective: Objective = "latency"
    time_s: float = math.inf
    exhaustive: bool = False
    metric: str = ""
    preprocess: str = ""
    postprocess: str = ""
    labels: Path | None = None
    options: SampleOptions = field(default_factory=SampleOptions)
    feeding: Feeding = FED_ALONE
    target: str = "local"
    converter: Path | None = None
    threads: int = 1
    page: Path | None = None
    command: str = ""
    fleet: Fleet | None = None


def check_numbers(request: Request) -> None:
    """Raises UsageError."""
    if not math.isfinite(request.max_drop) or request.max_drop < 0:
        raise UsageError(f"expected --max-drop of 0 points or more, found {request.max_drop}")
    if request.min_agreement is not None and not 0.0 <= request.min_agreement <= 1.0:
        raise UsageError(f"expected --min-agreement of 0 to 1, found {request.min_agreement}")
    if request.max_bytes is not None and request.max_bytes < 1:
        raise UsageError(f"expected --max-bytes of 1 or more, found {request.max_bytes}")
    if not request.time_s > 0:
        raise UsageError(f"expected --time-budget above 0 seconds, found {request.time_s}")
    if request.threads < 1:
        raise UsageError(f"expected --threads of 1 or more, found {request.threads}")
    if not request.models:
        raise UsageError("expected a model file, found none")
