"""From the bench document of a device to timings: what all targets that run `edgeinfer bench` have in common."""

from collections.abc import Sequence

from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.search.entry import Timing
from edgeinfer.runtime.bench import Bench, Figures
from edgeinfer.runtime.errors import ModelError

__all__ = ["ROUGH_SECONDS", "SECONDS", "deadline_of", "timings"]

SECONDS, ROUGH_SECONDS = 2.0, 0.5
# Beyond the measured time: loading and first calling each variant on a slow board, and the transfer over a slow link.
_DEADLINE_FACTOR, _LOADING_S, _DEADLINE_MARGIN_S, _SLOWEST_BYTES_S = 3.0, 30.0, 120.0, 50_000


def deadline_of(n_bytes: int, *, seconds: float, count: int) -> float:
    """How many seconds a device may take for `count` candidates in a package of `n_bytes`, each timed for `seconds`."""
    return count * (_DEADLINE_FACTOR * seconds + _LOADING_S) + _DEADLINE_MARGIN_S + n_bytes / _SLOWEST_BYTES_S


def timings(found: Bench, candidates: Sequence[Candidate], *, reference: str, where: str) -> dict[str, Timing]:
    """By candidate. Raises ModelError where the reference cannot be run there: nothing has a ratio then."""
    rows = {row.variant: row for row in found.variants}
    base = rows.get(reference)
    if base is None or base.error:
        raise ModelError(
            f"{where}: the float model {reference} cannot be run there: "
            f"{base.error if base is not None else 'it was not measured'}",
            hint="install its engine there, or give a model that an engine there runs",
        )
    return {one.id: _timing(rows.get(one.id), base) for one in candidates}


def _timing(row: Figures | None, base: Figures) -> Timing:
    """The device chooses its own reference, nearly always the same one: else its ratios are held against ours. The
    interval is then as wide as both together, which is never too narrow."""
    if row is None or row.error:
        return Timing(error=row.error if row is not None else "it was not measured")
    is_base = row.variant == base.variant
    return Timing(
        latency_us=row.p50_us,
        ratio=row.ratio / base.ratio,
        ratio_low=1.0 if is_base else row.ratio_low / base.ratio_high,
        ratio_high=1.0 if is_base else row.ratio_high / base.ratio_low,
        cpu_us=row.cpu_us,
        energy_uj=row.energy_uj,
        rss_bytes=row.rss_bytes,
    )
