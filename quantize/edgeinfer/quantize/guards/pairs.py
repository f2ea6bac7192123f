"""Whether sums of a quantized ONNX model fit into 16 bits in pairs: what x86 without VNNI would make of it, worked out
in numpy on any CPU.

There `vpmaddubsw` multiplies u8 by s8 and adds each product to its neighbour's in an int16, which is cut off at -32768
and 32767 (Intel's Intrinsics Guide, _mm256_maddubs_epi16). Neighbours are k and k + 1 of a sum over k, from an even k
on; of a convolution k runs over kernel rows, columns, then input channels, since ONNX Runtime computes it channels
last. Signed activations are shifted to unsigned ones first. Depthwise kernels widen before they multiply.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.quantize.guards.finding import Finding
from edgeinfer.quantize.schemes.base import Calibration
from edgeinfer.quantize.transforms.graph import attribute, load_model
from edgeinfer.quantize.transforms.taps import tapped
from edgeinfer.runtime.engines.base import Array

if TYPE_CHECKING:
    import onnx

__all__ = ["Pairs", "pair_sums", "saturating_layers", "saturation_findings", "unfolded", "worst_pairs"]

_LOWEST, _HIGHEST, _UNSIGNED = -32768, 32767, 255
# Places of a convolution that are looked at in each sample, and samples: evenly taken, they show what is common.
_PLACES, _SAMPLES = 64, 16
_COLUMNS = 32
# Below this share of sums that are cut off, outputs hardly change: it is said, and left to the accuracy.
_REFUSED = 0.01


@dataclass(frozen=True, slots=True)
class Pairs:
    """A layer whose pairs can leave 16 bits. `worst` is the largest sum of a pair that its weights allow, `channels`
    counts the output channels where that is too large; of the sums made on samples, `share` (0 to 1) were cut off."""

    layer: str
    worst: int
    channels: int
    share: float


@dataclass(frozen=True, slots=True)
class _Layer:
    """`weights` are int8 (group, k, out / group) in the order of the sum; `activation` names the integer tensor that
    the layer reads, whose zero is `zero`."""

    node: "onnx.NodeProto"
    weights: Array
    activation: str
    zero: int
    kernel: tuple[int, ...]

    @property
    def name(self) -> str:
        return str(self.node.name or self.node.output[0])


def saturation_findings(path: Path, samples: Calibration) -> tuple[Finding, ...]:
    """At most one: what CPUs without VNNI would do to the layers of a quantized model. Raises as below."""
    found = [layer for layer in saturating_layers(path, samples) if layer.share > 0.0]
    if not found:
        return ()
    worst = max(found, key=lambda layer: layer.share)
    text = (
        f"may saturate on CPUs without VNNI: {len(found)} layer{'s' if len(found) != 1 else ''}, worst {worst.layer}, "
        f"{worst.share:.1%} of sums"
    )
    return (Finding("saturation", "refuse" if worst.share >= _REFUSED else "warn", text),)


def saturating_layers(path: Path, samples: Calibration) -> tuple[Pairs, ...]:
    """Of a QDQ model: the Conv, Gemm and MatMul of int8 weights that can leave 16 bits, with what they do on up to 16
    of the samples. Raises ModelError, DependencyError."""
    model = load_model(path)
    layers = [layer for layer in _layers(model) if worst_pairs(layer.weights).max(initial=0) > _HIGHEST]
    if not layers:
        return ()
    cut = dict.fromkeys((layer.name for layer in layers), 0)
    made = dict.fromkeys(cut, 0)
    step = max(len(samples) // _SAMPLES, 1)
    names = [layer.activation for layer in layers]
    for values in itertools.islice(tapped(model, names, samples), 0, None, step):
        for layer in layers:
            rows = _rows(layer, values[layer.activation])
            cut[layer.name] += sum(int(_cut_off(one, w)) for one, w in zip(rows, layer.weights, strict=True))
            made[layer.name] += sum(len(one) * w.shape[1] for one, w in zip(rows, layer.weights, strict=True))
    return tuple(
        Pairs(
            layer.name,
            int(worst_pairs(layer.weights).max()),
            int((worst_pairs(layer.weights) > _HIGHEST).sum()),
            cut[layer.name] / max(made[layer.name], 1),
        )
        for layer in layers
    )


def worst_pairs(weights: Array) -> Array:
    """Of int8 (group, k, out): how far from 0 the sum of a pair can get with activations of 0 to 255, (group, out)."""
    pairs = _even(weights.astype(np.int64), axis=1)
    pairs = pairs.reshape(len(pairs), -1, 2, pairs.shape[2])
    highest = np.maximum(pairs, 0).sum(axis=2).max(axis=1, initial=0)
    lowest = np.maximum(-pairs, 0).sum(axis=2).max(axis=1, initial=0)
    worst: Array = _UNSIGNED * np.maximum(highest, lowest)
    return worst


def pair_sums(rows: Array, weights: Array) -> Array:
    """int64 (n, k / 2, out): the sums of neighbours, not cut off. `rows` are uint8 (n, k), `weights` int8 (k, out)."""
    left = _even(rows.astype(np.int64), axis=1)[:, :, None]
    products = left * _even(weights.astype(np.int64), axis=0)[None]
    sums: Array = products[:, 0::2] + products[:, 1::2]
    return sums


def _cut_off(rows: Array, weights: Array) -> int:
    """How many of the sums of (n, k) by (k, out) have a pair that does not fit."""
    risky = np.flatnonzero(worst_pairs(weights[None])[0] > _HIGHEST)
    count = 0
    for start in range(0, len(risky), _COLUMNS):
        sums = pair_sums(rows, weights[:, risky[start : start + _COLUMNS]])
        count += int(((sums < _LOWEST) | (sums > _HIGHEST)).any(axis=1).sum())
    return count


def _even(values: Array, *, axis: int) -> Array:
    """With a zero at the end where the last one has no neighbour."""
    if values.shape[axis] % 2 == 0:
        return values
    return np.pad(values, [(0, int(i == axis)) for i in range(values.ndim)])


def _layers(model: "onnx.ModelProto") -> Iterator[_Layer]:
    from onnx import numpy_helper

    constants = {item.name: item for item in model.graph.initializer}
    dequantizers = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    for node in model.graph.node:
        if node.op_type not in {"Conv", "Gemm", "MatMul"}:
            continue
        data, weights = (dequantizers.get(name) for name in node.input[:2])
        if data is None or weights is None or len(data.input) < 3 or weights.input[0] not in constants:
            continue
        values = numpy_helper.to_array(constants[weights.input[0]])
        zero = constants.get(data.input[2])
        known = zero is not None and values.dtype == np.int8 and data.input[0] not in constants
        if not known or zero is None or (node.op_type != "Conv" and values.ndim != 2):
            continue
        point = numpy_helper.to_array(zero)
        if point.dtype not in {np.dtype(np.uint8), np.dtype(np.int8)}:
            continue
        group = int(attribute(node, "group", 1))
        if group > 1 and values.shape[1] == 1:  # depthwise
            continue
        yield _Layer(node, _columns(node, values, group), data.input[0], int(point), tuple(values.shape[2:]))


def _columns(node: "onnx.NodeProto", values: Array, group: int) -> Array:
    """Weights as (group, k, out / group)."""
    if node.op_type == "Conv":
        last = np.moveaxis(values.reshape(group, -1, *values.shape[1:]), 2, -1)  # (group, out, kernel..., in)
        return np.swapaxes(last.reshape(group, last.shape[1], -1), 1, 2)
    return (values.T if attribute(node, "transB", 0) else values)[None]


def _rows(layer: _Layer, values: Array) -> list[Array]:
    """What each group of the layer sums over: uint8 (n, k)."""
    shift = 128 if values.dtype == np.int8 else 0
    unsigned = (values.astype(np.int16) + shift).astype(np.uint8)
    if layer.node.op_type != "Conv":
        rows = unsigned.reshape(-1, unsigned.shape[-1])
        return [rows[:: max(len(rows) // _PLACES, 1)]]
    groups = np.split(unsigned, len(layer.weights), axis=1)
    return [unfolded(one, layer.node, layer.kernel, zero=layer.zero + shift, places=_PLACES) for one in groups]


def unfolded(values: Array, node: "onnx.NodeProto", kernel: tuple[int, ...], *, zero: int, places: int) -> Array:
    """The patches that a convolution sums over, (n, kernel... * in) channels last, at up to about `places` evenly taken
    places. `values` are (1, in, ...); beyond the border they are `zero`."""
    axes = len(kernel)
    strides = attribute(node, "strides", [1] * axes)
    dilations = attribute(node, "dilations", [1] * axes)
    spans = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    padded = np.pad(values[0], [(0, 0), *_padding(node, values.shape[2:], spans, strides)], constant_values=zero)
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=tuple(range(1, axes + 1)))
    steps = [1, *strides, *dilations]  # of channels, places and within the kernel
    picked: Array = windows[tuple(slice(None, None, step) for step in steps)]
    picked = np.moveaxis(picked, 0, -1)  # (places..., kernel..., in)
    rows = picked.reshape(-1, *picked.shape[axes:])
    rows = rows[:: max(len(rows) // places, 1)]
    return rows.reshape(len(rows), -1)


def _padding(
    node: "onnx.NodeProto", sizes: tuple[int, ...], spans: list[int], strides: list[int]
) -> list[tuple[int, int]]:
    """Before and after each axis."""
    automatic = attribute(node, "auto_pad", b"NOTSET")
    if automatic in {b"SAME_UPPER", b"SAME_LOWER"}:
        needed = [
            max((-(-size // stride) - 1) * stride + span - size, 0)
            for size, span, stride in zip(sizes, spans, strides, strict=True)
        ]
        less = [(total // 2, total - total // 2) for total in needed]
        return less if automatic == b"SAME_UPPER" else [(after, before) for before, after in less]
    pads = attribute(node, "pads", [0] * (2 * len(spans)))
    return list(zip(pads[: len(spans)], pads[len(spans) :], strict=True))
