"""The fault suite's table names what it did not try."""

import json
from pathlib import Path

from fault_report import FaultReport


def test_what_was_not_tried_is_in_the_table_and_the_file(tmp_path: Path) -> None:
    report = FaultReport()
    report.left_out("test_disk.py::test_full", "Skipped: mounting a small tmpfs needs root")
    assert report.table()[-1] == "NOT TRIED test_disk.py::test_full: mounting a small tmpfs needs root"
    report.add("kill -9", times=3, lost=0)
    assert report.table()[1].split() == ["kill", "-9", "3", "0"]
    report.write(tmp_path / "build" / "faults.json")
    document = json.loads((tmp_path / "build" / "faults.json").read_text())
    assert document["untried"] == ["test_disk.py::test_full: mounting a small tmpfs needs root"]
    assert document["faults"] == [{"fault": "kill -9", "times": 3, "lost": 0}]
