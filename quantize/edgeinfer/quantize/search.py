"""The decision: which of the measured candidates is the package's first variant. Values in, values out.

The rule: of those that lose at most `max_drop` points against the float model, the fastest; among those
within 5 % of the fastest, which is what one measurement differs from the next by, the smallest file; among
those within 5 % of the smallest, the one that agrees most with the float model. The float models take part:
where quantizing makes a model slower, that is said and the float one stays first.
Where no quantized candidate keeps the budget, nothing is chosen.
"""

from collections.abc import Sequence

import msgspec

__all__ = ["SAME_SIZE", "SAME_SPEED", "Decision", "Judged", "Measured", "decide", "variants_to_pack"]

# Latencies closer than this are one latency.
SAME_SPEED = 1.05
# Files closer than this are of one size: the same weights in another wrapping.
SAME_SIZE = 1.05
# Rounding in the subtraction of two shares must not refuse a drop of exactly the budget.
_EPSILON = 1e-9


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one candidate. `refused`: why it was not measured; then there are no figures."""

    variant: str
    engine: str
    precision: str
    quantized: bool
    bytes: int
    metric_value: float | None = None
    agreement: float | None = None
    latency_us: float | None = None
    latency_ratio: float | None = None
    refused: str = ""


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table: the figures, a verdict of `chosen`, `accepted` or `refused`, and the reason."""

    variant: str
    engine: str
    precision: str
    quantized: bool
    bytes: int
    metric_value: float | None
    agreement: float | None
    latency_us: float | None
    latency_ratio: float | None
    verdict: str
    reason: str


class Decision(msgspec.Struct, frozen=True):
    """`reference` is the float model that all are held against; `chosen` is None where the search refuses."""

    reference: Judged
    chosen: Judged | None
    candidates: tuple[Judged, ...]


def decide(measured: Sequence[Measured], *, reference: str, max_drop: float) -> Decision:
    """Judge every candidate against the one named `reference`. `max_drop` is in points, hundredths."""
    base = next(m.metric_value for m in measured if m.variant == reference)
    assert base is not None  # noqa: S101 - the reference is always measured
    eligible = [m for m in measured if _keeps(m, base, max_drop)]
    chosen = _fastest(eligible) if any(m.quantized for m in eligible) else None
    judged = tuple(_judge(m, base=base, max_drop=max_drop, chosen=chosen) for m in measured)
    by_id = {entry.variant: entry for entry in judged}
    return Decision(by_id[reference], by_id[chosen.variant] if chosen else None, judged)


def variants_to_pack(decision: Decision) -> list[str]:
    """The chosen variant first, then its float model; a chosen float model is followed by the best quantized one."""
    chosen = decision.chosen
    if chosen is None:
        return []
    others = [c for c in decision.candidates if c.variant != chosen.variant and c.verdict != "refused"]
    beside = [c for c in others if c.quantized != chosen.quantized]
    # The float model comes from the same file format, so that one engine on the device is enough.
    beside.sort(key=lambda c: (c.engine != chosen.engine, c.latency_us or 0.0))
    return [chosen.variant, *(c.variant for c in beside[:1])]


def _drop(measured: Measured, base: float) -> float:
    return (base - (measured.metric_value or 0.0)) * 100.0


def _keeps(measured: Measured, base: float, max_drop: float) -> bool:
    return not measured.refused and _drop(measured, base) <= max_drop + _EPSILON


def _fastest(eligible: Sequence[Measured]) -> Measured:
    best = min(_ratio(m) for m in eligible)
    fast = [m for m in eligible if _ratio(m) <= best * SAME_SPEED]
    smallest = min(m.bytes for m in fast)
    small = (m for m in fast if m.bytes <= smallest * SAME_SIZE)
    return min(small, key=lambda m: (-(m.agreement or 0.0), m.bytes, _ratio(m)))


def _ratio(measured: Measured) -> float:
    return measured.latency_ratio if measured.latency_ratio is not None else float("inf")


def _judge(measured: Measured, *, base: float, max_drop: float, chosen: Measured | None) -> Judged:
    verdict, reason = _verdict(measured, base=base, max_drop=max_drop, chosen=chosen)
    figures = {name: getattr(measured, name) for name in Measured.__struct_fields__ if name != "refused"}
    return Judged(**figures, verdict=verdict, reason=reason)


def _verdict(measured: Measured, *, base: float, max_drop: float, chosen: Measured | None) -> tuple[str, str]:
    if measured.refused:
        return "refused", measured.refused
    drop = _drop(measured, base)
    if not _keeps(measured, base, max_drop):
        return "refused", f"loses {drop:.2f} points, more than the {max_drop:g} allowed"
    if chosen is None:
        return "accepted", "the float model itself" if not measured.quantized else "within the budget"
    if measured.variant == chosen.variant:
        kept = f"loses {drop:.2f} points" if drop > 0 else f"gains {-drop:.2f} points" if drop < 0 else "loses nothing"
        return "chosen", f"fastest within the budget, {kept}"
    if _ratio(measured) <= _ratio(chosen) * SAME_SPEED:
        if measured.bytes <= chosen.bytes * SAME_SIZE:
            return "accepted", f"like {chosen.variant} in speed and size, and agrees no better with the float model"
        return "accepted", f"as fast as {chosen.variant}, but larger"
    return "accepted", f"slower than {chosen.variant} by {_ratio(measured) / _ratio(chosen):.2f}"
