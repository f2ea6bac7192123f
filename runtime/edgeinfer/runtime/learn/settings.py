"""What a configuration may say of drift, hard examples and the shadow."""

from typing import Annotated

import msgspec

from edgeinfer.runtime.config import Section

__all__ = ["DriftConfig", "ExamplesConfig", "ShadowConfig"]


class DriftConfig(Section, frozen=True):
    """How often scores and inputs are held against the package's reference."""


class ExamplesConfig(Section, frozen=True):
    """Which inputs are kept to be labelled, and how many."""


class ShadowConfig(Section, frozen=True):
    """A new version runs beside the active one on `frames` live frames before its trial; 0 leaves that out.

    Below `min_agreement` (0..1) it is refused. `every` is how many frames there are to one in shadow.
    """

    frames: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    min_agreement: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.0
    every: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1
