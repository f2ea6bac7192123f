"""What the user declares in words, as in `--preprocess`, `--postprocess` and `--samples`, as fields and as a struct.

A declaration is a TOML or JSON file, or inline: `kind=image,color=bgr,mean=0,std=255,layout=nhwc`. An entry
without `=` continues the list before it: `mean=123.7,116.3,103.5`.
"""

import difflib
import math
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgeinfer.runtime.config import parse_config
from edgeinfer.runtime.errors import ConfigError

__all__ = ["parse_spec", "read_spec"]

T = TypeVar("T", bound=msgspec.Struct)
_LISTS = {"mean", "std", "channels", "shape", "scale", "offset", "scales", "strides", "quiet", "columns"}


def read_spec(spec: str) -> dict[str, Any]:
    """The fields of an inline declaration, of a JSON object, or of the TOML or JSON file that `spec` names."""
    if spec.lstrip().startswith("{"):
        return _decoded(spec, "--preprocess or --postprocess")
    path = Path(spec)
    if "=" not in spec or _is_file(path):
        return _read_file(path)
    fields: dict[str, Any] = {}
    last = ""
    for entry in spec.split(","):
        key, equals, value = entry.strip().partition("=")
        if equals:
            last = key.strip()
            fields[last] = [value.strip()] if last in _LISTS else value.strip()
        elif last in _LISTS:
            fields[last].append(entry.strip())
        else:
            raise ConfigError(f"expected key=value, found {entry!r} in {spec!r}")
    return fields


def _decoded(text: str, origin: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ConfigError(f"{origin}: expected a JSON object of keys: {error}") from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # an inline declaration that is longer than a name can be
        return False


def _read_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        document = msgspec.json.decode(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}", hint="a file, or key=value,key=value") from error
    except (tomllib.TOMLDecodeError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path}: is neither TOML nor JSON as its suffix says: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: expected a table of keys, found {type(document).__name__}")
    return document


def parse_spec(fields: dict[str, Any], type_: type[T], *, origin: str) -> T:
    """`fields` as a `type_`; numbers may be text. Raises ConfigError naming an unknown key or a wrong value."""
    for key in ("mean", "std"):
        if key in fields and not isinstance(fields[key], list):
            fields = fields | {key: [fields[key]]}
    known = {field.encode_name for field in msgspec.structs.fields(type_)} | {"kind"}
    unknown = [key for key in fields if key not in known]
    if unknown and difflib.get_close_matches(unknown[0], ["kind"]):
        raise ConfigError(f"{origin}: unknown key {unknown[0]!r}", hint="did you mean 'kind'?")
    if unknown:
        # The configuration's own check words this, with the nearest known key.
        parse_config("\n".join(f"{key} = 0" for key in unknown), type_, origin=origin)
    try:
        made = msgspec.convert(fields, type_, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{origin}: {error}") from error
    for field in msgspec.structs.fields(made):
        value = getattr(made, field.name)
        numbers = [n for n in (value if isinstance(value, tuple) else (value,)) if isinstance(n, float)]
        if not all(math.isfinite(number) for number in numbers):
            raise ConfigError(f"{origin}: expected finite numbers for {field.encode_name}, found {value}")
    return made
