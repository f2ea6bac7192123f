"""ONNX schemes on real models: every one of them is made, runs, and stays near the float model."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from data_files import published
from edgeinfer.quantize.schemes.base import Precision, Scheme
from edgeinfer.quantize.schemes.onnx import blocks, layers, schemes
from edgeinfer.quantize.schemes.onnx.weighted import weighted_operations
from edgeinfer.runtime.engines import load_engine
from edgeinfer.runtime.engines.base import Array

pytestmark = pytest.mark.data

_CALIBRATION, _TEST = 40, 60
# Root of the mean squared difference to the float outputs, over that of these. What 4 bits do to a model is for the
# search to find out; here it is enough that the file runs.
_NEAR = {"fp32": 1e-3, "fp16": 0.02, "fp16-weights": 0.02, "int8-weights": 0.1, "int8": 0.35, "int8-dynamic": 0.2}


def _tiny(data_dir: Path, task: str) -> Array:
    """float32 (100, ...) as the model takes them (README of the data)."""
    with np.load(data_dir / "tiny" / f"{task}_samples.npz") as samples:
        if task == "ad":
            frames = samples["frames"][:100]
            return np.stack([one[40:45].reshape(-1) for one in frames]).astype(np.float32)
        pixels: Array = samples["x"][:: max(1, len(samples["x"]) // 100)][:100].astype(np.float32)
    if task == "kws":
        pixels = (pixels - np.float32(83)) * np.float32(0.5847029089927673)
    elif task == "vww":
        pixels = pixels / np.float32(255)
    return pixels


class _Rows:
    def __init__(self, samples: Array) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[list[Array]]:
        return ([self._samples[index : index + 1]] for index in range(len(self)))


def _outputs(path: Path, samples: Array) -> Array:
    engine = load_engine("onnx", path)
    try:
        return np.concatenate([engine.run([samples[i : i + 1]])[0].reshape(1, -1) for i in range(len(samples))])
    finally:
        engine.close()


def _scheme(model: Path, name: str) -> Scheme:
    return next(scheme for scheme in schemes(model) if scheme.id == name)


@pytest.mark.parametrize("task", ["ic", "kws", "vww", "ad"])
def test_every_scheme_on_a_tiny_model(data_dir: Path, tmp_path: Path, task: str) -> None:
    model, samples = data_dir / "tiny" / f"{task}.onnx", _tiny(data_dir, task)
    rows, test = _Rows(samples[:_CALIBRATION]), samples[_CALIBRATION:]
    wanted = _outputs(model, test)
    for scheme in schemes(model):
        target = tmp_path / f"{scheme.id}.onnx"
        said = scheme.make(model, target, rows, {})
        if said:
            assert said.startswith("nothing was slimmed"), f"{scheme.id}: {said}"
            continue
        found = _outputs(target, test)
        distance = float(np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean()))
        assert np.isfinite(found).all(), scheme.id
        if not scheme.id.endswith(("-full", "s8s8", "s8s8-tensor")):  # those saturate on some CPUs
            assert distance < _NEAR.get(scheme.precision, np.inf), f"{scheme.id}: {distance}"


@pytest.mark.parametrize(("task", "share"), [("ic", 0.32), ("kws", 0.42), ("vww", 0.34), ("ad", 0.29)])
def test_stored_weights_are_a_third_of_the_file(data_dir: Path, tmp_path: Path, task: str, share: float) -> None:
    model, target = data_dir / "tiny" / f"{task}.onnx", tmp_path / "q.onnx"
    assert _scheme(model, "onnx-int8-weights").make(model, target, [], {}) == ""
    assert target.stat().st_size < share * model.stat().st_size
    assert not list(weighted_operations(onnx.load(str(target)).graph)), "no layer keeps float weights"


def test_matrices_joined_with_their_biases_are_not_passed_over(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optimizers make Gemm of MatMul and Add, which the tools for MatMulNBits pass over without a word."""
    model, target = data_dir / "tiny" / "ad.onnx", tmp_path / "q.onnx"
    assert {layer.op for layer in layers(model)} == {"Gemm"}
    scheme = _scheme(model, "onnx-int4-blocks")
    assert scheme.make(model, target, [], {}) == ""
    made = onnx.load(str(target))
    packed = [node for node in made.graph.node if node.op_type == "MatMulNBits"]
    assert len(packed) == len(layers(model))
    assert {entry.i for node in packed for entry in node.attribute if entry.name == "bits"} == {4}
    assert target.stat().st_size < 0.2 * model.stat().st_size
    monkeypatch.setattr(blocks, "split_gemm", lambda _: None)
    assert scheme.make(model, target, [], {}) == "nothing was quantized: 0 of 10 matrices are multiplied in blocks"


def test_a_plan_on_a_real_model(data_dir: Path, tmp_path: Path) -> None:
    model, target = data_dir / "tiny" / "ic.onnx", tmp_path / "q.onnx"
    rows = _Rows(_tiny(data_dir, "ic")[:10])
    first, *_, last = layers(model)
    plan = {first.name: Precision.FLOAT, last.name: Precision.FLOAT}
    for name in ("onnx-u8s8", "onnx-u8u8", "onnx-int8-weights", "onnx-int8-dynamic"):
        assert _scheme(model, name).make(model, target, rows, plan) == ""
        left = [operation.name for operation in weighted_operations(onnx.load(str(target)).graph)]
        assert left == [first.name, last.name], name
        load_engine("onnx", target).close()


@pytest.mark.parametrize(
    ("name", "shape", "scale"),
    [("mobilenet_v1_0.5_160_float", (160, 160, 3), 0.5), ("mnist", (1, 28, 28), 255.0)],
)
def test_larger_and_older_models(
    data_dir: Path, tmp_path: Path, name: str, shape: tuple[int, ...], scale: float
) -> None:
    model = data_dir / "models" / f"{name}.onnx"
    samples = (np.random.default_rng(0).uniform(0, 1, (8, *shape)) * scale).astype(np.float32)
    made = 0
    for scheme in schemes(model):
        if scheme.rung > 1:
            continue
        target = tmp_path / f"{scheme.id}.onnx"
        said = scheme.make(model, target, _Rows(samples), {})
        assert not said or said.startswith("nothing was slimmed"), f"{scheme.id}: {said}"
        if not said:
            assert np.isfinite(_outputs(target, samples[:1])).all(), scheme.id
            made += 1
    assert made >= 8


def test_a_network_in_branches_keeps_what_is_in_them(data_dir: Path, tmp_path: Path) -> None:
    """The speech detector: three inputs, a state, and If, near which slimming tools lose inputs."""
    model, target = published(data_dir, "models/silero_vad_16k_op15.onnx"), tmp_path / "q.onnx"
    names = [value.name for value in onnx.load(str(model)).graph.input]
    assert _scheme(model, "onnx-int8-weights").make(model, target, [], {}) == ""
    made = onnx.load(str(target))
    assert [value.name for value in made.graph.input] == names
    assert TensorProto.INT8 in {one.data_type for one in made.graph.initializer}
    random = np.random.default_rng(0)
    sound = (random.standard_normal((1, 576)) * 0.05).astype(np.float32)
    inputs: list[Array] = [sound, np.zeros((2, 1, 128), np.float32), np.array(16_000, np.int64)]
    outputs = []
    for path in (model, target):
        engine = load_engine("onnx", path)
        outputs.append(engine.run(inputs)[0])
        engine.close()
    np.testing.assert_allclose(outputs[1], outputs[0], atol=0.02)
