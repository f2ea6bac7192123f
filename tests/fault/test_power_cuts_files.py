"""Power cuts under what is written as whole files: `write_durably` leaves the old content or the new one, and the new
one once it has returned. The same code without its syncs shows that the simulated cuts would find it out."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from disk_log import DiskLog
from fault_report import FaultReport
from power_cuts import Cut, Medium, cuts_at_random

# Replaces a file again and again; each number is promised once it should be durable.
# With an argument, syncs do nothing.
WRITER = """
import os, sys
from pathlib import Path
if sys.argv[2:]:
    os.fsync = lambda _descriptor: None
from edgeinfer.runtime.durable import make_folder, write_durably
folder = Path(sys.argv[1]) / "a" / "b"
make_folder(folder)
promise = os.open(Path(sys.argv[1]) / "file.promise", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for number in range(1, 200):
    write_durably(folder / "file", b"%06d" % number * 2000)
    os.write(promise, b"%d\\n" % number)
"""
CUTS = 200
pytestmark = pytest.mark.timeout(1200)


def failures(folder: Path, library: Path, seed: int, *options: str) -> list[str]:
    """What was wrong after each of the cuts that left something wrong."""
    watched = folder / "watched"
    watched.mkdir(parents=True)
    log = DiskLog(folder / "disk.log", watched=watched)
    medium = Medium(watched, seed=seed)
    command = [sys.executable, "-c", WRITER, str(watched), *options]
    subprocess.run(command, env={**os.environ, **log.environment(library)}, check=True, timeout=900)
    found: list[str] = []
    for cut in cuts_at_random(log, medium, times=CUTS, chance=random.Random(seed)):
        left = folder / "left"
        medium.after_cut(left, cut)
        promised = int(b"".join(medium.notes).split()[-1]) if medium.notes else 0
        wrong = verdict(left / "a" / "b" / "file", promised)
        if wrong:
            found.append(f"{cut}: {wrong}")
        shutil.rmtree(left)
    return found


def verdict(file: Path, promised: int) -> str:
    if not file.exists():
        return f"promised was {promised}, there is no file" if promised else ""
    content = file.read_bytes()
    number = content[:6]
    if content != number * 2000 or not number.isdigit():
        return "torn"
    return "" if int(number) >= promised else f"promised was {promised}, found {int(number)}"


def test_a_file_is_old_or_new_and_new_once_promised(
    tmp_path: Path, disk_log_library: Path, faults: FaultReport
) -> None:
    assert failures(tmp_path / "careful", disk_log_library, faults.seed) == []
    faults.add("power cut, whole files", times=CUTS, lost=0, damaged=0)
    found = failures(tmp_path / "careless", disk_log_library, faults.seed, "careless")
    assert len(found) > CUTS // 4, "the simulated power cuts have lost their teeth"
    faults.add("teeth: files without fsync", times=CUTS, found=len(found))


def test_a_cut_that_loses_nothing_leaves_what_the_process_left(tmp_path: Path, disk_log_library: Path) -> None:
    """The log is complete: replayed whole, it gives the very files that are there."""
    watched = tmp_path / "watched"
    watched.mkdir()
    log = DiskLog(tmp_path / "disk.log", watched=watched)
    medium = Medium(watched)
    code = (
        "import os, shutil, sqlite3, sys\n"
        "from pathlib import Path\n"
        "folder = Path(sys.argv[1])\n"
        "(folder / 'x').mkdir()\n"
        "(folder / 'x' / 'one').write_bytes(b'1' * 10_000)\n"
        "shutil.copyfile(folder / 'x' / 'one', folder / 'two')\n"
        "with (folder / 'two').open('r+b') as file: file.truncate(5000); file.seek(7000); file.write(b'end')\n"
        "with (folder / 'two').open('ab') as file: file.write(b'more')\n"
        "(folder / 'x').rename(folder / 'y')\n"
        "(folder / 'y' / 'one').rename(folder / 'three')\n"
        "(folder / 'four').write_bytes(b''); (folder / 'four').unlink()\n"
        "db = sqlite3.connect(folder / 'db'); db.execute('PRAGMA journal_mode=WAL')\n"
        "db.execute('CREATE TABLE t (x)'); db.executemany('INSERT INTO t VALUES (?)', [(i,) for i in range(9999)])\n"
        "db.commit(); db.close()\n"
    )
    command = [sys.executable, "-c", code, str(watched)]
    subprocess.run(command, env={**os.environ, **log.environment(disk_log_library)}, check=True, timeout=900)
    for record in log.records():
        medium.apply(record)
    medium.after_cut(tmp_path / "left", Cut.nothing_lost())
    assert contents(tmp_path / "left") == contents(watched)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("sector", [512, 4096])
def test_what_was_synced_is_untouched_whatever_else_is_lost(
    tmp_path: Path, disk_log_library: Path, sector: int
) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    log = DiskLog(tmp_path / "disk.log", watched=watched)
    medium = Medium(watched)
    code = (
        "import os, sys\n"
        "folder = os.open(sys.argv[1], os.O_RDONLY)\n"
        "file = os.open(sys.argv[1] + '/file', os.O_RDWR | os.O_CREAT)\n"
        "os.fsync(folder)\n"
        "os.write(file, b'a' * 20_000); os.fdatasync(file)\n"
        "os.pwrite(file, b'b' * 9_000, 1_000)\n"
    )
    command = [sys.executable, "-c", code, str(watched)]
    subprocess.run(command, env={**os.environ, **log.environment(disk_log_library)}, check=True, timeout=900)
    for record in log.records():
        medium.apply(record)
    cut = Cut(sector=sector, data=0.5, names=0.0, in_order=False, garbage=True)
    seen = set()
    for number in range(30):
        medium.after_cut(tmp_path / str(number), cut)
        left = (tmp_path / str(number) / "file").read_bytes()
        assert len(left) == 20_000
        assert set(left[:1_000] + left[10_000:]) == {ord("a")}
        ends = [at for at in range(1, 20_000) if left[at] != left[at - 1]]
        assert all(end % sector == 0 or end in {1_000, 10_000} for end in ends), "a sector is never torn"
        seen.add(left)
    assert len(seen) > 4
