"""Files that are whole after a power cut."""

from pathlib import Path

import pytest

from edgeinfer.runtime.durable import write_durably, write_synced


def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"precious")
    (tmp_path / "receipt").symlink_to(elsewhere)
    (tmp_path / ".manifest.tmp").symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic link"):
        write_synced(tmp_path / "receipt", b"new")
    with pytest.raises(OSError, match="symbolic link"):
        write_durably(tmp_path / "manifest", b"new")
    assert elsewhere.read_bytes() == b"precious"


def test_what_was_there_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_durably(path, b"one")
    write_durably(path, b"two")
    assert path.read_bytes() == b"two"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    with pytest.raises(FileNotFoundError):
        write_durably(tmp_path / "no" / "file", b"x")
