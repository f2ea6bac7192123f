"""Structured pruning of a float TFLite file, as prune.py does it for ONNX: the same channels go by the same rules.

A chain of CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED is followed through what treats channels alone. Tensors are
NHWC, channels last; a flatten puts channel c at every i * channels + c.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgeinfer.quantize.schemes.base import Calibration
from edgeinfer.quantize.transforms.channels import BLOCK, ChannelRange, choose, constant_channels, merge, range_of
from edgeinfer.quantize.transforms.flatfile import FlatFile, Operation
from edgeinfer.quantize.transforms.prune import Pruned, check_share, nothing_to_remove
from edgeinfer.runtime.engines.base import Array

__all__ = ["prune_litert"]

_ALONE = {"AVERAGE_POOL_2D", "ELU", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "MAX_POOL_2D", "RELU", "RELU6", "TANH"}
_MIXING = {"CONV_2D", "FULLY_CONNECTED"}
_SAME_PADDING = 0


@dataclass(slots=True)
class _Span:
    """From `source` through `depthwise` layers to the layers at `sinks`; `activations` are the tensors between, with
    how often each repeats the channels, `reshapes` what has the count of channels in a constant shape."""

    source: Operation
    channels: int
    depthwise: list[Operation] = field(default_factory=list)
    reshapes: list[Operation] = field(default_factory=list)
    activations: dict[int, int] = field(default_factory=dict)
    sinks: list[Operation] = field(default_factory=list)


def prune_litert(
    source: Path, target: Path, calibration: Calibration, *, share: float = 0.0, multiple: int = BLOCK
) -> Pruned:
    """As `prune`. Raises UsageError, ModelError, DependencyError."""
    check_share(share)
    file = FlatFile(source)
    spans = [span for operation in file.operations if (span := _span(file, operation)) is not None]
    if not spans or file.subgraphs > 1:
        return Pruned(0, 0, refused="no channel to remove: none stays apart from others up to a layer that reads it")
    of = sum(span.channels for span in spans)
    ranges = _ranges(file, spans, calibration)
    gone = [choose(_dead(file, span, ranges), _norms(file, span), share=share, multiple=multiple) for span in spans]
    count = int(sum(channels.sum() for channels in gone))
    if not count:
        return Pruned(0, of, refused=nothing_to_remove(of, share, multiple))
    for span, channels in zip(spans, gone, strict=True):
        if channels.any():
            _remove(file, span, channels, ranges)
    content = file.content()
    target.write_bytes(content)
    return Pruned(count, of, source.stat().st_size - len(content))


def _span(file: FlatFile, source: Operation) -> _Span | None:
    """The way of the channels of `source`; None where they meet others, leave the model, or are not of float32."""
    weights = file.constant(source, 1) if file.kind(source) in _MIXING else None
    if weights is None or weights.dtype != np.float32 or not _knows_bias(file, source):
        return None
    span = _Span(source, weights.shape[0])
    places = [(int(source.outputs[0]), 1)]
    while places:
        tensor, repeats = places.pop()
        shape = file.shape(tensor)
        if tensor in file.outputs or not shape or shape[-1] != span.channels * repeats:
            return None
        span.activations[tensor] = repeats
        for operation in file.readers[tensor]:
            if list(operation.inputs).count(tensor) != 1 or int(operation.inputs[0]) != tensor:
                return None
            if not _follow(file, span, operation, repeats):
                return None
            if file.kind(operation) not in _MIXING:
                output = int(operation.outputs[0])
                places.append((output, repeats * _flattened(file, tensor, output)))
    return span if span.sinks else None


def _follow(file: FlatFile, span: _Span, operation: Operation, repeats: int) -> bool:
    """Note what the operation is in the span; False where the channels do not stay apart in it."""
    kind = file.kind(operation)
    weights = file.constant(operation, 1)
    if kind in _MIXING:
        span.sinks.append(operation)
        fits = weights is not None and weights.shape[-1] == span.channels * repeats  # not so with groups
        return fits and weights is not None and weights.dtype == np.float32 and _knows_bias(file, operation)
    if kind == "DEPTHWISE_CONV_2D":
        span.depthwise.append(operation)
        return weights is not None and weights.shape[-1] == span.channels and _knows_bias(file, operation)
    if kind in {"RESHAPE", "SQUEEZE"}:
        span.reshapes.append(operation)
        before, after = file.shape(int(operation.inputs[0])), file.shape(int(operation.outputs[0]))
        return len(after) >= 2 and after[0] == before[0] and all(size == 1 for size in after[1:-1])
    return kind in _ALONE


def _knows_bias(file: FlatFile, operation: Operation) -> bool:
    """It is a constant, or there is none."""
    return not _has_bias(operation) or file.constant(operation, 2) is not None


def _has_bias(operation: Operation) -> bool:
    return len(operation.inputs) > 2 and int(operation.inputs[2]) >= 0


def _flattened(file: FlatFile, before: int, after: int) -> int:
    """How many times as long the last axis has become."""
    return max(file.shape(after)[-1] // max(file.shape(before)[-1], 1), 1)


def _ranges(file: FlatFile, spans: list[_Span], calibration: Calibration) -> dict[int, ChannelRange]:
    channels = {int(sink.inputs[0]): span.channels for span in spans for sink in span.sinks}
    found: dict[int, ChannelRange] = {}
    for activations in file.tapped(channels, calibration):
        for index, values in activations.items():
            seen = range_of(values.reshape(-1, channels[index]).T)
            found[index] = merge(found[index], seen) if index in found else seen
    return found


def _dead(file: FlatFile, span: _Span, ranges: Mapping[int, ChannelRange]) -> Array:
    dead = np.ones(span.channels, dtype=bool)
    for sink in span.sinks:
        absorbed = _has_bias(sink) and not _padded(file, sink)
        dead &= constant_channels(ranges[int(sink.inputs[0])], absorbed=absorbed)
    return dead


def _padded(file: FlatFile, operation: Operation) -> bool:
    """Whether zeros beyond the border may take part."""
    if file.kind(operation) != "CONV_2D":
        return False
    kernel = file.shape(int(operation.inputs[1]))[1:3]
    return operation.builtinOptions.padding == _SAME_PADDING and kernel != (1, 1)


def _norms(file: FlatFile, span: _Span) -> Array:
    weights = _constant(file, span.source, 1)
    norms: Array = np.abs(weights).reshape(len(weights), -1).sum(axis=1)
    return norms


def _constant(file: FlatFile, operation: Operation, slot: int) -> Array:
    values = file.constant(operation, slot)
    assert values is not None  # noqa: S101 - a span has only operations of which this was looked at
    return values


def _remove(file: FlatFile, span: _Span, gone: Array, ranges: Mapping[int, ChannelRange]) -> None:
    keep = ~gone
    for sink in span.sinks:
        tensor = int(sink.inputs[0])
        repeats = span.activations[tensor]
        weights = _constant(file, sink, 1)
        if _has_bias(sink):
            means = np.tile(np.where(gone, ranges[tensor].mean, 0.0), repeats)
            given = weights.astype(np.float64).reshape(len(weights), -1, weights.shape[-1]).sum(axis=1) @ means
            file.replace(sink, 2, (_constant(file, sink, 2) + given).astype(np.float32))
        file.replace(sink, 1, weights[..., np.tile(keep, repeats)])
    for operation in (span.source, *span.depthwise):
        axis = 0 if operation is span.source else -1
        file.replace(operation, 1, np.compress(keep, _constant(file, operation, 1), axis=axis))
        if _has_bias(operation):
            file.replace(operation, 2, _constant(file, operation, 2)[keep])
    for reshape in span.reshapes:
        _reshape(file, reshape, int(keep.sum()) * span.activations[int(reshape.outputs[0])])
    for tensor, repeats in span.activations.items():
        file.resize(tensor, int(keep.sum()) * repeats)


def _reshape(file: FlatFile, operation: Operation, last: int) -> None:
    """Its new shape is in a constant, in its options, or both."""
    shape = file.constant(operation, 1)
    if shape is not None and shape[-1] > 0:
        file.replace(operation, 1, np.array([*shape[:-1], last], np.int32))
    sizes = getattr(operation.builtinOptions, "newShape", None)
    if sizes is not None and sizes[-1] > 0:
        operation.builtinOptions.newShape = [*sizes[:-1], last]
