"""Pictures with labelled boxes in `annotations.json`, in COCO's form or a plain one.

COCO's form has `images` (`id`, `file_name`, `width`, `height`), `annotations` (`image_id`, `category_id`, `bbox` [x, y,
width, height] in pixels, `iscrowd`) and `categories` (`id`, `name`); see https://cocodataset.org/#format-data. Regions
of a crowd are no boxes. Without `--labels` the classes are the categories in the order of their ids; with it, their
names are looked up there.

The plain form maps a file name to its boxes [x1, y1, x2, y2, class] in pixels, the class a name or a number:

    {"street.jpg": {"boxes": [[12, 30, 80, 200, "person"]]}, "empty.jpg": {"boxes": []}}

(`boxes_xyxy` means the same as `boxes`; other keys are not looked at.)
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np

from edgeinfer.quantize.boxes import Boxes
from edgeinfer.quantize.dataset.files import find_pictures, folder_sha256, read_pictures, read_text
from edgeinfer.quantize.dataset.naming import Written, class_numbers
from edgeinfer.quantize.dataset.samples import Loaded, Pictures
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import SamplesError
from edgeinfer.runtime.results import Item

__all__ = ["load_boxes"]

# A pixel beyond the edge is how annotations are rounded.
_MARGIN_PX = 2.0
_CORNERS = 4
_Number = Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]


class _Image(msgspec.Struct):
    id: int | str
    file_name: str


class _Annotation(msgspec.Struct):
    image_id: int | str
    category_id: int
    bbox: tuple[_Number, _Number, _Number, _Number]
    iscrowd: int = 0


class _Category(msgspec.Struct):
    id: int
    name: str


class _Coco(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


class _Plain(msgspec.Struct):
    boxes: list[tuple[_Number, _Number, _Number, _Number, str | int]] | None = None
    boxes_xyxy: list[tuple[_Number, _Number, _Number, _Number, str | int]] | None = None


class _Labelled(NamedTuple):
    """A box x1, y1, x2, y2 in pixels with its class as it was written."""

    corners: tuple[float, float, float, float]
    label: Written


def load_boxes(folder: Path, annotations: Path, *, labels: tuple[str, ...]) -> Loaded:
    """Raises SamplesError, naming the entry, for what is not of either form, pictures that are missing or named twice,
    boxes that are none or lie outside of their picture, and classes that are unknown."""
    document = _document(annotations)
    by_file = _from_coco(document, annotations) if _is_coco(document) else _from_plain(document, annotations)
    if not by_file:
        raise SamplesError(f"{annotations}: expected annotated pictures, found none")
    for name in by_file:
        _check_file(folder, name, annotations)
    files = sorted(by_file)
    pictures = read_pictures(folder / name for name in files)
    written = [box.label for name in files for box in by_file[name]]
    numbers, names = _classes(written, labels or _category_names(document))
    classes = iter(numbers.tolist())
    boxes = tuple(
        tuple(_item(box, next(classes), size) for box in by_file[name])
        for name, size in zip(files, pictures.sizes, strict=True)
    )
    return Loaded(
        x=pictures,
        y=np.zeros(len(files), np.int64),
        sha256=_sha256(folder, annotations, pictures),
        labelled=False,
        raw=True,
        boxes=boxes,
        labels=names,
        warnings=tuple(_warnings(folder, files, boxes)),
    )


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(read_text(path), object_pairs_hook=lambda pairs: _once(path, pairs))
    except (ValueError, RecursionError) as error:
        raise SamplesError(f"{path}: expected JSON, found something else: {error}") from error
    if not isinstance(document, dict):
        raise SamplesError(f"{path}: expected an object, found {type(document).__name__}")
    return document


def _once(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _check_once(path, "key", [key for key, _ in pairs])
    return dict(pairs)


def _is_coco(document: dict[str, Any]) -> bool:
    return isinstance(document.get("images"), list) or isinstance(document.get("annotations"), list)


def _category_names(document: dict[str, Any]) -> tuple[str, ...]:
    """Of COCO's form, in the order of their ids."""
    if not _is_coco(document):
        return ()
    return tuple(one.name for one in sorted(msgspec.convert(document["categories"], list[_Category]), key=_by_id))


def _by_id(category: _Category) -> int:
    return category.id


