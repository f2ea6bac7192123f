"""What every source promises, tried on each kind, and what each kind does with input that is wrong."""

import json
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.runtime.errors import SourceError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.sources.base import Source, is_live, open_source
from edgeinfer.runtime.sources.pictures import decode_picture, opencv
from edgeinfer.runtime.sources.settings import (
    CameraSource,
    CsvSource,
    HostSource,
    ImagesSource,
    SourceConfig,
    StdinSource,
    TensorsSource,
    VideoSource,
    WatchedSource,
)
from edgeinfer.runtime.sources.video import decode_threads

ROWS = 20


def make_pictures(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for index in range(4):
        opencv().imwrite(str(folder / f"{index}.png"), np.full((6, 8, 3), index * 10, dtype=np.uint8))
    (folder / "notes.txt").write_text("no picture")
    return folder


def make_video(path: Path, *, frames: int = 12, fps: float = 50.0) -> Path:
    cv2 = opencv()
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, (32, 24))
    for index in range(frames):
        writer.write(np.full((24, 32, 3), index * 10 % 250, dtype=np.uint8))
    writer.release()
    return path


def make_csv(path: Path, *, rows: int = ROWS) -> Path:
    lines = ["timestamp,a,b", *(f"2024-01-01 00:00:{i:02d},{i},{i * 0.5}" for i in range(rows))]
    path.write_text("\n".join(lines) + "\n")
    return path


def make_tensors(path: Path, array: np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None = None) -> Path:
    np.savez(path, x=np.arange(10, dtype=np.float32).reshape(5, 2) if array is None else array)
    return path


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], None]]:
    """Puts a pipe in the place of standard input; what is written to it ends there."""
    ends: list[IO[str]] = []

    def feed(content: bytes) -> None:
        reading, writing = os.pipe()
        threading.Thread(target=_write_all, args=(writing, content)).start()
        file = os.fdopen(reading)
        ends.append(file)
        monkeypatch.setattr("sys.stdin", file)

    yield feed
    for end in ends:
        end.close()


