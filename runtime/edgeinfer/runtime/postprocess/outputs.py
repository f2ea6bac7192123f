"""What every way of reading outputs needs: the output that is meant, its size, and its values as real numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.engines.base import dequantize
from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import TensorSpec

__all__ = ["LARGEST", "choose_output", "input_size", "only", "real_values"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
# What is larger than float32 becomes infinite on the wire.
LARGEST = float(np.finfo(np.float32).max)
_PICTURE_AXES = 4
_CHANNELS = {1, 3}


def choose_output(outputs: Sequence[TensorSpec], place: int) -> TensorSpec:
    """Raises ModelError where the model has no such output."""
    if not 0 <= place < len(outputs):
        raise ModelError(f"the package reads output {place}, the model has {len(outputs)}")
    return outputs[place]


def input_size(model_input: TensorSpec) -> tuple[int, int]:
    """Height and width of a picture input, channels first or last. Raises ModelError for another input."""
    shape = model_input.shape
    if len(shape) != _PICTURE_AXES:
        raise ModelError(f"expected a model of pictures (4 axes), found an input {shape}")
    height, width = shape[1:3] if shape[3] in _CHANNELS else shape[2:4]
    if min(height, width) < 1:
        raise ModelError(f"expected an input of fixed height and width, found {shape}")
    return height, width


def only(output: Array) -> Array:
    """The one entry of a batch; zeros where an open batch came back empty."""
    entry: Array = output[0] if len(output) else np.zeros(output.shape[1:], dtype=output.dtype)
    return entry


def real_values(output: Array, spec: TensorSpec) -> Floats:
    """The values of an output, flat, as float32 in their own units; infinite where they are beyond it."""
    with np.errstate(over="ignore"):
        values: Floats = dequantize(output, spec).reshape(-1).astype(np.float32, copy=False)
    return values
