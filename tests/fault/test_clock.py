"""A wall clock that jumps ten years either way, under the real daemon; the monotonic one goes on.

No window moves, no frame is lost or doubled, no age is nonsense, and every result keeps the wall clock of its
capture, so that a reader sees when the clock was wrong.
"""

import itertools
from pathlib import Path

import pytest

from daemon_process import Daemon, configuration, results_of
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.manifest import AnomalyPost, WindowPre
from edgeinfer.runtime.results import Kind
from packages import identity_model, make_package
from shifted_clock import YEARS_10_S, ShiftedClock, build
from waiting import wait_until

SECOND_NS = 1_000_000_000
HOUR_NS = 3600 * SECOND_NS


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("clock"))


def test_a_clock_that_jumps_ten_years_moves_no_window(tmp_path: Path, library: Path) -> None:
    make_package(
        tmp_path / "vitals.edgepkg",
        identity_model(tmp_path / "vitals.onnx", features=20),
        name="vitals",
        pre=WindowPre(4),
        post=AnomalyPost(0.5),
    )
    config = configuration(
        tmp_path,
        f'name = "host"\npackage = "{tmp_path}/vitals.edgepkg"\n'
        '[pipeline.source]\nkind = "host"\ninterval_s = 0.02\nwindow = 4',
        extra="[buffer]\nflush_interval_s = 0.1",
    )
    clock = ShiftedClock(tmp_path / "clock", library)

    with Daemon(tmp_path, config, environment=clock.environment()) as daemon:
        for offset_s in (0, YEARS_10_S, -YEARS_10_S, 0):
            clock.move(offset_s)
            before = _durable(tmp_path)
            wait_until(lambda before=before: _durable(tmp_path) > before + 40)  # type: ignore[misc]  # bound in the loop on purpose
        daemon.end()
        assert daemon.process.returncode == 0
        assert not [line for line in daemon.log if "crashed" in line or "Traceback" in line]

    results = [result for result in results_of(tmp_path, "host") if result.kind is Kind.ANOMALY]
    frames = [result.frame for result in results]
    assert all(early < late for early, late in itertools.pairwise(frames)), "none doubled"
    jumps = [later.t_ns - earlier.t_ns for earlier, later in itertools.pairwise(results)]
    assert sum(abs(jump) > HOUR_NS for jump in jumps) == 3, "forward, twice as far back, and home"
    assert all(0 <= result.age_us < 60_000_000 and 0 <= result.latency_us < 60_000_000 for result in results)
    with BufferReader(tmp_path / "state" / "buffer.db") as reader:
        counts = reader.audit_counts()
        assert counts["made"] == counts["durable"] == reader.durable_seq()
        states = reader.frames()["host"]
    assert states["inferred"] == len(results)
    assert sum(states.values()) > frames[-1], "what a busy machine had no time for is counted, not lost"


def _durable(folder: Path) -> int:
    try:
        with BufferReader(folder / "state" / "buffer.db") as reader:
            return reader.durable_seq()
    except BufferStorageError:  # just being made
        return 0
