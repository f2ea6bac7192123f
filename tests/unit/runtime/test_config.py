"""Configuration: what is wrong is named, with the nearest thing that would be right."""

import contextlib
import enum
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.runtime.config import Section, load_config, parse_config
from edgeinfer.runtime.errors import ConfigError
from edgeinfer.runtime.settings import RuntimeConfig
from edgeinfer.runtime.sources.settings import CsvSource, HostSource

PIPELINE = '[[pipeline]]\nname = "door"\npackage = "p.edgepkg"\n'


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, RuntimeConfig, origin="edgeinfer.toml")
    return str(caught.value)


def test_a_whole_file_is_read() -> None:
    config = parse_config(
        'device = "dev-1"\n[buffer]\nmax_bytes = 1048576\n[sync]\nstate_dir = "/s"\n'
        + PIPELINE
        + '[pipeline.source]\nkind = "csv"\npath = "a.csv"\nwindow = 4\ncolumns = ["x"]\n'
        + '[[pipeline]]\nname = "host"\nmodel = "vitals"\n[pipeline.source]\nkind = "host"\n',
        RuntimeConfig,
    )
    assert [pipeline.name for pipeline in config.pipeline] == ["door", "host"]
    assert config.pipeline[0].source == CsvSource(path="a.csv", window=4, columns=("x",))
    assert config.pipeline[1].source == HostSource()
    assert config.buffer.max_bytes == 1 << 20


@pytest.mark.parametrize(
    ("text", "found", "nearest"),
    [
        ('devise = "a"', "'devise'", "'device'"),
        ('device = "a"\n[bufer]\n', "'bufer'", "'buffer'"),
        ('device = "a"\n[buffer]\nmax_byte = 1', "'buffer.max_byte'", "'max_bytes'"),
        ('device = "a"\n[trust]\nrelease_key = []', "'trust.release_key'", "'release_keys'"),
        ('device = "a"\n' + PIPELINE + 'varriant = "x"', "'pipeline[0].varriant'", "'variant'"),
        (
            'device = "a"\n' + PIPELINE + '[pipeline.source]\nkind = "video"\npaht = "x"',
            "'pipeline[0].source.paht'",
            "'path'",
        ),
        (
            'device = "a"\n'
            + PIPELINE
            + '[pipeline.source]\nkind = "host"\n'
            + PIPELINE.replace("door", "gate")
            + '[pipeline.source]\nkind = "csv"\npath = "x"\nwindow = 1\nstrides = 2',
            "'pipeline[1].source.strides'",
            "'stride'",
        ),
        ('device = "a"\n' + PIPELINE + '[pipeline.source]\nkind = "vidoe"\npath = "x"', "kind 'vidoe'", "'video'"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(text: str, found: str, nearest: str) -> None:
    message = refusal(text)
    assert message.startswith("edgeinfer.toml: unknown")
    assert found in message
    assert f"did you mean {nearest}?" in message


def test_an_unknown_key_with_no_neighbour_lists_what_is_known() -> None:
    assert "known here: console_keys, release_keys" in refusal('device = "a"\n[trust]\nzzz = 1')


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "device"),
        ('device = ""', "device"),
        ('device = "a\\n"', "device"),
        ("device = 3", "Expected `str`"),
        ('device = "a"\n[buffer]\nmax_bytes = "many"', "buffer.max_bytes"),
        ('device = "a"\n[buffer]\nmax_bytes = 4096', "buffer.max_bytes"),
        ('device = "a"\n[buffer]\nflush_interval_s = nan', "buffer.flush_interval_s"),
        ('device = "a"\n[buffer]\nflush_interval_s = 0', "buffer.flush_interval_s"),
        ('device = "a"\n[buffer]\nchunk_results = 0', "buffer.chunk_results"),
        ('device = "a"\nbuffer = 3', "buffer"),
        ('device = "a"\npipeline = "door"', "pipeline"),
        ('device = "a"\n' + PIPELINE, "source"),
        ('device = "a"\n' + PIPELINE + "[pipeline.source]\n", "kind"),
        ('device = "a"\n' + PIPELINE + "[pipeline.source]\nkind = 3", "kind"),
        ('device = "a"\n' + PIPELINE + 'threads = 0\n[pipeline.source]\nkind = "host"', "threads"),
        ('device = "a"\n[[pipeline]]\nname = "x"\n[pipeline.source]\nkind = "host"', "package"),
        ('device = "a"\n' + PIPELINE.replace("door", "_door") + '[pipeline.source]\nkind = "host"', "name"),
        ('device = "a"\n' + 2 * (PIPELINE + '[pipeline.source]\nkind = "host"\n'), "twice"),
        ('device = "a"\n' + PIPELINE + '[pipeline.source]\nkind = "host"\ncolumns = ["cpu"]', "columns"),
        ('device = "a"\n' + PIPELINE + '[pipeline.source]\nkind = "stdin"\nwindow = 1\nformat = "xml"', "format"),
        ('device = "a"\nlog_level = "LOUD"', "expected one of 'DEBUG', 'INFO', 'WARNING', 'ERROR', found 'LOUD'"),
        ('device = "a"\n' + PIPELINE + '[pipeline.source]\nkind = "csv"\npath = "x"\nwindow = 0', "window"),
        ("device = ", "is not TOML"),
        ("x = " + "[" * 100_000, "is not TOML"),
    ],
)
def test_a_wrong_value_is_located(text: str, part: str) -> None:
    message = refusal(text)
    assert message.startswith("edgeinfer.toml: ")
    assert part in message


