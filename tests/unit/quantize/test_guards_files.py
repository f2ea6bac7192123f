"""The census of model files, and what numbers give away."""

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgeinfer.quantize.guards.census import Census, Weights, census, difference, nothing_changed
from edgeinfer.quantize.guards.numerical import check_activations, check_outputs, check_weights, levels_used
from edgeinfer.runtime.errors import ModelError
from tiny_tasks import Calibrating, quantize_u8s8, tiny_rows


@pytest.mark.data
@pytest.mark.filterwarnings("ignore")
def test_a_quantizer_that_sees_only_the_old_operator_codes_is_caught(data_dir: Path, tmp_path: Path) -> None:
    """ai-edge-quantizer, unmended, on a file with `deprecated_builtin_code` alone: it writes the float model."""
    quantizer = pytest.importorskip("ai_edge_quantizer.quantizer")
    recipe = pytest.importorskip("ai_edge_quantizer.recipe")
    source, target = data_dir / "tiny/ad_float.tflite", tmp_path / "ad.tflite"
    made = quantizer.Quantizer(str(source), recipe.weight_only_wi8_afp32()).quantize(
        enable_progress_bar=False, enable_progress_report=False
    )
    target.write_bytes(made.quantized_model)
    assert nothing_changed(census(source), census(target)).startswith(
        "nothing was quantized: 10 weight tensors of 1.06 MB are float as before"
    )
    assert nothing_changed(census(source), census(data_dir / "tiny/ad_int8.tflite")) == ""


@pytest.mark.data
def test_block_quantization_after_fusion_is_caught(data_dir: Path, tmp_path: Path) -> None:
    """quant_pre_process makes each MatMul a Gemm, and the MatMulNBits quantizer then finds none."""
    source, fused = data_dir / "tiny/ad.onnx", tmp_path / "fused.onnx"
    quant_pre_process(str(source), str(fused), skip_symbolic_shape=True)
    said = nothing_changed(census(source), census(fused))
    assert said.startswith("nothing was quantized: 10 weight tensors")
    assert "-10 MatMul" in difference(census(source), census(fused))
    pytest.importorskip("onnx_ir", reason="onnxruntime's MatMulNBits quantizer needs onnx_ir")
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(str(fused)), block_size=32, is_symmetric=True)
    quantizer.process()
    quantizer.model.save_model_to_file(str(tmp_path / "blocks.onnx"), False)
    assert nothing_changed(census(source), census(tmp_path / "blocks.onnx")) == said


@pytest.mark.data
def test_what_static_quantization_changes_is_told(data_dir: Path, tmp_path: Path) -> None:
    source, target = data_dir / "tiny/kws.onnx", tmp_path / "kws.onnx"
    quantize_u8s8(source, target, tiny_rows(data_dir, "kws")[:8], reduce_range=True)
    before, after = census(source), census(target)
    assert nothing_changed(before, after) == ""
    assert set(after.weights) == {"int8"}
    assert after.weights["int8"].bytes * 4 == before.weights["float32"].bytes
    said = difference(before, after)
    assert said.startswith("float32 weights 10 (88.1 kB) -> 0 (0.0 kB); int8 weights 0 (0.0 kB) -> 10 (22.0 kB)")
    assert "DequantizeLinear" in said
    assert difference(before, before) == "nothing"


def test_half_precision_counts_as_smaller_and_indices_do_not() -> None:
    before = Census(1000, {"Conv": 1}, {"float32": Weights(1, 800)})
    assert nothing_changed(before, Census(600, {"Conv": 1}, {"float16": Weights(1, 400)})) == ""
    assert nothing_changed(before, Census(900, {"Conv": 1}, {"float32": Weights(1, 800), "int64": Weights(2, 64)}))


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    for name in ("a.tflite", "a.onnx"):
        (tmp_path / name).write_bytes(b"not a model of any kind")
        with pytest.raises(ModelError):
            census(tmp_path / name)


def test_broken_and_constant_outputs_are_refused() -> None:
    good = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    broken = good.copy()
    broken[1, 2] = np.inf
    assert check_outputs([good], [good]) == ()
    (finding,) = check_outputs([good, broken], [good, good])
    assert (finding.kind, finding.severity) == ("not-finite", "refuse")
    assert finding.text == "output 1 holds NaN or infinity for 1 of 5 samples"
    assert check_outputs([broken], [broken]) == ()
    (finding,) = check_outputs([np.ones_like(good)], [good])
    assert finding.kind == "constant-output"
    assert check_outputs([np.ones_like(good)], [np.ones_like(good)]) == ()


def test_an_outlier_leaves_few_levels() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    even = np.rint(values / np.abs(values).max() * 127).astype(np.int8)
    stretched = np.rint(values / (40 * np.abs(values).max()) * 127).astype(np.int8)
    stretched[0] = 127
    assert levels_used(even) > 100
    assert levels_used(stretched) < 8
    assert levels_used(even[:4]) == 0


def _with_outlier(source: Path, target: Path) -> Path:
    """The same model with one weight of its first layer 200 times as large as any other."""
    model = onnx.load(str(source))
    name = next(node.input[1] for node in model.graph.node if node.op_type == "Conv")
    initializer = next(item for item in model.graph.initializer if item.name == name)
    weights = copy.copy(onnx.numpy_helper.to_array(initializer))
    weights.flat[0] = 200 * np.abs(weights).max()
    initializer.CopyFrom(onnx.numpy_helper.from_array(weights, name))
    onnx.save(model, str(target))
    return target


@pytest.mark.data
def test_outliers_in_weights_and_activations_are_named(data_dir: Path, tmp_path: Path) -> None:
    rows = tiny_rows(data_dir, "kws")[:24]
    plain, bad = tmp_path / "plain.onnx", tmp_path / "bad.onnx"
    quantize_u8s8(data_dir / "tiny/kws.onnx", plain, rows, reduce_range=True)
    assert check_weights(plain) == ()
    assert check_activations(plain, Calibrating(rows)) == ()
    outlier = _with_outlier(data_dir / "tiny/kws.onnx", tmp_path / "outlier.onnx")
    quantize_u8s8(outlier, bad, rows, reduce_range=True, per_channel=False)
    (finding,) = check_weights(bad)
    assert finding.severity == "warn"
    assert "conv2d" in finding.text
    assert "of 64 channels use fewer than 16 levels" in finding.text
    (finding,) = check_activations(bad, Calibrating(rows))
    assert "of 256 levels" in finding.text


@pytest.mark.data
def test_litert_weights_that_share_a_scale_are_found(data_dir: Path) -> None:
    (finding,) = check_weights(data_dir / "tiny/ad_int8.tflite")
    assert "functional_1/dense_3/MatMul" in finding.text
    assert check_weights(data_dir / "tiny/ic_int8.tflite") == ()
