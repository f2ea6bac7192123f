"""What an engine is run with: the frame, and beside it the states and constants that a variant declares."""

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.engines.base import Engine
from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import TensorSpec, Variant
from edgeinfer.runtime.preprocess import concrete_shape

__all__ = ["Feed"]

Array = npt.NDArray[Any]


class Feed:
    """The engine's inputs: the frame at `slot`, and what the variant declares as states and constants.

    Raises ModelError where the model has other inputs or outputs than are declared.
    """

    def __init__(self, engine: Engine, variant: Variant, *, about: str) -> None:
        self._about = about
        if not engine.outputs:
            raise ModelError(f"{about}: expected a model with some output, found none")
        input_places = {spec.name: place for place, spec in enumerate(engine.inputs)}
        output_places = {spec.name: place for place, spec in enumerate(engine.outputs)}
        self._inputs: list[Array] = [_zeros(spec) for spec in engine.inputs]
        self._states: list[tuple[int, int]] = []
        for state in variant.states:
            self._states.append((self._place(state.input, input_places), self._place(state.output, output_places)))
        constants = []
        for constant in variant.constants:
            constants.append(self._place(constant.input, input_places))
            self._inputs[constants[-1]].fill(constant.value)
        free = set(range(len(engine.inputs))) - {place for place, _ in self._states} - set(constants)
        if len(free) != 1:
            raise ModelError(
                f"{about}: expected one input for the frame, found {len(free)} of {sorted(input_places)}",
                hint="the package declares the other inputs of the variant as states or constants",
            )
        self.slot = free.pop()
        self.remembers = bool(self._states)

    def inputs(self, target: Array) -> list[Array]:
        self._inputs[self.slot] = target
        return self._inputs

    def remember(self, outputs: list[Array]) -> None:
        for place, output in self._states:
            self._inputs[place] = outputs[output]

    def reset(self) -> None:
        for place, _ in self._states:
            self._inputs[place] = np.zeros_like(self._inputs[place])

    def _place(self, name: str, places: dict[str, int]) -> int:
        if name not in places:
            raise ModelError(f"{self._about}: declares the tensor {name!r}, the model has {', '.join(places)}")
        return places[name]


def _zeros(spec: TensorSpec) -> Array:
    return np.zeros(concrete_shape(spec), dtype=spec.dtype)
