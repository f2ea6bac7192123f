"""What every kind of preprocessing is, seen from a pipeline."""

from typing import Any, NamedTuple, Protocol

import numpy.typing as npt

__all__ = ["WHOLE", "Array", "Prepare", "Region"]

Array = npt.NDArray[Any]


class Region(NamedTuple):
    """The part of the source picture that the model's input shows, in 0..1 of the picture; a letterbox
    reaches beyond it. A point (u, v) of the input lies at (x + u * width, y + v * height)."""

    x: float
    y: float
    width: float
    height: float


WHOLE = Region(0.0, 0.0, 1.0, 1.0)


class Prepare(Protocol):
    """Writes the model's input for one frame's data into `target`, an array of `new_target`. Raises SourceError for
    data of a wrong shape or dtype. Called from one thread at a time."""

    def new_target(self) -> Array: ...

    def __call__(self, data: Array, target: Array) -> Region: ...