def _from_coco(document: dict[str, Any], path: Path) -> dict[str, list[_Labelled]]:
    try:
        coco = msgspec.convert(document, _Coco)
    except msgspec.ValidationError as error:
        raise SamplesError(f"{path}: expected COCO's images, annotations and categories: {error}") from error
    names = {category.id: category.name for category in coco.categories}
    files = {image.id: image.file_name for image in coco.images}
    _check_once(path, "image id", [image.id for image in coco.images])
    _check_once(path, "file_name", [image.file_name for image in coco.images])
    _check_once(path, "category id", [category.id for category in coco.categories])
    _check_once(path, "category name", [category.name for category in coco.categories])
    by_file: dict[str, list[_Labelled]] = {name: [] for name in files.values()}
    for index, entry in enumerate(coco.annotations):
        where = f"{path}: annotations[{index}]"
        if entry.image_id not in files:
            raise SamplesError(f"{where}: expected the id of an image, found {entry.image_id!r}")
        if entry.category_id not in names:
            raise SamplesError(f"{where}: expected the id of a category, found {entry.category_id}")
        if entry.iscrowd:
            continue
        x, y, width, height = entry.bbox
        label = Written(names[entry.category_id], where)
        by_file[files[entry.image_id]].append(_Labelled((x, y, x + width, y + height), label))
    return by_file


def _check_once(path: Path, what: str, values: Sequence[object]) -> None:
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise SamplesError(f"{path}: expected each {what} once, found {value!r} more often")
        seen.add(value)


def _from_plain(document: dict[str, Any], path: Path) -> dict[str, list[_Labelled]]:
    by_file: dict[str, list[_Labelled]] = {}
    for name, value in document.items():
        try:
            entry = msgspec.convert(value, _Plain)
        except msgspec.ValidationError as error:
            raise SamplesError(
                f"{path}: {name!r}: expected boxes [x1, y1, x2, y2, class]: {error}",
                hint='{"file.jpg": {"boxes": [[x1, y1, x2, y2, "class"]]}}, or COCO\'s form',
            ) from error
        boxes = entry.boxes if entry.boxes is not None else entry.boxes_xyxy
        if boxes is None:
            raise SamplesError(f"{path}: {name!r}: expected the key 'boxes', found {sorted(value)[:10]}")
        by_file[name] = [
            _Labelled((x1, y1, x2, y2), Written(str(label), f"{path}: {name!r}: boxes[{index}]"))
            for index, (x1, y1, x2, y2, label) in enumerate(boxes)
        ]
    return by_file


def _check_file(folder: Path, name: str, annotations: Path) -> None:
    inside = bool(name) and "\0" not in name and not Path(name).is_absolute() and ".." not in Path(name).parts
    try:
        found = inside and (folder / name).is_file()
    except OSError:  # a name longer than one can be
        found = False
    if not found:
        raise SamplesError(
            f"{annotations}: expected a picture in {folder}, found none named {name!r}",
            hint="file names are relative to the folder of annotations.json",
        )


def _classes(written: Sequence[Written], names: tuple[str, ...]) -> tuple[Array, tuple[str, ...]]:
    """As `class_numbers`, but the order of a detector's classes is not that of their names."""
    if not names and any(not label.text.lstrip("-").isdigit() for label in written):
        raise SamplesError(
            f"{written[0].where}: expected classes as numbers, found {written[0].text!r}",
            hint="--labels names the file with the classes of the model, one a line",
        )
    return class_numbers(written, names)


def _item(box: _Labelled, label: int, size: tuple[int, int]) -> Item:
    """In 0..1 of the picture. Raises SamplesError for one that is none or lies outside."""
    height, width = size
    x1, y1, x2, y2 = box.corners
    if not (x1 < x2 and y1 < y2):
        raise SamplesError(f"{box.label.where}: expected a box with some area, found {box.corners}")
    if min(x1, y1) < -_MARGIN_PX or x2 > width + _MARGIN_PX or y2 > height + _MARGIN_PX:
        raise SamplesError(
            f"{box.label.where}: expected a box within the picture of {width} x {height} pixels, found {box.corners}",
            hint="are the boxes those of this picture, and x1, y1, x2, y2 (or COCO's x, y, width, height)?",
        )
    scaled = (x1 / width, y1 / height, x2 / width, y2 / height)
    left, top, right, bottom = (min(max(side, 0.0), 1.0) for side in scaled)
    return Item(label, 1.0, (left, top, right, bottom))


def _sha256(folder: Path, annotations: Path, pictures: Pictures) -> str:
    digest = hashlib.sha256(annotations.read_bytes()).digest()
    return folder_sha256(folder, (annotations, *pictures.files), (digest, *pictures.digests))


def _warnings(folder: Path, files: Sequence[str], boxes: Sequence[Boxes]) -> Iterator[str]:
    known = {folder / name for name in files}
    others = sum(path not in known for path in find_pictures(folder))
    if others:
        yield f"{others} pictures in {folder} have no annotations and are left out"
    if not any(boxes):
        yield "no picture has a box: detections are held against the float model's"
