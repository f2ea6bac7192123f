"""The package is a namespace of typed portions, and each `__all__` is true."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
PARTS = ("runtime", "quantize", "devices", "sync")


def sub_packages() -> Iterator[Path]:
    for part in PARTS:
        for folder in sorted((REPOSITORY / part / "edgeinfer").iterdir()):
            if folder.is_dir() and folder.name != "__pycache__":
                yield folder


def modules() -> Iterator[str]:
    for part in PARTS:
        root = REPOSITORY / part
        for path in sorted(root.rglob("*.py")):
            if path.name != "__main__.py":
                yield ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def test_no_portion_is_a_regular_package() -> None:
    # One stray file hides the other three portions, while type checking stays green.
    assert [part for part in PARTS if (REPOSITORY / part / "edgeinfer" / "__init__.py").exists()] == []


@pytest.mark.parametrize("folder", list(sub_packages()), ids=lambda folder: str(folder.name))
def test_sub_packages_are_typed_and_say_what_they_are_for(folder: Path) -> None:
    assert (folder / "py.typed").exists()
    assert (folder / "__init__.py").read_text(encoding="utf-8").startswith('"""')


def test_module_names_say_something() -> None:
    silent = {"utils", "helpers", "common", "manager"}
    assert [name for name in modules() if name.rpartition(".")[2] in silent] == []


@pytest.mark.parametrize("name", list(modules()))
def test_exported_names_exist(name: str) -> None:
    module = importlib.import_module(name)
    exported: list[str] = getattr(module, "__all__", [])
    assert [entry for entry in exported if not hasattr(module, entry)] == []
    assert len(exported) == len(set(exported))


def test_structure_file_is_the_code() -> None:
    command = [sys.executable, str(REPOSITORY / "docs" / "structure.py"), "--check"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")


def test_layers_are_kept() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    if not linter.exists():
        pytest.skip("import-linter is not installed")
    found = subprocess.run(
        [linter, "--no-logo", "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout
