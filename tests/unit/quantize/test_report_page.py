"""The page of a report: what it holds, that it loads nothing, and that nobody's names become markup."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from edgeinfer.quantize.report.confusions import changed_pairs, heat_map
from edgeinfer.quantize.report.labels import Box, Spot, place
from edgeinfer.quantize.report.page import page, write_page
from edgeinfer.runtime.errors import StorageError
from edgeinfer.runtime.manifest import Provenance
from reports import hostile_report, kws_report, many_classes, refused_report

_VOID = {"meta", "br", "img", "link", "input", "hr"}


class _Outline(HTMLParser):
    """The tags, ids and addresses of a page; `open_tags` is empty where all are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.open_tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in _VOID:
            self.open_tags.append(tag)
        self._attributes(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._attributes(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag

    def _attributes(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            assert not name.startswith("on")
            if name == "id":
                self.ids.append(value or "")
            if name in {"src", "href", "action", "data", "poster", "srcset"}:
                self.addresses.append(value or "")


@pytest.fixture(scope="module")
def text() -> str:
    report = kws_report(command="edgeinfer quantize kws.onnx --data kws.npz")
    made = Provenance(
        created="2026-11-21T12:00:00Z", tools={"onnxruntime": "1.31.1"}, source_sha256={"k.onnx": "ab" * 32}
    )
    return page(report, title="kws 1.0.0", provenance=made)


def test_it_holds_everything(text: str) -> None:
    for part in (
        "kws 1.0.0", "Yes: ship litert-int8-weights", "1.56", "are needed", "Accuracy against cost",
        "Refused or not looked at further, and why",
        "16-bit sums saturate", "Sensitivity of the layers", "functional_1/separable_5/pointwise/Conv2D",
        "3 of 12 layers have weights of 4 bits", "What it calls otherwise", "latency, settled", "onnxruntime 1.31.1",
        "ab" * 32, "edgeinfer quantize kws.onnx --data kws.npz", "AMD EPYC",
    ):  # fmt: skip
        assert part in text, part


def test_it_is_well_formed_and_loads_nothing(text: str) -> None:
    outline = _Outline(text)
    assert outline.open_tags == []
    assert len(outline.ids) == len(set(outline.ids))
    assert [address for address in outline.addresses if not address.startswith("#")] == []
    assert outline.tags.count("svg") == 2
    assert re.search(r"https?:|url\((?!#)|@import", text) is None


def test_tables_have_headers_and_pictures_have_titles(text: str) -> None:
    assert text.count("<table") == text.count("<caption")
    assert text.count('role="img" aria-labelledby="') == 2
    assert text.count("<title>litert-int8-weights: loses 0.20 points") == 2


def test_the_same_report_gives_the_same_page() -> None:
    report = kws_report()
    assert page(report, title="a") == page(report, title="a")


def test_names_are_text() -> None:
    hostile = page(hostile_report(), title="<b>&amp;", provenance=None)
    outline = _Outline(hostile)
    assert outline.open_tags == []
    assert outline.tags.count("script") == 1
    assert "img" not in outline.tags
    assert "b" not in outline.tags[: outline.tags.index("dl")]
    assert "<script>document" not in hostile
    assert "\x1b" not in hostile


def test_a_refusal_and_a_bare_report_have_pages() -> None:
    refused = page(refused_report(), title="x")
    assert "Do not ship" in refused
    assert "Candidates that keep the budget" not in refused
    assert "The float model, which others are held against" in refused
    assert refused.count('<span class="name">onnx-fp32</span>') == 1
    warned = msgspec.structs.replace(refused_report(), warnings=("one",))
    assert "Before you ship" not in page(warned, title="x")
    assert "Before you ship" in page(kws_report(warnings=("one",)), title="x")
    base = kws_report()
    bare = msgspec.structs.replace(
        base, candidates=(), chosen=None, sensitivity=(), confusion=None, steps=(), warnings=(), notes=()
    )
    assert _Outline(page(bare, title="x")).open_tags == []


def test_what_few_samples_say_is_not_told_to_ship() -> None:
    base = kws_report()
    assert base.chosen is not None
    shown = page(msgspec.structs.replace(base, chosen=msgspec.structs.replace(base.chosen, samples=15)), title="x")
    assert '<header class="unsure">' in shown
    assert "Not proven yet: litert-int8-weights" in shown
    assert "Ship it" not in shown


def test_figures_that_are_no_numbers_are_survived() -> None:
    base = kws_report()
    layers = tuple(msgspec.structs.replace(one, divergence=float("nan")) for one in base.sensitivity[0].layers)
    strange = msgspec.structs.replace(base.candidates[2], metric_value=float("nan"), drop=float("inf"))
    report = msgspec.structs.replace(
        base,
        candidates=(*base.candidates, strange),
        sensitivity=(msgspec.structs.replace(base.sensitivity[0], layers=layers),),
    )
    assert _Outline(page(report, title="x")).open_tags == []


def test_many_classes_become_the_pairs_that_changed_most() -> None:
    confusion = many_classes()
    assert heat_map(confusion) is None
    pairs, changed = changed_pairs(confusion, most=5)
    assert (len(pairs), changed) == (5, 224)
    assert [abs(pair.change) for pair in pairs] == [2] * 5
    text = page(kws_report(confusion=confusion), title="x")
    assert "224 of 1,002,001 pairs of classes changed" in text


def test_changes_are_better_or_worse() -> None:
    confusion = kws_report().confusion
    assert confusion is not None
    heat = heat_map(confusion)
    assert heat is not None
    assert heat.cells[1][1] == (-1, -1.0)
    assert heat.cells[1][3] == (1, -1.0)
    assert heat.cells[8][8] == (1, 1.0)
    assert heat.cells[8][4] == (-1, 1.0)
    same = msgspec.structs.replace(confusion, chosen=confusion.reference)
    assert heat_map(same) is None
    assert "alike, as often" in page(kws_report(confusion=same), title="x")


def test_labels_cover_neither_each_other_nor_points() -> None:
    points = [(100.0 + 3 * i, 100.0 + 5 * (i % 3)) for i in range(5)]
    markers = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    spots = place([(point, 80.0, 14.0) for point in points], taken=markers, within=Box(0, 0, 400, 200))
    boxes = [_box(spot, point) for spot, point in zip(spots, points, strict=True) if spot is not None]
    assert len(boxes) >= 4
    assert [(a, b) for i, a in enumerate(boxes) for b in boxes[i + 1 :] if a.meets(b)] == []
    assert [(a, b) for a in boxes for b in markers if a.meets(b)] == []
    assert place([((5.0, 5.0), 500.0, 14.0)], taken=[], within=Box(0, 0, 400, 200)) == [None]


def _box(spot: Spot, point: tuple[float, float]) -> Box:
    x = point[0] + spot.offset[0] - {"left": 0, "right": 80, "center": 40}[spot.align]
    y = point[1] + spot.offset[1] - 7
    return Box(x, y, x + 80, y + 14)


def test_it_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_page(refused_report(), tmp_path / "report.html", title="x")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(StorageError, match=r"cannot be written"):
        write_page(refused_report(), tmp_path / "absent" / "report.html", title="x")


def test_drawing_leaves_the_home_alone_and_says_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from reports import kws_report; from edgeinfer.quantize.report.page import page\n"
        "assert page(kws_report(), title='x'); assert 'matplotlib.pyplot' not in sys.modules"
    )
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    root = Path(__file__).parents[3]
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
