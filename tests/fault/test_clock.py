"""A wall clock that jumps ten years either way, under the real daemon; the monotonic one goes on.

The daemon asks the C library what time it is. A small library of ours, loaded before that one, adds what a file says.

No window moves, no frame is lost or doubled, no age is nonsense, and every result keeps the wall clock of its
capture, so that a reader sees when the clock was wrong.
"""

import itertools
import shutil
import subprocess
from pathlib import Path

import pytest

from daemon_process import Daemon, configuration, results_of
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.manifest import AnomalyPost, WindowPre
from edgeinfer.runtime.results import Kind
from packages import identity_model, make_package
from waiting import wait_until

YEARS_10_S = 10 * 365 * 86_400
SECOND_NS = 1_000_000_000
HOUR_NS = 3600 * SECOND_NS

SHIFTED_CLOCK = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t offset(void) {
    char text[32] = {0};
    int file = open(getenv("CLOCK_OFFSET_FILE"), O_RDONLY);
    if (file < 0) return 0;
    ssize_t size = read(file, text, sizeof text - 1);
    close(file);
    return size > 0 ? atoll(text) : 0;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int status = syscall(SYS_clock_gettime, clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += offset();
    return status;
}
int gettimeofday(struct timeval *now, void *zone) {
    int status = syscall(SYS_gettimeofday, now, zone);
    now->tv_sec += offset();
    return status;
}
time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler for the library that moves the clock: apt-get install gcc libc6-dev")
    folder = tmp_path_factory.mktemp("clock")
    (folder / "clock.c").write_text(SHIFTED_CLOCK)
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(folder / "clock.so"), str(folder / "clock.c")]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "clock.so"


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
    clock = tmp_path / "clock"
    clock.write_text("0")
    moved = {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(clock)}

    with Daemon(tmp_path, config, environment=moved) as daemon:
        for offset_s in (0, YEARS_10_S, -YEARS_10_S, 0):
            clock.write_text(str(offset_s))
            before = _durable(tmp_path)
            wait_until(lambda before=before: _durable(tmp_path) > before + 40)  # type: ignore[misc]  # bound in the loop on purpose
        assert daemon.end() < 5
        assert daemon.process.returncode == 0
        assert not [line for line in daemon.log if "crashed" in line or "Traceback" in line]

    results = [result for result in results_of(tmp_path, "host") if result.kind is Kind.ANOMALY]
    assert [result.frame for result in results] == list(range(len(results))), "none lost, none doubled"
    jumps = [later.t_ns - earlier.t_ns for earlier, later in itertools.pairwise(results)]
    assert sum(abs(jump) > HOUR_NS for jump in jumps) == 3, "forward, twice as far back, and home"
    assert all(0 <= result.age_us < 60_000_000 and 0 <= result.latency_us < 60_000_000 for result in results)
    with BufferReader(tmp_path / "state" / "buffer.db") as reader:
        counts = reader.audit_counts()
        assert counts["made"] == counts["durable"] == reader.durable_seq()
        assert reader.frames()["host"]["inferred"] == len(results)


def _durable(folder: Path) -> int:
    try:
        with BufferReader(folder / "state" / "buffer.db") as reader:
            return reader.durable_seq()
    except BufferStorageError:  # just being made
        return 0
