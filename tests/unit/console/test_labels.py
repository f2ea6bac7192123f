"""What items of each kind are called, and what a page is told of results with many."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeinfer.console.documents import Documents
from edgeinfer.console.labels import Labels
from edgeinfer.console.repository import Repository, SqliteRepository
from edgeinfer.console.repository.base import DeviceChange, Package, StoredResult
from edgeinfer.console.series import Tally
from edgeinfer.console.web.pages import _shown
from edgeinfer.runtime.codec import COLUMNS, encode, summarize
from edgeinfer.runtime.results import OF_A_FRAME, Item, Kind, Result

DIGEST = "d" * 64


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    opened = SqliteRepository(tmp_path / "console.db")
    package = Package(
        digest=DIGEST, name="m", version="1.0.0", task="detection", blob_sha256="b" * 64, blob_bytes=1, added_ns=1,
        labels=("background", "person", "bicycle"), label_offset=1, variants=(), signed_by="",
    )  # fmt: skip
    opened.add_package(package)
    reported = {"pipelines": {"door": {"model": "m"}}, "models": {"m": {"digest": DIGEST}}}
    opened.change_device("dev-1", DeviceChange(reported=reported), t_ns=1)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("kind", "label", "name"),
    [
        # The device has added the package's offset already.
        (Kind.DETECTION, 1, "person"),
        (Kind.CLASSIFICATION, 2, "bicycle"),
        (Kind.CLASSIFICATION, 7, "class 7"),
        (Kind.CLASSIFICATION, -1, "class -1"),
        (Kind.KEYPOINTS, 1, "person"),
        (Kind.KEYPOINTS, 5, "keypoint 5"),
        (Kind.SEGMENTATION, 9, "class 9"),
        (Kind.EMBEDDING, 1, "dimension 1"),
        (Kind.REGRESSION, 5, "value 5"),
        (Kind.RAW, 5, "value 5"),
        (Kind.ANOMALY, 1, "anomaly"),
        (Kind.ANOMALY, 0, "normal"),
    ],
)
def test_names(repository: Repository, kind: Kind, label: int, name: str) -> None:
    assert Labels(repository).name("dev-1", "door", kind=kind, label=label) == name


def test_a_page_is_told_of_the_first_item_and_how_many_there_are(repository: Repository) -> None:
    items = tuple(Item(place, place / 10) for place in range(1000))
    result = StoredResult(device="dev-1", epoch=1, seq=1, pipeline="door", kind=Kind.EMBEDDING, t_ns=1, items=items)
    documents = Documents(repository, Labels(repository))
    (whole,), (short,) = documents.results([result]), documents.results([result], max_items=1)
    assert (len(whole["items"]), whole["item_count"]) == (1000, 1000)
    assert ([item["name"] for item in short["items"]], short["item_count"]) == (["dimension 0"], 1000)


@pytest.mark.parametrize("kind", sorted(OF_A_FRAME))
def test_every_kind_of_a_frame_is_counted_and_shown(repository: Repository, kind: Kind) -> None:
    result = StoredResult(device="dev-1", epoch=1, seq=1, pipeline="door", kind=kind, t_ns=10**9, items=(Item(1, 0.5),))
    tally = Tally(fine_since_s=0)
    tally.add("dev-1", "door", summarize(COLUMNS, encode([Result(kind, 10**9)], COLUMNS), n=1))
    assert len(tally.buckets()) == 2
    assert _shown(Documents(repository, Labels(repository)).results([result]))


def test_the_script_shows_the_kinds_that_the_pages_show() -> None:
    import edgeinfer.console.web.pages as pages

    script = (Path(pages.__file__).parent / "static" / "console.js").read_text()
    shown = script.split("const SHOWN = [", 1)[1].split("]", 1)[0]
    assert {name.strip().strip('"') for name in shown.split(",") if name.strip()} == {
        kind.name.lower() for kind in pages._RESULT_KINDS
    }
