"""docs/quantization.md is a script: its files are written, its recipes are read, and its commands run in order."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgeinfer.quantize.recipe import Recipe, load_recipe

_FILE = re.compile(r"`(?P<name>[\w.]+)`[^\n]*:\n\n```(?:toml|python)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
_TOML = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SHELL = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def page(repository: Path) -> str:
    return (repository / "docs" / "quantization.md").read_text(encoding="utf-8")


def test_the_recipes_are_recipes(page: str, tmp_path: Path) -> None:
    blocks = _TOML.findall(page)
    assert len(blocks) >= 3
    for block in blocks:
        path = tmp_path / "recipe.toml"
        # What is commented out is right when it is switched on.
        path.write_text(re.sub(r"^# (?=[a-z_]+ = )", "", block, flags=re.MULTILINE), encoding="utf-8")
        recipe = load_recipe(path)
    assert {section for section in Recipe.__struct_fields__ if f"[{section}]" in blocks[-1]} == {
        "model",
        "samples",
        "preprocess",
        "postprocess",
        "package",
        "budget",
        "search",
        "report",
    }
    assert recipe.model.constants == {"sr": 16000.0}
    assert recipe.package.sign_key == str(tmp_path / "release.key")
    assert recipe.search.target == "rpi4"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_commands_run(page: str, repository: Path, tmp_path: Path) -> None:
    (tmp_path / "quantize").symlink_to(repository / "quantize")
    files = {match["name"]: match["text"] for match in _FILE.finditer(page)}
    assert set(files) == {"mymetrics.py", "digits.toml"}
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    script = "set -euo pipefail\n" + "\n".join(_SHELL.findall(page))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=900
    )

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "Traceback" not in done.stderr
    assert "mymetrics:recall_of_seven" in done.stdout
    for name in ("vitals-1.0.0.edgepkg", "again.html", "digits-recall.edgepkg", "digits-1.0.0.edgepkg", "digits.html"):
        assert (tmp_path / name).stat().st_size > 0
