"""The README is a script: its files are written and its commands run, in order, as a reader would."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from brokers import free_port

_FILE = re.compile(r"^`(?P<name>[\w.]+)`:\n\n```toml\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
_SHELL = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def checkout(tmp_path: Path, repository: Path) -> Path:
    """A folder that looks like the checkout to the commands, and that they may write to."""
    (tmp_path / "quantize").symlink_to(repository / "quantize")
    (tmp_path / "packaging").symlink_to(repository / "packaging")
    return tmp_path


def files_of(readme: str) -> dict[str, str]:
    """The configuration files that the README has its reader write, by name."""
    return {match["name"]: match["text"] for match in _FILE.finditer(readme)}


def test_the_readme_names_each_file_above_its_text(repository: Path) -> None:
    text = (repository / "README.md").read_text()
    assert set(files_of(text)) == {"digits.toml", "device.toml", "agent.toml", "console.toml"}
    assert len(files_of(text)) == text.count("```toml")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_readme_runs(checkout: Path, repository: Path) -> None:
    if shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("mosquitto is not installed")
        pytest.skip("mosquitto is not installed")
    text = (repository / "README.md").read_text()
    broker, page = str(free_port()), str(free_port())
    for name, content in files_of(text).items():
        (checkout / name).write_text(content.replace("1883", broker).replace("8080", page))
    script = "set -euo pipefail\n" + "\n".join(_SHELL.findall(text)).replace("1883", broker)

    done = run(script, checkout, page)

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "Traceback" not in done.stderr
    assert "COMMITTED" in done.stdout or "REPORTED" in done.stdout
    assert "press-4" in done.stdout


def run(script: str, folder: Path, page: str) -> subprocess.CompletedProcess[str]:
    """Run it in a session of its own, and end what it left in the background."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin",
        "EDGEINFER_CONSOLE": f"http://127.0.0.1:{page}",
    }
    out, err = folder / "out.txt", folder / "err.txt"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        shell = subprocess.Popen(
            ["bash", "-c", script],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            status = shell.wait(timeout=900)
        finally:
            os.killpg(shell.pid, signal.SIGTERM)
            shell.wait(timeout=60)
    return subprocess.CompletedProcess(script, status, out.read_text(), err.read_text())
