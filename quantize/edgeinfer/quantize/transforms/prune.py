"""Structured pruning: channels taken out of a float model, so that the layers become smaller and every engine faster.

    prune(source, target, calibration)             those that never change: exact on the calibration samples
    prune(source, target, calibration, share=0.3)  and those of the smallest filters: not exact, to be measured

A channel can go where it does not meet another one between its layer and those that read it (spans.py): residual sums
and concatenations keep theirs. What a channel that goes was on average is folded into the biases of the layers that
read it. The norm by which filters are compared is L1 (Li et al. 2017, arXiv:1608.08710).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeinfer.quantize.schemes.base import Calibration
from edgeinfer.quantize.transforms.channels import BLOCK, ChannelRange, choose, constant_channels
from edgeinfer.quantize.transforms.graph import Graph, open_graph
from edgeinfer.quantize.transforms.spans import Sink, Span, find_spans
from edgeinfer.quantize.transforms.taps import channel_ranges
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import UsageError

__all__ = ["Pruned", "check_share", "nothing_to_remove", "prune"]


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed: `channels` of the `of` that stand apart, and `bytes` of weights. `refused`: why nothing was,
    and then nothing was written; "" otherwise."""

    channels: int
    of: int
    bytes: int = 0
    refused: str = ""


def prune(source: Path, target: Path, calibration: Calibration, *, share: float = 0.0, multiple: int = BLOCK) -> Pruned:
    """Remove the channels that are the same at every place of every calibration sample, as after a Relu that never
    opens; of each layer, with those, as many of the smallest filters as make `share` (0 to 1) of its channels. As many
    are left as make a multiple of `multiple`.

    Exact within float noise on the calibration samples where `share` is 0. Raises UsageError for a wrong share,
    ModelError, DependencyError.
    """
    check_share(share)
    graph = open_graph(source, target.parent)
    if any(attribute.HasField("g") for node in graph.model.graph.node for attribute in node.attribute):
        return Pruned(
            0, 0, refused="no channel to remove: the model has branches or loops, in which sizes are not followed"
        )
    spans = find_spans(graph, through_depthwise=True)
    if not spans:
        return Pruned(0, 0, refused="no channel to remove: none stays apart from others up to a layer that reads it")
    before, of = _weight_bytes(graph), sum(span.source.outputs for span in spans)
    ranges = channel_ranges(graph.model, _axes(spans), calibration)
    gone = [choose(_dead(span, ranges), _norms(span), share=share, multiple=multiple) for span in spans]
    for span, channels in zip(spans, gone, strict=True):
        if channels.any():
            _remove(graph, span, channels, ranges)
    count = int(sum(channels.sum() for channels in gone))
    if not count:
        return Pruned(0, of, refused=nothing_to_remove(of, share, multiple))
    graph.save(target)
    return Pruned(count, of, before - _weight_bytes(graph))


def check_share(share: float) -> None:
    """Raises UsageError where it is no share of channels."""
    if not 0.0 <= share < 1.0:
        raise UsageError(f"expected a share of channels to prune from 0 up to 1, found {share}")


def nothing_to_remove(of: int, share: float, multiple: int) -> str:
    """Why no channel goes."""
    found = f"a share of {share:g} and those" if share else "those of them"
    return f"no channel to remove: of {of}, {found} that never change make no block of {multiple} in any layer"


def _axes(spans: list[Span]) -> dict[str, tuple[int, int]]:
    return {sink.tensor: (sink.axis, sink.block) for span in spans for sink in span.sinks}


def _weight_bytes(graph: Graph) -> int:
    return sum(values.nbytes for values in graph.constants.values())


def _dead(span: Span, ranges: Mapping[str, ChannelRange]) -> Array:
    """Which channels, bool (channels,), are constant wherever they are read."""
    dead = np.ones(span.source.outputs, dtype=bool)
    for sink in span.sinks:
        dead &= constant_channels(ranges[sink.tensor], absorbed=sink.layer.absorbs)
    return dead


def _norms(span: Span) -> Array:
    """L1 of each filter, (channels,)."""
    norms: Array = np.abs(span.source.weights()).reshape(span.source.outputs, -1).sum(axis=1)
    return norms


def _remove(graph: Graph, span: Span, gone: Array, ranges: Mapping[str, ChannelRange]) -> None:
    for sink in span.sinks:
        _fold(sink, np.where(gone, ranges[sink.tensor].mean, 0.0))
    keep = ~gone
    for layer in (span.source, *span.depthwise):
        layer.keep_outputs(keep)
    for constant in span.constants:
        if constant.axis is not None:
            values = graph.constants[constant.node.input[constant.slot]]
            graph.replace(constant.node, constant.slot, np.compress(keep, values, axis=constant.axis))
    for reshape in span.reshapes:
        shape = graph.constants[reshape.node.input[1]].copy()
        if shape[reshape.entry] > 0:  # else it follows from the others
            shape[reshape.entry] = int(keep.sum()) * reshape.block
            graph.replace(reshape.node, 1, shape)
    for sink in span.sinks:
        sink.layer.keep_inputs(np.repeat(keep, sink.block))


def _fold(sink: Sink, means: Array) -> None:
    """Add what input channels of the values `means` (channels,) give to the bias. Near a border with zeros around it
    is the nearest there is."""
    layer = sink.layer
    if not means.any() or layer.node.op_type == "MatMul":
        return
    weights = layer.weights().astype(np.float64)
    given = weights.reshape(*weights.shape[:2], -1).sum(axis=2) @ np.repeat(means, sink.block)
    bias = layer.bias()
    layer.set_bias(given if bias is None else bias + given)
