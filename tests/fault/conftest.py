"""The fault suite's report: what each fault did, printed at the end and written to `build/faults.json`."""

from pathlib import Path

import pytest

from disk_log import build as build_disk_log
from fault_report import FaultReport

_REPORT = FaultReport()
_FILE = Path(__file__).resolve().parents[2] / "build" / "faults.json"


@pytest.fixture(scope="session")
def faults() -> FaultReport:
    return _REPORT


@pytest.fixture(scope="session")
def disk_log_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that logs what a process writes."""
    return build_disk_log(tmp_path_factory.mktemp("disk-log"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.getreports("skipped"):
        if "fault/" in report.nodeid and isinstance(report.longrepr, tuple):
            _REPORT.left_out(report.nodeid.rpartition("/")[2], str(report.longrepr[2]))
    if _REPORT.rows or _REPORT.untried:
        terminalreporter.section("faults")
        for line in _REPORT.table():
            terminalreporter.write_line(line)
        _REPORT.write(_FILE)
