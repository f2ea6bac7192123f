"""ONNX quantization: static, with ranges from calibration samples, and dynamic, with ranges found at each run.

Static is QDQ with uint8 activations and one scale a channel for the weights. With int8 weights `reduce_range`
(7 bits) is always on: without VNNI the u8 x s8 kernels add pairs in 16 bits, which saturates, and a model can
lose nearly all its accuracy on one machine while it keeps it on another. The u8 x u8 kernels widen before they
multiply, so that uint8 weights may have all 8 bits: more exact, and slower on x86. Two ways to the ranges: the
smallest and largest value seen, and percentiles, which rare values do not stretch.

Dynamic has uint8 weights, one scale a tensor. It is slower, since it looks for each tensor's range again and
again, and does not depend on what calibration samples were at hand.
"""

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import DependencyError, ModelError

if TYPE_CHECKING:
    import onnx

__all__ = ["dynamic_u8", "quantized_nodes", "static_u8s8", "static_u8s8_percentile", "static_u8u8"]

# Scales per channel need DequantizeLinear with an axis.
MIN_OPSET = 13
_QUANTIZATION_OPS = {
    "ConvInteger",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
}
_WEIGHTED_OPS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_INTEGER_OPS = {"ConvInteger", "MatMulInteger"}
# Of 10 000 values of a tensor, one may lie outside its range.
_PERCENTILE = 99.99
# The calibrator keeps what a block of samples gives in every tensor in memory: small blocks, and few of them.
_PERCENTILE_BLOCK, _PERCENTILE_SAMPLES = 8, 64
# Two products of 255 and 64 fit into 16 bits, of 255 and 65 they do not.
_MAX_SIGNED_WEIGHT = 64


def quantized_nodes(path: Path) -> int:
    """How many nodes of the model only quantized models have."""
    return sum(node.op_type in _QUANTIZATION_OPS for node in _load(path).graph.node)


def static_u8s8(source: Path, target: Path, calibration: Array) -> str:
    """Quantize `source` into `target` with min/max ranges. `calibration` is float32 (N, *input shape).

    Returns "" or why the result is of no use. Raises ModelError where the quantizer fails.
    """
    return _static(source, target, calibration)


def static_u8s8_percentile(source: Path, target: Path, calibration: Array) -> str:
    """The same with ranges that leave out the rarest values at both ends, from at most 64 of the samples."""
    count = min(len(calibration), _PERCENTILE_SAMPLES)
    block = min(count, _PERCENTILE_BLOCK)
    count -= count % block
    picked = calibration[(np.arange(count) * len(calibration)) // count]
    options = {
        "CalibPercentile": _PERCENTILE,
        "CalibTensorRangeSymmetric": False,
        "CalibStridedMinMax": block,  # in spite of its name it is the block of any calibrator
    }
    return _static(source, target, picked, method="Percentile", options=options)


def static_u8u8(source: Path, target: Path, calibration: Array) -> str:
    """The same as `static_u8s8` with uint8 weights of 8 bits around a zero point of 128."""
    return _static(source, target, calibration, weights="QUInt8", options={"WeightSymmetric": True})


def dynamic_u8(source: Path, target: Path, calibration: Array) -> str:
    """Weights as uint8, activations quantized while the model runs. Needs no calibration; returns as above."""
    del calibration
    quantization = _quantization()
    with _prepared(source, target) as prepared:
        quantization.quantize_dynamic(str(prepared), str(target), weight_type=quantization.QuantType.QUInt8)
    return _refuse(target)


def _static(
    source: Path,
    target: Path,
    calibration: Array,
    *,
    weights: str = "QInt8",
    method: str = "MinMax",
    options: Mapping[str, Any] | None = None,
) -> str:
    quantization = _quantization()
    with _prepared(source, target) as prepared:
        quantization.quantize_static(
            str(prepared),
            str(target),
            _Reader(_input_name(prepared), calibration),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType[weights],
            per_channel=True,
            reduce_range=weights == "QInt8",
            calibrate_method=quantization.CalibrationMethod[method],
            extra_options=dict(options or {}),
        )
    return _refuse(target)


@contextlib.contextmanager
def _prepared(source: Path, target: Path) -> Iterator[Path]:
    """A copy of `source` that is ready for the quantizer, beside `target` for as long as this lasts. What the
    quantizer raises becomes a ModelError, what it logs and prints is lost."""
    prepared = target.with_suffix(".prepared.onnx")
    with _quiet():
        try:
            _prepare(source, prepared)
            yield prepared
        except Exception as error:  # the quantizer raises whatever its parts raise
            raise ModelError(f"ONNX quantization failed: {_first_line(error)}") from error
        finally:
            prepared.unlink(missing_ok=True)


class _Reader:
    """Hands calibration samples to the quantizer one at a time, as a batch of one, all or those of a range."""

    def __init__(self, name: str, samples: Array) -> None:
        self._name = name
        self._samples = samples
        self.set_range(0, len(samples))

    def __len__(self) -> int:
        return len(self._samples)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._feeds = iter([{self._name: self._samples[i : i + 1]} for i in range(start_index, end_index)])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._feeds, None)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return self._feeds

    def __next__(self) -> dict[str, Array]:
        return next(self._feeds)


