"""`edgeinfer run` with drift and hard examples, and `edgeinfer explain` on what it kept."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from daemon_process import configuration, results_of, run_until_end
from edgeinfer.quantize.commands import create_package
from edgeinfer.runtime.results import Kind, Result
from packages import linear_model, make_package

pytestmark = pytest.mark.data

LEARN = """
[pipeline.drift]
sample_s = 0.0
interval_s = 0.05
[pipeline.examples]
per_hour = 36000
"""


@pytest.fixture
def folder(tmp_path: Path, data_dir: Path) -> Path:
    """A package with a reference, made of the first half of the pictures; a folder of the second half, and of the
    same in the dark."""
    samples = np.load(data_dir / "tiny" / "vww_samples.npz")
    order = np.random.default_rng(1).permutation(len(samples["y"]))
    x, y = samples["x"][order], samples["y"][order]
    np.savez(tmp_path / "x.npz", x=x[:250], y=y[:250])
    (tmp_path / "labels.txt").write_text("no person\nperson\n")
    create_package(
        [data_dir / "tiny" / "vww_int8.tflite"], task="classification", name="vww", version="1.0.0",
        output=tmp_path / "vww.edgepkg", data=tmp_path / "x.npz", labels=tmp_path / "labels.txt",
        preprocess="kind=image,width=96,height=96,std=255,raw=true",
    )  # fmt: skip
    for name, factor in (("day", 1.0), ("dark", 0.3)):
        (tmp_path / name).mkdir()
        for index, picture in enumerate(x[250:]):
            darker = (picture[..., ::-1] * factor).astype(np.uint8)
            cv2.imwrite(str(tmp_path / name / f"{index:03d}.png"), darker)
    return tmp_path


def pipeline(folder: Path, name: str) -> str:
    return (
        f'name = "{name}"\npackage = "{folder}/vww.edgepkg"\n[pipeline.source]\nkind = "images"\n'
        f'path = "{folder}/{name}"\n{LEARN}'
    )


def test_a_dark_camera_is_told_from_one_by_day_and_examples_can_be_explained(folder: Path) -> None:
    config = configuration(folder, pipeline(folder, "day"), pipeline(folder, "dark"))
    done = run_until_end(config, "--json")
    assert done.returncode == 0, done.stderr
    assert [entry["results"] for entry in json.loads(done.stdout)["pipelines"]] == [250, 250]
    last = {}
    for name in ("day", "dark"):
        told = [result.extra or {} for result in results_of(folder, name) if result.kind is Kind.DRIFT]
        assert told, "at least one report"
        last[name] = told[-1]
    assert (last["day"]["drifted"], last["dark"]["drifted"]) == (0, 1)
    assert last["dark"]["worst"] in {"brightness", "contrast", "sharpness"}
    kept = [result for result in results_of(folder, "day") if result.kind is Kind.EXAMPLE]
    for result in kept:
        assert (folder / "state" / str((result.extra or {})["file"])).is_file()
    pictures = sorted((folder / "state/examples/day").glob("*.jpg"))
    assert len(pictures) >= max(len(kept), 1)
    command = [sys.executable, "-m", "edgeinfer", "explain", str(pictures[0]), "--config", str(config), "--json"]
    output = folder / "map.png"
    explained = subprocess.run(
        [*command, "--pipeline", "day", "-o", str(output)], capture_output=True, check=False, timeout=240
    )
    assert explained.returncode == 0, explained.stderr
    document = json.loads(explained.stdout)
    about = json.loads(pictures[0].with_suffix(".json").read_bytes())
    assert (document["package"], document["name"]) == ("vww 1.0.0", about["items"][0]["name"])
    assert cv2.imread(str(output)) is not None


def test_a_restart_does_not_learn_again(tmp_path: Path) -> None:
    """Without a reference in the package the first frames are one, and they are kept."""
    make_package(tmp_path / "m.edgepkg", linear_model(tmp_path / "m.onnx"), name="m")
    random = np.random.default_rng(0)
    drift = "[pipeline.drift]\nsample_s = 0.0\ninterval_s = 1e-6\nlearn = 100\nwindow = 100\n"
    config = configuration(
        tmp_path,
        f'name = "p"\npackage = "{tmp_path}/m.edgepkg"\n[pipeline.source]\nkind = "tensors"\n'
        f'path = "{tmp_path}/x.npz"\n{drift}',
    )
    reports: list[Result] = []
    for offset in (0.0, 4.0):
        np.savez(tmp_path / "x.npz", x=(random.normal(size=(180, 8)) + offset).astype(np.float32))
        before = len(reports)
        assert run_until_end(config).returncode == 0
        reports = [result for result in results_of(tmp_path, "p") if result.kind is Kind.DRIFT]
        assert [(result.extra or {})["drifted"] for result in reports[before:]][-1] == (offset > 0)
        assert len(reports) - before == (31 if offset == 0.0 else 131)
    (kept,) = (tmp_path / "state" / "learn").glob("p@*.json")
    assert kept.stat().st_size < 1 << 16