def _write_all(descriptor: int, content: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        try:
            file.write(content)
        except BrokenPipeError:
            return


def frames(source: Source, *, most: int = 1000) -> list[Frame]:
    found: list[Frame] = []
    while len(found) < most and (frame := source.read()) is not None:
        found.append(frame)
    return found


def values(config: SourceConfig) -> list[list[list[float]]]:
    source = open_source(config, threading.Event())
    found = [frame.data.tolist() for frame in frames(source)]
    source.close()
    return found


RECORDED = ["images", "video", "csv", "tensors"]


@pytest.fixture
def recorded(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[SourceConfig, int]:
    """A recorded source by its name, and how many frames it has."""
    match request.param:
        case "images":
            return ImagesSource(path=str(make_pictures(tmp_path / "pictures"))), 4
        case "video":
            return VideoSource(path=str(make_video(tmp_path / "v.avi"))), 12
        case "csv":
            path = make_csv(tmp_path / "s.csv")
            return CsvSource(path=str(path), window=4, stride=2, time_column="timestamp"), (ROWS - 4) // 2 + 1
        case _:
            return TensorsSource(path=str(make_tensors(tmp_path / "x.npz"))), 5


@pytest.mark.parametrize("recorded", RECORDED, indirect=True)
class TestRecorded:
    def test_every_frame_comes_once_in_order(self, recorded: tuple[SourceConfig, int]) -> None:
        config, count = recorded
        source = open_source(config, threading.Event())
        assert not source.live
        found = frames(source)
        assert [frame.index for frame in found] == list(range(count))
        times = [frame.mono_ns for frame in found]
        assert times == sorted(times)
        if not isinstance(config, CsvSource):  # a recording's own times: tests/contract/test_sensors.py
            assert all(abs(frame.t_ns - time.time_ns()) < 60e9 for frame in found)
        assert source.read() is None, "the end stays the end"
        source.close()
        source.close()

    def test_opened_again_it_begins_anew(self, recorded: tuple[SourceConfig, int]) -> None:
        config, count = recorded
        for _ in range(2):
            source = open_source(config, threading.Event())
            assert len(frames(source)) == count
            source.close()

    def test_it_is_waited_for_only_by_a_daemon(self, recorded: tuple[SourceConfig, int]) -> None:
        assert not is_live(recorded[0])


@pytest.mark.parametrize(
    "config",
    [
        ImagesSource(path="/nowhere"),
        VideoSource(path="/nowhere.mp4"),
        CsvSource(path="/nowhere.csv", window=1),
        TensorsSource(path="/nowhere.npz"),
        CameraSource(device="/dev/video77"),
        CameraSource(device="http://127.0.0.1:9/none", timeout_s=1),
        CameraSource(device="rtsp://127.0.0.1:9/none", timeout_s=1),
        CameraSource(device="rtsp://", timeout_s=1),
        CameraSource(device="http://[::1/x", timeout_s=1),
        CameraSource(device="http://no.such.host.invalid/x", timeout_s=1),
        CameraSource(device="no-device"),
        CameraSource(device=-1),
        CameraSource(device=77),
        CameraSource(device=10**30),
        WatchedSource(path="/nowhere"),
        WatchedSource(path=__file__),
        HostSource(disk="/nowhere", interval_s=0.01, window=1),
    ],
    ids=lambda config: type(config).__name__,
)
def test_what_is_not_there_is_a_source_error(config: SourceConfig) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(config, threading.Event()).read()
    assert caught.value.recoverable


class TestImages:
    def test_a_file_that_is_no_picture_costs_one_frame(self, tmp_path: Path) -> None:
        folder = make_pictures(tmp_path / "pictures")
        (folder / "1.png").write_bytes(b"\x89PNG but not really")
        (folder / "3.png").write_bytes(b"")
        source = open_source(ImagesSource(path=str(folder)), threading.Event())
        assert [frame.data.size > 0 for frame in frames(source)] == [True, False, True, False]

    def test_a_picture_that_vanishes_costs_one_frame(self, tmp_path: Path) -> None:
        folder = make_pictures(tmp_path / "pictures")
        source = open_source(ImagesSource(path=str(folder)), threading.Event())
        (folder / "2.png").unlink()
        assert [frame.data.size > 0 for frame in frames(source)] == [True, True, False, True]

    def test_frames_say_which_file_they_are_in_text_that_can_be_stored_and_shown(self, tmp_path: Path) -> None:
        folder = make_pictures(tmp_path / "pictures")
        for name, renamed in ((b"2.png", b"\xff\x1b[2J\n.png"), (b"3.png", b"\xc3\xa4.png")):
            os.rename(os.fsencode(folder) + b"/" + name, os.fsencode(folder) + b"/" + renamed)  # noqa: PTH104  # a Path would be text
        source = open_source(ImagesSource(path=str(folder)), threading.Event())
        lost = "\N{REPLACEMENT CHARACTER}"
        assert {frame.file for frame in frames(source)} == {"0.png", "1.png", f"{lost}{lost}[2J{lost}.png", "ä.png"}

    def test_a_folder_without_pictures_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match="expected pictures"):
            open_source(ImagesSource(path=str(tmp_path)), threading.Event())

    def test_repeat_begins_again_and_counts_on(self, tmp_path: Path) -> None:
        source = open_source(ImagesSource(path=str(make_pictures(tmp_path / "p")), repeat=True), threading.Event())
        found = frames(source, most=6)
        assert [int(frame.data[0, 0, 0]) for frame in found] == [0, 10, 20, 30, 0, 10]
        assert [frame.index for frame in found] == list(range(6))

    def test_what_has_a_pictures_name_and_is_none_is_passed_over_or_costs_one_frame(self, tmp_path: Path) -> None:
        folder = make_pictures(tmp_path / "pictures")
        (folder / "0folder.png").mkdir()
        os.mkfifo(folder / "0pipe.png")
        (folder / "0gone.png").symlink_to(tmp_path / "nowhere")
        odd = os.fsencode(folder) + b"/9\xff\xfe\n.png"
        with open(odd, "wb") as file:  # noqa: PTH123  # a Path would be text
            file.write((folder / "3.png").read_bytes())
        source = open_source(ImagesSource(path=str(folder)), threading.Event())
        assert [int(frame.data[0, 0, 0]) for frame in frames(source)] == [0, 10, 20, 30, 30]

    def test_a_file_that_claims_an_absurd_size_costs_one_frame(self, tmp_path: Path) -> None:
        """60,000 x 60,000 pixels in 60 bytes."""
        folder = make_pictures(tmp_path / "pictures")
        header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
        chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
        (folder / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\1IDAT\0")
        source = open_source(ImagesSource(path=str(folder)), threading.Event())
        assert [frame.data.size > 0 for frame in frames(source)] == [True, False, True, True]

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=60), st.integers(0, 200), st.sampled_from([".jpg", ".png", ".bmp", ".webp", ".tif"]))
    def test_any_bytes_give_a_picture_or_none(self, content: bytes, place: int, ending: str) -> None:
        """Random bytes, in the place of some of a good file."""
        ok, encoded = opencv().imencode(ending, np.arange(300, dtype=np.uint8).reshape(10, 10, 3))
        assert ok
        good = bytes(encoded)
        picture = decode_picture(np.frombuffer(good[:place] + content + good[place + len(content) :], dtype=np.uint8))
        assert picture.dtype == np.uint8
        assert picture.ndim == 3


