"""The watched folder: each picture once, whatever happens to the files, the folder and the process."""

import logging
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cameras import jpeg
from edgeinfer.runtime.errors import SourceError
from edgeinfer.runtime.frame import Frame, FrameState
from edgeinfer.runtime.sources.base import Settling, Source, is_live, open_source
from edgeinfer.runtime.sources.done_list import DoneList
from edgeinfer.runtime.sources.pictures import opencv, read_picture
from edgeinfer.runtime.sources.settings import WatchedSource
from waiting import wait_until


def png(number: int) -> bytes:
    """A picture that says its number: 0 to 65535."""
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[..., 0], picture[..., 1] = number % 256, number // 256
    return bytes(opencv().imencode(".png", picture)[1])


def number(frame: Frame) -> int:
    """-1 for what is no picture."""
    return int(frame.data[0, 0, 0]) + 256 * int(frame.data[0, 0, 1]) if frame.data.size else -1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "pictures"
    made.mkdir()
    return made


def watch(folder: Path, **options: object) -> WatchedSource:
    settings: dict[str, object] = {"quiet_s": 0.0, "poll_s": 0.01, **options}
    return WatchedSource(path=str(folder), **settings)  # type: ignore[arg-type]  # what the test says


def put(folder: Path, name: str, value: int) -> Path:
    """As a careful writer does it: complete, then renamed into place."""
    temporary = folder / f".{name}.part"
    temporary.write_bytes(png(value))
    return temporary.rename(folder / name)


class Reader:
    """Reads a source in a thread of its own, and says what it gave."""

    def __init__(self, config: WatchedSource) -> None:
        self.stop = threading.Event()
        self.numbers: list[int] = []
        self.files: list[str] = []
        self.error: SourceError | None = None
        self._source = open_source(config, self.stop)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            while (frame := self._source.read()) is not None:
                self.files.append(frame.file)
                self.numbers.append(number(frame))
                assert frame.on_end is not None
                frame.on_end(FrameState.INFERRED)
        except SourceError as error:
            self.error = error

    def end(self) -> list[int]:
        self.stop.set()
        self._thread.join()
        self._source.close()
        self._source.close()
        return self.numbers


def all_there_is(config: WatchedSource) -> list[int]:
    """What a source gives until it has nothing left, twice looked."""
    reader = Reader(config)
    looked = threading.Event()
    source = reader._source
    look = source._look  # type: ignore[attr-defined]  # to know when it has looked and found nothing

    def counted() -> None:
        look()
        if not source._complete and not source._growing:  # type: ignore[attr-defined]  # the same
            looked.set()

    source._look = counted  # type: ignore[attr-defined]  # the same
    wait_until(looked.is_set, what="the folder to be read")
    return reader.end()


def test_it_never_ends_and_skips_nothing(folder: Path) -> None:
    config = watch(folder)
    assert is_live(config), "a failure is waited out"
    source: Source = open_source(config, threading.Event())
    assert not source.live, "but no picture is superseded"
    source.close()


@pytest.mark.parametrize("after", ["keep", "delete", "move"])
def test_pictures_that_appear_are_each_read_once(folder: Path, after: str) -> None:
    put(folder, "a.png", 1)
    put(folder, "b.PNG", 2)
    reader = Reader(watch(folder, after=after))
    wait_until(lambda: len(reader.numbers) == 2)
    put(folder, "0.png", 3)
    wait_until(lambda: len(reader.numbers) == 3)
    assert reader.end() == [1, 2, 3], "in the order in which they came"
    assert reader.files == ["a.png", "b.PNG", "0.png"], "which a result is of"
    left = sorted(path.name for path in folder.rglob("*.[pP]*"))
    assert left == ([] if after == "delete" else ["0.png", "a.png", "b.PNG"])
    assert (folder / "done").exists() == (after == "move")
    assert all_there_is(watch(folder, after=after)) == [], "nor after a restart"
    assert reader.error is None


def test_new_content_under_an_old_name_is_a_new_picture(folder: Path) -> None:
    put(folder, "latest.png", 1)
    reader = Reader(watch(folder))
    for value in range(2, 6):
        wait_until(lambda seen=value: len(reader.numbers) == seen - 1)  # type: ignore[misc]  # bound in the loop
        put(folder, "latest.png", value)
    wait_until(lambda: len(reader.numbers) == 5)
    assert reader.end() == [1, 2, 3, 4, 5]


