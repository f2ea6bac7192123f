"""What a scheme is: a way to make another file of a float model's, and what it may be told about single layers."""

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgeinfer.runtime.engines.base import Array

__all__ = ["Calibration", "Layer", "Make", "Plan", "Precision", "Scheme"]


class Precision(enum.StrEnum):
    """What a layer's weights, and where the scheme says so its activations, are kept in."""

    FLOAT = "float"
    INT16 = "int16"
    INT8 = "int8"
    INT4 = "int4"


@dataclass(frozen=True, slots=True)
class Layer:
    """An operation with weights. `name` is what a plan calls it by; `weights` counts their elements."""

    name: str
    op: str
    weights: int


# The layers that get another precision than the scheme's own, by name.
Plan = Mapping[str, Precision]


class Calibration(Protocol):
    """Inputs to learn ranges from. Can be gone through any number of times; holds one of them in memory at a time."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[list[Array]]:
        """Of each: the float model's inputs in its own order, (1, *shape) each, of the dtype that it takes."""
        ...


# Writes the file at the second path from the float model at the first; returns "" or why it is of no use. Raises
# ModelError where the tool fails, DependencyError where it is missing.
Make = Callable[[Path, Path, Calibration, Plan], str]


@dataclass(frozen=True, slots=True)
class Scheme:
    """A way to make a variant. `id` becomes the variant's; `about` says in one line what it does and when it wins.

    `rung` orders the ladder: 0 is tried first on every model, 1 while there is time, 2 by an exhaustive search only.
    `mixes` are the precisions that a plan may give to single layers; without any the scheme takes no plan. `own` is
    what the other layers have. A scheme that does not calibrate leaves its calibration alone.

    `sketch` writes what runs the same kernels, sooner and maybe worse, to see how fast they are; None: `make` is quick.
    It is told few calibration rows, and begins with the file of the scheme that `begins` names, "": the float model.
    """

    id: str
    engine: str
    precision: str
    about: str
    make: Make
    rung: int = 0
    calibrates: bool = False
    own: Precision = Precision.INT8
    mixes: frozenset[Precision] = frozenset()
    quantizes: bool = True
    sketch: Make | None = None
    begins: str = ""