class TestVideo:
    def test_repeat_begins_again_and_counts_on(self, tmp_path: Path) -> None:
        source = open_source(VideoSource(path=str(make_video(tmp_path / "v.avi")), repeat=True), threading.Event())
        assert [frame.index for frame in frames(source, most=30)] == list(range(30))
        source.close()

    def test_paced_is_live_and_keeps_the_rate_at_most(self, tmp_path: Path) -> None:
        stop = threading.Event()
        source = open_source(VideoSource(path=str(make_video(tmp_path / "v.avi", fps=50)), paced=True), stop)
        assert source.live
        began = time.monotonic()
        assert len(frames(source)) == 12
        assert time.monotonic() - began >= 10 / 50, "eleven gaps of 20 ms, of which one may be made up for"
        source.close()

    def test_a_stop_ends_the_wait(self, tmp_path: Path) -> None:
        stop = threading.Event()
        source = open_source(VideoSource(path=str(make_video(tmp_path / "v.avi", fps=0.1)), paced=True), stop)
        assert source.read() is not None
        threading.Timer(0.05, stop.set).start()
        assert source.read() is None
        source.close()

    @pytest.mark.parametrize("content", [b"", b"no video at all", b"RIFF\xff\xff\xff\xffAVI LIST"])
    def test_what_is_no_video_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "v.avi").write_bytes(content)
        with pytest.raises(SourceError, match="no video"):
            open_source(VideoSource(path=str(tmp_path / "v.avi")), threading.Event())

    def test_a_cut_video_gives_what_is_there_or_is_refused(self, tmp_path: Path) -> None:
        content = make_video(tmp_path / "v.avi", frames=40).read_bytes()
        (tmp_path / "v.avi").write_bytes(content[: len(content) * 2 // 3])
        try:
            source = open_source(VideoSource(path=str(tmp_path / "v.avi"), repeat=True), threading.Event())
        except SourceError:
            return  # the container's index is at its end: OpenCV's readers differ in whether they need it
        assert len(frames(source, most=50)) > 0

    def test_a_file_that_vanishes_before_it_is_repeated_is_a_source_error(self, tmp_path: Path) -> None:
        path = make_video(tmp_path / "v.avi", frames=3)
        source = open_source(VideoSource(path=str(path), repeat=True), threading.Event())
        path.unlink()
        assert len(frames(source, most=3)) == 3
        with pytest.raises(SourceError, match="no such video"):
            source.read()
        source.close()

    @pytest.mark.parametrize(
        ("width", "height", "cores", "expected"),
        [
            (320, 240, 8, 1),
            (1280, 720, 8, 1),
            (1920, 1080, 8, 2),
            (1920, 1080, 1, 1),
            (7680, 4320, 64, 4),
            (0, 0, 4, 1),
        ],
    )
    def test_large_pictures_are_decoded_by_more_threads(
        self, width: int, height: int, cores: int, expected: int
    ) -> None:
        assert decode_threads(width * height, cores=cores) == expected

    @pytest.mark.parametrize("threads", [0, 1, 3])
    def test_any_number_of_threads_gives_the_same_pictures(self, tmp_path: Path, threads: int) -> None:
        path = tmp_path / "large.avi"
        writer = opencv().VideoWriter(str(path), opencv().VideoWriter_fourcc(*"MJPG"), 25, (1920, 1080))
        for index in range(5):
            writer.write(np.full((1080, 1920, 3), index * 40, dtype=np.uint8))
        writer.release()
        source = open_source(VideoSource(path=str(path), decode_threads=threads), threading.Event())
        assert [round(float(frame.data.mean()) / 40) for frame in frames(source)] == [0, 1, 2, 3, 4]
        source.close()


class TestCsv:
    def test_windows_and_strides(self, tmp_path: Path) -> None:
        path = str(make_csv(tmp_path / "s.csv", rows=5))
        assert values(CsvSource(path=path, window=3, stride=2, columns=("b", "a"))) == [
            [[0.0, 0.0], [0.5, 1.0], [1.0, 2.0]],
            [[1.0, 2.0], [1.5, 3.0], [2.0, 4.0]],
        ]
        assert values(CsvSource(path=path, window=1, stride=4, columns=("a",))) == [[[0.0]], [[4.0]]]
        assert values(CsvSource(path=path, window=6, columns=("a",))) == []

    def test_unreadable_cells_repeat_the_last_value(self, tmp_path: Path) -> None:
        (tmp_path / "s.csv").write_text("a,b\n,1\n2,x\nnan,inf\n\n5\n6,7,8\n1e39,-1e39\n")
        assert values(CsvSource(path=str(tmp_path / "s.csv"), window=1, columns=("a", "b"))) == [
            [[0.0, 1.0]],
            [[2.0, 1.0]],
            [[2.0, 1.0]],
            [[5.0, 1.0]],
            [[6.0, 7.0]],
            [[6.0, 7.0]],
        ]

    def test_without_names_the_numbers_of_the_first_row_count(self, tmp_path: Path) -> None:
        (tmp_path / "s.csv").write_text("\ufefft;name;x\n7;door;1\n8;gate;2\n", encoding="utf-8")
        assert values(CsvSource(path=str(tmp_path / "s.csv"), window=1, delimiter=";", time_column="t")) == [
            [[1.0]],
            [[2.0]],
        ]

    @pytest.mark.parametrize(
        ("content", "part"),
        [
            (b"", "header"),
            (b"x,y\n1,2\n", "no column 'a'"),
            (b"a,b\n1," + b"2" * 200_000 + b"\n", "no CSV"),
            (b"a," + b"b" * 2_000_000, "lines of less"),
        ],
        ids=["empty", "columns", "field", "line"],
    )
    def test_what_cannot_be_a_series_is_refused(self, tmp_path: Path, content: bytes, part: str) -> None:
        (tmp_path / "s.csv").write_bytes(content)
        with pytest.raises(SourceError, match=part):
            values(CsvSource(path=str(tmp_path / "s.csv"), window=1, columns=("a",)))

    def test_no_number_in_the_first_row_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "s.csv").write_text("a,b\nx,y\n")
        with pytest.raises(SourceError, match="expected numbers"):
            values(CsvSource(path=str(tmp_path / "s.csv"), window=1))

    def test_a_file_that_vanishes_or_may_not_be_read_is_a_source_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = make_csv(tmp_path / "s.csv")
        source = open_source(CsvSource(path=str(path), window=1), threading.Event())
        path.unlink()
        with pytest.raises(SourceError, match="cannot be read"):
            source.read()
        make_csv(path)

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        source = open_source(CsvSource(path=str(path), window=1), threading.Event())
        monkeypatch.setattr(Path, "open", refuse)  # root may read everything
        with pytest.raises(SourceError, match="Permission denied"):
            source.read()

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=200), st.integers(1, 3))
    def test_any_bytes_give_finite_windows_or_are_refused(self, tmp_path: Path, content: bytes, window: int) -> None:
        (tmp_path / "s.csv").write_bytes(b"a,b\n" + content)
        try:
            found = values(CsvSource(path=str(tmp_path / "s.csv"), window=window))
        except SourceError:
            return
        assert all(np.isfinite(np.array(found)).ravel())

    def test_paced_it_is_live_and_a_stop_ends_it(self, tmp_path: Path) -> None:
        stop = threading.Event()
        config = CsvSource(path=str(make_csv(tmp_path / "s.csv")), window=1, interval_s=30.0)
        source = open_source(config, stop)
        assert source.live
        assert source.read() is not None
        threading.Timer(0.05, stop.set).start()
        assert source.read() is None


