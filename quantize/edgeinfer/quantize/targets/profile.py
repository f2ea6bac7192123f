"""A kind of device as a target: nothing is timed there, rules say what may be fastest.

The ratios are wide and marked as estimated. They put candidates in an order; several of them go into the package, and
the device measures them when it arrives (`edgeinfer.runtime.choosing`).
"""

import math
from collections.abc import Sequence
from pathlib import Path

from edgeinfer.devices.kernels import Estimate, cuts_pairs, estimate, machine_class
from edgeinfer.devices.profile import DeviceKind, Library
from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.search.entry import Timing
from edgeinfer.quantize.targets.opmix import Work, count_work
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import ModelError

__all__ = ["ProfileTarget"]

_NOTHING = Work({}, 0)
# LiteRT unpacks half precision to float when it loads a file.
_COMPUTES_IN_FP16: tuple[Library, ...] = ("onnxruntime",)


class ProfileTarget:
    """Asking again gives the same. `why` says of each candidate that was estimated which rule did it."""

    measured = False
    repeats = False

    def __init__(self, kind: DeviceKind) -> None:
        self.name = kind.name
        self.machine = kind.title
        self.engines: tuple[str, ...] = tuple(kind.engines)
        self.why: dict[str, str] = {}
        self._kind = kind
        self.cuts_pairs = cuts_pairs(kind.arch, kind.features)
        self._libraries: dict[str, Library] = {str(engine): library for engine, library in kind.engines.items()}
        self._class = machine_class(kind.arch, kind.features)
        self._works: dict[Path, Work] = {}

    def time(
        self,
        candidates: Sequence[Candidate],
        *,
        sample: Array,
        reference: str,
        rough: bool = False,
        time_s: float = math.inf,
    ) -> dict[str, Timing]:
        """As Target says. Where the kind has no engine for the reference, the ratios are to what ONNX Runtime would
        take with float32."""
        del sample, rough, time_s
        base = next((candidate for candidate in candidates if candidate.id == reference), None)
        scale = self._estimate(base).ratio if base is not None and not self._refusal(base) else 1.0
        return {candidate.id: self._timing(candidate, base, scale) for candidate in candidates}

    def close(self) -> None:
        """Holds nothing."""

    def _timing(self, candidate: Candidate, base: Candidate | None, scale: float) -> Timing:
        refusal = self._refusal(candidate)
        if refusal:
            return Timing(estimated=True, error=refusal)
        found = self._estimate(candidate)
        self.why[candidate.id] = f"{found.reason} ({found.source})"
        if base is not None and candidate.id == base.id:
            return Timing(ratio=1.0, ratio_low=1.0, ratio_high=1.0, estimated=True)
        factor = self._less_work(candidate, base) / scale
        return Timing(
            ratio=found.ratio * factor, ratio_low=found.low * factor, ratio_high=found.high * factor, estimated=True
        )

    def _refusal(self, candidate: Candidate) -> str:
        """Why this kind of device cannot run it; empty where it can."""
        library = self._libraries.get(candidate.engine)
        if library is None:
            return f"{self.machine} has no {candidate.engine}: it has {', '.join(self._libraries.values())}"
        if candidate.precision == "fp16" and "fp16" not in self._kind.features and library in _COMPUTES_IN_FP16:
            return f"{self.machine} has no half precision arithmetic"
        limit = self._kind.memory_mb
        size_mb = candidate.path.stat().st_size / (1 << 20) if candidate.path.is_file() else 0.0
        if limit is not None and size_mb > limit / 2:
            return f"takes {size_mb:.0f} MB, more than half of the {limit} MB that {self.machine} has"
        return ""

    def _estimate(self, candidate: Candidate) -> Estimate:
        library = self._libraries[candidate.engine]
        return estimate(candidate.precision, library=library, machine=self._class, mix=self._work(candidate).mix)

    def _less_work(self, candidate: Candidate, base: Candidate | None) -> float:
        """The share of the reference's multiply-accumulates that a pruned candidate has left: told only where both
        have the same operations, or it might be that some were not recognized."""
        mine, its = self._work(candidate), self._work(base) if base is not None else _NOTHING
        if not its.total or mine.operations != its.operations:
            return 1.0
        return min(1.0, mine.total / its.total)

    def _work(self, candidate: Candidate) -> Work:
        """What could not be read counts as unknown: ranking goes on without."""
        if candidate.path not in self._works:
            try:
                self._works[candidate.path] = count_work(candidate.path)
            except ModelError:
                self._works[candidate.path] = _NOTHING
        return self._works[candidate.path]
