"""What stands around a pipeline's inference: gates before it, observers behind it.

A gate looks at a captured frame before anything is spent on it. An observer looks at a result and may add results
of its own: an event, a hard example, a measure of drift. Both are called by one thread of their pipeline at a time,
neither blocks, and what one raises costs the pipeline no frame: it is logged, and the stage is passed over.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy.typing as npt

from edgeinfer.runtime.frame import Frame, FrameState
from edgeinfer.runtime.results import Result

__all__ = ["Gate", "Observer", "Seen"]

Array = npt.NDArray[Any]


class Gate(Protocol):
    """Called in the capturing thread, in the order of the configuration, until one of them says no."""

    def __call__(self, frame: Frame, /) -> FrameState | None:
        """The state that the frame ends in without an inference; None lets it pass."""
        ...


class Seen(NamedTuple):
    """An inferred frame: `target` is the engine's input, `outputs` what the engine gave, as they are (quantized
    where the model is). Arrays are the pipeline's own: copy what is kept."""

    frame: Frame
    result: Result
    target: Array
    outputs: Sequence[Array]


class Observer(Protocol):
    """Called in the inference thread, after the result was appended."""

    def __call__(self, seen: Seen, /) -> Iterable[Result]:
        """Results to append behind the frame's own; their `t_ns` and `frame` are those of the frame."""
        ...

    def close(self) -> None:
        """The pipeline ends. May be called twice."""
        ...
