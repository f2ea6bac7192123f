"""Weights fitted to what their layer is given, put into the float model before it is quantized.

The fitted weights lie on the grid of their scales, so the quantizer, which is told these scales, keeps them exactly.
The bias takes up what rounding changes on average. Layers are fitted apart from each other: a fit is remembered and
serves all plans.
"""

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeinfer.quantize.schemes.base import Calibration, Plan, Precision
from edgeinfer.quantize.schemes.litert.flatbuffer import data_of, parse, serialized, set_data
from edgeinfer.quantize.schemes.litert.graph import weighted
from edgeinfer.quantize.schemes.litert.moments import Moments, Window, patches, window_of
from edgeinfer.quantize.schemes.litert.ranges import watched
from edgeinfer.quantize.schemes.litert.rounding import rounded
from edgeinfer.runtime.engines.base import Array

__all__ = ["with_fitted"]

# The largest magnitude of a weight: symmetric, as LiteRT's kernels want it.
_LEVELS = {Precision.INT4: 7, Precision.INT8: 127}
_FITTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
# The second moments of more inputs take too much memory and time; such layers keep plain rounding.
_MOST_INPUTS = 2048
# Second moments held at a time; more layers take more passes over the calibration inputs.
_MOST_BYTES = 256 << 20
_REMEMBERED = 4


@dataclass(frozen=True, slots=True)
class _Fit:
    """Weights in their layer's shape, the bias or None, and the largest magnitude that each output's scale allows."""

    weights: Array
    bias: Array | None
    bounds: Array


@dataclass(frozen=True, slots=True)
class _Site:
    """Where a layer reads: indices of its tensors, and of a convolution how its window moves."""

    name: str
    levels: int
    source: int
    weights: int
    bias: int | None
    shape: tuple[int, ...]
    window: Window | None
    depthwise: bool

    @property
    def groups(self) -> int:
        return self.shape[-1] if self.depthwise else 1

    @property
    def inputs(self) -> int:
        """Of one output."""
        return int(np.prod(self.shape[1:])) // self.groups

    def vectors(self, values: Array) -> Array:
        """(n, groups, inputs) of what the layer is given."""
        if self.window is None:
            return values.reshape(-1, 1, self.inputs)
        seen = patches(values, self.window)
        return seen.transpose(0, 2, 1) if self.depthwise else seen.reshape(len(seen), 1, -1)

    def rows(self, weights: Array) -> Array:
        """(outputs, inputs) of weights in the layer's shape."""
        return weights.reshape(self.inputs, self.groups).T if self.depthwise else weights.reshape(self.shape[0], -1)

    def shaped(self, rows: Array) -> Array:
        return (rows.T if self.depthwise else rows).reshape(self.shape)

    def broadcast(self, bounds: Array) -> Array:
        """One value an output, shaped to be broadcast over the weights."""
        return bounds if self.depthwise else bounds.reshape(-1, *([1] * (len(self.shape) - 1)))


@dataclass(slots=True)
class _Fits:
    calibration: Calibration
    of: dict[tuple[str, int], _Fit] = field(default_factory=dict)


_memory: OrderedDict[tuple[bytes, int], _Fits] = OrderedDict()


def with_fitted(content: bytes, plan: Plan, calibration: Calibration) -> tuple[bytes, dict[str, Array]]:
    """The model with the integer layers of a complete plan fitted, and of each of their weight tensors the bounds of
    its scales, shaped to be broadcast over the weights. What cannot be fitted is passed over."""
    model = parse(content)
    graph = model.subgraphs[0]
    sites = list(_sites(model, {name: _LEVELS[kept] for name, kept in plan.items() if kept in _LEVELS}))
    fits = _fitted(content, model, sites, calibration)
    bounds = {}
    for site in sites:
        fit = fits[site.name, site.levels]
        set_data(model, graph.tensors[site.weights], fit.weights.astype(np.float32))
        if site.bias is not None and fit.bias is not None:
            set_data(model, graph.tensors[site.bias], fit.bias.astype(np.float32))
        bounds[graph.tensors[site.weights].name.decode()] = fit.bounds
    return serialized(model), bounds


