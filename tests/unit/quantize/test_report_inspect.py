"""`edgeinfer package inspect` shows a package's report again."""

import builtins
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgeinfer.cli import main
from edgeinfer.quantize.report import reading
from reports import carrying_package, kws_report


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return carrying_package(tmp_path / "kws.edgepkg", msgspec.json.encode(kws_report()))


def test_it_shows_the_table_again(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["package", "inspect", str(package)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("kws 1.0.0, classification\n")
    assert "Yes: ship litert-int8-weights" in shown
    assert "nothing was quantized: it holds no MatMul" in shown


def test_json_is_the_manifest_and_what_the_search_found(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["package", "inspect", str(package), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["report"][0] == "report.json"
    assert (found["name"], found["signatures"], len(found["digest"])) == ("kws", [], 64)
    assert found["search"] == json.loads(msgspec.json.encode(kws_report()))


def test_the_page_is_written(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "report.html"
    assert main(["package", "inspect", str(package), "--report", str(page)]) == 0
    assert "kws 1.0.0" in page.read_text()
    assert capsys.readouterr().err == ""


def test_a_package_that_was_packed_as_it_is_has_no_report(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from packages import linear_model, make_package

    bare = tmp_path / "bare.edgepkg"
    make_package(bare, linear_model(tmp_path / "bare.onnx"), name="bare")
    assert main(["package", "inspect", str(bare), "--json"]) == 0
    assert "search" not in json.loads(capsys.readouterr().out)
    assert main(["package", "inspect", str(bare), "--report", str(tmp_path / "r.html")]) == 3
    assert "carries no report" in capsys.readouterr().err
    assert main(["package", "inspect", str(package), "--report", str(tmp_path / "no" / "r.html")]) == 1
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--report", "x.html"]])
@pytest.mark.parametrize("raw", [b"[]", b"{" * 100_000, b" " * (reading.MAX_BYTES + 1)], ids=["list", "deep", "huge"])
def test_a_hostile_report_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], raw: bytes, arguments: list[str]
) -> None:
    package = carrying_package(tmp_path / "hostile.edgepkg", raw)
    assert main(["package", "inspect", str(package), *arguments]) == 3
    assert "report.json" in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "jinja2":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert main(["package", "inspect", str(package), "--report", str(tmp_path / "r.html")]) == 1
    assert "edgeinfer[quantize]" in capsys.readouterr().err
