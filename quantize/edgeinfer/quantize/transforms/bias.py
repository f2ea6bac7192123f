"""Bias correction: what quantizing shifts a layer's outputs by on average is taken off its bias.

Rounded weights and activations do not err to both sides alike: the mean of a channel moves, and each layer hands that
on. Over calibration samples E[quantized output] - E[float output] of each channel is subtracted from the bias (Nagel et
al. 2019, arXiv:1906.04721, section 4.2 and appendix D), layer after layer, each measured behind those that are
corrected already: all in one pass, each layer would be corrected for what those before it no longer do, and measured
agreement falls.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.quantize.schemes.base import Calibration
from edgeinfer.quantize.transforms.graph import load_model, open_graph
from edgeinfer.quantize.transforms.layers import Layer, as_layer
from edgeinfer.quantize.transforms.taps import channel_ranges
from edgeinfer.runtime.engines.base import Array

if TYPE_CHECKING:
    import onnx

__all__ = ["correct_bias"]

_LAYERS = {"Conv", "Gemm"}
_SAMPLES = 128


@dataclass(frozen=True, slots=True)
class _Bias:
    """The bias of the quantized layer `node`: the initializer `name`, in units of `scale`, float64 (1,) or (out,).
    `reference` is the float model's tensor that the layer's output is the quantized one of."""

    node: "onnx.NodeProto"
    name: str
    scale: Array
    reference: str


def correct_bias(source: Path, quantized: Path, calibration: Calibration) -> str:
    """Correct the biases of the QDQ model `quantized`, in place, to the means of the float model `source` that it was
    made from, over at most 128 of the samples. "" or why there is nothing to correct. Raises ModelError,
    DependencyError."""
    import onnx

    graph = open_graph(source, quantized.parent)
    model = load_model(quantized)
    layers = (as_layer(graph, node) for node in graph.model.graph.node)
    outputs = {name: layer.node.output[0] for layer in layers if layer is not None for name in _names(layer)}
    biases = _biases(model, outputs)
    if not biases:
        return "no bias to correct: no quantized Conv or Gemm with a bias has the name of one in the float model"
    few = _Few(calibration)
    wanted = {bias.reference: _axis(bias) for bias in biases}
    expected = {name: found.mean for name, found in channel_ranges(graph.model, wanted, few).items()}
    for bias in biases:
        _correct(model, bias, expected[bias.reference], few)
    onnx.save(model, str(quantized))
    return ""


def _names(layer: Layer) -> tuple[str, ...]:
    """What the quantized layer may be called: one without a name is given one after what it makes."""
    node = layer.node
    return (node.name,) if node.name else (node.output[0], f"{node.op_type}/{node.output[0]}")


def _axis(bias: _Bias) -> tuple[int, int]:
    return (1 if bias.node.op_type == "Conv" else -1), 1


def _correct(model: "onnx.ModelProto", bias: _Bias, expected: Array, calibration: Calibration) -> None:
    from onnx import numpy_helper

    output = bias.node.output[0]
    found = channel_ranges(model, {output: _axis(bias)}, calibration)[output].mean
    initializer = next(item for item in model.graph.initializer if item.name == bias.name)
    old = numpy_helper.to_array(initializer)
    new = old.astype(np.float64) - ((found - expected) / bias.scale).reshape(old.shape)
    if old.dtype == np.int32:
        limits = np.iinfo(np.int32)
        new = np.clip(np.rint(new), limits.min, limits.max)
    initializer.CopyFrom(numpy_helper.from_array(new.astype(old.dtype), bias.name))


class _Few:
    """Some of the calibration samples, evenly taken: each layer goes through all of them, and a mean needs few."""

    def __init__(self, calibration: Calibration) -> None:
        self._calibration = calibration
        self._step = max(-(-len(calibration) // _SAMPLES), 1)

    def __len__(self) -> int:
        return len(range(0, len(self._calibration), self._step))

    def __iter__(self) -> Iterator[list[Array]]:
        return itertools.islice(iter(self._calibration), 0, None, self._step)


def _biases(model: "onnx.ModelProto", outputs: dict[str, str]) -> list[_Bias]:
    """Of the layers that both models have, in the order in which they run."""
    from onnx import numpy_helper

    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    dequantizers = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    found = []
    for node in model.graph.node:
        reference = outputs.get(node.name or node.output[0])
        if node.op_type not in _LAYERS or len(node.input) < 3 or node.input[1] not in dequantizers or not reference:
            continue
        dequantizer = dequantizers.get(node.input[2])
        name = dequantizer.input[0] if dequantizer is not None else node.input[2]
        scale = constants.get(dequantizer.input[1]) if dequantizer is not None else np.ones(1)
        if name in constants and scale is not None:
            found.append(_Bias(node, name, scale.astype(np.float64).reshape(-1), reference))
    return found
