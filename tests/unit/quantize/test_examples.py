"""The project's own small models: there, small, and as good as their description says."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.quantize import example_files
from edgeinfer.quantize.commands import quantize_model
from edgeinfer.runtime.engines import load_engine
from edgeinfer.runtime.manifest import AnomalyPost, WindowPre
from edgeinfer.runtime.package import PackageFile
from edgeinfer.runtime.preprocess import compile_preprocess

MODELS = ("digits-1.0.onnx", "digits-2.0.onnx", "vitals-1.0.onnx")
OTHERS = (
    "digits-samples.npz",
    "digits-labels.txt",
    "vitals-samples.npz",
    "vitals-preprocess.toml",
    "digits.avi",
    "digits.csv",
)


def test_all_files_are_there_and_small() -> None:
    folder = example_files()
    assert all((folder / name).is_file() for name in (*MODELS, *OTHERS))
    assert all((folder / name).stat().st_size < 200_000 for name in MODELS)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2_500_000


@pytest.mark.parametrize(("version", "least", "clip"), [("1.0", 0.91, 0.9), ("2.0", 0.95, 0.98)])
def test_digits_are_recognised_in_the_samples_and_in_the_clip(
    tmp_path: Path, version: str, least: float, clip: float
) -> None:
    folder = example_files()
    document = quantize_model(
        [folder / f"digits-{version}.onnx"],
        data=folder / "digits-samples.npz",
        task="classification",
        name="digits",
        version=f"{version}.0",
        output=tmp_path / "digits.edgepkg",
        labels=folder / "digits-labels.txt",
    )
    assert document["chosen"]["metric_value"] >= least
    assert _recognised_in_clip(tmp_path / "digits.edgepkg", tmp_path / "installed") >= clip


def _recognised_in_clip(package_file: Path, installed: Path) -> float:
    """The share of readable frames that the package's first variant names, with the device's preprocessing."""
    cv2 = pytest.importorskip("cv2")
    with PackageFile(package_file) as package:
        package.extract_to(installed)
        manifest = package.manifest
    variant = manifest.variants[0]
    engine = load_engine(variant.engine, installed / variant.file)
    prepare = compile_preprocess(manifest.preprocess, engine.inputs[0])
    target = prepare.new_target()
    with (example_files() / "digits.csv").open(newline="") as file:
        labels = [int(row["label"]) for row in csv.DictReader(file)]
    video = cv2.VideoCapture(str(example_files() / "digits.avi"))
    right = []
    for label in labels:
        there, frame = video.read()
        assert there
        prepare(frame, target)
        if label >= 0:
            right.append(int(engine.run([target])[0].argmax()) == label)
    video.release()
    engine.close()
    return float(np.mean(right))


def test_vitals_tell_anomalies_from_normal_windows(tmp_path: Path) -> None:
    folder = example_files()
    document = quantize_model(
        [folder / "vitals-1.0.onnx"],
        data=folder / "vitals-samples.npz",
        task="anomaly",
        name="vitals",
        version="1.0.0",
        output=tmp_path / "vitals.edgepkg",
        preprocess=str(folder / "vitals-preprocess.toml"),
    )
    assert document["metric"] == "auc"
    assert document["chosen"]["metric_value"] > 0.98
    with PackageFile(tmp_path / "vitals.edgepkg") as package:
        manifest = package.manifest
        json.loads(package.read("report.json"))
    assert isinstance(manifest.preprocess, WindowPre)
    assert manifest.preprocess.length == 16
    assert len(manifest.preprocess.channels) == 5
    assert isinstance(manifest.postprocess, AnomalyPost)
    assert 0.0 < manifest.postprocess.threshold < 1.0
