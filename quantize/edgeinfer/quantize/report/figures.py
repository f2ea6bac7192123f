"""How a report's figures read, alike in the terminal and on the page."""

from edgeinfer.quantize.report.document import Report, Row

__all__ = [
    "accuracy",
    "drop",
    "effective_drop",
    "interval",
    "kibibytes",
    "latency",
    "paired_test",
    "plain",
    "ratio",
    "share",
    "unit_name",
]

_MISSING = "-"


def plain(text: str) -> str:
    """Names and reasons come from files: control characters (they steer terminals) become question marks."""
    return "".join(c if c.isprintable() else "?" for c in text)


def accuracy(value: float | None) -> str:
    """A metric: shares with four digits, errors without a bound with four that matter."""
    if value is None:
        return _MISSING
    return f"{value:.4f}" if abs(value) <= 1.0 and (value == 0 or abs(value) >= 0.001) else f"{value:.4g}"


def share(value: float | None) -> str:
    return _MISSING if value is None else f"{value:.4f}"


def kibibytes(size: int) -> str:
    if not size:
        return _MISSING
    return f"{size / 1024:,.1f} KiB" if size < 10 << 10 else f"{size / 1024:,.0f} KiB"


def latency(microseconds: float | None) -> str:
    """Rules give ratios and no times: their zero is none."""
    if not microseconds:
        return _MISSING
    if microseconds >= 10_000:
        return f"{microseconds / 1000:,.1f} ms"
    return f"{microseconds:,.0f} us" if microseconds >= 100 else f"{microseconds:.1f} us"


def interval(low: float | None, high: float | None, digits: int = 2) -> str:
    return "" if low is None or high is None else f"({low:.{digits}f} to {high:.{digits}f})"


def ratio(row: Row) -> str:
    """A latency over the reference's, with a tilde where it is estimated."""
    if row.latency_ratio is None:
        return _MISSING
    return f"{'~' if row.estimated else ''}{row.latency_ratio:.2f}"


def effective_drop(row: Row, report: Report) -> float | None:
    """What it loses against the float model in the report's unit, also where only the metric was kept."""
    if row.drop is not None:
        return row.drop
    base = report.reference.metric_value
    if row.metric_value is None or base is None:
        return None
    worse = base - row.metric_value if report.higher_is_better else row.metric_value - base
    if report.unit == "points":
        return worse * 100.0
    return worse / abs(base) * 100.0 if base else None


def drop(row: Row, report: Report) -> str:
    found = effective_drop(row, report)
    # Adding 0.0 after rounding turns a negative zero into one without a sign.
    return _MISSING if found is None else f"{round(found, 2) + 0.0:.2f}"


def paired_test(row: Row, *, short: bool = False) -> str:
    """What the paired test says of the difference to the float model."""
    if row.significant is None:
        return ""
    if not row.significant:
        return "n.s." if short else "no significant difference"
    if row.p_value is None:
        return "signif." if short else "significant"
    p = "p<0.001" if row.p_value < 0.001 else f"p={row.p_value:.3f}"
    return p if short else f"significant, {p.replace('<', ' < ').replace('=', ' = ')}"


def unit_name(report: Report, count: float = 0.0) -> str:
    if report.unit == "percent":
        return "%"
    return "point" if count == 1.0 else "points"
