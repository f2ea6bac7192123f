"""Classes by number or by name, as label columns, folders and annotations have them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import SamplesError

__all__ = ["Written", "class_numbers", "class_places", "nearest", "plain_name", "unseen_classes"]

_MAX_CLASS = 10_000_000
# What the label files of Darknet's detectors call COCO's classes, after PASCAL VOC.
_DARKNET = {"aeroplane": "airplane", "motorbike": "motorcycle", "sofa": "couch", "tvmonitor": "tv"}


class Written(NamedTuple):
    """A label as it was written, and where: `labels.csv: line 3`."""

    text: str
    where: str


def class_numbers(written: Sequence[Written], names: Sequence[str]) -> tuple[Array, tuple[str, ...]]:
    """(N,) int64 and the classes' names. A label is a number, or one of `names`, whatever its case and spaces ("potted
    plant" is pottedplant); without `names`, labels that are no numbers are the classes, sorted. Raises SamplesError,
    naming the place, for one that is neither."""
    numbers = [_number(label.text) for label in written]
    if all(number is not None for number in numbers):
        for label, number in zip(written, numbers, strict=True):
            _check_range(label, number or 0, names)
        return np.array(numbers, np.int64), tuple(names)
    known = tuple(names) or tuple(sorted({label.text for label in written}))
    places = class_places(known)
    if not names and any(number is not None for number in numbers):
        named = [label for label, number in zip(written, numbers, strict=True) if number is None]
        numbered = [label for label, number in zip(written, numbers, strict=True) if number is not None]
        fewer, most = (named, "numbers") if len(named) < len(numbered) else (numbered, "names")
        raise SamplesError(
            f"{fewer[0].where}: expected names only, or numbers only as label, found {fewer[0].text!r} where "
            f"{len(written) - len(fewer)} of {len(written)} are {most}"
        )
    return np.array([_named(label, places, known) for label in written], np.int64), known


def class_places(names: Sequence[str]) -> dict[str, int]:
    """The number of each class, by its name and by its name in small letters and digits alone."""
    ordered = reversed(list(enumerate(names)))
    exact: dict[str, int] = {}
    loose: dict[str, int] = {}
    for place, name in ordered:
        exact[name], loose[plain_name(name)] = place, place
    return loose | exact


def plain_name(name: str) -> str:
    """In small letters and digits alone, and as COCO has it."""
    letters = "".join(letter for letter in name.casefold() if letter.isalnum())
    return _DARKNET.get(letters, letters)


def _named(label: Written, places: dict[str, int], names: Sequence[str]) -> int:
    place = places.get(label.text, places.get(plain_name(label.text)) if label.text else None)
    if place is None:
        raise SamplesError(
            f"{label.where}: expected one of the {len(names)} class names as label, found {label.text!r}",
            hint=nearest(label.text, names),
        )
    return place


def _number(text: str) -> int | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value == value // 1 and abs(value) <= _MAX_CLASS else None


def _check_range(label: Written, number: int, names: Sequence[str]) -> None:
    last = len(names) - 1 if names else _MAX_CLASS
    if not 0 <= number <= last:
        raise SamplesError(f"{label.where}: expected a class of 0 to {last}, found {label.text!r}")


def nearest(word: str, known: Sequence[str]) -> str:
    """The hint that names what was probably meant, or some of what is known."""
    import difflib

    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(list(known)[:10])}"


def unseen_classes(y: Array, names: Sequence[str]) -> tuple[str, ...]:
    """A warning where some classes have no sample."""
    missing = [name for place, name in enumerate(names) if not (y == place).any()]
    if not missing:
        return ()
    few = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
    return (f"{len(missing)} of {len(names)} classes have no sample, nothing is known of them: {few}",)
