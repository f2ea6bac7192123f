"""Convolutions in the form of the engine's fastest kernels: the same results, and only where there are such kernels."""

import wave
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from data_files import published
from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.feeding import Feeding
from edgeinfer.quantize.intake.taking import take_in
from edgeinfer.quantize.offers import gather, offers_of
from edgeinfer.quantize.schemes.onnx import rearranged
from edgeinfer.quantize.schemes.onnx.convolutions import fill_channels, make_planes
from edgeinfer.quantize.schemes.onnx.modelproto import copied, load, open_session
from edgeinfer.quantize.schemes.onnx.preparation import prepared
from edgeinfer.quantize.schemes.onnx.shapes import forget_gone, with_shapes
from edgeinfer.runtime.engines import load_engine
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.manifest import Constant, StateTensor
from tiny_tasks import Calibrating

_LENGTH = 24


def _model(nodes: Sequence[onnx.NodeProto], *, shape: Sequence[int | str] = (1, 8, _LENGTH)) -> onnx.ModelProto:
    """float32 x of `shape` to y. All else that the nodes read are constants, of the shape in their name: w16x8x3, b16;
    those that begin with v are positive."""
    random = np.random.default_rng(1)
    made = {name for node in nodes for name in node.output} | {"x", ""}
    wanted = dict.fromkeys(name for node in nodes for name in node.input if name not in made)
    constants = []
    for name in wanted:
        sizes = [int(size) for size in name[1:].split("_")[0].split("x")]
        values = np.abs(random.standard_normal(sizes)) if name[0] == "v" else random.standard_normal(sizes) * 0.2
        constants.append(numpy_helper.from_array(values.astype(np.float32), name))
    graph = helper.make_graph(
        nodes,
        "rows",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    return with_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def _said(model: onnx.ModelProto, x: Array) -> Array:
    said: Array = open_session(model).run(None, {"x": x})[0]
    return said


def _rows(channels: int = 8, length: int = _LENGTH) -> Array:
    return np.random.default_rng(2).standard_normal((1, channels, length)).astype(np.float32)


def _on_planes(model: onnx.ModelProto) -> onnx.ModelProto:
    made = copied(model)
    assert make_planes(made.graph) > 0
    forget_gone(made.graph)
    onnx.checker.check_model(made, full_check=True)
    return made


def _kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pads": [2, 1], "strides": [2], "kernel_shape": [3]},
        {"dilations": [3], "pads": [3, 3]},
        {"auto_pad": "SAME_UPPER", "strides": [2]},
        {"auto_pad": "VALID", "dilations": [2]},
    ],
)
def test_a_convolution_along_one_axis_is_one_over_a_picture(attributes: dict[str, Any]) -> None:
    model = _model([helper.make_node("Conv", ["x", "w16x8x3", "b16"], ["y"], **attributes)])
    made = _on_planes(model)
    assert [tuple(one.dims) for one in made.graph.initializer if one.name.startswith("w")] == [(16, 8, 1, 3)]
    assert [node.op_type for node in made.graph.node] == ["Unsqueeze", "Conv", "Squeeze"]
    np.testing.assert_allclose(_said(made, _rows()), _said(model, _rows()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("weight", "groups"), [("w16x1x5", 8), ("w16x4x3", 2)])
def test_groups_stay_apart(weight: str, groups: int) -> None:
    model = _model([helper.make_node("Conv", ["x", weight], ["y"], group=groups)])
    np.testing.assert_allclose(_said(_on_planes(model), _rows()), _said(model, _rows()), rtol=1e-5, atol=1e-6)


def test_what_lies_between_two_of_them_stays_a_picture() -> None:
    """Also a sum of two branches, and a result that is taken twice, once as a row."""
    model = _model(
        [
            helper.make_node("Conv", ["x", "w16x8x3", "b16"], ["first"], pads=[1, 1]),
            helper.make_node("BatchNormalization", ["first", "g16", "b16_2", "m16", "v16"], ["normal"]),
            helper.make_node("LeakyRelu", ["normal"], ["bent"], alpha=0.2),
            helper.make_node("MaxPool", ["bent"], ["pooled"], kernel_shape=[3], strides=[2], pads=[1, 0], ceil_mode=1),
            helper.make_node("Conv", ["pooled", "w16x16x3"], ["second"], pads=[1, 1]),
            helper.make_node("Add", ["pooled", "second"], ["sum"]),
            helper.make_node("AveragePool", ["sum"], ["mean"], kernel_shape=[2], pads=[1, 1], count_include_pad=1),
            helper.make_node("GlobalAveragePool", ["mean"], ["all"]),
            helper.make_node("Softmax", ["pooled"], ["soft"], axis=2),
            helper.make_node("ReduceMax", ["soft"], ["most"], axes=[2], keepdims=1),
            helper.make_node("Add", ["all", "most"], ["y"]),
        ]
    )
    made = _on_planes(model)
    assert (_kinds(made)["Unsqueeze"], _kinds(made)["Squeeze"]) == (1, 2)
    np.testing.assert_allclose(_said(made, _rows()), _said(model, _rows()), rtol=1e-5, atol=1e-6)


def test_a_weight_that_two_share_is_kept_once() -> None:
    nodes = [helper.make_node("Conv", [name, "w16x16x3"], [to], pads=[1, 1]) for name, to in (("x", "h"), ("h", "y"))]
    model = _model(nodes, shape=(1, 16, _LENGTH))
    made = _on_planes(model)
    assert len([one for one in made.graph.initializer if len(one.dims) == 4]) == 1
    np.testing.assert_allclose(_said(made, _rows(16)), _said(model, _rows(16)), rtol=1e-5, atol=1e-6)


def test_an_open_length_stays_open() -> None:
    model = _model([helper.make_node("Conv", ["x", "w16x8x3"], ["y"], pads=[1, 1])], shape=(1, 8, "time"))
    made = _on_planes(model)
    for length in (5, 50):
        rows = _rows(length=length)
        np.testing.assert_allclose(_said(made, rows), _said(model, rows), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("nodes", "channels"),
    [
        ([helper.make_node("Conv", ["x", "w12x8x3"], ["y"])], 8),  # fewer than a block
        ([helper.make_node("Conv", ["x", "w16x33x3"], ["y"])], 33),  # no multiple of four
        ([helper.make_node("ConvTranspose", ["x", "w8x16x3"], ["y"])], 8),  # has no such kernel
        ([helper.make_node("Mul", ["w16x8x3", "w16x8x3_2"], ["w"]), helper.make_node("Conv", ["x", "w"], ["y"])], 8),
    ],
)
def test_what_has_no_faster_kernel_is_left_alone(nodes: list[onnx.NodeProto], channels: int) -> None:
    model = _model(nodes, shape=(1, channels, _LENGTH))
    before = model.SerializeToString(deterministic=True)
    assert make_planes(model.graph) == 0
    assert fill_channels(model.graph) == 0
    assert model.SerializeToString(deterministic=True) == before


def _filled(places: int | str, *, weight: str = "w16x38x1x3", **attributes: Any) -> tuple[onnx.ModelProto, ...]:
    """A convolution over pictures of one row of 38 channels, before and after they were filled up."""
    node = helper.make_node("Conv", ["x", weight], ["y"], pads=[0, 1, 0, 1], **attributes)
    model = _model([node], shape=(1, 38, 1, places))
    made = copied(model)
    filled = fill_channels(made.graph)
    assert filled == _kinds(made)["Pad"]
    onnx.checker.check_model(with_shapes(made), full_check=True)
    return model, made


@pytest.mark.parametrize("places", [1, 4, 8])
def test_channels_are_filled_up_where_there_are_few_places(places: int) -> None:
    model, made = _filled(places)
    assert [tuple(one.dims) for one in made.graph.initializer if len(one.dims) == 4] == [(16, 40, 1, 3)]
    rows = np.random.default_rng(2).standard_normal((1, 38, 1, places)).astype(np.float32)
    np.testing.assert_allclose(_said(made, rows), _said(model, rows), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("places", "weight", "attributes"),
    [
        (9, "w16x38x1x3", {}),
        ("open", "w16x38x1x3", {}),
        (4, "w12x38x1x3", {}),
        (4, "w16x38x1x1", {}),
        (4, "w16x19x1x3", {"group": 2}),
    ],
)
def test_channels_are_not_filled_up_where_it_does_not_pay(
    places: int | str, weight: str, attributes: dict[str, Any]
) -> None:
    model, made = _filled(places, weight=weight, **attributes)
    assert made == model


def test_all_schemes_begin_with_it_and_preparing_again_changes_nothing(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w16x8x3", "b16"], ["h"], pads=[1, 1], name="first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "w16x16x3", "b16"], ["c"], pads=[1, 1], name="second"),
        helper.make_node("GlobalAveragePool", ["c"], ["y"]),
    ]
    path, slim = tmp_path / "m.onnx", tmp_path / "slim.onnx"
    onnx.save(_model(nodes), str(path))
    assert rearranged(path)
    calibration = Calibrating(_rows().repeat(24, axis=0))
    material = gather(Candidate("onnx-fp32", "onnx", "fp32", path, quantized=False), calibration, few=calibration)
    offers = {offer.id: offer for offer in offers_of([material], engines=["onnx"])}
    for name in ("onnx-fp32-slim", "onnx-fp16-weights", "onnx-int8-weights", "onnx-u8s8"):
        target = tmp_path / f"{name}.onnx"
        assert material.schemes[name].make(path, target, calibration, {}) == "", name
        np.testing.assert_allclose(_said(load(target), _rows()), _said(load(path), _rows()), atol=0.1, err_msg=name)
        if name.endswith("-weights"):
            assert offers[name].like == "onnx-fp32-slim", "as fast as that, not as the given file"
    assert offers["onnx-fp32-slim-pruned"].rung == 0
    slim = tmp_path / "onnx-fp32-slim.onnx"
    assert not rearranged(slim)
    assert [node.name for node in prepared(slim).model.graph.node if node.op_type == "Conv"] == ["first", "second"]


