"""The channels that a package names are taken by name; a source that lacks some is refused before a frame is made."""

import logging
import math
import threading
from pathlib import Path

import pytest

from edgeinfer.runtime.config import parse_config
from edgeinfer.runtime.errors import ConfigError
from edgeinfer.runtime.manifest import ImagePre, WindowPre
from edgeinfer.runtime.settings import RuntimeConfig
from edgeinfer.runtime.sources.base import open_source
from edgeinfer.runtime.sources.named_channels import (
    channel_names,
    check_channels,
    check_same_channels,
    taken_by_name,
)
from edgeinfer.runtime.sources.records import CsvLines, JsonLines, JsonValues
from edgeinfer.runtime.sources.settings import SensorSource

HOST = "columns = ['cpu_percent', 'memory_percent']"
KINDS = {
    "csv": ("path = 'a.csv'\ncolumns = ['x', 'y']", ("x", "y")),
    "csv, as it comes": ("path = 'a.csv'", ()),
    "serial": ("device = '/dev/tty'\ncolumns = ['x', 'y']", ("x", "y")),
    "iio": ("device = 0\nchannels = ['accel_x', 'temp']", ("accel_x", "temp")),
    "i2c": ("registers = [{name = 'x', address = 9, register = 1}]", ("x",)),
    "modbus": ("host = 'h'\nregisters = [{name = 'x', address = 9}, {name = 'y', address = 8}]", ("x", "y")),
    "host": (HOST, ("cpu_percent", "memory_percent")),
    "joined": (
        "rate_hz = 1\ninputs = [{kind = 'iio', device = 0, channels = ['x']}, {kind='host', columns = ['net_kib_s']}]",
        ("x", "net_kib_s"),
    ),
}  # fmt: skip


def source_of(kind: str, text: str, *, window: int = 4) -> SensorSource:
    pipeline = f'[[pipeline]]\nname = "a"\nmodel = "m"\n[pipeline.source]\nkind = "{kind}"\nwindow = {window}\n{text}'
    source = parse_config(f'device = "d"\n{pipeline}', RuntimeConfig).pipeline[0].source
    assert isinstance(source, SensorSource)
    return source


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_says_its_channels(name: str) -> None:
    text, expected = KINDS[name]
    source = source_of(name.removesuffix(", as it comes"), text)
    assert channel_names(source) == expected
    check_channels("p", source, WindowPre(4, expected))


