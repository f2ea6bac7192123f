"""What a variant is fed with while it is measured: the package's golden inputs in turn, else random values.

Real values where there are any: the time of a call depends on them (denormal numbers, kernels that skip zeros, boxes
that a detector has to sort).
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.engines.base import Engine, quantize_input
from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.feed import Feed
from edgeinfer.runtime.manifest import Manifest, TensorSpec, Variant
from edgeinfer.runtime.preprocess import concrete_shape, resolve_input

__all__ = ["GOLDEN", "RANDOM", "Inputs"]

Array = npt.NDArray[Any]

GOLDEN, RANDOM = "golden", "random"
_RANDOM_ROWS = 4


class Inputs:
    """The engine's inputs, call after call, with the states and constants that the variant declares. Raises
    ModelError where the model has other inputs than are declared, or the golden ones do not fit it."""

    def __init__(self, engine: Engine, variant: Variant, manifest: Manifest, folder: Path) -> None:
        self._feed = Feed(engine, variant, about=variant.id)
        spec = resolve_input(manifest.preprocess, engine.inputs[self._feed.slot])
        rows = _golden_rows(manifest, folder)
        self.kind = RANDOM if rows is None else GOLDEN
        if rows is None:
            rows = np.random.default_rng(0).random((_RANDOM_ROWS, *concrete_shape(spec)), np.float32)
        self._rows = [_as_input(row, spec) for row in rows]
        self._at = 0

    def next(self) -> list[Array]:
        """Of the next call."""
        self._at = (self._at + 1) % len(self._rows)
        return self._feed.inputs(self._rows[self._at])

    def remember(self, outputs: list[Array]) -> None:
        """What the call gave: the next one is fed with its states."""
        if self._feed.remembers:
            self._feed.remember(outputs)


def _golden_rows(manifest: Manifest, folder: Path) -> Array | None:
    """(count, *input shape) float32; None where the package has none."""
    if manifest.golden is None:
        return None
    raw = (folder / manifest.golden.file).read_bytes()
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
            rows: Array = arrays["input"]
    except (ValueError, KeyError, OSError, EOFError) as error:
        raise ModelError(f"{manifest.golden.file}: expected an .npz with input: {error}") from error
    return rows if len(rows) else None


def _as_input(row: Array, spec: TensorSpec) -> Array:
    shape = concrete_shape(spec)
    try:
        shaped = row.reshape(shape)
    except ValueError as error:
        raise ModelError(f"expected golden inputs of shape {shape}, found {row.shape}") from error
    return np.ascontiguousarray(quantize_input(shaped, spec))
