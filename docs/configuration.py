"""Writes docs/configuration.md: every key of `edgeinfer.toml` and `sync.toml`, read from the structs that check it.

python docs/configuration.py            # write it
python docs/configuration.py --check    # status 1 where it differs from the code
"""

import inspect
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from generated import write_or_check  # beside this script

from edgeinfer.runtime.settings import PipelineConfig, RuntimeConfig
from edgeinfer.runtime.sources.settings import SeriesSection, SourceConfig
from edgeinfer.sync.settings import SyncConfig
from edgeinfer.sync.sinks.settings import SinkConfig

_TARGET = Path(__file__).resolve().parent / "configuration.md"
_WIDTH = 118
_WINDOWS = "Windows of sensors"
_INTRODUCTION = """# Configuration

Every key of the daemon's `edgeinfer.toml` and, [further below](#the-agent), of the agent's `sync.toml`, written by
`make docs` from the structs that check them. A key that is not here is refused by name, with the nearest known one.
`kill -HUP` reads the file again: `[[pipeline]]`, `[trust]`, `trial_s` and `log_level` change while the daemon runs, the
rest at its next start; a file that is wrong is reported, and the old configuration goes on.

## Examples

A detector whose persons are counted as they enter a zone, each once, with a picture of it, and whose crops go into a
classifier:

```toml
[[pipeline]]
name = "yard"
package = "persons.edgepkg"
tracker = {}                                   # one person is one track, not one event a frame
motion = {}                                    # nothing moves: nothing is inferred

[pipeline.source]
kind = "camera"
device = "rtsp://camera-3/stream"

[[pipeline.rule]]
name = "entered"
labels = ["person"]
zone = [[0.1, 0.5], [0.9, 0.5], [0.9, 1.0], [0.1, 1.0]]
dwell_s = 2
snapshot = true

[[pipeline]]
name = "clothing"
package = "clothing.edgepkg"

[pipeline.source]
kind = "pipeline"
of = "yard"
labels = ["person"]
margin = 0.1
```

A device that saves itself: hot or busy, it halves the frame rate, then takes smaller variants, then skips pictures in
which nothing moves, and at last pauses the pipelines of the lowest priority:

```toml
[governor]
max_temperature_c = 75
max_cpu_pressure = 60
steps = ["frame_rate", "variant", "motion", "pause"]
```
"""

_AGENT = """# The agent

Every key of `sync.toml`. `kill -HUP` reads it again: the agent then begins anew with it, and a file that is wrong is
reported, while the old configuration goes on.

## Examples

Pictures of events go up, but only on Wi-Fi; over the modem go events at once, and everything else at night, all within
20 MB a day and slowly enough to leave the line usable:

```toml
device = "press-4"

[blobs]
snapshots = true
bytes_per_day = 50_000_000

[[network]]
kind = "cellular"
bytes_per_day = 20_000_000
bytes_per_s = 20_000
hours = "01:00-05:00"
send = ["events", "results", "updates", "telemetry"]
report_interval_s = 900
```

Nothing at all goes over a network that is not Wi-Fi or Ethernet, but for the few bytes that say that the device is
there:

```toml
[[network]]
kind = "any"
send = []

[[network]]
kind = "wifi"

[[network]]
kind = "ethernet"
```

A day of a budget has 20 to 26 hours by the clock that counts seconds: with a right wall clock it ends at midnight, and
a wall clock that jumps neither refills the budget over and over nor blocks it for ever.
"""


def document() -> str:
    parts = [
        _INTRODUCTION,
        *_section("The file", RuntimeConfig, ""),
        *_section("[[pipeline]]", PipelineConfig, "pipeline"),
    ]
    parts.append("## [pipeline.source]\n\n`kind` says what the frames come from.\n")
    for source in get_args(SourceConfig):
        parts += _source(source)
    parts += _struct(_WINDOWS, SeriesSection, level=3)
    parts += [_AGENT, *_section("The agent's file", SyncConfig, "")]
    parts.append("## [sink]\n\nWhere results go; `kind` says what it is.\n")
    for sink in get_args(SinkConfig):
        parts += _struct(f'kind = "{sink.__struct_config__.tag}"', sink, level=3)
    return "\n".join(parts)


def _source(source: type[msgspec.Struct]) -> Iterator[str]:
    """A kind of source, and below it the tables that it holds."""
    yield from _struct(f'kind = "{source.__struct_config__.tag}"', source, level=3)
    for field in msgspec.structs.fields(source):
        nested, many = _table(field.type)
        if nested is not None and many:
            yield from _struct(f"[[pipeline.source.{field.encode_name}]]", nested, level=4)


