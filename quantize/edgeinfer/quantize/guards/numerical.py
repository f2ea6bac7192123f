"""Numbers that give a broken quantized model away: outputs that are none or always the same, and scales that leave most
values next to no levels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.quantize.guards.finding import Finding
from edgeinfer.quantize.schemes.base import Calibration
from edgeinfer.quantize.transforms.flatfile import FlatFile
from edgeinfer.quantize.transforms.graph import attribute, load_model
from edgeinfer.quantize.transforms.taps import tapped
from edgeinfer.runtime.engines.base import Array

if TYPE_CHECKING:
    import onnx

__all__ = ["check_activations", "check_outputs", "check_weights", "levels_used"]

# Fewer levels than 4 bits have, for most values: the other bits are spent on outliers.
_FEW_LEVELS = 16
# Most values: all but the share that lies further out.
_MOST = 0.95
# A tensor of fewer values has no distribution to speak of.
_MIN_VALUES = 8
# Of a tensor's channels, so many: each tensor has some channel of little weight.
_CHANNELS = 0.1
_NAMED = 3
_EIGHT_BITS = {np.dtype(np.int8), np.dtype(np.uint8)}


def check_outputs(outputs: Sequence[Array], reference: Sequence[Array]) -> tuple[Finding, ...]:
    """Of a quantized model's outputs and the float model's over the same samples, (N, ...) each: those that hold NaN
    or infinity where the float ones do not, and those that are the same for all samples where the float ones differ."""
    findings = []
    for index, (found, expected) in enumerate(zip(outputs, reference, strict=True)):
        broken = [bad and not also for bad, also in zip(_broken(found), _broken(expected), strict=True)]
        if any(broken):
            text = f"output {index} holds NaN or infinity for {sum(broken)} of {len(found)} samples"
            findings.append(Finding("not-finite", "refuse", text))
        elif len(found) > 1 and _same(found) and not _same(expected):
            text = f"output {index} is the same for all {len(found)} samples, the float model's is not"
            findings.append(Finding("constant-output", "refuse", text))
    return tuple(findings)


def _broken(values: Array) -> list[bool]:
    """Of each sample."""
    if not np.issubdtype(values.dtype, np.floating):
        return [False] * len(values)
    return [not bool(np.isfinite(row).all()) for row in values]


def _same(values: Array) -> bool:
    return bool((values == values[:1]).all())


def levels_used(values: Array) -> int:
    """How many levels of a quantized tensor most of its values lie in: the middle 95 % of them. 0 where they are too
    few to say."""
    if values.size < _MIN_VALUES:
        return 0
    low, high = np.quantile(values.astype(np.int64), [(1.0 - _MOST) / 2, (1.0 + _MOST) / 2])
    return int(np.ceil(high) - np.floor(low)) + 1


def check_weights(path: Path) -> tuple[Finding, ...]:
    """Of an ONNX QDQ or a TFLite file: 8-bit weights of which channels use few levels, since a scale is shared with
    larger ones or stretched by an outlier. Raises ModelError, DependencyError."""
    tensors = _litert_weights(path) if path.suffix.lower() == ".tflite" else _onnx_weights(path)
    poor: list[tuple[float, str]] = []
    for tensor in tensors:
        rows = tensor.values.reshape(len(tensor.values), -1)
        levels = np.array([_levels_of_channel(row, tensor) for row in rows])
        few = (levels > 0) & (levels < _FEW_LEVELS)
        if few.mean() >= _CHANNELS:
            text = f"{tensor.name}: {int(few.sum())} of {len(rows)} channels use fewer than {_FEW_LEVELS} levels"
            poor.append((float(few.mean()), f"{text}, the least {levels[few].min()}"))
    return _reported("weight-outliers", "weights", poor)


def check_activations(path: Path, samples: Calibration) -> tuple[Finding, ...]:
    """Of an ONNX QDQ file run over samples: 8-bit activations that use few levels. Raises ModelError,
    DependencyError."""
    from onnx import numpy_helper

    model = load_model(path)
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    zeros: dict[str, int] = {}
    for node in model.graph.node:
        zero = constants.get(node.input[2]) if node.op_type == "QuantizeLinear" and len(node.input) > 2 else None
        if zero is not None and zero.size == 1 and zero.dtype in _EIGHT_BITS and node.input[0] not in constants:
            zeros[node.output[0]] = int(zero.reshape(())) - np.iinfo(zero.dtype).min
    counts = {name: np.zeros(256, dtype=np.int64) for name in zeros}
    for sample in tapped(model, tuple(zeros), samples) if zeros else ():
        for name, values in sample.items():
            shifted = values.reshape(-1).astype(np.int64) - np.iinfo(values.dtype).min
            counts[name] += np.bincount(shifted, minlength=256)
    poor = []
    for name, histogram in counts.items():
        levels = _levels_of(histogram, zeros[name])
        if 0 < levels < _FEW_LEVELS:
            poor.append((1.0 - levels / _FEW_LEVELS, f"{name}: most values use {levels} of 256 levels"))
    return _reported("activation-outliers", "activations", poor)


def _levels_of_channel(row: Array, tensor: "_Quantized") -> int:
    """A channel of zeros that has a scale of its own has lost nothing."""
    return 0 if tensor.per_channel and (row == row[0]).all() else levels_used(row)


def _levels_of(histogram: Array, zero: int) -> int:
    """As `levels_used`, of counts by level. What equals `zero` is left out: a Relu leaves that many."""
    counts = histogram.copy()
    counts[zero] = 0
    total = int(counts.sum())
    if total < _MIN_VALUES:
        return 0
    below = np.cumsum(counts) / total
    low, high = np.searchsorted(below, [(1.0 - _MOST) / 2, (1.0 + _MOST) / 2])
    return int(high - low) + 1


def _reported(kind: str, what: str, poor: list[tuple[float, str]]) -> tuple[Finding, ...]:
    """The worst by name, the others by number."""
    if not poor:
        return ()
    named = [text for _, text in sorted(poor, key=lambda item: -item[0])[:_NAMED]]
    more = f" and {len(poor) - _NAMED} more" if len(poor) > _NAMED else ""
    return (Finding(kind, "warn", f"scales leave most {what} few levels: {'; '.join(named)}{more}"),)


@dataclass(frozen=True, slots=True)
class _Quantized:
    """Integer weights, channels first."""

    name: str
    values: Array
    per_channel: bool


def _onnx_weights(path: Path) -> Iterator[_Quantized]:
    from onnx import numpy_helper

    model = load_model(path)
    constants = {item.name: item for item in model.graph.initializer}
    readers: dict[str, onnx.NodeProto] = {name: node for node in model.graph.node for name in node.input[1:2]}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear":
            continue
        reader, stored = readers.get(node.output[0]), constants.get(node.input[0])
        if reader is None or stored is None or reader.op_type not in {"Conv", "Gemm", "MatMul"}:
            continue
        values = numpy_helper.to_array(stored)
        if values.dtype not in _EIGHT_BITS:
            continue
        scales = constants.get(node.input[1])
        per_channel = scales is not None and int(np.prod(scales.dims)) > 1
        first = reader.op_type == "Conv" or attribute(reader, "transB", 0)
        yield _Quantized(stored.name, values if first else np.moveaxis(values, -1, 0), per_channel)


def _litert_weights(path: Path) -> Iterator[_Quantized]:
    file = FlatFile(path)
    for operation in file.operations:
        if file.kind(operation) not in {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}:
            continue
        found = file.quantized(operation, 1)
        if found is not None:
            name, values, per_channel = found
            depthwise = file.kind(operation) == "DEPTHWISE_CONV_2D"
            yield _Quantized(name, np.moveaxis(values, -1, 0) if depthwise else values, per_channel)
