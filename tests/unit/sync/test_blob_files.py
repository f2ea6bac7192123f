"""Which files may go up, and in which order."""

import os
from pathlib import Path

from edgeinfer.runtime.handoff import Upload
from edgeinfer.sync.blob_files import LocalFile, changed, pending
from edgeinfer.sync.messages import BlobLabel


def put(root: Path, path: str, *, age: int, content: bytes = b"x") -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    os.utime(file, ns=((1000 - age) * 10**9, (1000 - age) * 10**9))


def looked(root: Path, known: dict[str, Upload] | None = None, **which: bool) -> list[LocalFile]:
    folders = changed(root, **{"snapshots": True, "examples": True, **which})
    return pending(root, folders, known or {})[0]


def test_the_newest_go_first_of_both_kinds_in_turn(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        put(tmp_path, f"snapshots/00000000{number}-17600000000000{number}-door-4.jpg", age=10 - number)
    put(tmp_path, "examples/door/000000001-margin-7.jpg", age=2)
    put(tmp_path, "examples/door/000000001-margin-7.json", age=1)
    put(tmp_path, "examples/yard/000000001-novel-9.npz", age=20)
    put(tmp_path, "examples/yard/000000001-novel-9.json", age=20)
    assert [file.path for file in looked(tmp_path)] == [
        "snapshots/000000003-176000000000003-door-4.jpg",
        "examples/door/000000001-margin-7.json",
        "snapshots/000000002-176000000000002-door-4.jpg",
        "examples/door/000000001-margin-7.jpg",
        "snapshots/000000001-176000000000001-door-4.jpg",
        "examples/yard/000000001-novel-9.json",
        "examples/yard/000000001-novel-9.npz",
    ]
    assert all(file.path.startswith("snapshots/") for file in looked(tmp_path, examples=False))
    assert all(file.path.startswith("examples/") for file in looked(tmp_path, snapshots=False))


def test_labels_say_where_a_file_comes_from(tmp_path: Path) -> None:
    put(tmp_path, "snapshots/000000012-1760000000000000000-side-door-481.jpg", age=0)
    put(tmp_path, "snapshots/000000013-odd.jpg", age=1)
    put(tmp_path, "examples/door/000000001-margin-7.json", age=0)
    assert [file.label for file in looked(tmp_path)] == [
        BlobLabel("snapshot", "000000012-1760000000000000000-side-door-481.jpg", "side-door", 1760000000000000000),
        BlobLabel("example", "000000001-margin-7.json", "door", 1000 * 10**9),
        BlobLabel("snapshot", "000000013-odd.jpg", "", 999 * 10**9),
    ]


def test_what_is_not_whole_or_not_a_file_stays(tmp_path: Path) -> None:
    put(tmp_path, "snapshots/.000000001-1-door-1.jpg.tmp", age=0)
    put(tmp_path, "snapshots/notes.txt", age=0)
    put(tmp_path, "snapshots/000000002-1-door-1.jpg", age=0, content=b"")
    put(tmp_path, "examples/door/000000001-margin-7.jpg", age=0)  # its JSON is not there yet
    put(tmp_path, "secret", age=0)
    (tmp_path / "snapshots" / "000000003-1-door-1.jpg").symlink_to(tmp_path / "secret")
    (tmp_path / "examples" / "linked").symlink_to(tmp_path / "snapshots")
    os.mkfifo(tmp_path / "snapshots" / "000000004-1-door-1.jpg")
    assert looked(tmp_path) == []
    assert looked(tmp_path / "absent") == []


def test_what_has_ended_stays_unless_it_is_another_file(tmp_path: Path) -> None:
    path = "snapshots/000000001-1-door-1.jpg"
    put(tmp_path, path, age=0)
    mtime_ns = (tmp_path / path).stat().st_mtime_ns
    assert looked(tmp_path, {path: Upload(path, 1, mtime_ns, "a" * 64, "done")}) == []
    assert len(looked(tmp_path, {path: Upload(path, 1, mtime_ns, "a" * 64)})) == 1
    assert len(looked(tmp_path, {path: Upload(path, 2, mtime_ns, "a" * 64, "done")})) == 1
    assert len(looked(tmp_path, {path: Upload(path, 1, mtime_ns - 1, "a" * 64, "done")})) == 1


def test_folders_tell_when_something_came_or_went(tmp_path: Path) -> None:
    assert changed(tmp_path, snapshots=True, examples=True) == ()
    put(tmp_path, "snapshots/000000001-1-door-1.jpg", age=0)
    os.utime(tmp_path / "snapshots", ns=(1, 1))
    before = changed(tmp_path, snapshots=True, examples=True)
    assert before == changed(tmp_path, snapshots=True, examples=True)
    put(tmp_path, "snapshots/000000002-1-door-1.jpg", age=0)
    assert changed(tmp_path, snapshots=True, examples=True) != before