class TestStdin:
    def test_csv(self, stdin: Callable[[bytes], None]) -> None:
        stdin(b"a,b\n1,2\n3,4\n5,6")
        assert values(StdinSource(window=2)) == [[[1.0, 2.0], [3.0, 4.0]], [[3.0, 4.0], [5.0, 6.0]]]

    def test_json_lines_pass_over_what_is_none(self, stdin: Callable[[bytes], None]) -> None:
        lines = [{"a": 1, "b": "x"}, "nonsense", {"a": 2}, {"b": 7}, {"a": True}, {"a": 4, "c": [1]}]
        text = "\n".join(json.dumps(line) for line in lines) + "\n{broken\n" + "[" * 100_000 + '\n\n{"a": 5}\n'
        stdin(text.encode())
        assert values(StdinSource(window=1, format="jsonl")) == [[[1.0]], [[2.0]], [[2.0]], [[2.0]], [[4.0]], [[5.0]]]

    def test_nothing_at_all_is_refused(self, stdin: Callable[[bytes], None]) -> None:
        stdin(b"")
        with pytest.raises(SourceError, match="header"):
            values(StdinSource(window=1))

    def test_a_line_without_end_is_refused(self, stdin: Callable[[bytes], None]) -> None:
        stdin(b"a\n" + b"1" * (3 << 20))
        with pytest.raises(SourceError, match="lines of at most"):
            values(StdinSource(window=1))

    def test_a_stop_ends_the_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reading, writing = os.pipe()
        with os.fdopen(reading) as file:
            monkeypatch.setattr("sys.stdin", file)
            os.write(writing, b"a\n1\n")
            stop = threading.Event()
            source = open_source(StdinSource(window=1), stop)
            assert source.read() is not None
            threading.Timer(0.05, stop.set).start()
            assert source.read() is None
        os.close(writing)

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=100), st.sampled_from(["csv", "jsonl"]))
    def test_any_bytes_give_windows_or_are_refused(
        self, stdin: Callable[[bytes], None], content: bytes, form: str
    ) -> None:
        stdin(content)
        try:
            values(StdinSource(window=1, format="jsonl" if form == "jsonl" else "csv"))
        except SourceError:
            return


