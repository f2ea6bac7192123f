"""LiteRT's schemes on small nets made here: what is kept in which precision, and what is refused."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.quantize.schemes import litert
from edgeinfer.quantize.schemes.base import Precision, Scheme
from edgeinfer.quantize.schemes.litert import ranges
from edgeinfer.quantize.schemes.litert.flatbuffer import parse, slimmed
from edgeinfer.quantize.schemes.litert.graph import precisions
from edgeinfer.runtime.engines import load_engine
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import ModelError
from tflite_models import small_net, two_inputs, with_unknown_operation, without_weights

FIRST, DEPTH, DENSE = "net/conv(1)+relu", "net/conv(1)+relu;depth", "out"
INT4, INT8, FLOAT = Precision.INT4, Precision.INT8, Precision.FLOAT


class Streamed:
    """Calibration inputs that are made when asked for, and counts how often they were gone through."""

    def __init__(self, count: int, *shapes: tuple[int, ...], scales: tuple[float, ...] = (1.0,)) -> None:
        self._count, self._shapes, self._scales = count, shapes, scales
        self.passes = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list[Array]]:
        self.passes += 1
        random = np.random.default_rng(5)
        for _ in range(self._count):
            yield [
                random.normal(0.0, scale, shape).astype(np.float32)
                for shape, scale in zip(self._shapes, self._scales, strict=True)
            ]


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.tflite"
    path.write_bytes(small_net())
    return path


def images(count: int = 24) -> Streamed:
    return Streamed(count, (1, 8, 8, 3))


def scheme(name: str, model: Path) -> Scheme:
    return next(one for one in litert.schemes(model) if one.id == f"litert-{name}")


def outputs(path: Path, calibration: Streamed) -> Array:
    """Of each input, float; integer inputs and outputs by their scales."""
    engine = load_engine("litert", path)
    results = []
    for row in calibration:
        fed = []
        for value, spec in zip(row, engine.inputs, strict=True):
            if spec.scale is None:
                fed.append(value)
            else:
                limits = np.iinfo(spec.dtype)
                steps = np.rint(value / spec.scale) + (spec.zero_point or 0)
                fed.append(np.clip(steps, limits.min, limits.max).astype(spec.dtype))
        result, spec = engine.run(fed)[0], engine.outputs[0]
        real = (result.astype(np.float32) - (spec.zero_point or 0)) * spec.scale if spec.scale else result
        results.append(np.array(real))
    engine.close()
    return np.concatenate(results)


def error(path: Path, float_path: Path, calibration: Streamed) -> float:
    """The mean squared difference to the float model over the variance of its results."""
    expected = outputs(float_path, calibration)
    return float(np.mean((outputs(path, calibration) - expected) ** 2) / expected.var())


def test_layers_are_the_operations_with_weights(net: Path) -> None:
    assert [(layer.name, layer.op, layer.weights) for layer in litert.layers(net)] == [
        (FIRST, "CONV_2D", 432),
        (DEPTH, "DEPTHWISE_CONV_2D", 144),
        (DENSE, "FULLY_CONNECTED", 1024),
    ]


def test_ids_are_unique_and_cheap_ways_come_first(net: Path) -> None:
    made = litert.schemes(net)
    assert len({one.id for one in made}) == len(made)
    assert all(one.engine == "litert" and one.id.startswith("litert-") for one in made)
    assert [one.rung for one in made] == sorted(one.rung for one in made)
    assert all(one.own not in one.mixes for one in made)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("int8-dynamic", 1e-3),
        ("int8-weights", 1e-4),
        ("int8", 2e-3),
        ("int8-mse", 2e-3),
        ("int8-ma", 0.2),
        ("int8-plain", 2e-3),
        ("int16", 1e-4),
        ("int4-weights", 5e-2),
        ("int4-dynamic", 5e-2),
        ("fp16-weights", 1e-5),
    ],
)
def test_every_scheme_gives_a_smaller_model_that_does_nearly_the_same(
    net: Path, tmp_path: Path, name: str, most: float
) -> None:
    target = tmp_path / "q.tflite"
    assert scheme(name, net).make(net, target, images(), {}) == ""
    assert target.stat().st_size < 0.5 * net.stat().st_size
    assert error(target, net, images()) < most


def test_fitted_weights_are_closer_than_rounded_ones(net: Path, tmp_path: Path) -> None:
    weights = scheme("int4-weights", net)
    fitted, rounded = tmp_path / "fitted.tflite", tmp_path / "rounded.tflite"
    assert weights.make(net, fitted, images(), {}) == ""
    assert weights.make(net, rounded, [], {}) == ""  # without inputs there is nothing to fit to
    assert fitted.stat().st_size == rounded.stat().st_size
    assert error(fitted, net, images()) < 0.5 * error(rounded, net, images())


@pytest.mark.parametrize("name", ["int8-weights", "int8-dynamic", "int8", "int8-mse"])
@pytest.mark.parametrize(
    ("plan", "kept"),
    [
        ({}, [INT8, INT8, INT8]),
        ({FIRST: INT4}, [INT4, INT8, INT8]),
        ({DENSE: INT4, DEPTH: FLOAT}, [INT8, FLOAT, INT4]),
        ({FIRST: FLOAT}, [FLOAT, INT8, INT8]),
        ({DENSE: FLOAT}, [INT8, INT8, FLOAT]),
    ],
)
def test_a_plan_changes_its_layers_and_no_other(
    net: Path, tmp_path: Path, name: str, plan: dict[str, Precision], kept: list[Precision]
) -> None:
    """The name of the first layer holds characters of regular expressions, and begins that of the second."""
    target = tmp_path / "q.tflite"
    assert scheme(name, net).make(net, target, images(), plan) == ""
    assert precisions(parse(target.read_bytes())) == kept
    assert np.isfinite(outputs(target, images(2))).all()


def test_four_bit_schemes_give_single_layers_more(net: Path, tmp_path: Path) -> None:
    target = tmp_path / "q.tflite"
    assert scheme("int4-weights", net).make(net, target, images(), {FIRST: INT8}) == ""
    assert precisions(parse(target.read_bytes())) == [INT8, INT8, INT4]  # a depthwise one cannot have four bits


def test_a_plan_that_cannot_be_followed_is_refused(net: Path, tmp_path: Path) -> None:
    target = tmp_path / "q.tflite"
    said = scheme("int8-weights", net).make(net, target, images(), {DEPTH: INT4})
    assert said == f"DEPTHWISE_CONV_2D '{DEPTH}' cannot be int4: it became int8"
    assert not target.exists()
    with pytest.raises(ModelError, match="found 'net/conv', which is none"):
        scheme("int8-weights", net).make(net, target, images(), {"net/conv": INT4})


def test_several_inputs_are_taken_in_the_models_own_order(tmp_path: Path) -> None:
    path, target = tmp_path / "two.tflite", tmp_path / "q.tflite"
    path.write_bytes(two_inputs())
    calibration = Streamed(30, (1, 4), (1, 8), scales=(1.0, 50.0))
    assert scheme("int8", path).make(path, target, calibration, {}) == ""
    engine = load_engine("litert", target)
    assert [spec.shape for spec in engine.inputs] == [(1, 4), (1, 8)]
    assert engine.inputs[1].scale is not None
    assert engine.inputs[0].scale is not None
    assert engine.inputs[1].scale > 20 * engine.inputs[0].scale
    engine.close()
    assert error(target, path, calibration) < 1e-3


def test_calibration_happens_once_for_all_plans(net: Path, tmp_path: Path) -> None:
    calibration = images()
    make = scheme("int8", net).make
    assert make(net, tmp_path / "q.tflite", calibration, {}) == ""
    passes = calibration.passes
    for plan in ({FIRST: FLOAT}, {DENSE: FLOAT}, {DEPTH: FLOAT}):
        assert make(net, tmp_path / "q.tflite", calibration, plan) == ""
    assert scheme("int8-ma", net).make(net, tmp_path / "q.tflite", calibration, {}) == ""
    assert calibration.passes == passes
    assert make(net, tmp_path / "q.tflite", calibration, {DENSE: INT4}) == ""
    assert calibration.passes == passes + 1  # a layer with four bits is fitted anew, once
    assert scheme("int8-weights", net).make(net, tmp_path / "q.tflite", calibration, {DENSE: INT4}) == ""
    assert calibration.passes == passes + 1


def test_the_same_makes_the_same_bytes(net: Path, tmp_path: Path) -> None:
    for name in ("int8-mse", "int4-weights"):
        for target in ("a", "b"):
            assert scheme(name, net).make(net, tmp_path / target, images(), {DENSE: INT8}) == ""
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_float16_weights_are_quantized_like_float32_ones(net: Path, tmp_path: Path) -> None:
    half, target = tmp_path / "half.tflite", tmp_path / "q.tflite"
    half.write_bytes(small_net(half=True))
    assert litert.half_weights(half.read_bytes()) == 1
    assert litert.half_weights(net.read_bytes()) == 0
    assert litert.layers(half) == litert.layers(net)
    assert scheme("int8-weights", half).make(half, target, images(), {}) == ""
    assert precisions(parse(target.read_bytes())) == [INT8, INT8, INT8]
    assert error(target, half, images()) < 1e-4


def test_nothing_to_quantize_is_said(tmp_path: Path) -> None:
    path = tmp_path / "relu.tflite"
    path.write_bytes(without_weights())
    said = {one.make(path, tmp_path / "q.tflite", Streamed(2, (1, 4)), {}) for one in litert.schemes(path)}
    assert said == {
        "nothing was quantized: no weight tensor became an integer one",
        "nothing was changed: no weight tensor became a float16 one",
    }


def test_operations_that_nobody_has_are_named(tmp_path: Path) -> None:
    path = tmp_path / "custom.tflite"
    path.write_bytes(with_unknown_operation())
    with pytest.raises(ModelError, match="NobodysOperation"):
        litert.schemes(path)


def test_calibration_that_does_not_fit_is_refused(net: Path, tmp_path: Path) -> None:
    make = scheme("int8", net).make
    with pytest.raises(ModelError, match="calibration failed: Cannot set tensor: Dimension mismatch"):
        make(net, tmp_path / "q", Streamed(2, (1, 8, 8, 1)), {})
    with pytest.raises(ModelError, match="expected 1 inputs to calibrate with, found 2"):
        make(net, tmp_path / "q", Streamed(2, (1, 8, 8, 3), (1, 2), scales=(1.0, 1.0)), {})
    with pytest.raises(ModelError, match="expected calibration inputs, found none"):
        make(net, tmp_path / "q", images(0), {})
    with pytest.raises(ModelError, match="is not a number"):
        make(net, tmp_path / "q", [[np.full((1, 8, 8, 3), np.nan, np.float32)]], {})
    assert not (tmp_path / "q").exists()


def test_what_failed_is_not_remembered(net: Path) -> None:
    rows = [[np.full((1, 8, 8, 3), np.nan, np.float32)]]
    content = litert.normalized(net.read_bytes())
    with pytest.raises(ModelError):
        ranges.learnt(content, rows, ranges.Statistic.MIN_MAX)
    rows[0][0][:] = 1.0
    assert ranges.learnt(content, rows, ranges.Statistic.MIN_MAX)["x"] == (1.0, 1.0)


def test_a_slim_file_computes_the_same(net: Path, tmp_path: Path) -> None:
    slim = tmp_path / "slim.tflite"
    slim.write_bytes(slimmed(net.read_bytes()))
    assert slim.stat().st_size < net.stat().st_size - 4 * 5000
    np.testing.assert_array_equal(outputs(slim, images(3)), outputs(net, images(3)))
    before, after = load_engine("litert", net), load_engine("litert", slim)
    assert (before.inputs, before.outputs) == (after.inputs, after.outputs)


def test_bytes_that_are_no_model(tmp_path: Path) -> None:
    path = tmp_path / "no.tflite"
    path.write_bytes(b"\xff" * 64)
    for refused in (litert.integer_weights, litert.normalized, litert.half_weights):
        with pytest.raises(ModelError, match="is no TFLite model"):
            refused(path.read_bytes())
    with pytest.raises(ModelError):
        litert.layers(path)
