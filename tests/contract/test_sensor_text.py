"""Sensor series from CSV files and standard input, and what a configuration may not say of sensors."""

import json
import os
import threading
import time
from pathlib import Path
from typing import Literal

import pytest

from edgeinfer.runtime.config import parse_config
from edgeinfer.runtime.errors import ConfigError, SourceError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.settings import RuntimeConfig
from edgeinfer.runtime.sources.base import is_live, is_recorded, open_source
from edgeinfer.runtime.sources.settings import (
    CsvSource,
    SensorSource,
    StdinSource,
)
from reading import opened, read


class TestText:
    """CSV files and standard input."""

    def windows(self, config: SensorSource) -> list[Frame]:
        with opened(config) as source:
            return read(source, 1000)

    def test_recorded_rows_lie_where_their_times_say(self, tmp_path: Path) -> None:
        path = tmp_path / "s.csv"
        path.write_text("t;x\n2020-02-08 13:30:47;1\n2020-02-08 13:30:48;2\n2020-02-08 13:30:50;4\nnever;5\n")
        config = CsvSource(path=str(path), delimiter=";", time_column="t", rate_hz=1.0, window=2)
        found = self.windows(config)
        assert [frame.data[:, 0].tolist() for frame in found] == [[1, 2], [2, 3], [3, 4], [4, 5]]
        assert [frame.t_ns // 10**9 - 1_581_168_647 for frame in found] == [1, 2, 3, 4]
        assert is_recorded(config)
        assert not is_live(config)

    @pytest.mark.parametrize("times", ["ms", "s", "count"])
    def test_times_as_numbers(self, tmp_path: Path, times: str) -> None:
        first = {"ms": 1_581_168_647_000, "s": 1_581_168_647, "count": 0}[times]
        step = 500 if times == "ms" else 0.5
        path = tmp_path / "s.csv"
        path.write_text("t,x\n" + "".join(f"{first + step * i},{i}\n" for i in range(5)))
        unit = "ms" if times == "ms" else "s"
        config = CsvSource(path=str(path), time_column="t", time_unit=unit, rate_hz=2.0, window=1)  # type: ignore[arg-type]  # one of the two
        found = self.windows(config)
        assert [frame.data.item() for frame in found] == [0, 1, 2, 3, 4]
        if times == "count":
            assert abs(found[0].t_ns - time.time_ns()) < 60e9, "counted from nobody knows when"
        else:
            assert found[-1].t_ns == 1_581_168_649 * 10**9

    @pytest.mark.parametrize("first", ["2024-01-01T00:00:00", "-3"])
    def test_seconds_are_those_of_the_recording(self, tmp_path: Path, first: str) -> None:
        """However fast it is read: what dwell and cooldown of a rule count by."""
        path = tmp_path / "s.csv"
        times = [
            first,
            *(first.replace("00:00:00", f"00:00:{2 * i:02}") if "T" in first else 2 * i - 3 for i in (1, 2)),
        ]
        path.write_text("t,x\n" + "".join(f"{time},1\n" for time in times))
        timed, ordered = CsvSource(path=str(path), time_column="t"), CsvSource(path=str(path), columns=("x",))
        assert [frame.clock_ns for frame in self.windows(timed)] == [0, 2 * 10**9, 4 * 10**9]
        assert all(frame.clock_ns == frame.mono_ns for frame in self.windows(ordered)), "it says no times"

    @pytest.mark.parametrize("text", ["seconds,a\n5,1\n9,2\n", "time,a\nnoon,1\n,2\n", "time,a\nnoon,1\n3,2\n"])
    def test_without_times_in_their_column_rules_count_the_seconds_of_reading(self, tmp_path: Path, text: str) -> None:
        """Rows a nanosecond apart would put off the end of every `dwell_s` and `cooldown_s` for ever."""
        (tmp_path / "x.csv").write_text(text)
        frames = self.windows(CsvSource(path=str(tmp_path / "x.csv"), columns=("a",), time_column="time"))
        assert [frame.data.tolist() for frame in frames] == [[[1.0]], [[2.0]]]
        assert all(frame.clock_ns == frame.mono_ns for frame in frames)

    def test_a_recording_without_dates_is_dated_when_it_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "s.csv"
        path.write_text("t,x\n" + "".join(f"{hour * 3600},{hour}\n" for hour in (0, 1, 2, 4, 5)))
        config = CsvSource(path=str(path), time_column="t", rate_hz=1 / 3600, missing="interpolate")
        began_ns = time.time_ns()
        times = [frame.t_ns for frame in self.windows(config)]
        assert len(times) == 6
        assert times == sorted(times)
        assert times[0] >= began_ns

    @pytest.mark.parametrize(("header", "part"), [("t,x", "expected ISO 8601 or a number"), ("u,x", "no column 't'")])
    def test_a_column_that_holds_no_times_is_refused_where_times_count(
        self, tmp_path: Path, header: str, part: str
    ) -> None:
        path = tmp_path / "s.csv"
        path.write_text(f"{header}\n" + "08/02/2020,1\n" * 200)
        with pytest.raises(SourceError, match=part):
            self.windows(CsvSource(path=str(path), time_column="t", rate_hz=1.0, columns=("x",)))
        assert len(self.windows(CsvSource(path=str(path), time_column="t", columns=("x",)))) == 200

    def test_tumbling_windows_and_sessions_of_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "s.csv"
        path.write_text("t,x\n" + "".join(f"{t},{t}\n" for t in (0, 1, 2, 3, 4, 60, 61)))
        tumbling = self.windows(CsvSource(path=str(path), time_column="t", windows="tumbling", window=2))
        assert [frame.data[:, 0].tolist() for frame in tumbling] == [[0, 1], [2, 3], [4, 60]]
        session = CsvSource(path=str(path), time_column="t", windows="session", gap_s=10, window=3, min_rows=2)
        assert [frame.data[:, 0].tolist() for frame in self.windows(session)] == [[2, 3, 4], [60, 60, 61]]

    def test_standard_input_with_times_and_quoted_line_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reading, writing = os.pipe()
        with os.fdopen(reading) as file:
            monkeypatch.setattr("sys.stdin", file)
            stop = threading.Event()
            source = open_source(StdinSource(time_column="t", rate_hz=1.0, columns=("x",)), stop)
            os.write(writing, b't,note,x\n100,"two\n')

            def write_the_rest() -> None:
                os.write(writing, b'lines",1\n102,,3\n')
                os.close(writing)

            closer = threading.Timer(0.3, write_the_rest)
            closer.start()
            assert [frame.data.item() for frame in read(source, 10)] == [1, 2, 3]
            closer.join()
            source.close()

    def test_a_quote_that_is_never_closed_costs_some_rows_and_not_all(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        rows = [str(number) for number in range(100)]
        rows[10] = '"10'
        (tmp_path / "s.csv").write_text("x\n" + "\n".join(rows) + "\n")
        found = [frame.data.item() for frame in self.windows(CsvSource(path=str(tmp_path / "s.csv")))]
        assert found == [*range(10), *range(31, 100)]
        assert "a quote is not closed within 20 lines" in caplog.text

    @pytest.mark.parametrize(
        ("columns", "channels", "expected"),
        [
            ((), ("b", "a"), [2, 1]),
            (("a", "c"), ("c", "a"), [3, 1]),
            (("a", "c"), ("x", "y"), [1, 3]),
            ((), (), [1, 2, 3]),
        ],
        ids=["by name", "named here too", "named otherwise", "none"],
    )
    def test_columns_are_those_of_the_package(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        columns: tuple[str, ...],
        channels: tuple[str, ...],
        expected: list[float],
    ) -> None:
        (tmp_path / "s.csv").write_text("a,b,c,at\n1,2,3,x\n")
        (tmp_path / "s.jsonl").write_text('{"a": 1, "b": 2, "at": "x", "c": 3}\n')
        for config, file in (
            (CsvSource(path=str(tmp_path / "s.csv"), columns=columns), "s.csv"),
            (StdinSource(columns=columns), "s.csv"),
            (StdinSource(columns=columns, format="jsonl"), "s.jsonl"),
        ):
            with (tmp_path / file).open() as standard_input:
                monkeypatch.setattr("sys.stdin", standard_input)
                source = open_source(config, threading.Event(), channels)
                frame = source.read()
                assert frame is not None
                assert frame.data[0].tolist() == expected
                source.close()

    @pytest.mark.parametrize("format_", ["csv", "jsonl"])
    def test_rows_that_lack_channels_of_the_package(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_: Literal["csv", "jsonl"]
    ) -> None:
        (tmp_path / "s").write_text({"csv": "a,b\n1,2\n", "jsonl": '{"a": 1, "b": 2}\n'}[format_])
        with (tmp_path / "s").open() as standard_input:
            monkeypatch.setattr("sys.stdin", standard_input)
            source = open_source(StdinSource(format=format_), threading.Event(), ("b", "other"))
            with pytest.raises(ConfigError, match="takes the channels b, other; found a, b, without other"):
                source.read()
            source.close()

    def test_json_with_times(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reading, writing = os.pipe()
        with os.fdopen(reading) as file, os.fdopen(writing, "wb") as sender:
            monkeypatch.setattr("sys.stdin", file)
            for t in (1, 2, 4):
                sender.write(json.dumps({"at": f"2020-01-01T00:00:0{t}Z", "x": t}).encode() + b"\n")
            sender.flush()
            sender.close()
            found = self.windows(StdinSource(format="jsonl", time_column="at", rate_hz=1.0))
        assert [frame.data.item() for frame in found] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ('kind = "camera"\ndevice = "ftp://user:secret@camera/x"', "URL of a camera to begin with rtsp"),
        ('kind = "camera"\ndevice = "://"', "URL of a camera to begin with rtsp"),
        ('kind = "host"\nwindows = "session"', "gap_s"),
        ('kind = "host"\ngap_s = 3', "belong together"),
        ('kind = "host"\nmin_rows = 3', "min_rows"),
        ('kind = "host"\nwindows = "tumbling"\nstride = 3', "stride"),
        ('kind = "host"\ntolerance_s = 3', "needs rate_hz"),
        ('kind = "host"\nrate_hz = 1\ntolerance_s = 0.1', "half a period"),
        ('kind = "host"\nrate_hz = 1000\nmax_gap_s = 100000', "max_gap_s"),
        ('kind = "host"\nrate_hz = nan', "rate_hz"),
        ('kind = "host"\nmissing = "guess"', "missing"),
        ('kind = "csv"\npath = "a"\nrate_hz = 1', "time_column"),
        ('kind = "iio"', "device"),
        ('kind = "iio"\ndevice = 0\nchannels = ["../x"]', "channels"),
        ('kind = "i2c"\nregisters = []', "at least one"),
        ('kind = "modbus"\nregisters = [{name = "a", address = 0}]', "host"),
        ('kind = "modbus"\nhost = "h"\nregisters = [{name = "a", address = 0}, {name = "a", address = 1}]', "name"),
        ('kind = "modbus"\nhost = "h"\nregisters = [{name = "a", adress = 0}]', "did you mean 'address'?"),
        ('kind = "joined"\nrate_hz = 1\ninputs = []', "at least one input"),
        ('kind = "joined"\ninputs = [{kind = "host"}]', "needs rate_hz"),
        ('kind = "joined"\nrate_hz = 1\ninputs = [{kind = "serial", device = "d"}]', "needs columns"),
        ('kind = "joined"\nrate_hz = 1\ninputs = [{kind = "iio", device = 1}]', "needs channels"),
        ('kind = "joined"\nrate_hz = 1\ninputs = [{kind = "host", window = 3}]', "window belongs to the joined"),
        ('kind = "joined"\nrate_hz = 1\ninputs = [{kind = "seriall", device = "d"}]', "did you mean 'serial'?"),
        (
            'kind = "joined"\nrate_hz = 1\ninputs=[{kind="host"},{kind="csv",path="a",columns=["x"],time_column="t"}]',
            "all be live",
        ),
    ],
)
def test_a_wrong_configuration_is_refused(source: str, part: str) -> None:
    text = f'device = "d"\n[[pipeline]]\nname = "p"\npackage = "m"\n[pipeline.source]\n{source}\n'
    with pytest.raises(ConfigError) as caught:
        parse_config(text, RuntimeConfig)
    assert part in str(caught.value)