def test_a_file_is_not_read_while_it_grows(folder: Path) -> None:
    content = jpeg(np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8))
    reader = Reader(watch(folder, quiet_s=5.0))
    pause = threading.Event()
    with (folder / "slow.jpg").open("wb") as file:
        for start in range(0, len(content), len(content) // 8):
            file.write(content[start : start + len(content) // 8])
            file.flush()
            pause.wait(0.05)
    wait_until(lambda: bool(reader.numbers))
    assert len(reader.numbers) == 1
    assert reader.end() != [-1]


def test_what_has_been_moved_keeps_its_earlier_namesakes(folder: Path) -> None:
    reader = Reader(watch(folder, after="move"))
    for value in (1, 2, 3):
        put(folder, "same.png", value)
        wait_until(lambda seen=value: len(reader.numbers) == seen)  # type: ignore[misc]  # bound in the loop
    reader.end()
    assert sorted(path.name for path in (folder / "done").iterdir()) == ["same-1.png", "same-2.png", "same.png"]


@pytest.mark.parametrize("after", ["keep", "delete", "move"])
def test_what_is_no_picture_costs_one_frame_and_stays(folder: Path, after: str) -> None:
    (folder / "bad.png").write_bytes(b"\x89PNG but not really")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("no picture")
    (folder / "folder.png").mkdir()
    (folder / ".hidden.png").write_bytes(png(7))
    (folder / "gone.png").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe.png")
    config = watch(folder, after=after)
    assert all_there_is(config) == [-1, -1]
    assert (folder / "bad.png").exists(), "for a person to look at"
    assert all_there_is(config) == []


def test_names_with_odd_bytes(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [b"\xff\xfe.png", b"new\nline.png", b"\xc3\xa4.png", b"a b;c'd\".png", b"%s%d.png"]
    for index, name in enumerate(names):
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:  # noqa: PTH123  # a Path would be text
            file.write(png(index))
    with open(os.fsencode(folder) + b"/\xff\n.png", "wb") as file:  # noqa: PTH123  # the same
        file.write(b"none")
    caplog.set_level(logging.WARNING)
    assert sorted(all_there_is(watch(folder, after="move"))) == [-1, 0, 1, 2, 3, 4]
    assert len(list((folder / "done").iterdir())) == 5
    for record in caplog.records:
        assert record.getMessage().isprintable()


def test_ten_thousand_pictures(folder: Path) -> None:
    for index in range(10_000):
        (folder / f"{index:05}.png").write_bytes(png(index))
    reader = Reader(watch(folder))
    wait_until(lambda: len(reader.numbers) >= 1000, timeout_s=60)
    first = reader.end()
    rest = all_there_is(watch(folder))
    assert sorted(first + rest) == list(range(10_000)), "each once, over a restart"
    assert (folder / ".edgeinfer-done").stat().st_size == 80_000


def test_a_folder_that_vanishes_and_returns(folder: Path) -> None:
    put(folder, "a.png", 1)
    reader = Reader(watch(folder))
    wait_until(lambda: len(reader.numbers) == 1)
    away = folder.rename(folder.with_name("away"))
    wait_until(lambda: reader.error is not None)
    reader.end()
    with pytest.raises(SourceError, match="expected a folder"):
        open_source(watch(folder), threading.Event())
    put(away, "b.png", 2)
    away.rename(folder)
    assert all_there_is(watch(folder)) == [2]


def test_another_folder_in_its_place_is_noticed(folder: Path) -> None:
    """As when a disk is mounted over it: what is remembered is another's."""
    source = open_source(watch(folder), threading.Event())
    folder.rename(folder.with_name("away"))
    folder.mkdir()
    with pytest.raises(SourceError, match="another folder"):
        source.read()
    source.close()


def test_two_pipelines_need_a_list_each(folder: Path, tmp_path: Path) -> None:
    put(folder, "a.png", 1)
    reader = Reader(watch(folder))
    wait_until(lambda: len(reader.numbers) == 1)
    with pytest.raises(SourceError, match="another pipeline") as caught:
        open_source(watch(folder), threading.Event())
    assert "done_list" in caught.value.hint
    assert all_there_is(watch(folder, done_list=str(tmp_path / "second"))) == [1]
    assert reader.end() == [1]
    assert all_there_is(watch(folder, done_list=str(tmp_path / "second"))) == []


def test_what_cannot_be_put_away_is_said_and_not_read_again(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    put(folder, "a.png", 1)
    monkeypatch.setattr(Path, "unlink", refuse)  # root may remove everything
    config = watch(folder, after="delete")
    assert all_there_is(config) == [1]
    assert all_there_is(config) == []
    assert "event=picture_stays" in caplog.text


def test_a_picture_that_changes_before_it_is_removed_is_not_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replaced(path: Path) -> object:
        picture = read_picture(path)
        if number(Frame(picture, 0, 0, 0)) == 1:
            put(folder, "a.png", 2)
        return picture

    monkeypatch.setattr("edgeinfer.runtime.sources.watched.read_picture", replaced)
    put(folder, "a.png", 1)
    assert all_there_is(watch(folder, after="delete")) == [1, 2]
    assert not list(folder.glob("*.png"))


class Disk:
    """A buffer whose disk is slow: `durable_since_s` says how far it is."""

    durable_since_s = 0.0
    flushes = False

    def wait_for_room(self, stop: threading.Event) -> None:
        del stop

    def flush(self, timeout_s: float) -> bool:
        del timeout_s
        if self.flushes:
            self.durable_since_s = float("inf")
        return self.flushes


def opened(config: WatchedSource, disk: Disk) -> Source:
    source = open_source(config, threading.Event())
    assert isinstance(source, Settling)
    source.settle_by(disk)
    return source


def end(frame: Frame | None, state: FrameState = FrameState.INFERRED) -> None:
    assert frame is not None
    assert frame.on_end is not None
    frame.on_end(state)


@pytest.mark.parametrize("after", ["keep", "delete", "move"])
def test_a_picture_whose_result_is_not_durable_yet_is_read_again_after_a_power_cut(folder: Path, after: str) -> None:
    put(folder, "a.png", 1)
    config, disk = watch(folder, after=after), Disk()
    source = opened(config, disk)
    end(source.read())
    source.close()
    source.close()
    assert (folder / "a.png").exists()
    disk.flushes = True
    source = opened(config, disk)
    end(source.read())
    source.close()
    assert (folder / "a.png").exists() == (after == "keep")
    assert all_there_is(config) == []


def test_a_picture_is_given_up_while_the_source_goes_on_and_read_once_meanwhile(folder: Path) -> None:
    put(folder, "a.png", 1)
    disk = Disk()
    source = opened(watch(folder, after="delete"), disk)
    end(source.read())
    put(folder, "b.png", 2)
    second = source.read()
    assert second is not None
    assert number(second) == 2
    assert (folder / "a.png").exists()
    disk.durable_since_s = float("inf")
    put(folder, "c.png", 3)
    end(source.read())
    assert not (folder / "a.png").exists()
    assert (folder / "b.png").exists(), "its frame has not ended"
    end(second)
    source.close()
    assert not list(folder.glob("*.png"))


def test_a_picture_whose_frame_was_stopped_is_for_the_next_start(folder: Path) -> None:
    put(folder, "a.png", 1)
    config = watch(folder, after="delete")
    disk = Disk()
    disk.flushes = True
    source = opened(config, disk)
    end(source.read(), FrameState.STALE)
    source.close()
    assert all_there_is(config) == [1]


class TestDoneList:
    def test_it_remembers(self, tmp_path: Path) -> None:
        done = DoneList(tmp_path / "list")
        assert not (tmp_path / "list").exists()
        for picture in (0, 1, (1 << 64) - 1):
            done.add(picture)
        done.close()
        done.close()
        again = DoneList(tmp_path / "list")
        assert all(picture in again for picture in (0, 1, (1 << 64) - 1))
        assert 2 not in again
        again.close()

    @given(torn=st.binary(max_size=7), count=st.integers(0, 20))
    def test_a_torn_entry_is_cut_off(self, tmp_path_factory: pytest.TempPathFactory, torn: bytes, count: int) -> None:
        path = tmp_path_factory.mktemp("torn") / "list"
        path.write_bytes(b"".join(i.to_bytes(8, "big") for i in range(count)) + torn)
        done = DoneList(path)
        done.add(1 << 40)
        done.close()
        again = DoneList(path)
        assert 1 << 40 in again
        assert all(i in again for i in range(count))
        assert path.stat().st_size == 8 * (count + 1)
        again.close()

    def test_what_is_gone_is_forgotten(self, tmp_path: Path) -> None:
        done = DoneList(tmp_path / "list")
        for picture in range(5000):
            done.add(picture)
        done.keep_only(set(range(4990, 5010)))
        assert (tmp_path / "list").stat().st_size == 8 * 10
        done.add(7)
        done.close()
        again = DoneList(tmp_path / "list")
        assert 7 in again
        assert 4995 in again
        assert 8 not in again
        again.close()

    def test_a_full_disk_costs_only_what_it_does_not_take(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        done = DoneList(tmp_path / "list")
        done.add(1)
        real = os.write

        def torn(descriptor: int, content: bytes) -> int:
            return real(descriptor, content[:3])

        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        for broken in (torn, full):
            monkeypatch.setattr(os, "write", broken)
            done.add(2)
            assert 2 in done
        monkeypatch.setattr(os, "write", real)
        done.add(3)
        done.close()
        again = DoneList(tmp_path / "list")
        assert [1 in again, 2 in again, 3 in again] == [True, False, True]
        again.close()
        assert caplog.text.count("event=done_list_incomplete") == 1

    @pytest.mark.parametrize("place", ["no/such/folder/list", "."])
    def test_a_place_that_cannot_be_written_is_refused(self, tmp_path: Path, place: str) -> None:
        with pytest.raises(SourceError, match="cannot remember"):
            DoneList(tmp_path / place).add(1)
