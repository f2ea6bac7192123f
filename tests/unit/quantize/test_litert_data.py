"""LiteRT's schemes on the published models: the traps that quantizers walk into there, and what plans gain."""

from pathlib import Path

import numpy as np
import pytest

from edgeinfer.quantize.schemes import litert
from edgeinfer.quantize.schemes.base import Precision, Scheme
from edgeinfer.quantize.schemes.litert import flatbuffer
from edgeinfer.runtime.engines import load_engine
from edgeinfer.runtime.engines.base import Array

pytestmark = pytest.mark.data


def scheme(name: str, model: Path) -> Scheme:
    return next(one for one in litert.schemes(model) if one.id == f"litert-{name}")


def rows_of(data_dir: Path, task: str, count: int) -> Array:
    """Float inputs as the models' README has them; of `ad` the first windows of each recording, normal and not."""
    with np.load(data_dir / "tiny" / f"{task}_samples.npz") as samples:
        if task == "ad":
            frames = samples["frames"][:count, :5]
            return np.asarray(frames.reshape(len(frames), 640), np.float32)
        order = np.random.default_rng(0).permutation(len(samples["x"]))[:count]
        x = samples["x"][order].astype(np.float32)
    return np.asarray({"ic": x, "vww": x / 255.0, "kws": (x - 83.0) * 0.5847029089927673}[task], np.float32)


def outputs(path: Path, rows: Array) -> Array:
    engine = load_engine("litert", path)
    spec, result = engine.inputs[0], engine.outputs[0]
    if spec.scale is not None:
        rows = np.clip(np.rint(rows / spec.scale) + (spec.zero_point or 0), -128, 127).astype(np.int8)
    found = np.concatenate([np.array(engine.run([rows[i : i + 1]])[0]) for i in range(len(rows))])
    engine.close()
    return (found.astype(np.float32) - (result.zero_point or 0)) * result.scale if result.scale else found


@pytest.mark.parametrize(
    ("name", "integers"),
    [("ic_float", False), ("ad_float", False), ("kws_float", False), ("kws_dynrange", True), ("ic_int8", True)],
)
def test_integer_weights_are_seen(data_dir: Path, name: str, integers: bool) -> None:
    path = data_dir / "tiny" / f"{name}.tflite"
    assert (litert.integer_weights(path.read_bytes()) > 0) == integers
    assert (litert.schemes(path) == ()) == integers


def test_a_model_with_only_the_deprecated_operator_code_is_mended(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = data_dir / "tiny" / "ad_float.tflite"
    weights = scheme("int8-weights", source)
    assert weights.make(source, tmp_path / "q.tflite", [], {}) == ""
    assert (tmp_path / "q.tflite").stat().st_size < 0.3 * source.stat().st_size
    # Without the mending, the quantizer does nothing and says nothing: that is refused.
    monkeypatch.setattr(flatbuffer, "_filled_codes", lambda _: False)
    assert weights.make(source, tmp_path / "q2.tflite", [], {}).startswith("nothing was quantized")


def test_extremes_keep_what_a_moving_average_cuts_off(data_dir: Path, tmp_path: Path) -> None:
    """The autoencoder's score is its error on rare large values: averaged ranges make them small."""
    source = data_dir / "tiny" / "ad_float.tflite"
    rows = rows_of(data_dir, "ad", 128)
    calibration = [[rows[i : i + 1]] for i in range(len(rows))]
    expected = outputs(source, rows)
    errors = {}
    for name in ("int8", "int8-ma", "int8-dynamic"):
        assert scheme(name, source).make(source, tmp_path / f"{name}.tflite", calibration, {}) == ""
        errors[name] = float(np.mean((outputs(tmp_path / f"{name}.tflite", rows) - expected) ** 2))
    assert errors["int8-ma"] > 5 * errors["int8"]
    assert errors["int8-dynamic"] < errors["int8"]


@pytest.mark.parametrize(("task", "name"), [("kws", "int8-mse"), ("kws", "int8-weights"), ("vww", "int8-weights")])
def test_a_quantized_model_agrees_with_the_float_one(data_dir: Path, tmp_path: Path, task: str, name: str) -> None:
    source, target = data_dir / "tiny" / f"{task}_float.tflite", tmp_path / "q.tflite"
    rows = rows_of(data_dir, task, 400)
    calibration, others = [[rows[i : i + 1]] for i in range(120)], rows[120:]
    assert scheme(name, source).make(source, target, calibration, {}) == ""
    agreement = np.mean(outputs(target, others).argmax(1) == outputs(source, others).argmax(1))
    assert agreement >= 0.975  # 0.99 here; kernels of another CPU may decide some near ties otherwise


@pytest.mark.parametrize(("task", "kept"), [("ic", 3), ("kws", 2), ("vww", 8)])
def test_four_bits_for_single_layers_make_it_smaller_at_the_same_answers(
    data_dir: Path, tmp_path: Path, task: str, kept: int
) -> None:
    source, target = data_dir / "tiny" / f"{task}_float.tflite", tmp_path / "q.tflite"
    weights = scheme("int8-weights", source)
    rows = rows_of(data_dir, task, 300)
    count = len(rows) // 3
    calibration, others = [[rows[i : i + 1]] for i in range(count)], rows[count:]
    expected = outputs(source, others)
    assert weights.make(source, target, calibration, {}) == ""
    whole = target.stat().st_size
    costs = []
    for layer in litert.layers(source):
        if layer.op != "DEPTHWISE_CONV_2D":
            assert weights.make(source, target, calibration, {layer.name: Precision.INT4}) == ""
            saved = whole - target.stat().st_size
            costs.append((float(np.mean((outputs(target, others) - expected) ** 2)) / saved, layer.name))
    plan = {name: Precision.INT4 for _, name in sorted(costs)[:kept]}
    assert weights.make(source, target, calibration, plan) == ""
    assert target.stat().st_size < 0.95 * whole
    agreement = np.mean(outputs(target, others).argmax(1) == expected.argmax(1))
    assert agreement >= 0.97