def _sites(model: Any, levels: Mapping[str, int]) -> Iterator[_Site]:
    graph = model.subgraphs[0]
    readers = Counter(int(index) for operator in graph.operators for index in operator.inputs)
    for name, kind, operator, weights in weighted(model):
        if name not in levels or kind not in _FITTED or not _is_plain(graph, operator, weights, readers):
            continue
        shape = tuple(int(size) for size in weights.shape)
        depthwise = kind == "DEPTHWISE_CONV_2D"
        source, channels = int(operator.inputs[0]), int(graph.tensors[operator.inputs[0]].shape[-1])
        site = _Site(
            name=name,
            levels=levels[name],
            source=source,
            weights=int(operator.inputs[1]),
            bias=_own_bias(model, graph, operator, readers),
            shape=shape,
            window=None if kind == "FULLY_CONNECTED" else window_of(operator, shape),
            depthwise=depthwise,
        )
        if channels == shape[-1] and site.inputs <= _MOST_INPUTS:
            yield site


def _is_plain(graph: Any, operator: Any, weights: Any, readers: Mapping[int, int]) -> bool:
    """Float weights of the main graph that no other operation reads."""
    from ai_edge_litert import schema_py_generated as schema

    index = int(operator.inputs[1])
    main = index < len(graph.tensors) and graph.tensors[index] is weights
    return bool(main and weights.type == schema.TensorType.FLOAT32 and readers[index] == 1)


def _own_bias(model: Any, graph: Any, operator: Any, readers: Mapping[int, int]) -> int | None:
    index = int(operator.inputs[2]) if len(operator.inputs) > 2 else -1
    return index if index >= 0 and readers[index] == 1 and data_of(model, graph.tensors[index]) is not None else None


def _fitted(content: bytes, model: Any, sites: list[_Site], calibration: Calibration) -> Mapping[tuple[str, int], _Fit]:
    key = (hashlib.sha256(content).digest(), id(calibration))
    known = _memory.setdefault(key, _Fits(calibration)).of
    _memory.move_to_end(key)
    while len(_memory) > _REMEMBERED:
        _memory.popitem(last=False)
    for group in _groups([site for site in sites if (site.name, site.levels) not in known]):
        for site, moments in zip(group, _moments(content, group, calibration), strict=True):
            known[site.name, site.levels] = _fit(model, site, moments)
    return known


def _groups(sites: list[_Site]) -> Iterator[list[_Site]]:
    group: list[_Site] = []
    for site in sites:
        if group and sum(8 * one.groups * one.inputs**2 for one in (*group, site)) > _MOST_BYTES:
            yield group
            group = []
        group.append(site)
    if group:
        yield group


def _moments(content: bytes, sites: list[_Site], calibration: Calibration) -> list[Moments]:
    found = [Moments.of(site.groups, site.inputs) for site in sites]
    for values in watched(content, calibration, [site.source for site in sites]):
        for site, moments in zip(sites, found, strict=True):
            moments.add(site.vectors(values[site.source]))
    return found


def _fit(model: Any, site: _Site, moments: Moments) -> _Fit:
    graph = model.subgraphs[0]
    rows = site.rows(_floats(model, graph.tensors[site.weights]))
    spread = moments.square() if site.bias is None else moments.covariance()
    values, scales = rounded(rows, spread, levels=site.levels)
    bias = None
    if site.bias is not None:
        bias = _floats(model, graph.tensors[site.bias]) + ((rows - values) * moments.mean()).sum(axis=1)
    return _Fit(site.shaped(values), bias, site.broadcast(scales * site.levels))


def _floats(model: Any, tensor: Any) -> Array:
    data = data_of(model, tensor)
    return np.zeros(0) if data is None else data.view(np.float32).astype(np.float64)
