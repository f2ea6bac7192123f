"""docs/schemes.md has a section on every scheme, and one only."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from edgeinfer.devices.profile import load_kinds


@pytest.fixture
def script(repository: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """docs/schemes.py, which imports what lies beside it."""
    monkeypatch.syspath_prepend(str(repository / "docs"))
    return importlib.import_module("schemes")


def test_every_scheme_has_one_section(script: ModuleType) -> None:
    offers = script._offers()
    assert {"onnx-u8s8", "onnx-u8s8-dense", "onnx-u8s8-cle-bc", "litert-int8", "litert-int8-pruned"} <= set(offers)
    for name in offers:
        assert len([family.title for family in script.FAMILIES if family.holds(name)]) == 1, name


def test_every_measured_variant_has_one_section(script: ModuleType, repository: Path) -> None:
    measured = json.loads((repository / "docs" / "schemes.json").read_text(encoding="utf-8"))
    assert set(measured["tasks"]) == {"ic", "kws", "vww", "ad"}
    for task in measured["tasks"].values():
        assert task["chosen"] in task["rows"]
        for name in task["rows"]:
            assert len([family.title for family in script.FAMILIES if family.holds(name)]) == 1, name


def test_the_page_is_what_the_code_says(script: ModuleType, repository: Path) -> None:
    page = (repository / "docs" / "schemes.md").read_text(encoding="utf-8")
    assert page == script.document(), "make docs"
    for kind in load_kinds():
        assert f"| `{kind.name}` | {kind.title} |" in page
