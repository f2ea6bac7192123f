"""What a configuration may say of engines, of the memory of models, and of the governor."""

from typing import Annotated

import msgspec

from edgeinfer.runtime.config import Section

__all__ = ["EngineConfig", "GovernorConfig", "ModelsConfig"]

Seconds = Annotated[float, msgspec.Meta(ge=0.0, le=1e9)]


class EngineConfig(Section, frozen=True):
    """How a pipeline's model is executed.

    `timeout_s`: a call that takes longer is stuck: it is ended and the engine restarted. `isolate`: the engine runs
    in a process of its own, which can be ended at any moment; `max_mb` bounds that process's memory (0: no bound)
    and asks for `isolate`. `idle_unload_s`: a model that got no frame for so long is unloaded until the next one
    (0: never). `pinned`: never unloaded for the memory budget.
    """

    timeout_s: Annotated[float, msgspec.Meta(gt=0.0, le=86_400.0)] = 30.0
    isolate: bool = False
    max_mb: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] = 0
    idle_unload_s: Seconds = 0.0
    pinned: bool = False


class ModelsConfig(Section, frozen=True):
    """`budget_mb`: what all loaded models may take together; the least recently used go first. 0: no bound."""

    budget_mb: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] = 0


class GovernorConfig(Section, frozen=True):
    """Steps down when the device is too hot, too busy or too low on battery, and up again with hysteresis."""
