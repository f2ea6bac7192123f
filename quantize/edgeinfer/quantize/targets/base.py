"""What a target is: it says how fast candidates are on a device."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.search.entry import Timing
from edgeinfer.runtime.engines.base import Array

__all__ = ["Fleet", "Target", "Timing"]


class Target(Protocol):
    """`name` as the user gave it, `machine` what it is, `engines` those that it has. `measured`: figures are taken, not
    estimated. `repeats`: asking again makes the figures more exact, at little cost; what asks once only asks for all
    that matter. `cuts_pairs`: its CPU is known to keep sums of two 8-bit products in 16 bits, and to cut them off."""

    name: str
    machine: str
    measured: bool
    repeats: bool
    cuts_pairs: bool
    engines: tuple[str, ...]

    def time(
        self,
        candidates: Sequence[Candidate],
        *,
        sample: Array,
        reference: str,
        rough: bool = False,
        time_s: float = math.inf,
    ) -> dict[str, Timing]:
        """Time `candidates`, side by side, on `sample` float32 (1, *input shape). `reference` is the id of one of them;
        `rough`: a first look is enough; `time_s`: how long it should take, at most, which a target that is asked once
        only need not keep to. Raises EdgeInferError where the target cannot be reached or used."""
        ...

    def close(self) -> None: ...


class Fleet(Protocol):
    """How devices are asked that a console knows. Both raise EdgeInferError where that cannot be done."""

    def describe(self, device: str) -> tuple[Mapping[str, object], tuple[str, ...]]:
        """What `edgeinfer probe` said on the device, and the names of its engines."""
        ...

    def bench(self, device: str, package: Path, *, seconds: float, threads: int, timeout_s: float) -> bytes:
        """The JSON of `edgeinfer bench` for the signed `package`, each variant timed for `seconds` on the device."""
        ...
