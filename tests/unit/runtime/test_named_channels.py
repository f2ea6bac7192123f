"""Sensors whose channels are not those that a package names are refused before a frame is inferred."""

import pytest

from edgeinfer.runtime.config import parse_config
from edgeinfer.runtime.errors import ConfigError
from edgeinfer.runtime.manifest import ImagePre, WindowPre
from edgeinfer.runtime.settings import RuntimeConfig
from edgeinfer.runtime.sources.named_channels import channel_names, check_channels, check_same_channels
from edgeinfer.runtime.sources.records import JsonLines, JsonValues
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
    check_channels(source, WindowPre(4, expected))
    check_channels(source, WindowPre(4, tuple(f"other {channel}" for channel in expected)))


def test_all_vitals_are_those_in_the_order_of_the_source() -> None:
    assert channel_names(source_of("host", ""))[:2] == ("cpu_percent", "memory_percent")


@pytest.mark.parametrize(
    ("window", "channels", "message"),
    [
        (4, ("memory_percent", "cpu_percent"), "memory_percent, cpu_percent, in this order, found cpu_percent, memory"),
        (4, ("cpu_percent", "memory_percent", "x"), "takes 3 channels, found 2: cpu_percent, memory_percent"),
        (2, ("cpu_percent", "memory_percent"), "source.window: the package takes 4 rows, found 2"),
    ],
)
def test_what_means_something_else_is_refused(window: int, channels: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_channels(source_of("host", HOST, window=window), WindowPre(4, channels))


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
        check_same_channels("p", source, WindowPre(4), after)
    for source in (source_of("serial", "device = '/dev/tty'"), source_of("csv", KINDS["csv"][0])):
        check_same_channels("p", source, before, after)


@pytest.mark.parametrize(
    ("channels", "expected"), [(("b", "a"), [2.0, 1.0]), (("b", "z"), [1.0, 2.0]), ((), [1.0, 2.0])]
)
def test_objects_give_the_channels_of_the_package_if_they_have_them_all(
    channels: tuple[str, ...], expected: list[float]
) -> None:
    assert JsonValues((), channels=channels).values({"a": 1, "s": "on", "b": 2}) == expected
    assert JsonLines((), channels=channels).parse('{"a": 1, "s": "on", "b": 2}') == expected


def test_a_package_that_names_none_takes_any() -> None:
    for declared in (WindowPre(9), ImagePre(4, 4)):
        check_channels(source_of("host", HOST), declared)
