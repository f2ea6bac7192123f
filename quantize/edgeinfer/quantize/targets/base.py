"""What a target is: it says how fast candidates are on a device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edgeinfer.quantize.candidate import Candidate
from edgeinfer.runtime.engines.base import Array

__all__ = ["Target", "Timing"]


@dataclass(frozen=True, slots=True)
class Timing:
    """Of one candidate: the median call in microseconds, its ratio to the reference's with a 95 % interval, CPU time
    and where readable energy a call. `estimated` figures come from rules: only the ratios mean anything then.
    `error` says why the target cannot run it; there are no figures then."""

    latency_us: float = 0.0
    ratio: float = 0.0
    ratio_low: float = 0.0
    ratio_high: float = 0.0
    cpu_us: float | None = None
    energy_uj: float | None = None
    rss_bytes: int | None = None
    estimated: bool = False
    error: str = ""


class Target(Protocol):
    """`name` as the user gave it, `machine` what it is, `engines` those that it has. `measured`: figures are taken, not
    estimated. `repeats`: asking again makes the figures more exact, at little cost; what asks once only asks for all
    that matter."""

    name: str
    machine: str
    measured: bool
    repeats: bool
    engines: tuple[str, ...]

    def time(self, candidates: Sequence[Candidate], *, sample: Array, reference: str) -> dict[str, Timing]:
        """Time `candidates`, side by side, on `sample` float32 (1, *input shape). `reference` is the id of one of them.
        Raises EdgeInferError where the target cannot be reached or used."""
        ...

    def close(self) -> None: ...
