"""Which multiply-accumulates a model is made of: counted by hand, and the same in every format of the same model."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeinfer.devices.kernels import EVEN, Op
from edgeinfer.quantize.targets.opmix import Work, count_work
from edgeinfer.runtime.errors import ModelError

Shape = tuple[int | str, ...]
Sizes = tuple[int, ...]


def model(path: Path, node: onnx.NodeProto, tensors: dict[str, Sizes], shapes: tuple[Shape, Shape]) -> Path:
    """One node from x to y; `shapes` are those of the two."""
    zeros = [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in tensors.items()]
    into, out = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in zip("xy", shapes, strict=True)
    )
    graph = helper.make_graph([node], "g", [into], [out], zeros)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def node(kind: str, inputs: str = "xw", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), ["y"], **attributes)


@pytest.mark.parametrize(
    ("made", "weight", "shapes", "op", "macs"),
    [
        (node("Conv"), (8, 3, 5, 5), ((1, 3, 9, 9), (1, 8, 5, 5)), Op.DENSE, 8 * 5 * 5 * 3 * 5 * 5),
        (node("Conv", group=6), (6, 1, 3, 3), ((1, 6, 8, 8), (1, 6, 6, 6)), Op.DEPTHWISE, 6 * 6 * 6 * 3 * 3),
        (node("Conv", group=2), (6, 3, 3, 3), ((1, 6, 8, 8), (1, 6, 6, 6)), Op.DENSE, 6 * 6 * 6 * 3 * 3 * 3),
        (node("ConvTranspose"), (3, 4, 2, 2), ((1, 3, 5, 5), (1, 4, 6, 6)), Op.DENSE, 3 * 5 * 5 * 4 * 2 * 2),
        (node("MatMul"), (10, 4), (("batch", 7, 10), ("batch", 7, 4)), Op.GEMM, 7 * 4 * 10),
        (node("Gemm", transA=1), (10, 4), ((10, 7), (7, 4)), Op.GEMM, 7 * 4 * 10),
    ],
)
def test_one_operation(
    tmp_path: Path, made: onnx.NodeProto, weight: Sizes, shapes: tuple[Shape, Shape], op: Op, macs: int
) -> None:
    work = count_work(model(tmp_path / "m.onnx", made, {"w": weight}, shapes))
    assert work == Work({**dict.fromkeys(Op, 0), op: macs}, 1)


def test_a_recurrent_one_multiplies_its_input_and_its_state_for_each_gate(tmp_path: Path) -> None:
    made = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=5)
    path = model(tmp_path / "m.onnx", made, {"w": (1, 20, 3), "r": (1, 20, 5)}, ((7, 1, 3), (7, 1, 1, 5)))
    assert count_work(path).macs[Op.GEMM] == 7 * 4 * 5 * (3 + 5)


def test_where_nothing_can_be_counted_the_mix_is_even(tmp_path: Path) -> None:
    path = model(tmp_path / "m.onnx", node("Relu", "x"), {}, ((1, 3), (1, 3)))
    assert (count_work(path).total, count_work(path).mix) == (0, EVEN)


@pytest.mark.parametrize("name", ["m.onnx", "m.tflite"])
@pytest.mark.parametrize("content", [b"", b"no model", b"\xff" * 400])
def test_what_is_no_model_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    if content or name.endswith("tflite"):  # an empty file is an empty protocol buffer
        with pytest.raises(ModelError):
            count_work(tmp_path / name)
    with pytest.raises(ModelError):
        count_work(tmp_path / f"absent-{name}")


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "total", "depthwise", "gemm"),
    [
        ("ic", 12_501_632, 0.0, 0.0),
        ("kws", 2_656_768, 0.108, 0.0),
        ("vww", 7_489_664, 0.107, 0.0),
        ("ad", 264_192, 0, 1),
    ],
)
def test_all_formats_of_a_model_have_the_same_work(
    data_dir: Path, name: str, total: int, depthwise: float, gemm: float
) -> None:
    files = [data_dir / "tiny" / f"{name}{end}" for end in (".onnx", "_float.tflite", "_int8.tflite")]
    works = [count_work(file) for file in files]
    assert works[0] == works[1] == works[2]
    assert works[0].total == total
    assert works[0].mix.depthwise == pytest.approx(depthwise, abs=1e-3)
    assert works[0].mix.gemm == pytest.approx(gemm, abs=1e-3)


@pytest.mark.data
@pytest.mark.parametrize("file", ["FastestDet.onnx", "face_rfb_320.onnx", "silero_vad_16k_op15.onnx", "mnist.onnx"])
def test_real_models_can_be_counted(data_dir: Path, file: str) -> None:
    mix = count_work(data_dir / "models" / file).mix
    assert mix.dense + mix.depthwise + mix.gemm == pytest.approx(1.0)
