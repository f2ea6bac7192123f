"""A package that asks to be measured, as a device runs it: the daemon, runs of recorded data, and the command."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from daemon_process import Daemon, configuration, run_until_end
from packages import linear_model
from variant_packages import make_variants, slow_model
from waiting import wait_until

ROWS = 3000


class Device:
    """A pipeline over a file, with a package whose first variant is some hundred times slower than its second."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        models = {"slow": slow_model(folder / "slow.onnx"), "quick": linear_model(folder / "quick.onnx")}
        make_variants(folder / "m.edgepkg", models, name="m", **options)
        rows = np.random.default_rng(0).random((ROWS, 8))
        text = "\n".join(",".join(f"{value:.4f}" for value in row) for row in rows)
        (folder / "x.csv").write_text(",".join(f"c{i}" for i in range(8)) + f"\n{text}\n")

    def config(self, *, rows_apart_s: float = 0.0) -> Path:
        paced = f"\ninterval_s = {rows_apart_s}" if rows_apart_s else ""
        source = f'[pipeline.source]\nkind = "csv"\npath = "{self.folder}/x.csv"\nwindow = 1{paced}'
        return configuration(self.folder, f'name = "door"\npackage = "{self.folder}/m.edgepkg"\n{source}')

    def run(self) -> tuple[str, str]:
        """Which variant a run to the end used, and its log."""
        done = run_until_end(self.config(), "--json", "--log-level", "INFO")
        assert done.returncode == 0, done.stderr
        (pipeline,) = json.loads(done.stdout)["pipelines"]
        assert pipeline["results"] == ROWS
        return pipeline["variant"], done.stderr

    def models(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "edgeinfer", "models", *arguments, "--config", str(self.config())]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == 0, done.stderr
        return done.stdout


def test_a_run_of_recorded_data_uses_the_quick_one_and_measures_once(tmp_path: Path) -> None:
    device = Device(tmp_path)
    variant, log = device.run()
    assert variant == "quick"
    assert "event=variant_chosen" in log
    variant, log = device.run()
    assert variant == "quick"
    assert "event=variant_chosen" not in log, "it is remembered"

    listed = device.models("list")
    assert "quick (measured)" in listed
    (row,) = json.loads(device.models("list", "--json"))["models"]
    assert row["choice"]["variant"] == "quick"
    assert {one["variant"] for one in row["choice"]["tried"]} == {"slow", "quick"}

    again = device.models("choose", "m")
    assert [line.split()[-1] for line in again.splitlines() if line.startswith("quick")] == ["chosen"]
    assert json.loads(device.models("choose", "m", "--json"))["gate"]["variant"] == "quick"


def test_without_being_asked_the_first_is_used(tmp_path: Path) -> None:
    variant, log = Device(tmp_path, choose="first").run()
    assert variant == "slow"
    assert "event=variant_chosen" not in log


def test_one_that_is_wrong_here_is_not_used(tmp_path: Path) -> None:
    variant, log = Device(tmp_path, wrong=("quick",)).run()
    assert variant == "slow"
    assert "event=variant_unusable" in log


def test_a_daemon_measures_beside_its_pipelines_and_changes_over(tmp_path: Path) -> None:
    device = Device(tmp_path)
    config = device.config(rows_apart_s=0.05)
    with Daemon(tmp_path, config) as daemon:
        daemon.wait_for("event=started")
        daemon.wait_for("event=variant_chosen")
        wait_until(lambda: daemon.pipeline("door").get("variant") == "quick", what="the change")
        wait_until(lambda: daemon.pipeline("door").get("results", 0) > 0, what="a result")
        assert daemon.pipeline("door")["frames"].get("failed", 0) == 0
        assert daemon.status()["models"]["m"]["variant"] == "quick"
        assert "chosen" in device.models("choose", "m")
        daemon.end()
    with Daemon(tmp_path, config) as again:
        again.wait_for("event=started")
        wait_until(lambda: again.pipeline("door").get("variant") == "quick", what="the choice")
        assert not any("event=variant_chosen" in line for line in again.log), "it is remembered"
        again.end()
