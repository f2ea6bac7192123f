"""First looks: what candidates say of a few samples, beside what the float model of the same engine says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgeinfer.quantize.candidate import Candidate, open_candidate
from edgeinfer.quantize.evaluate import infer_one
from edgeinfer.quantize.offers import Material
from edgeinfer.quantize.rows import Rows
from edgeinfer.runtime.engines.base import Array

__all__ = ["Looks", "divergence"]

# Of each output and sample: enough to compare, and bounded whatever a model puts out.
_MAX_VALUES = 1 << 16
_SMALLEST_VARIANCE = 1e-12


@dataclass(slots=True)
class Looks:
    """`rows` are the few samples, `materials` the float models by engine."""

    materials: Mapping[str, Material]
    rows: Rows
    threads: int = 1
    _expected: dict[str, list[Array]] = field(default_factory=dict)

    def outputs(self, candidate: Candidate) -> list[Array]:
        """Each output as real numbers, (N, ...), or (N, at most 65536) at equal distances. Raises ModelError."""
        engine = open_candidate(candidate, threads=self.threads)
        try:
            answers = [
                [_thinned(output) for output in infer_one(engine, self.rows.row(index))]
                for index in range(len(self.rows))
            ]
        finally:
            engine.close()
        return [_together(output) for output in zip(*answers, strict=True)]

    def expected(self, engine: str) -> list[Array]:
        """The same of an engine's float model, kept. Raises ModelError."""
        if engine not in self._expected:
            self._expected[engine] = self.outputs(self.materials[engine].float_model)
        return self._expected[engine]

    def divergence(self, candidate: Candidate) -> float:
        """As the function. Raises ModelError."""
        return divergence(self.outputs(candidate), self.expected(candidate.engine))


def divergence(found: Sequence[Array], expected: Sequence[Array]) -> float:
    """The mean squared difference of outputs (N, ...) over the variance of the `expected` ones, averaged over all
    outputs; infinite where that is no number, or where outputs have other sizes."""
    shares = [_share(ours, theirs) for ours, theirs in zip(found, expected, strict=True) if theirs.size]
    return float(np.mean(shares)) if shares else 0.0


def _share(ours: Array, theirs: Array) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    with np.errstate(all="ignore"):  # what is infinite is told by the result
        error = float(np.mean((ours.astype(np.float64) - theirs) ** 2))
        share = error / max(float(np.var(theirs, dtype=np.float64)), _SMALLEST_VARIANCE)
    return share if np.isfinite(share) else float("inf")


def _thinned(output: Array) -> Array:
    if output.size <= _MAX_VALUES:
        return output
    flat = output.reshape(-1)
    kept: Array = flat[(np.arange(_MAX_VALUES) * flat.size) // _MAX_VALUES].astype(np.float32)
    if not np.isfinite(flat).all():
        kept[0] = np.nan  # one of those that were left out may be the only one
    return kept


def _together(rows: Sequence[Array]) -> Array:
    """(N, ...); of outputs whose size differs from row to row (N, 1): their means."""
    if len({row.shape for row in rows}) == 1:
        return np.stack(rows)
    return np.array([[row.mean(dtype=np.float64) if row.size else 0.0] for row in rows])
