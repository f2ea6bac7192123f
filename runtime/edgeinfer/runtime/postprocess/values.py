"""Outputs that are what they are: measured quantities, embeddings, and raw values. An item a value."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import EmbedPost, RawPost, RegressPost, TensorSpec
from edgeinfer.runtime.postprocess.outputs import LARGEST, choose_output, real_values
from edgeinfer.runtime.preprocess import Region
from edgeinfer.runtime.results import Item

__all__ = ["Embed", "Raw", "Regress", "normalized"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
# A result is kept and sent for every frame: what is larger belongs into another system.
_MAX_DIMENSIONS = 4096
_MAX_QUANTITIES = 1000


class Regress:
    """The values of an output, each scaled and moved into its unit."""

    def __init__(self, declared: RegressPost, outputs: Sequence[TensorSpec]) -> None:
        self._output = declared.output
        self._spec = choose_output(outputs, declared.output)
        size = _fixed_size(self._spec, limit=_MAX_QUANTITIES)
        for name, numbers in (("scale", declared.scale), ("offset", declared.offset)):
            if len(numbers) not in {1, size}:
                raise ModelError(f"expected 1 or {size} numbers for {name}, one a value, found {len(numbers)}")
        self._scale = np.broadcast_to(np.array(declared.scale), (size,)).tolist()
        self._offset = np.broadcast_to(np.array(declared.offset), (size,)).tolist()

    def __call__(self, model_input: Array, outputs: Sequence[Array], region: Region) -> tuple[Item, ...]:
        values = real_values(outputs[self._output], self._spec).tolist()
        terms = zip(values, self._scale, self._offset, strict=False)
        return _items(value * scale + offset for value, scale, offset in terms)


class Embed:
    """The values of an output, at the declared length of 1 or as they are."""

    def __init__(self, declared: EmbedPost, outputs: Sequence[TensorSpec]) -> None:
        self._declared = declared
        self._spec = choose_output(outputs, declared.output)
        _fixed_size(self._spec, limit=_MAX_DIMENSIONS)

    def __call__(self, model_input: Array, outputs: Sequence[Array], region: Region) -> tuple[Item, ...]:
        values = real_values(outputs[self._declared.output], self._spec)
        return _items((normalized(values) if self._declared.normalize else values).tolist())


class Raw:
    """The first values of all outputs, in the order of the outputs; the index counts on from one to the next."""

    def __init__(self, declared: RawPost, outputs: Sequence[TensorSpec]) -> None:
        self._limit = declared.max_values
        self._specs = tuple(outputs)

    def __call__(self, model_input: Array, outputs: Sequence[Array], region: Region) -> tuple[Item, ...]:
        values: list[float] = []
        for output, spec in zip(outputs, self._specs, strict=True):
            if len(values) == self._limit:
                break
            values += real_values(output.reshape(-1)[: self._limit - len(values)], spec).tolist()
        return _items(values)


def normalized(values: Floats) -> Floats:
    """Divided by their Euclidean length; zeros stay as they are, and NaN where a value is none."""
    with np.errstate(all="ignore"):
        # In float64, where the square of no float32 is infinite.
        exact = values.astype(np.float64)
        length = float(np.linalg.norm(exact))
        return (exact / length).astype(np.float32) if length > 0.0 else values


def _items(values: Iterable[float]) -> tuple[Item, ...]:
    """Without those that are no numbers: the index of the others stays."""
    return tuple(Item(index, value) for index, value in enumerate(values) if -LARGEST <= value <= LARGEST)


def _fixed_size(spec: TensorSpec, *, limit: int) -> int:
    size = math.prod(1 if axis < 0 and place == 0 else axis for place, axis in enumerate(spec.shape))
    if any(axis < 0 for axis in spec.shape[1:]) or not 1 <= size <= limit:
        raise ModelError(f"expected an output of fixed size, 1 to {limit} values, found {spec.shape}")
    return size
