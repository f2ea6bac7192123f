"""Pictures with labelled boxes: COCO's form, the plain one, and what is refused."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.quantize.dataset import Loaded, load_samples, prepared
from edgeinfer.quantize.preprocessing import declare
from edgeinfer.runtime.errors import SamplesError
from edgeinfer.runtime.manifest import TensorSpec
from edgeinfer.runtime.results import Item
from pictures_on_disk import write_picture

COCO: dict[str, Any] = {
    "info": {"year": 2017},
    "images": [{"id": 7, "file_name": "a.png", "width": 20, "height": 10}, {"id": 9, "file_name": "b.png"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 18, "bbox": [2, 1, 10, 5], "iscrowd": 0, "area": 50},
        {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 20, 10], "iscrowd": 1},
    ],
    "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person", "supercategory": "x"}],
}
PLAIN: dict[str, Any] = {"a.png": {"boxes": [[2, 1, 12, 6, "dog"]], "size": [20, 10]}, "b.png": {"boxes_xyxy": []}}
DOG = (0.1, 0.1, 0.6, 0.6)


def folder_of(tmp_path: Path, document: Any) -> Path:
    for name in ("a", "b"):
        if not (tmp_path / f"{name}.png").exists():
            write_picture(tmp_path / f"{name}.png", size=(10, 20))
    text = document if isinstance(document, str) else json.dumps(document)
    (tmp_path / "annotations.json").write_text(text)
    return tmp_path


def load(folder: Path, labels: tuple[str, ...] = ()) -> Loaded:
    return load_samples(folder, task="detection", labels=labels)


def test_both_forms(tmp_path: Path) -> None:
    coco = load(folder_of(tmp_path, COCO))
    assert coco.boxes == ((Item(1, 1.0, DOG),), ())
    assert coco.labels == ("person", "dog")
    given_labels = load(tmp_path, labels=("nothing", "person", "cat", "dog"))
    assert given_labels.boxes == ((Item(3, 1.0, DOG),), ())
    plain = load(folder_of(tmp_path, PLAIN), labels=("cat", "dog"))
    assert plain.boxes == ((Item(1, 1.0, DOG),), ())
    numbered = load(folder_of(tmp_path, {"a.png": {"boxes": [[2, 1, 12, 6, 5]]}}))
    assert numbered.boxes == ((Item(5, 1.0, DOG),),)
    assert "1 pictures in" in numbered.warnings[0]


def test_names_are_the_same_whatever_their_spaces_and_by_darknets_names(tmp_path: Path) -> None:
    boxes = [[2, 1, 12, 6, "potted plant"], [2, 1, 12, 6, "tv"], [2, 1, 12, 6, "Person"]]
    loaded = load(folder_of(tmp_path, {"a.png": {"boxes": boxes}}), labels=("person", "tvmonitor", "pottedplant"))
    assert loaded.boxes is not None
    assert [item.label for item in loaded.boxes[0]] == [2, 1, 0]


def test_boxes_are_where_the_model_sees_them(tmp_path: Path) -> None:
    """The crop shows the middle half of the width: what is outside of it is cut, or gone."""
    boxes = {"a.png": {"boxes": [[0, 0, 10, 10, 0], [0, 0, 4, 10, 0], [10, 5, 20, 10, 1]]}}
    model = TensorSpec("x", (1, 10, 10, 3), "float32")
    declared = declare("kind=image,resize=crop", model)
    samples = prepared(load(folder_of(tmp_path, boxes)), declared, model, where="here")
    assert samples.boxes == ((Item(0, 1.0, (0.0, 0.0, 0.5, 1.0)), Item(1, 1.0, (0.5, 0.5, 1.0, 1.0))),)


def changed(path: str, value: Any) -> dict[str, Any]:
    document: Any = json.loads(json.dumps(COCO))
    *parents, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    inner = document
    for step in parents:
        inner = inner[step]
    inner[last] = value
    made: dict[str, Any] = document
    return made


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("", "expected JSON"),
        ("[1]", "expected an object, found list"),
        ("{}", "expected annotated pictures, found none"),
        ("[" * 100_000, "expected JSON"),
        ({"images": [], "annotations": [], "categories": []}, "expected annotated pictures, found none"),
        ({"images": []}, "expected COCO's images, annotations and categories"),
        (changed("images.0.file_name", "none.png"), "expected a picture in .*, found none named 'none.png'"),
        (changed("images.0.file_name", "../a.png"), "found none named"),
        (changed("images.0.file_name", "b.png"), "expected each file_name once, found 'b.png'"),
        (changed("images.0.id", 9), "expected each image id once, found 9"),
        (changed("annotations.0.image_id", 8), r"annotations\[0\]: expected the id of an image, found 8"),
        (changed("annotations.0.category_id", 8), r"annotations\[0\]: expected the id of a category, found 8"),
        (changed("annotations.0.bbox", [1, 2, 3]), r"expected COCO.*annotations\[0\].bbox"),
        (changed("annotations.0.bbox", [2, 1, 0, 5]), "expected a box with some area"),
        (changed("annotations.0.bbox", [2, 1, 30, 5]), "expected a box within the picture of 20 x 10 pixels"),
        (changed("categories.0.name", "person"), "expected each category name once"),
        ({"a.png": [1]}, "'a.png': expected boxes"),
        ({"a.png": {"box": []}}, r"'a.png': expected the key 'boxes', found \['box'\]"),
        ({"a.png": {"boxes": [[1, 2, 3, 4]]}}, "expected boxes"),
        ({"a.png": {"boxes": [[1, 2, 3, 4, "dog"]]}}, "expected classes as numbers, found 'dog'"),
        ('{"a.png": {"boxes": []}, "a.png": {"boxes": []}}', "expected each key once, found 'a.png' more often"),
    ],
)
def test_annotations_that_are_wrong_are_refused(tmp_path: Path, document: Any, said: str) -> None:
    with pytest.raises(SamplesError, match=said):
        load(folder_of(tmp_path, document))


def test_a_class_that_the_labels_do_not_have(tmp_path: Path) -> None:
    with pytest.raises(SamplesError, match="expected one of the 2 class names as label, found 'dog'"):
        load(folder_of(tmp_path, PLAIN), labels=("person", "dogs"))


_LEAVES = st.one_of(
    st.none(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from(["a.png", "dog", 7, 18])
)
_KEYS = st.sampled_from(
    ["images", "annotations", "categories", "id", "file_name", "bbox", "name", "boxes", "a.png", "image_id",
     "category_id", "iscrowd"]
)  # fmt: skip
_TREES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=6) | st.dictionaries(_KEYS, inner, max_size=5), max_leaves=20
)


_PLACES = st.sampled_from(
    ["images", "images.0", "images.0.id", "annotations", "annotations.0", "annotations.0.bbox",
     "annotations.0.image_id", "annotations.0.bbox.2", "annotations.0.iscrowd", "categories",
     "categories.0", "categories.0.name"]
)  # fmt: skip


@given(st.one_of(_TREES, st.builds(changed, _PLACES, _TREES)))
@settings(max_examples=300, deadline=None)
def test_any_document_is_annotations_or_refused(tmp_path: Path, document: Any) -> None:
    with contextlib.suppress(SamplesError):
        loaded = load(folder_of(tmp_path, document))
        assert loaded.boxes is not None
        assert len(loaded.boxes) == len(loaded.x) > 0
