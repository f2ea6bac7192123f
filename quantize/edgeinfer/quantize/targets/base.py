"""What a target is: it says how fast candidates are on a device."""

from collections.abc import Sequence
from typing import Protocol

from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.search.entry import Timing
from edgeinfer.runtime.engines.base import Array

__all__ = ["Target", "Timing"]


class Target(Protocol):
    """`name` as the user gave it, `machine` what it is, `engines` those that it has. `measured`: figures are taken, not
    estimated. `repeats`: asking again makes the figures more exact, at little cost; what asks once only asks for all
    that matter."""

    name: str
    machine: str
    measured: bool
    repeats: bool
    engines: tuple[str, ...]

    def time(
        self, candidates: Sequence[Candidate], *, sample: Array, reference: str, rough: bool = False
    ) -> dict[str, Timing]:
        """Time `candidates`, side by side, on `sample` float32 (1, *input shape). `reference` is the id of one of them;
        `rough`: a first look is enough. Raises EdgeInferError where the target cannot be reached or used."""
        ...

    def close(self) -> None: ...