def _section(title: str, struct: type[msgspec.Struct], prefix: str) -> Iterator[str]:
    """A struct, and below it those that are its tables; the pipelines and their sources have sections of their own."""
    yield from _struct(title, struct, level=2)
    for field in msgspec.structs.fields(struct):
        nested, many = _table(field.type)
        if nested is None or nested is PipelineConfig or field.encode_name == "source":
            continue
        path = f"{prefix}.{field.encode_name}".lstrip(".")
        yield from _section(f"[[{path}]]" if many else f"[{path}]", nested, path)


def _struct(title: str, struct: type[msgspec.Struct], *, level: int) -> Iterator[str]:
    yield f"{'#' * level} {title}\n"
    yield f"{_paragraphs(inspect.getdoc(struct) or '')}\n"
    shared = _window_keys(struct)
    rows = [
        field
        for field in msgspec.structs.fields(struct)
        if _table(field.type)[0] is None and field.name not in {"source", "sink"} and field.name not in shared
    ]
    if shared:
        yield f"And the keys of [{_WINDOWS.lower()}](#{_WINDOWS.lower().replace(' ', '-')}).\n"
    if rows:
        yield "| Key | Value | Default |\n|---|---|---|"
        yield "\n".join(f"| `{f.encode_name}` | {_kind(f.type)} | {_default(f)} |" for f in rows) + "\n"


def _window_keys(struct: type[msgspec.Struct]) -> set[str]:
    """Those that all sensors share, with the same default: they are listed once."""
    if not issubclass(struct, SeriesSection) or struct is SeriesSection:
        return set()
    usual = {field.name: field.default for field in msgspec.structs.fields(SeriesSection)}
    return {field.name for field in msgspec.structs.fields(struct) if usual.get(field.name, ...) == field.default}


def _paragraphs(text: str) -> str:
    return "\n\n".join(textwrap.fill(" ".join(part.split()), _WIDTH) for part in text.split("\n\n"))


def _table(kind: Any) -> tuple[type[msgspec.Struct] | None, bool]:
    """The struct that a key's value is, and whether there may be many of it."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    many = get_origin(kind) is tuple
    found = [part for part in (kind, *get_args(kind)) if isinstance(part, type) and issubclass(part, msgspec.Struct)]
    return (found[0], many) if len(found) == 1 else (None, many)


def _kind(kind: Any) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _kind(parts[0]) + "".join(_bounds(extra) for extra in parts[1:] if isinstance(extra, msgspec.Meta))
    if origin is Literal:
        return ", ".join(f"`{part!r}`".replace("'", '"') for part in parts)
    if origin is tuple and _tags(parts[0]):
        return f"list of tables, each with a `kind`: {', '.join(f'`{tag}`' for tag in _tags(parts[0]))}"
    if origin is tuple:
        return f"list of {_kind(parts[0])}"
    if origin is dict:
        return f"table of {_kind(parts[0])} to {_kind(parts[1])}"
    if origin in {Union, types.UnionType}:
        return " or ".join(_kind(part) for part in parts if part is not type(None))
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return f"table of {', '.join(f'`{field.encode_name}`' for field in msgspec.structs.fields(kind))}"
    names = {str: "text", int: "integer", float: "number", bool: "true or false"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def _tags(kind: Any) -> list[str]:
    """The kinds of a union of sources; none for anything else."""
    tags = [part.__struct_config__.tag for part in get_args(kind) if _is_struct(part)]
    return tags if all(tags) else []


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _bounds(meta: msgspec.Meta) -> str:
    said = {"from {}": meta.ge, "above {}": meta.gt, "to {}": meta.le, "below {}": meta.lt}
    found = [text.format(f"{value:,}".removesuffix(".0")) for text, value in said.items() if value is not None]
    return f" ({' '.join(found)})" if found else ""


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default is msgspec.NODEFAULT:
        return "required" if field.required else "none"
    if field.default in ("", (), None):
        return ""
    text = str(list(field.default) if isinstance(field.default, tuple) else field.default)
    return f"`{text.lower() if isinstance(field.default, bool) else text}`".replace("'", '"')


if __name__ == "__main__":
    sys.exit(write_or_check(_TARGET, document(), sys.argv[1:]))
