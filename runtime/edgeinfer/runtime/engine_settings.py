"""What a configuration may say of engines, of the memory of models, and of the governor."""

from typing import Annotated, Literal

import msgspec

from edgeinfer.runtime.config import Section

__all__ = ["EngineConfig", "GovernorConfig", "ModelsConfig", "StepName"]

StepName = Literal["frame_rate", "variant", "motion", "pause"]
Percent = Annotated[float, msgspec.Meta(ge=0.0, le=100.0)]
Seconds = Annotated[float, msgspec.Meta(ge=0.0, le=1e9)]


class EngineConfig(Section, frozen=True):
    """How a pipeline's model is executed.

    `timeout_s`: a call that takes longer is stuck: it is ended and the engine restarted. `isolate`: the engine runs
    in a process of its own, which can be ended at any moment; `max_mb` bounds that process's memory (0: no bound)
    and asks for `isolate`. `idle_unload_s`: a model that got no frame for so long is unloaded until the next one
    (0: never). `pinned`: never unloaded for the memory budget.

    Pipelines that share a loaded model share these, too: what one of them sets counts for all, the largest where
    several set the same.
    """

    timeout_s: Annotated[float, msgspec.Meta(gt=0.0, le=86_400.0)] = 30.0
    isolate: bool = False
    max_mb: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] = 0
    idle_unload_s: Seconds = 0.0
    pinned: bool = False

    def __post_init__(self) -> None:
        if self.max_mb and not self.isolate:
            raise ValueError("max_mb bounds the memory of an engine's own process: it needs isolate = true")


class ModelsConfig(Section, frozen=True):
    """`budget_mb`: what all loaded models may take together; the least recently used go first. 0: no bound. Less than
    what models need that get frames at the same time has each of them loaded again for every frame."""

    budget_mb: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] = 0


class GovernorConfig(Section, frozen=True):
    """Steps down when the device is too hot, too busy or too low on battery, and up again with hysteresis. The
    section being there turns it on, for the pipelines' own `latency_budget_ms` too. 0: that is not watched.

    What is watched: `max_temperature_c`; `throttled`, whether the device says that it holds itself back;
    `max_cpu_pressure` and `max_memory_pressure`, percent of the last 10 s in which some task had to wait;
    `min_battery_percent`, while on battery; `max_power_w`, where a sensor measures it.

    `steps` in the order in which they are taken, each for all pipelines from the lowest `priority` up:
    `frame_rate` (by `frame_rate_factor`, `frame_rate_levels` times), `variant` (the fastest of the package),
    `motion` (frames without motion are skipped), `pause` (never those of the highest priority).

    Between two steps down `hold_down_s` pass. A step up comes once all readings were well for `hold_up_s`: below
    their limit by `temperature_margin_c`, or by the share `margin` of it.
    """

    # A Raspberry Pi slows itself down from 80 degrees on.
    max_temperature_c: Annotated[float, msgspec.Meta(ge=0.0, le=200.0)] = 75.0
    temperature_margin_c: Annotated[float, msgspec.Meta(gt=0.0, le=100.0)] = 5.0
    throttled: bool = True
    max_cpu_pressure: Percent = 0.0
    max_memory_pressure: Percent = 0.0
    min_battery_percent: Percent = 0.0
    max_power_w: Annotated[float, msgspec.Meta(ge=0.0, le=1e5)] = 0.0
    margin: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] = 0.2
    steps: tuple[StepName, ...] = ("frame_rate", "variant", "motion", "pause")
    frame_rate_factor: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] = 0.5
    frame_rate_levels: Annotated[int, msgspec.Meta(ge=1, le=8)] = 2
    # Heat follows a step slowly, and so does the age of recent frames.
    hold_down_s: Annotated[float, msgspec.Meta(gt=0.0, le=86_400.0)] = 20.0
    hold_up_s: Annotated[float, msgspec.Meta(gt=0.0, le=86_400.0)] = 60.0

    def __post_init__(self) -> None:
        if len(set(self.steps)) < len(self.steps):
            raise ValueError(f"steps: expected each step once, found {list(self.steps)}")
