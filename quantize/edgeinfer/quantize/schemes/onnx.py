"""ONNX static quantization: QDQ with uint8 activations and int8 weights, one scale a channel.

`reduce_range` (7-bit weights) is always on: without VNNI the u8 x s8 kernels add pairs in 16 bits, which
saturates, and a model can lose nearly all its accuracy on one machine while it keeps it on another.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import DependencyError, ModelError

if TYPE_CHECKING:
    import onnx

__all__ = ["quantized_nodes", "static_u8s8"]

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


def quantized_nodes(path: Path) -> int:
    """How many nodes of the model only quantized models have."""
    return sum(node.op_type in _QUANTIZATION_OPS for node in _load(path).graph.node)


def static_u8s8(source: Path, target: Path, calibration: Array) -> str:
    """Quantize `source` into `target`. `calibration` is float32 (N, *input shape).

    Returns "" or why the result is of no use. Raises ModelError where the quantizer fails.
    """
    quantization = _quantization()
    prepared = target.with_suffix(".prepared.onnx")
    with _quiet_logs():
        try:
            _prepare(source, prepared)
            quantization.quantize_static(
                str(prepared),
                str(target),
                _Reader(_input_name(prepared), calibration),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
                reduce_range=True,
            )
        except Exception as error:  # the quantizer raises whatever its parts raise
            raise ModelError(f"ONNX quantization failed: {_first_line(error)}") from error
        finally:
            prepared.unlink(missing_ok=True)
    return _refuse_no_op(target)


class _Reader:
    """Hands calibration samples to the quantizer one at a time, as a batch of one."""

    def __init__(self, name: str, samples: Array) -> None:
        self._feeds = iter([{name: samples[i : i + 1]} for i in range(len(samples))])

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


def _refuse_no_op(path: Path) -> str:
    """Why `path` is quantized in name only: no operation with weights takes them as integers."""
    graph = _load(path).graph
    integers = {init.name for init in graph.initializer if init.data_type in {2, 3}}  # TensorProto UINT8, INT8
    dequantizers = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    dequantized = {node.output[0] for node in dequantizers if node.input[0] in integers}
    weighted = [node for node in graph.node if node.op_type in _WEIGHTED_OPS]
    quantized = [node for node in weighted if any(name in dequantized for name in node.input[:2])]
    if not quantized:
        return f"nothing was quantized: 0 of {len(weighted)} operations with weights have integer ones"
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


@contextmanager
def _quiet_logs() -> Iterator[None]:
    """The quantizer warns on the root logger about what is done here already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n", maxsplit=1)[0][:300]
