"""`edgeinfer top` in a real terminal, without one, and when there is no daemon to ask."""

import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daemon_process import Daemon, configuration
from edgeinfer.cli.top_screen import lines, plain, screen
from packages import linear_model, make_package
from waiting import wait_until


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    make_package(tmp_path / "m.edgepkg", linear_model(tmp_path / "m.onnx"), name="m", labels=["ok", "worn", "broken"])
    rows = "\n".join(",".join(f"{value:.4f}" for value in row) for row in np.random.default_rng(0).random((5000, 8)))
    (tmp_path / "x.csv").write_text(",".join(f"c{i}" for i in range(8)) + f"\n{rows}\n")
    config = configuration(
        tmp_path,
        f'name = "press"\npackage = "{tmp_path}/m.edgepkg"\n'
        f'[pipeline.source]\nkind = "csv"\npath = "{tmp_path}/x.csv"\nwindow = 1\ninterval_s = 0.02',
        f'name = "gate"\npackage = "{tmp_path}/m.edgepkg"\n'
        f'[pipeline.source]\nkind = "camera"\ndevice = "{tmp_path}/no-camera"',
    )
    with Daemon(tmp_path, config) as running:
        running.wait_for("event=started")
        wait_until(lambda: running.pipeline("press").get("results", 0) > 0, what="a result")
        yield running


def top(daemon: Daemon, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "edgeinfer", "top", "--state-dir", str(daemon.folder / "state"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


class Terminal:
    """A pane of 80 by 24 that tmux draws."""

    def __init__(self, folder: Path, command: str) -> None:
        tmux = shutil.which("tmux")
        if tmux is None:
            reason = "tmux is not installed (Debian: apt install tmux)"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
        self._tmux = [tmux, "-L", f"edgeinfer-{uuid.uuid4().hex[:8]}", "-f", "/dev/null"]
        self._do("new-session", "-d", "-x", "80", "-y", "24", "-c", str(folder), "sh")
        self.type(f"PS1='ready> '; clear; {command}; echo left with $?", "Enter")

    def _do(self, *arguments: str) -> str:
        done = subprocess.run([*self._tmux, *arguments], capture_output=True, text=True, check=True, timeout=60)
        return done.stdout

    def type(self, *keys: str) -> None:
        self._do("send-keys", *keys)

    def text(self, *, colours: bool = False) -> str:
        return self._do("capture-pane", "-p", *(["-e"] if colours else []))

    def wait_for(self, *texts: str, colours: bool = False) -> str:
        """The screen once all of these stand on it: it is looked at while it is drawn, too."""
        shown = ""

        def is_shown() -> bool:
            nonlocal shown
            shown = self.text(colours=colours)
            return all(text in shown for text in texts)

        wait_until(is_shown, what=f"{texts} on the screen")
        return shown

    def close(self) -> None:
        self._do("kill-server")


@pytest.fixture
def terminal(tmp_path: Path, daemon: Daemon) -> Iterator[Terminal]:
    command = f"{sys.executable} -m edgeinfer top --state-dir {daemon.folder}/state"
    made = Terminal(tmp_path, command)
    yield made
    made.close()


def test_it_is_drawn_anew_and_left_with_q(terminal: Terminal, daemon: Daemon) -> None:
    shown = terminal.wait_for("edgeinfer  dev-1", "PIPELINE", "\npress ", "newest: ")
    terminal.wait_for("\x1b[32m", colours=True)  # what runs is green
    press = next(line for line in shown.splitlines() if line.startswith("press"))
    assert "running" in press
    assert all(len(line) <= 80 for line in shown.splitlines())
    terminal.wait_for("waiting")
    first = terminal.text()
    wait_until(lambda: terminal.text() != first, what="another screen")
    newest = next(line for line in shown.splitlines() if "newest:" in line)
    assert any(name in newest for name in ("ok", "worn", "broken"))

    daemon.send(signal.SIGKILL)
    daemon.process.wait()
    terminal.wait_for("as of ")
    terminal.type("q")
    after = terminal.wait_for("left with 0")
    assert "PIPELINE" not in after, "what was on the screen before is there again"
    terminal.type("echo $((6*7))", "Enter")
    assert "42" in terminal.wait_for("42"), "the keys are shown again"


def test_ctrl_c_leaves_as_well(terminal: Terminal) -> None:
    terminal.wait_for("PIPELINE")
    terminal.type("C-c")
    terminal.wait_for("left with 0")


def test_without_a_terminal_it_prints_once(daemon: Daemon) -> None:
    for arguments in ((), ("--once",)):
        done = top(daemon, *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert "\x1b" not in done.stdout
        assert done.stdout.startswith("edgeinfer  dev-1   up ")
    document = json.loads(top(daemon, "--json").stdout)
    assert {"t_ns", "pipelines", "models", "last", "buffer", "recent"} <= document.keys()
    assert document["pipelines"]["press"]["age_us"]["p99"] >= document["pipelines"]["press"]["age_us"]["p50"] > 0
    assert document["last"]["press"]["items"][0]["name"] in {"ok", "worn", "broken"}

    daemon.send(signal.SIGKILL)
    daemon.process.wait()
    done = top(daemon)
    assert done.returncode == 0
    assert "as of " in done.stdout.splitlines()[1]


def test_without_any_word_of_a_daemon_it_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgeinfer", "top", "--state-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 1
    assert "no daemon can be asked" in done.stderr


PIPELINE: dict[str, Any] = {
    "source": "running", "error": "", "captured": 30, "results": 30, "events": 0, "fps": 10.0, "frame_rate": 12.0,
    "frames": {"inferred": 30, "stale": 0}, "latency_us": {"p50": 1500, "p99": 2_500_000}, "age_us": {},
}  # fmt: skip


class TestScreen:
    def document(self, **changes: object) -> dict[str, object]:
        return {"device": "d", "t_ns": 10**9, "pipelines": {"door": PIPELINE}, **changes}

    def text(self, document: dict[str, object], before: dict[str, object] | None = None) -> str:
        return "\n".join(text for text, _ in lines(document, before))

    def test_rates_are_those_between_two_looks(self) -> None:
        later = self.document(t_ns=3 * 10**9, pipelines={"door": {**PIPELINE, "results": 130}})
        assert " 50.0 " in self.text(later, self.document())
        assert " 10.0 " in self.text(self.document())
        assert " 10.0 " in self.text(self.document(), later), "a pipeline that was made anew"

    def test_a_label_is_no_command_to_the_terminal(self) -> None:
        items = [{"name": "\x1b]0;hacked\x07\x1b[2J", "score": 0.5}]
        document = self.document(last={"door": {"kind": "detection", "found": 1, "items": items}})
        assert "newest: ?]0;hacked??[2J 0.50" in self.text(document)
        assert plain("größe 3 µm") == "größe 3 µm"

    def test_what_does_not_fit_is_said(self) -> None:
        many = self.document(pipelines={f"p{number}": PIPELINE for number in range(30)})
        shown = screen(lines(many, None), width=40, height=10, colours=False).split("\x1b[K\r\n")
        assert len(shown) == 10
        assert max(map(len, shown[:-1])) <= 40
        assert "more lines" in shown[-1]

    def test_an_older_document_is_shown_as_far_as_it_goes(self) -> None:
        pipeline = {key: value for key, value in PIPELINE.items() if key not in {"age_us", "frame_rate"}}
        assert "door" in self.text({"t_ns": 1, "device": "d", "pipelines": {"door": pipeline}})
