"""Reads a report from the package that carries it. Packages come from strangers: everything has a bound.

Reports of former versions say less; what is missing gets the value that it had then, or none.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from edgeinfer.quantize.report.document import Confusion, Report, Row
from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import PackageError
from edgeinfer.runtime.package import PackageFile

__all__ = ["MAX_BYTES", "CarriedReport", "carried_report", "read_report"]

# Two confusion matrices of 1001 classes have about 4 MB of digits and commas.
MAX_BYTES = 16 << 20
MAX_ROWS = 2_000
MAX_LAYERS = 20_000
MAX_CLASSES = 2_000
MAX_TEXT = 4_000
# Beyond any figure of a real report, and far from what overflows in arithmetic and pictures.
_MAX_NUMBER = 1e15

_FORMER: dict[str, Any] = {
    "higher_is_better": True,
    "unit": "points",
    "max_drop": 1.0,
    "min_agreement": None,
    "max_bytes": None,
    "objective": "latency",
    "answer": "",
    "chosen": None,
    "candidates": [],
    "samples": 0,
    "calibration_samples": 0,
    "seconds": 0.0,
}
_FORMER_TARGET = {"name": "local", "measured": True}
_FORMER_ROW = {"engine": "", "precision": "", "quantized": True, "bytes": 0, "verdict": "accepted", "reason": ""}


@dataclass(frozen=True, slots=True)
class CarriedReport:
    """A package's report, and the JSON that it was read from."""

    report: Report
    raw: bytes


def carried_report(package: PackageFile) -> CarriedReport | None:
    """What the search that made `package` found; None where it carries no report. Raises PackageError."""
    named = package.manifest.report
    if named is None:
        return None
    raw = package.read(named[0], at_most=MAX_BYTES)
    return CarriedReport(read_report(raw, where=f"{package.path}: {named[0]}"), raw)


def read_report(raw: bytes, *, where: str) -> Report:
    """The report in `raw`, JSON. Raises PackageError for one that is beyond its bounds or says nothing."""
    if len(raw) > MAX_BYTES:
        raise PackageError(f"{where}: expected a report of at most {MAX_BYTES >> 20} MiB, found {len(raw)} bytes")
    try:
        found = msgspec.json.decode(raw)
        if not isinstance(found, dict):
            raise PackageError(f"{where}: expected a report, found {type(found).__name__}")
        report = msgspec.convert(_completed(found), Report)
    except (*MALFORMED, OverflowError) as error:
        raise PackageError(f"{where}: expected the report of a search: {str(error)[:200]}") from error
    _check_bounds(report, where)
    return report


def _completed(found: dict[str, Any]) -> dict[str, Any]:
    report = {**_FORMER, **found}
    report.setdefault("target", _FORMER_TARGET)
    for key in ("float", "chosen"):
        report[key] = _completed_row(report.get(key))
    if isinstance(report["candidates"], list):
        report["candidates"] = [_completed_row(row) for row in report["candidates"]]
    return report


def _completed_row(row: object) -> object:
    return {**_FORMER_ROW, **row} if isinstance(row, dict) else row


def _check_bounds(report: Report, where: str) -> None:
    rows = len(report.candidates)
    layers = sum(len(one.layers) for one in report.sensitivity) + sum(len(row.layers) for row in report.candidates)
    lists = (report.warnings, report.notes, report.steps, report.sensitivity)
    if rows > MAX_ROWS or layers > MAX_LAYERS or any(len(one) > MAX_ROWS for one in lists):
        raise PackageError(f"{where}: expected a report of at most {MAX_ROWS} rows and {MAX_LAYERS} layers, found more")
    if report.confusion is not None:
        _check_confusion(report.confusion, where)
    for value in _leaves(msgspec.to_builtins(msgspec.structs.replace(report, confusion=None))):
        if isinstance(value, str) and len(value) > MAX_TEXT:
            raise PackageError(f"{where}: expected texts of at most {MAX_TEXT} characters, found one of {len(value)}")
        if isinstance(value, int | float) and not (math.isfinite(value) and abs(value) <= _MAX_NUMBER):
            raise PackageError(f"{where}: expected figures of a report, found {str(value)[:40]}")
    for row in (report.reference, *report.candidates):
        _check_row(row, where)


def _check_row(row: Row, where: str) -> None:
    if row.bytes < 0 or (row.latency_ratio is not None and row.latency_ratio < 0):
        raise PackageError(f"{where}: expected sizes and latencies of at least 0 for {row.variant[:80]!r}")


def _check_confusion(confusion: Confusion, where: str) -> None:
    count = len(confusion.labels)
    if count > MAX_CLASSES:
        raise PackageError(f"{where}: expected a confusion of at most {MAX_CLASSES} classes, found {count}")
    for matrix in (confusion.reference, confusion.chosen):
        if len(matrix) != count or any(len(row) != count for row in matrix):
            raise PackageError(f"{where}: expected confusions of {count} by {count} classes, as many as it has labels")
        if any(not 0 <= times <= 10**9 for row in matrix for times in row):
            raise PackageError(f"{where}: expected confusions as counts, found another number")
    if any(len(label) > MAX_TEXT for label in confusion.labels):
        raise PackageError(f"{where}: expected labels of at most {MAX_TEXT} characters")


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value
