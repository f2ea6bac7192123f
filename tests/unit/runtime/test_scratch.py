"""Temporary folders of killed processes go with the next start; those of living ones, and of others, stay."""

import contextlib
import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeinfer.runtime.scratch import scratch_folder

LOCK = ".edgeinfer-scratch"
HOLD = """
import sys
from pathlib import Path
from edgeinfer.runtime.scratch import scratch_folder
with scratch_folder("edgeinfer-test-", within=Path(sys.argv[1])) as folder:
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "model").write_bytes(b"x")
    print(folder, flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(place: Path) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """Another process with a folder of its own."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD, str(place)], stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def start(place: Path) -> None:
    with scratch_folder("edgeinfer-other-", within=place) as folder:
        assert folder.parent == place


def test_a_folder_is_there_and_gone(tmp_path: Path) -> None:
    with scratch_folder("edgeinfer-test-", within=tmp_path) as folder:
        assert folder.name.startswith("edgeinfer-test-")
        assert [path.name for path in folder.iterdir()] == [LOCK]
        start(tmp_path)
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_it_lies_where_temporary_files_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch_folder("edgeinfer-test-") as folder:
        assert folder.parent == tmp_path


def test_a_killed_process_leaves_its_folder_to_the_next_start(tmp_path: Path) -> None:
    with holder(tmp_path) as (process, left):
        start(tmp_path)
        assert (left / "deep" / "model").exists()
        process.kill()
        process.wait()
        assert left.is_dir()
        start(tmp_path)
        assert not left.exists()
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_known_to_be_dead_stays(tmp_path: Path) -> None:
    (tmp_path / "edgeinfer-without-a-lock").mkdir()
    (tmp_path / "edgeinfer-lock-is-new").mkdir()
    (tmp_path / "edgeinfer-lock-is-new" / f"{LOCK}.new").touch()
    (tmp_path / "edgeinfer-file").touch()
    (tmp_path / "another-folder").mkdir()
    (tmp_path / "another-folder" / LOCK).touch()
    (tmp_path / "edgeinfer-source").mkdir()
    (tmp_path / "edgeinfer-source" / ".lock").touch()
    (tmp_path / "edgeinfer-link").symlink_to(tmp_path / "another-folder")
    (tmp_path / "edgeinfer-linked-lock").mkdir()
    (tmp_path / "edgeinfer-linked-lock" / LOCK).symlink_to(tmp_path / "edgeinfer-file")
    (tmp_path / "edgeinfer-pipe").mkdir()
    os.mkfifo(tmp_path / "edgeinfer-pipe" / "fifo")
    (tmp_path / "edgeinfer-pipe" / LOCK).mkdir()
    before = sorted(tmp_path.iterdir())
    start(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_what_cannot_be_removed_now_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / "edgeinfer-left"
    (left / "deep").mkdir(parents=True)
    (left / LOCK).touch()
    (left / "link").symlink_to(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", fail)
        with contextlib.suppress(OSError):  # of its own folder, too
            start(tmp_path)
        assert (left / LOCK).exists()
    start(tmp_path)
    assert not left.exists()


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As some network file systems are: what is there may be in use, and stays."""
    (tmp_path / "edgeinfer-left").mkdir()
    (tmp_path / "edgeinfer-left" / LOCK).touch()
    monkeypatch.setattr("fcntl.flock", fail)
    with scratch_folder("edgeinfer-test-", within=tmp_path) as folder:
        assert not (folder / LOCK).exists()
        (folder / "model").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["edgeinfer-left"]


def fail(*_: object, **__: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another user: needs root")
def test_a_folder_of_another_user_stays(tmp_path: Path) -> None:
    theirs = tmp_path / "edgeinfer-theirs"
    theirs.mkdir()
    (theirs / LOCK).touch()
    os.chown(theirs, 65534, 65534)
    start(tmp_path)
    assert theirs.is_dir()
    os.chown(theirs, 0, 0)
    start(tmp_path)
    assert not theirs.exists()


def test_a_place_that_cannot_be_read_is_no_obstacle(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        start(tmp_path / "nowhere")