class TestHost:
    def test_vitals_come_as_windows(self) -> None:
        source = open_source(HostSource(window=3, interval_s=0.01), threading.Event())
        assert source.live
        found = frames(source, most=2)
        assert [frame.data.shape for frame in found] == [(3, 5), (3, 5)]
        assert all(np.isfinite(frame.data).all() and (frame.data >= 0).all() for frame in found)
        assert np.array_equal(found[0].data[1:], found[1].data[:-1]), "windows slide"
        assert 0 < found[0].data[0, 1] <= 100, "memory in per cent"
        source.close()

    def test_columns_in_the_order_that_is_asked_for(self) -> None:
        config = HostSource(window=1, interval_s=0.01, columns=("disk_percent", "memory_percent"))
        source = open_source(config, threading.Event())
        (frame,) = frames(source, most=1)
        assert frame.data.shape == (1, 2)

    def test_a_stop_ends_the_wait(self) -> None:
        stop = threading.Event()
        source = open_source(HostSource(interval_s=60.0), stop)
        threading.Timer(0.05, stop.set).start()
        assert source.read() is None


class TestTensors:
    @pytest.mark.parametrize("kind", ["npy", "empty", "text", "no rows", "no key", "scalar", "pickled"])
    def test_what_is_no_archive_of_rows_is_refused(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "x.npz"
        key = "x"
        match kind:
            case "npy":
                with path.open("wb") as file:
                    np.save(file, np.zeros(3))
            case "empty":
                path.write_bytes(b"")
            case "text":
                path.write_text("no archive")
            case "no rows":
                make_tensors(path, np.zeros((0, 3), dtype=np.float32))
            case "scalar":
                make_tensors(path, np.float32(3))  # type: ignore[arg-type]  # that is the point
            case "pickled":
                np.savez(path, x=np.array([{"a": 1}], dtype=object), allow_pickle=True)
            case _:
                make_tensors(path)
                key = "y"
        with pytest.raises(SourceError):
            open_source(TensorsSource(path=str(path), key=key), threading.Event())

    def test_every_truncation_is_refused(self, tmp_path: Path) -> None:
        content = make_tensors(tmp_path / "x.npz").read_bytes()
        for length in range(0, len(content), 3):
            (tmp_path / "cut.npz").write_bytes(content[:length])
            with pytest.raises(SourceError):
                open_source(TensorsSource(path=str(tmp_path / "cut.npz")), threading.Event())

    def test_repeat_counts_on(self, tmp_path: Path) -> None:
        source = open_source(TensorsSource(path=str(make_tensors(tmp_path / "x.npz")), repeat=True), threading.Event())
        found = frames(source, most=7)
        assert [frame.index for frame in found] == list(range(7))
        assert found[5].data.tolist() == found[0].data.tolist()