@pytest.mark.data
def test_the_speech_detector_says_the_same_along_a_whole_recording(data_dir: Path, tmp_path: Path) -> None:
    model = published(data_dir, "models/silero_vad_16k_op15.onnx")
    feeding = Feeding((StateTensor("state", "stateN"),), (Constant("sr", 16000.0),))
    (taken,) = take_in([model], tmp_path, feeding=feeding, rows=(576,))
    made = prepared(taken.path)
    assert made.rearranged
    convolutions = [node.input[1] for node in made.model.graph.node if node.op_type == "Conv"]
    shapes = {one.name: tuple(one.dims) for one in made.model.graph.initializer}
    assert [shapes[name] for name in convolutions][:2] == [(258, 1, 1, 256), (128, 132, 1, 3)]
    assert not {"If", "Pow", "ReduceMean", "Cast"} & set(_kinds(made.model))
    onnx.save(made.model, str(tmp_path / "made.onnx"))
    said = [_heard(path, data_dir / "audio" / "vad_test.wav") for path in (taken.path, tmp_path / "made.onnx")]
    np.testing.assert_allclose(said[1], said[0], atol=1e-5)
    assert np.ptp(said[0]) > 0.9, "there are speech and silence in it"


def _heard(model: Path, recording: Path) -> Array:
    """The probability of speech in each 512 samples, with the state carried along."""
    with wave.open(str(recording)) as sound:
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2").astype(np.float32) / 32768
    padded = np.concatenate([np.zeros(64, np.float32), samples])
    engine, state, said = load_engine("onnx", model), np.zeros((2, 1, 128), np.float32), []
    for start in range(0, len(samples) - 512, 512):
        spoken, state = engine.run([padded[np.newaxis, start : start + 576], state, np.array(16_000, np.int64)])
        said.append(float(spoken[0, 0]))
    engine.close()
    return np.array(said)
