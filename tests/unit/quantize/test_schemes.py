"""What quantizers do wrong without saying so is caught here."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

from edgeinfer.quantize.candidate import make_candidates
from edgeinfer.quantize.modelfile import open_model
from edgeinfer.quantize.progress import silent
from edgeinfer.quantize.schemes import litert
from edgeinfer.quantize.schemes import onnx as onnx_schemes
from edgeinfer.quantize.schemes.onnx import (
    dynamic_u8,
    quantized_nodes,
    static_u8s8,
    static_u8s8_percentile,
    static_u8u8,
)
from edgeinfer.runtime.engines import load_engine
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import ModelError


@pytest.mark.parametrize("scheme", [static_u8s8, static_u8s8_percentile])
def test_weights_keep_seven_bits(
    make_model: Callable[..., Path], tmp_path: Path, scheme: Callable[[Path, Path, Array], str]
) -> None:
    """reduce_range: u8 x s8 products are added in 16 bits on AVX2, which saturates with 8-bit weights."""
    target = tmp_path / "q.onnx"
    random = np.random.default_rng(0).uniform(0, 1, (8, 1, 8, 8)).astype(np.float32)
    assert scheme(make_model(), target, random) == ""
    weights = [
        numpy_helper.to_array(initializer)
        for initializer in onnx.load(str(target)).graph.initializer
        if initializer.data_type == TensorProto.INT8 and len(initializer.dims) > 1
    ]
    assert weights
    assert all(np.abs(weight.astype(int)).max() <= 64 for weight in weights)


def test_a_model_without_weights_is_refused_as_a_no_op(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [value], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    path = tmp_path / "relu.onnx"
    onnx.save(model, str(path))
    candidates = make_candidates(open_model(path), np.zeros((2, 4), np.float32), tmp_path, progress=silent)
    said = {candidate.refused for candidate in candidates}
    assert said == {"nothing was quantized: 0 of 0 operations with weights have integer ones"}


def test_constants_among_the_inputs_and_an_old_opset_are_mended(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    model = onnx.load(str(make_model()))
    for initializer in model.graph.initializer:
        shape = list(initializer.dims)
        model.graph.input.append(helper.make_tensor_value_info(initializer.name, TensorProto.FLOAT, shape))
    model.opset_import[0].version = 9
    path, target = tmp_path / "old.onnx", tmp_path / "q.onnx"
    onnx.save(model, str(path))
    assert static_u8s8(path, target, np.zeros((2, 1, 8, 8), np.float32)) == ""
    assert quantized_nodes(target) > 0
    load_engine("onnx", target).close()


def test_the_quantizer_that_fails_is_a_refused_candidate(make_model: Callable[..., Path], tmp_path: Path) -> None:
    wrong_calibration = np.zeros((2, 3), np.float32)
    candidates = make_candidates(open_model(make_model()), wrong_calibration, tmp_path, progress=silent)
    refused = {candidate.id: candidate.refused for candidate in candidates}
    assert refused["onnx-u8s8"].startswith("ONNX quantization failed")
    assert refused["onnx-u8s8-percentile"].startswith("ONNX quantization failed")
    assert refused["onnx-int8-dynamic"] == ""  # it needs no calibration samples


@pytest.mark.parametrize("scheme", [static_u8u8, dynamic_u8])
def test_unsigned_weights_have_eight_bits(
    make_model: Callable[..., Path], tmp_path: Path, scheme: Callable[[Path, Path, Array], str]
) -> None:
    """u8 x u8 kernels widen to 16 bits before they multiply: no 7-bit weights are needed."""
    target = tmp_path / "q.onnx"
    assert scheme(make_model(), target, np.ones((2, 1, 8, 8), np.float32)) == ""
    initializers = onnx.load(str(target)).graph.initializer
    weights = [init for init in initializers if init.data_type == TensorProto.UINT8 and len(init.dims) > 1]
    assert weights
    assert not [init for init in initializers if init.data_type == TensorProto.INT8]
    assert max(int(numpy_helper.to_array(weight).max()) for weight in weights) > 200


def test_weights_that_may_saturate_are_refused(
    make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_reduce_range(*args: object, **options: object) -> None:
        quantize_static(*args, **options | {"reduce_range": False})

    quantize_static = quantization.quantize_static
    monkeypatch.setattr(quantization, "quantize_static", without_reduce_range)
    random = np.random.default_rng(0).uniform(0, 1, (8, 1, 8, 8)).astype(np.float32)
    said = static_u8s8(make_model(), tmp_path / "q.onnx", random)
    assert said.startswith("may saturate on CPUs without VNNI: weight 127 in")


def test_percentiles_leave_out_the_rarest_values(
    make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_schemes, "_PERCENTILE", 99.0)  # of 4096 values, one is not rare enough for 99.99
    samples = np.random.default_rng(0).uniform(0, 1, (70, 1, 8, 8)).astype(np.float32)
    samples[0, 0, 0, 0] = 1000.0

    def input_scale(scheme: Callable[[Path, Path, Array], str]) -> float:
        assert scheme(make_model(), tmp_path / "q.onnx", samples) == ""
        initializers = onnx.load(str(tmp_path / "q.onnx")).graph.initializer
        return next(
            float(numpy_helper.to_array(init)) for init in initializers if init.name in {"x_scale", "flat_scale"}
        )

    assert input_scale(static_u8s8) == pytest.approx(1000 / 255, rel=0.01)
    assert input_scale(static_u8s8_percentile) < 0.02


def test_the_quantizer_prints_nothing_on_stdout(
    make_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_candidates(open_model(make_model()), np.zeros((9, 1, 8, 8), np.float32), tmp_path, progress=silent)
    assert capsys.readouterr().out == ""


def test_a_candidate_that_equals_another_is_not_measured(
    make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_schemes, "static_u8s8_percentile", static_u8s8)
    calibration = np.random.default_rng(0).uniform(0, 1, (8, 1, 8, 8)).astype(np.float32)
    candidates = make_candidates(open_model(make_model()), calibration, tmp_path, progress=silent)
    assert [candidate.refused for candidate in candidates] == ["", "is the same file as onnx-u8s8", "", ""]


@pytest.mark.data
def test_a_model_with_only_the_deprecated_operator_code_is_mended(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = data_dir / "tiny" / "ad_float.tflite"
    calibration = np.zeros((2, 640), np.float32)
    assert litert.weight_only_int8(source, tmp_path / "q.tflite", calibration) == ""
    assert (tmp_path / "q.tflite").stat().st_size < 0.3 * source.stat().st_size
    # Without the mending, the quantizer does nothing and says nothing: that is refused.
    monkeypatch.setattr(litert, "normalized", lambda content: content)
    assert litert.weight_only_int8(source, tmp_path / "q2.tflite", calibration).startswith("nothing was quantized")


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "tensors"),
    [("ic_float", False), ("ad_float", False), ("kws_float", False), ("kws_dynrange", True), ("ic_int8", True)],
)
def test_integer_weights_are_seen(data_dir: Path, name: str, tensors: bool) -> None:
    assert (litert.integer_weights((data_dir / "tiny" / f"{name}.tflite").read_bytes()) > 0) == tensors


def test_bytes_that_are_no_model() -> None:
    with pytest.raises(ModelError):
        litert.integer_weights(b"\xff" * 64)