@pytest.mark.parametrize("name", [name for name, (_, names) in KINDS.items() if names])
def test_columns_listed_under_other_names_go_by_position_and_the_log_says_so(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    text, names = KINDS[name]
    source = source_of(name, text)
    with caplog.at_level(logging.INFO):
        check_channels("p", source, WindowPre(4, names))
        assert caplog.messages == []
        check_channels("p", source, WindowPre(4, tuple(f"other-{channel}" for channel in names)))
    (said,) = caplog.messages
    assert said.startswith("event=channels_by_position pipeline=p package=other-")
    assert said.endswith(f"source={','.join(names)}")
    assert taken_by_name(source, tuple(f"other-{channel}" for channel in names)) == source


@pytest.mark.parametrize(("kind", "text"), [("csv", KINDS["csv"][0]), ("serial", "device = '/dev/tty'")])
def test_what_has_no_names_on_one_side_goes_by_position(kind: str, text: str, caplog: pytest.LogCaptureFixture) -> None:
    source = source_of(kind, text)
    with caplog.at_level(logging.INFO):
        check_channels("p", source, WindowPre(4, ("q", "r") if kind == "serial" else ()))
    assert len(caplog.messages) == 1
    assert "event=channels_by_position" in caplog.messages[0]


def test_all_vitals_are_those_in_the_order_of_the_source() -> None:
    assert channel_names(source_of("host", ""))[:2] == ("cpu_percent", "memory_percent")


@pytest.mark.parametrize(
    ("window", "channels", "message"),
    [
        (4, ("memory_percent", "x"), "channels memory_percent, x; found cpu_percent, memory_percent, without x"),
        (4, ("cpu_percent", "memory_percent", "x"), "found cpu_percent, memory_percent, without x"),
        (4, ("x",), "found cpu_percent, memory_percent, without x"),
        (2, ("cpu_percent", "memory_percent"), "source.window: the package takes 4 rows, found 2"),
    ],
)
def test_what_means_something_else_is_refused(window: int, channels: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_channels("p", source_of("host", HOST, window=window), WindowPre(4, channels))


def test_names_at_their_places_and_others_are_a_choice() -> None:
    check_channels("p", source_of("host", HOST), WindowPre(4, ("cpu_percent", "ram")))


@pytest.mark.parametrize(
    ("kind", "channels"),
    [("csv", ("y", "x")), ("csv", ("y",)), ("modbus", ("y", "x")), ("iio", ("temp",)), ("host", ("memory_percent",))],
)
def test_they_are_taken_by_name_in_the_order_of_the_package(kind: str, channels: tuple[str, ...]) -> None:
    source = source_of(kind, KINDS[kind][0])
    check_channels("p", source, WindowPre(4, channels))
    assert channel_names(taken_by_name(source, channels)) == channels
    assert taken_by_name(source, ()) == source


def test_of_all_vitals_those_that_the_package_names() -> None:
    source = taken_by_name(source_of("host", ""), ("temperature_c", "cpu_percent"))
    assert channel_names(source) == ("temperature_c", "cpu_percent")


def test_joined_sensors_stay_one_after_the_other() -> None:
    source = source_of("joined", KINDS["joined"][0])
    with pytest.raises(ConfigError, match="takes the channels net_kib_s, x, in this order, found x, net_kib_s"):
        check_channels("p", source, WindowPre(4, ("net_kib_s", "x")))


def test_a_version_with_other_channels_is_refused_where_the_source_gives_those_of_the_one_before() -> None:
    before, after = WindowPre(4, ("x", "y")), WindowPre(4, ("y", "x"))
    by_name = [
        source_of("csv", "path = 'a.csv'"),
        source_of("stdin", ""),
        source_of("topic", "topic = 't'"),
        source_of("serial", "device = '/dev/tty'\nformat = 'jsonl'"),
    ]
    for source in by_name:
        with pytest.raises(ConfigError, match="takes the channels y, x, and the source gives x, y"):
            check_same_channels("p", source, before, after)
        check_same_channels("p", source, before, before)
        with pytest.raises(ConfigError, match="takes the channels y, x, and the source gives what a version took that"):
            check_same_channels("p", source, WindowPre(4), after)
        with pytest.raises(ConfigError, match="takes the channels as they come, and the source gives x, y"):
            check_same_channels("p", source, before, WindowPre(4))
    with pytest.raises(ConfigError, match="takes the channels y, x, and the source gives x, y"):
        check_same_channels("p", source_of("csv", KINDS["csv"][0]), before, after)


def test_renamed_channels_are_taken_where_they_go_by_position() -> None:
    before, after = WindowPre(4, ("x", "y")), WindowPre(4, ("a", "b"))
    for source in (source_of("serial", "device = '/dev/tty'"), source_of("csv", KINDS["csv"][0])):
        check_same_channels("p", source, before, after)
    with pytest.raises(ConfigError, match="gives x, y") as caught:
        check_same_channels("p", source_of("topic", "topic = 't'"), before, after)
    assert "list the source's columns" in caught.value.hint
    listed = source_of("topic", "topic = 't'\ncolumns = ['one', 'two']")
    check_same_channels("p", listed, before, after)


def test_a_number_whose_name_is_known_is_not_taken_at_another_place() -> None:
    """A device that writes no header gives the same either way; one that does would give others after a restart."""
    port = source_of("serial", "device = '/dev/tty'")
    for after in (("y", "x"), ("x", "b"), ("b", "y")):
        with pytest.raises(ConfigError, match="gives x, y"):
            check_same_channels("p", port, WindowPre(4, ("x", "y")), WindowPre(4, after))


def test_listed_columns_that_a_version_without_names_took_as_they_are() -> None:
    listed = source_of("csv", KINDS["csv"][0])
    for other in (("x", "y"), ("a", "b"), ()):
        check_same_channels("p", listed, WindowPre(4), WindowPre(4, other))
        check_same_channels("p", listed, WindowPre(4, other), WindowPre(4))
    with pytest.raises(ConfigError, match="takes the channels y, x"):
        check_same_channels("p", listed, WindowPre(4), WindowPre(4, ("y", "x")))
    with pytest.raises(ConfigError, match="as they come"):
        check_same_channels("p", listed, WindowPre(4, ("y", "x")), WindowPre(4))


@pytest.mark.parametrize(("channels", "expected"), [(("b", "a"), [2.0, 1.0]), (("b",), [2.0]), ((), [1.0, 2.0])])
def test_objects_give_the_channels_of_the_package(channels: tuple[str, ...], expected: list[float]) -> None:
    assert JsonValues((), channels=channels).values({"a": 1, "s": "on", "b": 2}) == expected
    assert JsonLines((), channels=channels).parse('{"a": 1, "s": "on", "b": 2}') == expected


def test_objects_without_them_are_passed_over_until_they_are_too_many() -> None:
    parser = JsonLines((), channels=("b", "z"))
    for _ in range(9):
        with pytest.raises(ValueError, match="takes the channels b, z; found a, b, without z"):
            parser.parse('{"a": 1, "b": 2}')
    with pytest.raises(ConfigError, match="without z") as caught:
        parser.parse('{"a": 1, "b": 2}')
    assert "list its own columns" in caught.value.hint


def test_an_object_that_came_in_between_costs_nothing() -> None:
    parser = JsonValues((), channels=("b", "a"))
    with pytest.raises(ValueError, match="found rssi, without b, a"):
        parser.values({"rssi": -70})
    assert parser.values({"a": 1, "b": 2}) == [2.0, 1.0]
    found = parser.values({"a": 1})
    assert (math.isnan(found[0]), found[1]) == (True, 1.0)


def test_lists_have_no_names(caplog: pytest.LogCaptureFixture) -> None:
    parser = JsonValues((), channels=("b", "a"))
    with caplog.at_level(logging.INFO):
        assert [parser.values([1, 2]), parser.values([3, 4])] == [[1.0, 2.0], [3.0, 4.0]]
    assert caplog.messages == ["event=channels_by_position package=b,a reason='what comes has no names'"]


def test_columns_that_say_where_they_stand_are_taken_by_name() -> None:
    assert JsonValues(("a", "b", "c"), channels=("c", "a")).values([1, 2, 3]) == [3.0, 1.0]
    assert JsonValues(("a", "b", "c"), channels=("c", "a")).values({"c": 3, "a": 1}) == [3.0, 1.0]
    assert JsonValues(("a", "b"), channels=("x", "y")).values([1, 2]) == [1.0, 2.0]
    lines = CsvLines(("a", "b", "c"), ",", channels=("c", "a"))
    assert lines.parse("1,2,3") == [3.0, 1.0]
    assert lines.parse("b,c,a") is None
    assert lines.parse("1,2,3") == [2.0, 3.0]


def test_lines_go_by_their_header_where_there_is_one() -> None:
    lines = CsvLines((), ",", channels=("y", "x"))
    assert lines.parse("x,time,y") is None
    assert lines.parse("1,2,3") == [3.0, 1.0]
    assert CsvLines((), ",", channels=("y", "x")).parse("1,2") == [1.0, 2.0]
    with pytest.raises(ValueError, match="expected numbers"):
        CsvLines((), ",", channels=("y", "x")).parse("booting,2")
    with pytest.raises(ConfigError, match="the header: the package takes the channels y, x; found x, time, without y"):
        CsvLines((), ",", channels=("y", "x")).parse("x,time")


def test_a_header_in_other_letters_or_with_a_name_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="found Y, X, without y, x"):
        CsvLines((), ",", channels=("y", "x")).parse("Y, X")
    for columns in ((), ("x", "y")):
        with pytest.raises(ConfigError, match="the header: expected one column 'x', found 2"):
            CsvLines(columns, ",", channels=("y", "x")).parse("x,x,y")


def test_numbers_are_no_header_whatever_the_channels_are_called() -> None:
    assert CsvLines((), ",", channels=("1", "2")).parse("2,1") == [2.0, 1.0]


def rows_of(source: SensorSource, channels: tuple[str, ...]) -> list[list[float]]:
    opened = open_source(source, threading.Event(), channels)
    frames = []
    while (frame := opened.read()) is not None:
        frames.append(frame.data.tolist()[0])
    opened.close()
    return frames


@pytest.mark.parametrize("columns", ["", "columns = ['t', 'z', 'y', 'x']"])
def test_a_file_gives_them_in_the_order_of_the_package(tmp_path: Path, columns: str) -> None:
    (tmp_path / "a.csv").write_text("t,x,y,z\n0,1,2,3\n1,4,5,6\n")
    source = source_of("csv", f"path = '{tmp_path}/a.csv'\n{columns}", window=1)
    assert rows_of(source, ("z", "x")) == [[3.0, 1.0], [6.0, 4.0]]


@pytest.mark.parametrize("header", ["t,x,y", "1,2,3"])
def test_a_file_that_lacks_some_is_refused(tmp_path: Path, header: str) -> None:
    (tmp_path / "a.csv").write_text(f"{header}\n0,1,2\n")
    source = source_of("csv", f"path = '{tmp_path}/a.csv'", window=1)
    with pytest.raises(
        ConfigError, match=f"takes the channels x, q; found {header.replace(',', ', ')}, without"
    ) as caught:
        rows_of(source, ("x", "q"))
    assert "list its own columns" in caught.value.hint
    listed = source_of("csv", f"path = '{tmp_path}/a.csv'\ncolumns = {header.split(',')[1:]}", window=1)
    assert rows_of(listed, ("x", "q")) == [[1.0, 2.0]]


@pytest.mark.parametrize("header", ["t, x ,y", '\ufeffx,t," y"', " y,x,x2"])
def test_spaces_around_names_and_a_mark_before_them_are_no_part_of_them(tmp_path: Path, header: str) -> None:
    (tmp_path / "a.csv").write_text(f"{header}\n1,2,3\n", encoding="utf-8")
    names = [name.strip('\ufeff" ') for name in header.split(",")]
    wanted = [[float(names.index(name) + 1) for name in ("y", "x")]]
    for columns in ("", "columns = ['y', 'x']"):
        source = source_of("csv", f"path = '{tmp_path}/a.csv'\n{columns}", window=1)
        assert rows_of(source, ("y", "x")) == wanted


def test_spaces_that_are_asked_for_count(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x, x\n1,2\n")
    source = source_of("csv", f"path = '{tmp_path}/a.csv'\ncolumns = [' x']", window=1)
    assert rows_of(source, ()) == [[2.0]]


@pytest.mark.parametrize("columns", ["", "columns = ['x', 'y']"])
def test_a_file_with_a_name_twice_is_refused(tmp_path: Path, columns: str) -> None:
    (tmp_path / "a.csv").write_text("x,y,x,z,z\n1,2,3,4,4\n")
    source = source_of("csv", f"path = '{tmp_path}/a.csv'\n{columns}", window=1)
    with pytest.raises(ConfigError, match="expected one column 'x', found 2"):
        rows_of(source, ("x", "y"))


def test_an_iio_device_gives_those_that_the_package_names(tmp_path: Path) -> None:
    device = tmp_path / "iio:device0"
    device.mkdir()
    for place, name in enumerate(("accel_x", "accel_y", "temp")):
        (device / f"in_{name}_raw").write_text(str(place))
    source = source_of("iio", f"device = 0\nroot = '{tmp_path}'\ninterval_s = 0.01", window=1)
    opened = open_source(source, threading.Event(), ("temp", "accel_x"))
    frame = opened.read()
    opened.close()
    assert frame is not None
    assert frame.data.tolist() == [[2.0, 0.0]]
    refused = open_source(source, threading.Event(), ("temp", "../../x"))
    with pytest.raises(ConfigError, match=r"found accel_x, accel_y, temp, without \.\./\.\./x"):
        refused.read()
    refused.close()


def test_a_package_that_names_none_takes_any() -> None:
    for declared in (WindowPre(9), ImagePre(4, 4)):
        check_channels("p", source_of("host", HOST), declared)