class _Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class _Choices(Section, frozen=True):
    pair: tuple[Literal["one", "two"], ...] = ()
    by_name: dict[str, Annotated[Literal[3, 5], msgspec.Meta(description="odd")]] = msgspec.field(default_factory=dict)
    colour: _Colour | None = None
    free: Literal["auto"] | int = "auto"
    inner: "_Choices | None" = None


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('pair = ["one", "tow"]', "expected one of 'one', 'two', found 'tow' - at `$.pair[1]`"),
        ("[by_name]\na = 3\nb = 4", "expected one of 3, 5, found 4 - at `$.by_name.b`"),
        ('colour = "green"', "expected one of 'red', 'blue', found 'green' - at `$.colour`"),
        ('pair = ["one"]\n[inner]\ncolour = "x"', "expected one of 'red', 'blue', found 'x' - at `$.inner.colour`"),
        ("colour = 3", "Expected `str | null`, got `int` - at `$.colour`"),
        ('free = "any"', "Invalid enum value 'any' - at `$.free`"),
        ('pair = ["one"]\nby_name = [[[3]]]', "Expected `object`, got `array` - at `$.by_name`"),
    ],
)
def test_a_value_that_is_none_of_a_few_is_told_them(text: str, wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, _Choices, origin="x.toml")
    assert caught.value.message == f"x.toml: {wrong}"


def test_a_file_that_cannot_be_read_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "none.toml", RuntimeConfig)
    with pytest.raises(ConfigError, match="directory"):
        load_config(tmp_path, RuntimeConfig)
    (tmp_path / "latin.toml").write_bytes(b'device = "\xe9"')
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "latin.toml", RuntimeConfig)


@given(st.text(max_size=200))
def test_any_text_is_a_configuration_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse_config(text, RuntimeConfig)


VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["kind", "path", "x"]), inner)
    ),
    max_leaves=6,
)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(entry) for entry in value) + "]"
    if isinstance(value, str):
        return '"' + "".join(c if c.isalnum() and c.isascii() else "_" for c in value) + '"'
    return str(value)


@given(st.sampled_from(["device", "buffer", "pipeline", "trust", "sync", "trial_s"]), VALUES)
def test_any_value_for_a_known_key_is_taken_or_refused(key: str, value: object) -> None:
    with contextlib.suppress(ConfigError):
        parse_config(f"{key} = {_toml(value)}", RuntimeConfig)
