"""A wall clock that tests move under a process: a small library, loaded before the C library, adds to every answer what
a file says. The monotonic clock goes on.

    clock = ShiftedClock(tmp_path / "clock", library)
    subprocess.Popen(command, env={**os.environ, **clock.environment()})
    clock.move(years=-10)
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

__all__ = ["YEARS_10_S", "ShiftedClock", "build"]

YEARS_10_S = 10 * 365 * 86_400

_SOURCE = r"""
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


def build(folder: Path) -> Path:
    """Compile the library. Skips the test where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler for the library that moves the clock: apt-get install gcc libc6-dev")
    (folder / "clock.c").write_text(_SOURCE)
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(folder / "clock.so"), str(folder / "clock.c")]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "clock.so"


class ShiftedClock:
    """The clock of every process that was started with its `environment`. `file` says how far it is off."""

    def __init__(self, file: Path, library: Path) -> None:
        self.file = file
        self._library = library
        file.write_text("0")

    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self._library), "CLOCK_OFFSET_FILE": str(self.file)}

    def move(self, offset_s: int) -> None:
        """From now on it is off by so much; whoever looks meanwhile sees the old time or the new one."""
        new = self.file.with_name(f"{self.file.name}.new")
        new.write_text(str(offset_s))
        os.replace(new, self.file)  # noqa: PTH105 - atomic, and said so
