"""What happens to engines, as values: told by whoever watches them, and kept as results."""

from typing import Literal

import msgspec

__all__ = ["EngineIncident"]


class EngineIncident(msgspec.Struct, frozen=True):
    """What happened to an engine. `engine` is its `label`; `thread` the ident of the thread that is stuck in a call
    that was given up (`abandoned`).

    `terminated`: a call took too long and was asked to end. `restarted`: the engine is loaded again after it had
    crashed or was ended. `over_memory`: its process took more than it may and is started again. `unloaded`: it was
    idle, or others needed the memory.
    """

    engine: str
    what: Literal["terminated", "restarted", "abandoned", "over_memory", "unloaded"]
    reason: str
    thread: int | None = None
