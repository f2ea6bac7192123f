"""Classical models from their export to the device, and bad files, all by the command line."""

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.gate import run_gate
from edgeinfer.runtime.model import LoadedModel
from edgeinfer.runtime.store import Store
from odd_models import INPUTS, dense, save, value

pytestmark = pytest.mark.timeout(1200)

FEATURES = 8
RANDOM = np.random.default_rng(8)
X: Array = RANDOM.normal(size=(300, FEATURES)).astype(np.float32)
Y: Array = (X[:, 0] + X[:, 1] > 0).astype(np.int64) + (X[:, 2] > 0.5)
OUTLIERS: Array = np.concatenate([X, X[:40] * 5])


def quantize(folder: Path, *models: Path, task: str, x: Array, y: Array) -> "subprocess.CompletedProcess[str]":
    np.savez(folder / "samples.npz", x=x, y=y)
    command = [sys.executable, "-m", "edgeinfer", "quantize", *map(str, models), "--data", str(folder / "samples.npz")]
    command += ["--task", task, "--name", "m", "--version", "1.0.0", "--max-drop", "5", "--json"]
    command += ["-o", str(folder / "m.edgepkg")]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)


def exported(name: str, path: Path) -> Any:
    """The estimator, trained and exported to `path`."""
    pytest.importorskip("skl2onnx", reason="skl2onnx is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those who train and export warn of things that are theirs
        estimator, content = _sklearn(name) if name in {"mlp", "forest", "outliers"} else _boosted(name)
    path.write_bytes(content)
    return estimator


def _sklearn(name: str) -> tuple[Any, bytes]:
    import skl2onnx
    from sklearn.ensemble import IsolationForest, RandomForestClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    estimator = {
        "mlp": make_pipeline(StandardScaler(), MLPClassifier((64,), max_iter=60, random_state=1)),
        "forest": RandomForestClassifier(8, random_state=1),
        "outliers": IsolationForest(n_estimators=8, random_state=1),
    }[name]
    estimator.fit(X, Y)
    opset = {"target_opset": {"": 15, "ai.onnx.ml": 3}} if name == "outliers" else {}
    return estimator, skl2onnx.to_onnx(estimator, X[:1], **opset).SerializeToString()


def _boosted(name: str) -> tuple[Any, bytes]:
    module = pytest.importorskip(name, reason=f"{name} is not installed")
    onnxmltools = pytest.importorskip("onnxmltools", reason="onnxmltools is not installed")
    from onnxmltools.convert.common.data_types import FloatTensorType

    types = [("x", FloatTensorType([None, FEATURES]))]
    if name == "xgboost":
        estimator = module.XGBClassifier(n_estimators=4, n_jobs=1).fit(X, Y)
        return estimator, onnxmltools.convert_xgboost(estimator, initial_types=types).SerializeToString()
    estimator = module.LGBMClassifier(n_estimators=4, n_jobs=1, verbose=-1).fit(X, Y)
    return estimator, onnxmltools.convert_lightgbm(estimator, initial_types=types).SerializeToString()


@pytest.mark.parametrize("name", ["mlp", "forest", "xgboost", "lightgbm"])
def test_a_classifier_from_its_export_to_the_device(tmp_path: Path, name: str) -> None:
    estimator = exported(name, tmp_path / "m.onnx")
    done = quantize(tmp_path, tmp_path / "m.onnx", task="classification", x=X, y=Y)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["chosen"]["metric_value"] >= document["float"]["metric_value"] - 0.05
    if name != "mlp":
        assert document["chosen"]["variant"] == "onnx-fp32"
        assert "trees" in done.stdout + done.stderr
    assert "Warning" not in done.stderr
    assert "graph.cc" not in done.stderr
    said = _labels(tmp_path)
    assert np.mean(said == estimator.predict(X[: len(said)])) >= 0.9


def test_an_outlier_detector_from_its_export_to_the_device(tmp_path: Path) -> None:
    exported("outliers", tmp_path / "m.onnx")
    y = np.repeat([0, 1], [len(X), len(OUTLIERS) - len(X)])
    done = quantize(tmp_path, tmp_path / "m.onnx", task="anomaly", x=OUTLIERS, y=y)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["chosen"]["metric_value"] > 0.9


def _labels(folder: Path) -> Array:
    """What the device says of some samples, variant by variant the same as when it was made."""
    installed = Store(folder / "state").install(folder / "m.edgepkg")
    for variant in installed.manifest.variants:
        assert run_gate(installed, variant=variant.id).variant == variant.id
    model = LoadedModel(installed)
    labels: list[int] = []
    for index, row in enumerate(X[:60]):
        prepared = model.prepare(Frame(row.reshape(1, -1), 0, 0, index))
        items = model.infer(prepared).items
        labels.append(items[0].label)
        model.release(prepared)
    return np.array(labels)


def _bad_file(name: str, folder: Path) -> list[Path]:
    path = folder / f"{name}.onnx"
    if name == "empty":
        path.touch()
    elif name == "garbage":
        path.write_bytes(b"<!DOCTYPE html><title>404</title>")
    elif name == "truncated":
        path.write_bytes(dense().SerializeToString()[:150])
    elif name == "custom":
        save(dense(change=lambda model: setattr(model.graph.node[0], "domain", "com.acme")), path)
    elif name == "two inputs":
        save(dense(change=lambda model: model.graph.input.append(value("other", [1, 2]))), path)
    elif name == "zero":
        save(dense(change=lambda model: model.graph.input[0].CopyFrom(value("x", [1, 0]))), path)
    elif name == "open":
        save(dense(batch="n", features="features"), path)
    elif name == "suffix":
        path = path.with_suffix(".pt")
        path.touch()
    return [path]


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("empty", 1, "found an empty file"),
        ("garbage", 1, "is no ONNX model"),
        ("truncated", 1, "is no ONNX model"),
        ("custom", 1, "custom operator MatMul of the domain 'com.acme' in the node 'dense'"),
        ("zero", 1, "hold something"),
        ("missing", 2, "no such"),
        ("suffix", 2, "found '.pt'"),
        ("two inputs", 2, "found 2: x, other"),
        ("open", 2, "'features'"),
    ],
)
def test_a_bad_file_is_refused_with_its_reason(tmp_path: Path, name: str, status: int, said: str) -> None:
    x = np.zeros((20, 2, INPUTS) if name == "open" else (20, INPUTS), np.float32)
    done = quantize(tmp_path, *_bad_file(name, tmp_path), task="classification", x=x, y=np.arange(20) % 3)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert "hint:" in done.stderr or name in {"missing", "suffix"}
    assert "Traceback" not in done.stderr
    assert not done.stdout
    assert not (tmp_path / "m.edgepkg").exists()


@pytest.mark.data
@pytest.mark.parametrize(
    ("models", "status", "said"),
    [
        (["models/invalid_custom_op.tflite"], 1, "unresolved custom op: fake-op-double"),
        (["tiny/kws.onnx", "tiny/kws_dynrange.tflite"], 2, "quantized already: 5 of its weight tensors"),
        (["tiny/ic.onnx", "tiny/vww_float.tflite"], 2, "(96, 96, 3)"),
    ],
)
def test_models_of_the_data_folder_that_are_refused(
    data_dir: Path, tmp_path: Path, models: list[str], status: int, said: str
) -> None:
    paths = [data_dir / model for model in models]
    shape = (49, 10, 1) if "kws" in models[0] else (32, 32, 3)
    x = RANDOM.normal(size=(40, *shape)).astype(np.float32)
    done = quantize(tmp_path, *paths, task="classification", x=x, y=np.arange(40) % 4)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert not (tmp_path / "m.edgepkg").exists()
