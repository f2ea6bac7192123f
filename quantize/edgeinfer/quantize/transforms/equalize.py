"""Cross-layer equalization: channels between two layers scaled to like ranges, so that one scale a tensor fits them.

A Relu lets a positive scale through, so that a layer's output channel i may be divided by s_i and the next one's input
channel i multiplied by it: the model computes the same. With r1_i and r2_i the largest absolute weights on both sides,
s_i = sqrt(r1_i / r2_i) makes both ranges sqrt(r1_i r2_i) (Nagel et al. 2019, arXiv:1906.04721, section 4.1). What a
pair gains another one may lose: pairs are gone through until the scales are 1.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.quantize.transforms.graph import Graph, attribute, open_graph
from edgeinfer.quantize.transforms.spans import Span, find_spans
from edgeinfer.runtime.engines.base import Array

if TYPE_CHECKING:
    import onnx

__all__ = ["Equalized", "equalize"]

# It converges in a few rounds; a scale nearer to 1 than this changes no quantized weight.
_ROUNDS, _SETTLED = 40, 1e-3
# Of the largest range of a layer: a channel of less is as good as dead, and its scale would blow up its bias.
_NEGLIGIBLE = 1e-3


@dataclass(frozen=True, slots=True)
class Equalized:
    """`pairs` of layers were equalized; `clips` counts the Clip that became Relu. `refused`: why nothing was done, and
    then nothing was written; "" otherwise."""

    pairs: int
    clips: int
    refused: str = ""


def equalize(source: Path, target: Path, *, replace_clips: bool = False) -> Equalized:
    """Equalize all pairs of layers between which only Relu and the like lie. The result computes the same as the
    source within float noise.

    A Clip with an upper bound (Relu6) keeps a pair from it; with `replace_clips` it becomes a Relu, and then the result
    is another model where values went beyond the bound. Raises ModelError, DependencyError.
    """
    graph = open_graph(source, target.parent)
    clips = _replace_clips(graph) if replace_clips else 0
    spans = [span for span in find_spans(graph, through_depthwise=False) if span.homogeneous]
    if not spans:
        return Equalized(0, 0, "nothing to equalize: no two layers have only Relu or the like between them")
    _settle(spans)
    graph.save(target)
    return Equalized(len(spans), clips)


def _settle(spans: list[Span]) -> None:
    for _ in range(_ROUNDS):
        largest = max(float(np.abs(_equalize(span) - 1.0).max()) for span in spans)
        if largest < _SETTLED:
            return


def _equalize(span: Span) -> Array:
    """Scale one pair; the scales, float64 (channels,)."""
    source = np.abs(span.source.weights()).reshape(span.source.outputs, -1).max(axis=1).astype(np.float64)
    sinks = np.max([_input_ranges(span, index) for index in range(len(span.sinks))], axis=0)
    known = (source > _NEGLIGIBLE * source.max()) & (sinks > _NEGLIGIBLE * sinks.max())
    ratio = np.divide(source, sinks, out=np.ones_like(source), where=known)
    scales: Array = np.sqrt(ratio)
    _scale_source(span, scales)
    for sink in span.sinks:
        layer = sink.layer
        filters = layer.filters() * np.repeat(scales, sink.block).reshape(layer.group, 1, -1, 1)
        layer.set_weights(filters.reshape(layer.weights().shape).astype(np.float32))
    return scales


def _input_ranges(span: Span, index: int) -> Array:
    """Largest absolute weight of each of the span's channels in one of its sinks, float64 (channels,)."""
    sink = span.sinks[index]
    ranges = np.abs(sink.layer.filters()).max(axis=(1, 3)).reshape(-1, sink.block)
    largest: Array = ranges.max(axis=1).astype(np.float64)
    return largest


def _scale_source(span: Span, scales: Array) -> None:
    layer = span.source
    weights, bias = layer.weights(), layer.bias()
    layer.set_weights((weights / scales.reshape(-1, *[1] * (weights.ndim - 1))).astype(np.float32))
    if bias is not None:
        layer.set_bias(bias / scales)
    for constant in span.constants:
        if constant.scales and constant.axis is not None:
            values = layer.graph.constants[constant.node.input[constant.slot]]
            shape = [1] * values.ndim
            shape[constant.axis] = -1
            layer.graph.replace(constant.node, constant.slot, (values / scales.reshape(shape)).astype(np.float32))


def _replace_clips(graph: Graph) -> int:
    """Turn each Clip from 0 into a Relu; how many."""
    count = 0
    for node in graph.model.graph.node:
        if _clips_at_zero(graph, node):
            del node.input[1:]
            del node.attribute[:]
            node.op_type = "Relu"
            count += 1
    return count


def _clips_at_zero(graph: Graph, node: "onnx.NodeProto") -> bool:
    if node.op_type != "Clip":
        return False
    low = graph.constant(node, 1)
    return attribute(node, "min", None) == 0.0 if low is None else float(low) == 0.0
