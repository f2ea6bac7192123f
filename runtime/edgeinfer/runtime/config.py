"""Loads configuration: TOML into frozen structs, with unknown keys refused by name.

Each component keeps its struct beside its code; this module only turns a file into one and says clearly
what is wrong with it. Loading neither connects nor changes anything.
"""

import enum
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from edgeinfer.runtime.errors import ConfigError

__all__ = ["Section", "load_config", "parse_config"]

T = TypeVar("T", bound=msgspec.Struct)


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every configuration struct: frozen, keyword-only, unknown keys refused."""


def load_config(path: Path, type_: type[T]) -> T:
    """Read `path` as a `type_`. Raises ConfigError: unreadable, not TOML, unknown key, wrong value."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{path}: cannot be read: {reason}") from error
    return parse_config(text, type_, origin=str(path))


def parse_config(text: str, type_: type[T], *, origin: str = "configuration") -> T:
    """The same from a string; `origin` names it in messages."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{origin}: is not TOML: {error}") from error
    _refuse_unknown_keys(document, type_, origin, "")
    try:
        return msgspec.convert(document, type_)
    except msgspec.ValidationError as error:
        wrong = next(_wrong_choices(document, type_, origin, "$"), None)
        if wrong is not None and str(error).startswith("Invalid enum value"):  # which does not say what is valid
            raise ConfigError(f"{origin}: {wrong}") from error
        raise ConfigError(f"{origin}: {error}") from error


def _wrong_choices(value: Any, type_: Any, origin: str, where: str) -> Iterator[str]:
    """Walk document and type together: what is wrong with each value that is none of those that its type lists."""
    members = list(_members(type_))
    if isinstance(value, dict):
        struct = _struct_for(value, type_, origin, where)
        fields = {} if struct is None else {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
        of_all = next((get_args(member)[1] for member in members if get_origin(member) is dict), None)
        for key, entry in value.items():
            yield from _wrong_choices(entry, fields.get(key, of_all), origin, f"{where}.{key}")
    elif isinstance(value, list):
        element = next((get_args(member)[0] for member in members if get_origin(member) in {list, tuple}), None)
        for index, entry in enumerate(value):
            yield from _wrong_choices(entry, element, origin, f"{where}[{index}]")
    else:
        choices = [choice for member in members for choice in _choices(member)]
        if choices and value not in choices and all(_choices(member) or member is type(None) for member in members):
            yield f"expected one of {', '.join(map(repr, choices))}, found {value!r} - at `{where}`"


def _members(type_: Any) -> Iterator[Any]:
    """The types that a value may have."""
    origin = get_origin(type_)
    if origin is Annotated:
        yield from _members(get_args(type_)[0])
    elif origin in {Union, UnionType}:
        for member in get_args(type_):
            yield from _members(member)
    else:
        yield type_


def _choices(type_: Any) -> list[Any]:
    """The values that it lists; empty for a type that lists none."""
    if get_origin(type_) is Literal:
        return list(get_args(type_))
    is_enum = isinstance(type_, type) and issubclass(type_, enum.Enum)
    return [member.value for member in type_] if is_enum else []


def _refuse_unknown_keys(value: Any, type_: Any, origin: str, where: str) -> None:
    """Walk document and type together; the first unknown key is named with the nearest known one."""
    if isinstance(value, list):
        element = next(iter(get_args(type_)), None)
        for index, entry in enumerate(value):
            _refuse_unknown_keys(entry, element, origin, f"{where}[{index}]")
        return
    struct = _struct_for(value, type_, origin, where) if isinstance(value, dict) else None
    if struct is None:
        return
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
    tag_field = struct.__struct_config__.tag_field
    for key, entry in value.items():
        if key == tag_field:
            continue
        if key not in fields:
            raise _unknown_key(f"{where}.{key}".lstrip("."), key, list(fields), origin)
        _refuse_unknown_keys(entry, fields[key], origin, f"{where}.{key}")


def _struct_for(value: dict[str, Any], type_: Any, origin: str, where: str) -> type[msgspec.Struct] | None:
    """The struct that `value` would become, also through a union told apart by its tag. An unknown tag is
    refused like an unknown key."""
    candidates = [t for t in (type_, *_union_members(type_)) if isinstance(t, type) and issubclass(t, msgspec.Struct)]
    if len(candidates) == 1:
        return candidates[0]
    by_tag = {candidate.__struct_config__.tag: candidate for candidate in candidates}
    tag_field = candidates[0].__struct_config__.tag_field if candidates else None
    tag = value.get(tag_field) if tag_field is not None else None
    if not isinstance(tag, str):
        return None  # the conversion says what it misses
    if tag not in by_tag:
        known = [str(name) for name in by_tag]
        raise ConfigError(f"{origin}: unknown {tag_field} {tag!r} in {where.lstrip('.')!r}", hint=_nearest(tag, known))
    return by_tag[tag]


def _union_members(type_: Any) -> tuple[Any, ...]:
    return get_args(type_) if not isinstance(type_, type) else ()


def _unknown_key(path: str, key: str, known: list[str], origin: str) -> ConfigError:
    return ConfigError(f"{origin}: unknown key {path!r}", hint=_nearest(key, known))


def _nearest(word: str, known: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(known))}"
