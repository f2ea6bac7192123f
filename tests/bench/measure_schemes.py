"""Measures every scheme on the four MLPerf Tiny tasks, by an exhaustive search of each, into docs/schemes.json.

    EDGEINFER_DATA=... python tests/bench/measure_schemes.py [TASK...]    # ten minutes on a quiet machine

Latencies are ratios to ONNX Runtime's of the float model, measured side by side, one thread.
"""

import contextlib
import datetime as dt
import io
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
sys.path[:0] = [str(HERE)]

import quantizing  # noqa: E402 - beside this script, which may run from anywhere

TARGET = REPOSITORY / "docs" / "schemes.json"
# What docs/schemes.md shows of a row.
_KEPT = ("metric_value", "drop", "significant", "agreement", "bytes", "latency_ratio", "verdict", "reason")


def main(names: list[str]) -> int:
    data = Path(os.environ.get("EDGEINFER_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (data / "tiny" / "ic.onnx").is_file():
        sys.stderr.write(f"no models at {data}/tiny: set EDGEINFER_DATA\n")
        return 1
    known = json.loads(TARGET.read_text(encoding="utf-8"))["tasks"] if names and TARGET.exists() else {}
    tasks = {task.name: task for task in quantizing.TINY}
    with tempfile.TemporaryDirectory(prefix="edgeinfer-schemes-") as folder:
        for name in names or list(tasks):
            known[name] = measured(tasks[name], data, Path(folder))
            write(known)
    return 0


def write(tasks: dict[str, Any]) -> None:
    document = {"date": dt.datetime.now(dt.UTC).date().isoformat(), **machine(), "tasks": tasks}
    TARGET.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def measured(task: quantizing.Task, data: Path, folder: Path) -> dict[str, Any]:
    """The rows of an exhaustive search, by variant, and the mixed ones of a search for the smallest file."""
    request = quantizing._request(task, data, folder)
    report = _searched(replace(request, exhaustive=True))
    smallest = _searched(replace(request, objective="size"))
    mixed = {name: row for name, row in _rows(smallest).items() if "-mixed" in name}
    return {
        "metric": report.metric,
        "samples": report.samples,
        "max_drop": report.max_drop,
        "min_agreement": report.min_agreement,
        "chosen": report.chosen.variant if report.chosen is not None else "",
        "answer": report.answer,
        "seconds": round(report.seconds),
        "rows": _rows(report) | mixed,
        "smallest": smallest.chosen.variant if smallest.chosen is not None else "",
        "tried": [f"{one.scheme}: {one.outcome}" for one in (*report.sensitivity, *smallest.sensitivity)],
    }


def _searched(request: Any) -> Any:
    from edgeinfer.quantize.searching import search_package

    with contextlib.redirect_stdout(io.StringIO()):  # the tools print
        report = search_package(request).report
    name = request.identity.name
    sys.stderr.write(f"{name}: {len(report.candidates)} candidates, {report.seconds:.0f} s; {report.answer}\n")
    return report


def _rows(report: Any) -> dict[str, Any]:
    rows = msgspec.json.decode(msgspec.json.encode(report.candidates))  # without infinities, which JSON has not
    return {row["variant"]: {key: row[key] for key in _KEPT} for row in rows}


def machine() -> dict[str, Any]:
    from edgeinfer.runtime.bench.machine import this_machine

    found = this_machine()
    return {"cpu": found.cpu, "cores": found.cores, "features": list(found.features), "engines": found.engines}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