def _prepare(source: Path, target: Path) -> None:
    """Constants taken out of the inputs, opset raised, batch norms folded, shapes inferred."""
    import onnx
    from onnx import version_converter
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = _load(source)
    constants = {initializer.name for initializer in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    opset = max((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), default=1)
    if opset < MIN_OPSET:
        model = version_converter.convert_version(model, MIN_OPSET)
    onnx.save(model, str(target))
    try:
        quant_pre_process(str(target), str(target), skip_symbolic_shape=True)
    except Exception as error:  # optional: a model that it cannot prepare may still be quantized as it is
        logging.getLogger(__name__).debug("model=%s preparation failed: %s", source.name, error)
        onnx.save(model, str(target))


def _refuse(path: Path) -> str:
    """Why `path` is of no use, "" where it is."""
    graph = _load(path).graph
    return _no_op(graph) or _saturation(graph)


def _no_op(graph: "onnx.GraphProto") -> str:
    """Whether it is quantized in name only: no operation with weights takes them as integers."""
    integers = {init.name for init in graph.initializer if init.data_type in {2, 3}}  # TensorProto UINT8, INT8
    dequantizers = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    dequantized = {node.output[0] for node in dequantizers if node.input[0] in integers}
    weighted = [node for node in graph.node if node.op_type in _WEIGHTED_OPS | _INTEGER_OPS]
    quantized = [node for node in weighted if any(name in dequantized | integers for name in node.input[:2])]
    if not quantized:
        return f"nothing was quantized: 0 of {len(weighted)} operations with weights have integer ones"
    return ""


def _saturation(graph: "onnx.GraphProto") -> str:
    """Whether signed weights are so large that sums of their products with uint8 may not fit into 16 bits."""
    from onnx import numpy_helper

    for initializer in graph.initializer:
        if initializer.data_type != 3 or not initializer.dims:  # TensorProto INT8; a zero point has no dimension
            continue
        largest = int(np.abs(numpy_helper.to_array(initializer).astype(np.int16)).max(initial=0))
        if largest > _MAX_SIGNED_WEIGHT:
            return f"may saturate on CPUs without VNNI: weight {largest} in {initializer.name}, more than 7 bits"
    return ""


def _input_name(path: Path) -> str:
    graph = _load(path).graph
    constants = {initializer.name for initializer in graph.initializer}
    return next(str(value.name) for value in graph.input if value.name not in constants)


def _load(path: Path) -> "onnx.ModelProto":
    try:
        import onnx
    except ImportError as error:
        raise DependencyError("onnx is not installed", hint="pip install 'edgeinfer[quantize]'") from error
    try:
        return onnx.load(str(path))
    except Exception as error:  # protobuf's own exception classes share no public base
        raise ModelError(f"{path}: is no ONNX model: {_first_line(error)}") from error


def _quantization() -> Any:
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise DependencyError("onnxruntime is not installed", hint="pip install 'edgeinfer[quantize]'") from error
    return quantization


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer warns on the root logger about what is done here already, and prints on stdout, which is
    for results."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n", maxsplit=1)[0][:300]
