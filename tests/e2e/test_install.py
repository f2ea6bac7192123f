"""A wheel in an empty virtual environment gives a working command, with all files that it needs."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

REPOSITORY = Path(__file__).resolve().parents[2]
CANARY = REPOSITORY / "devices" / "edgeinfer" / "devices" / "canary" / "canary.onnx"


def run(*command: str | Path) -> str:
    found = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, cwd="/")
    assert found.returncode == 0, f"{command}: {found.stdout[-2000:]}{found.stderr[-4000:]}"
    return found.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel",
        "--no-deps", "--no-build-isolation", "-w", folder, REPOSITORY,
    )  # fmt: skip
    (found,) = folder.glob("edgeinfer-*.whl")
    return found


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """An empty environment with the wheel and what it needs, nothing optional."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", folder)
    constraints = REPOSITORY / "packaging" / "constraints.txt"
    run(folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "-c", constraints, wheel)
    return folder / "bin"


def test_wheel_holds_all_parts_and_their_files(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for part in ("cli", "console", "devices", "quantize", "runtime", "sync"):
        assert f"edgeinfer/{part}/py.typed" in names
        assert f"edgeinfer/{part}/__init__.py" in names
    assert "edgeinfer/__init__.py" not in names
    assert {"edgeinfer/devices/profiles/rpi5.toml", "edgeinfer/devices/canary/canary.onnx"} <= names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"edgeinfer"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    for folder in ("devices", "quantize", "runtime", "sync"):
        for path in (REPOSITORY / folder / "edgeinfer").rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert str(path.relative_to(REPOSITORY / folder)) in names


def test_command_works_without_any_extra(environment: Path) -> None:
    assert "Usage: edgeinfer" in run(environment / "edgeinfer", "--help")
    version = run(environment / "edgeinfer", "--version")
    assert version == run(environment / "python", "-m", "edgeinfer", "--version")
    assert '"engines": {}' in run(environment / "edgeinfer", "probe", "--json")


@pytest.mark.parametrize("service", ["run", "sync"])
def test_services_say_how_to_call_them(environment: Path, service: str) -> None:
    assert "--config" in run(environment / "edgeinfer", service, "--help")


def test_missing_extra_is_named(environment: Path, tmp_path: Path) -> None:
    command: list[str | Path] = [
        environment / "edgeinfer",
        "package",
        "create",
        CANARY,
        "--name",
        "n",
        "--version",
        "1.0.0",
    ]
    command += ["--task", "classification", "-o", tmp_path / "n.edgepkg"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (1, "")
    assert "hint: pip install 'edgeinfer[onnx]'" in found.stderr
    assert "Traceback" not in found.stderr
