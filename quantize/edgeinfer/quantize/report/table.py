"""What a search found, as the `--json` document and as a table for a terminal."""

from pathlib import Path
from typing import Any

import msgspec

from edgeinfer.quantize.search import Decision, Judged

__all__ = ["document", "table"]

_HEADERS = ("variant", "metric", "agree", "KiB", "us", "ratio", "verdict", "reason")
_NUMBER_COLUMNS = range(1, 6)


def document(
    decision: Decision, *, metric: str, max_drop: float, samples: int, calibration: int, seconds: float
) -> dict[str, Any]:
    """The contract of `quantize --json`, without the key `package`, which the caller puts first."""
    return {
        "metric": metric,
        "max_drop": max_drop,
        "float": msgspec.to_builtins(decision.reference),
        "chosen": msgspec.to_builtins(decision.chosen),
        "candidates": [msgspec.to_builtins(entry) for entry in decision.candidates],
        "samples": samples,
        "calibration_samples": calibration,
        "seconds": round(seconds, 3),
    }


def table(decision: Decision, *, metric: str, package: Path | None) -> str:
    """One line a candidate; `metric` is named in the head."""
    headers = (_HEADERS[0], metric, *_HEADERS[2:])
    rows = [headers, *(_row(entry) for entry in decision.candidates)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(headers))]
    lines = ["  ".join(_cell(row[i], widths[i], i) for i in range(len(headers))).rstrip() for row in rows]
    lines.append(f"package: {package}" if package is not None else "package: none, refused")
    return "\n".join(lines) + "\n"


def _row(entry: Judged) -> tuple[str, ...]:
    return (
        entry.variant,
        _number(entry.metric_value, ".4f"),
        _number(entry.agreement, ".4f"),
        f"{entry.bytes / 1024:.0f}" if entry.bytes else "-",
        _number(entry.latency_us, ".0f"),
        _number(entry.latency_ratio, ".2f"),
        entry.verdict,
        entry.reason,
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _cell(text: str, width: int, column: int) -> str:
    return text.rjust(width) if column in _NUMBER_COLUMNS else text.ljust(width)
