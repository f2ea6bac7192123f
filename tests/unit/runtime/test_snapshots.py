"""Snapshots: pictures that open again, in a quota, and never at the cost of an event."""

import logging
import re
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.quota_folder import QuotaFolder
from edgeinfer.runtime.results import Item, Kind, Result
from edgeinfer.runtime.rules.settings import SnapshotConfig
from edgeinfer.runtime.snapshots import SnapshotStore, snapshots_in
from edgeinfer.runtime.stages import Seen
from waiting import wait_until

pytestmark = pytest.mark.usefixtures("patient_writers")

Array = npt.NDArray[Any]
T_NS = 1_790_000_000_000_000_000


def picture(seed: int = 0, *, height: int = 120, width: int = 160) -> Array:
    """Smooth, so that JPEG keeps it nearly as it is."""
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 5, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def seen(data: Array, *, frame: int = 7, items: tuple[Item, ...] = ()) -> Seen:
    result = Result(Kind.DETECTION, T_NS + frame, frame, items=items)
    return Seen(Frame(data, T_NS + frame, 0, frame), result, np.empty(0), ())


def store(folder: Path, **about: Any) -> SnapshotStore:
    made = SnapshotStore(folder / "snapshots", SnapshotConfig(**about))
    made.open()
    return made


def keep_at_last(made: SnapshotStore, shown: Seen) -> str:
    """Keep it, as soon as the writer has room."""
    found: list[str] = []

    def kept() -> bool:
        found.append(made.keep("p", shown))
        return bool(found[-1])

    wait_until(kept)
    return found[-1]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "snapshots").iterdir())


def test_a_picture_is_kept_as_a_jpeg_under_the_name_that_the_event_gives(tmp_path: Path) -> None:
    made, shown = store(tmp_path), picture()
    name = made.keep("door", seen(shown))
    made.close()
    assert re.fullmatch(rf"\d{{9}}-{T_NS + 7}-door-7\.jpg", name)
    assert names(tmp_path) == [name]
    content = (tmp_path / "snapshots" / name).read_bytes()
    assert content[:3] == b"\xff\xd8\xff"
    read = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert read is not None
    assert read.shape == shown.shape
    assert np.abs(read.astype(int) - shown).mean() < 3


def test_the_picture_is_that_of_the_moment(tmp_path: Path) -> None:
    """A source may use its array again at once."""
    made, shown = store(tmp_path, quality=100), picture()
    before = shown.copy()
    name = made.keep("door", seen(shown))
    shown[:] = 0
    made.close()
    read = cv2.imread(str(tmp_path / "snapshots" / name))
    assert read is not None
    assert np.abs(read.astype(int) - before).mean() < 3


def test_boxes_are_drawn_where_it_is_asked_for_and_nowhere_else(tmp_path: Path) -> None:
    item = Item(1, 0.87, (0.25, 0.25, 0.75, 0.75))
    grey = np.full((120, 160, 3), 90, np.uint8)
    for draw in (False, True):
        made = store(tmp_path, draw=draw, quality=95)
        name = made.keep("door", seen(grey, items=(item, Item(2, 0.5))), tracks=(3, 0))
        made.close()
        read = cv2.imread(str(tmp_path / "snapshots" / name))
        assert read is not None
        edge, middle = read[30:91, 38:43].astype(int), read[70, 80].astype(int)
        assert bool(edge[..., 1].max() > 180) is draw
        assert np.abs(middle - 90).max() < 12
    assert (grey == 90).all(), "the frame itself is not drawn into"


@pytest.mark.parametrize("shape", [(64, 3), (512,), (1, 8)])
def test_a_window_is_kept_as_numbers(tmp_path: Path, shape: tuple[int, ...]) -> None:
    made = store(tmp_path)
    window = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    name = made.keep("pump", seen(window))
    made.close()
    assert name.endswith("-pump-7.npz")
    with np.load(tmp_path / "snapshots" / name) as read:
        assert np.array_equal(read["x"], window)


def test_the_oldest_go_when_the_quota_is_full_also_after_a_restart_and_a_jump_of_the_clock(tmp_path: Path) -> None:
    window = np.zeros(250, np.float32)  # about 1.3 kB as a file
    kept: list[str] = []
    for start in range(3):
        made = store(tmp_path, max_bytes=10_000)
        for index in range(6):
            frame = start * 6 + index
            shown = seen(window, frame=frame)
            ten_years = 10 * 365 * 86_400 * 10**9 * (-1) ** start
            jumped = shown._replace(frame=Frame(window, T_NS + ten_years, 0, frame))
            kept.append(keep_at_last(made, jumped))
        made.close()
        held = names(tmp_path)
        assert sum((tmp_path / "snapshots" / name).stat().st_size for name in held) <= 10_000
        assert held == kept[-len(held) :]
        assert len(held) >= 6


def test_what_a_crash_left_half_written_goes(tmp_path: Path) -> None:
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / ".000000001-1-p-1.jpg.tmp").write_bytes(b"half")
    made = store(tmp_path)
    name = made.keep("p", seen(picture()))
    made.close()
    assert names(tmp_path) == [name]


def test_a_frame_that_finds_the_writer_busy_is_dropped_and_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write = threading.Event()
    original = QuotaFolder._write

    def slow(self: QuotaFolder, name: str, files: Any) -> Any:
        may_write.wait(60)
        return original(self, name, files)

    monkeypatch.setattr(QuotaFolder, "_write", slow)
    made = store(tmp_path)
    kept = [made.keep("p", seen(picture(), frame=frame)) for frame in range(20)]
    assert kept[-1] == ""
    may_write.set()
    made.close()
    assert names(tmp_path) == [name for name in kept if name]
    assert 4 <= len(names(tmp_path)) <= 6


def test_a_folder_that_cannot_be_written_is_logged_once_and_harms_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "snapshots").write_text("a file in the place of the folder")
    made = store(tmp_path)
    with caplog.at_level(logging.WARNING):
        for frame in range(3):
            assert made.keep("p", seen(picture(), frame=frame))
        made.close()
    assert len([record for record in caplog.records if "snapshots" in record.getMessage()]) == 1


def test_the_writer_lives_as_long_as_its_last_user(tmp_path: Path) -> None:
    def writers() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "snapshot-writer"]

    made = store(tmp_path)
    made.open()
    assert not writers(), "nobody has needed it yet"
    made.keep("p", seen(picture()))
    assert len(writers()) == 1
    made.close()
    assert made.keep("p", seen(picture()))
    made.close()
    assert not writers()
    assert made.keep("p", seen(picture())) == ""
    made.open()
    assert made.keep("p", seen(picture()))
    made.close()
    assert len(names(tmp_path)) == 3


def test_pipelines_of_a_device_share_one_store(tmp_path: Path) -> None:
    config = SnapshotConfig()
    assert snapshots_in(tmp_path, config) is snapshots_in(tmp_path, config)
    assert snapshots_in(tmp_path, config) is not snapshots_in(tmp_path / "other", config)
