"""A metric of the user's own: a function in a module, or an entry point of the group `edgeinfer.metrics`.

    def recall(outputs, labels):
        # outputs: a list of arrays (N, ...) float32, one for each output of the model; labels: (N, ...)
        return float(...)      # higher is better; or (N,), one figure for each sample, whose mean counts

    recall.higher_is_better = False   # where it is an error, then drops are in per cent of the float model's

`--metric mymetrics:recall`, with the module beside the command or installed.
"""

import importlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from edgeinfer.quantize.dataset import Samples
from edgeinfer.quantize.evaluate import Scored
from edgeinfer.quantize.metrics.base import Judged, Unit, mean_of
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import UsageError

__all__ = ["GROUP", "UserMetric", "installed_metrics", "load_function"]

GROUP = "edgeinfer.metrics"
Function = Callable[[list[Array], Array], Any]


@dataclass(frozen=True, slots=True)
class UserMetric:
    """`function` as above; what it raises is reported as its own."""

    name: str
    function: Function
    lowest: float | None = None
    labelled: bool = False
    outputs: bool = True

    @property
    def higher_is_better(self) -> bool:
        return bool(getattr(self.function, "higher_is_better", True))

    @property
    def unit(self) -> Unit:
        return "points" if self.higher_is_better else "percent"

    def judge(self, scored: Scored, reference: Scored, samples: Samples) -> Judged:
        del reference
        answer = self._asked(scored.outputs, samples.y)
        if answer.ndim == 1:
            if len(answer) != len(samples.y):
                raise self._wrong(f"{len(answer)} figures for {len(samples.y)} samples")
            return mean_of(answer)

        def resample(places: Array) -> float:
            return float(self._asked(tuple(one[places] for one in scored.outputs), samples.y[places], finite=False))

        return Judged(float(answer), len(samples.y), None, resample)

    def _asked(self, outputs: tuple[Array, ...], labels: Array, *, finite: bool = True) -> Array:
        try:
            answer = np.asarray(self.function([one.copy() for one in outputs], labels.copy()), dtype=np.float64)
        except (Exception, SystemExit) as error:  # one that leaves the program would look like success
            raise UsageError(
                f"--metric: the function {self.name} failed: {type(error).__name__}: {error}",
                hint="it is called with a list of arrays (N, ...), one for each output, and the labels (N, ...)",
            ) from error
        if answer.ndim > 1:
            raise self._wrong(f"an array of shape {answer.shape}")
        if finite and not np.isfinite(answer).all():
            raise self._wrong("no finite number")
        return answer if answer.ndim else np.asarray(float(answer) if np.isfinite(answer) else math.nan)

    def _wrong(self, found: str) -> UsageError:
        return UsageError(f"--metric: expected {self.name} to return a number, or one for each sample, found {found}")


def installed_metrics() -> tuple[str, ...]:
    """The names of the entry points that are installed."""
    return tuple(sorted(entry.name for entry in metadata.entry_points(group=GROUP)))


def load_function(name: str) -> UserMetric:
    """`module:function`, or the name of an entry point. Raises UsageError where it cannot be had."""
    entries = [entry for entry in metadata.entry_points(group=GROUP) if entry.name == name]
    module, _, attribute = (entries[0].value if entries else name).partition(":")
    function: Any = _imported(module, name)
    for part in attribute.split("."):
        function = getattr(function, part, None)
    if not callable(function):
        raise UsageError(f"--metric: expected a function {attribute!r} in the module {module!r}, found none")
    return UserMetric(name, function)


def _imported(module: str, name: str) -> object:
    """Modules beside the command count, too, as for a script."""
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise UsageError(
            f"--metric: the module of {name!r} cannot be imported: {type(error).__name__}: {error}",
            hint="module:function, with the module in this folder or installed",
        ) from error
    finally:
        if added:
            sys.path.remove(here)
