"""Models of several inputs: which of them is the frame's, and what the others are fed with.

`--state state=stateN` feeds the input `state` with what the last inference gave for `stateN`; `--constant sr=16000`
fills the input `sr` with a number. One input must be left, for the frame.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeinfer.runtime.engines import Engine
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import UsageError
from edgeinfer.runtime.manifest import Constant, StateTensor, TensorSpec
from edgeinfer.runtime.preprocess import concrete_shape

__all__ = ["FED_ALONE", "Feeding", "OneInput", "frame_input", "parse_feeding"]


@dataclass(frozen=True, slots=True)
class Feeding:
    """What the inputs beside the frame's are fed with. `input`: the frame's, with sizes for what the model leaves
    open; None: it leaves nothing open and has no other inputs."""

    states: tuple[StateTensor, ...] = ()
    constants: tuple[Constant, ...] = ()
    input: TensorSpec | None = None


FED_ALONE = Feeding()
"""Of a model whose only input is the frame's."""


def parse_feeding(states: Sequence[str], constants: Sequence[str]) -> Feeding:
    """From `input=output` and `input=number`. Raises UsageError."""
    return Feeding(
        tuple(StateTensor(*_pair("--state", text)) for text in states),
        tuple(_constant(text) for text in constants),
    )


def _constant(text: str) -> Constant:
    name, value = _pair("--constant", text)
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"--constant: expected a number for {name}, found {value!r}")
    return Constant(name, number)


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise UsageError(f"{option}: expected NAME=VALUE, found {text!r}")
    return name, value


def frame_input(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], feeding: Feeding, *, about: str
) -> TensorSpec:
    """The one input that is neither a state nor a constant. Raises UsageError where there is not exactly one, or a
    tensor is named that the model does not have."""
    fed = [state.input for state in feeding.states] + [constant.input for constant in feeding.constants]
    _check_names(fed, inputs, f"{about}: expected an input")
    _check_names([state.output for state in feeding.states], outputs, f"{about}: expected an output")
    free = [spec for spec in inputs if spec.name not in fed]
    if len(free) != 1 or len(set(fed)) != len(fed):
        raise UsageError(
            f"{about}: expected a model with one input for the frame, "
            f"found {len(free)}: {', '.join(spec.name for spec in free)}",
            hint="--state INPUT=OUTPUT and --constant INPUT=NUMBER feed the others",
        )
    return free[0]


def _check_names(names: list[str], tensors: tuple[TensorSpec, ...], expected: str) -> None:
    known = [spec.name for spec in tensors]
    for name in names:
        if name not in known:
            raise UsageError(f"{expected} of the model ({', '.join(known)}), found {name!r}")


class OneInput:
    """An engine that looks like one of a single input: each call is the first of a source, with states of zeros."""

    def __init__(self, engine: Engine, feeding: Feeding) -> None:
        spec = frame_input(engine.inputs, engine.outputs, feeding, about="model")
        self.engine = engine
        self.name, self.version = engine.name, engine.version
        self.inputs: tuple[TensorSpec, ...] = (feeding.input or spec,)
        self.outputs = engine.outputs
        self._slot = engine.inputs.index(spec)
        self._fed = [np.zeros(concrete_shape(one), dtype=one.dtype) for one in engine.inputs]
        values = {constant.input: constant.value for constant in feeding.constants}
        for one, array in zip(engine.inputs, self._fed, strict=True):
            array.fill(values.get(one.name, 0.0))

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        fed = list(self._fed)
        (fed[self._slot],) = inputs
        return self.engine.run(fed)

    def interrupt(self) -> bool:
        return self.engine.interrupt()

    def close(self) -> None:
        self.engine.close()
