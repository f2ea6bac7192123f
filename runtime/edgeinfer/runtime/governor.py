"""Decides when the device steps down, and up again. Values only: no clock, no thread, no file.

The steps form a ladder: each step of the configuration in its order, each for every pipeline from the lowest priority
up. Down takes the next rung that there is, up gives back the last that was taken. One rung at a time, and never in
haste: a limit that is exceeded is given `hold_down_s` to answer to a step; a step up waits until everything was well,
by a margin, for `hold_up_s`, and longer after each time that a step up had to be taken back.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec

from edgeinfer.devices.thermal import DeviceReadings
from edgeinfer.runtime.engine_settings import GovernorConfig, StepName

__all__ = ["Governor", "PipelineReadings", "Readings", "Step"]

# A step down that follows a step up within so many times the wait for it takes that one back.
_RELAPSE = 10
_MOST_PATIENCE = 32
# How long a step that has failed after it was taken is not asked for; twice as long after each further time.
_FIRST_REFUSAL_S = 60.0
_LONGEST_REFUSAL_S = 3600.0


class PipelineReadings(msgspec.Struct, frozen=True):
    """`fps`: frames captured a second, recently; `age_ms`: from capture to result, p99 of the recent frames."""

    name: str
    priority: int = 0
    fps: float = 0.0
    age_ms: float = 0.0
    latency_budget_ms: float = 0.0


class Readings(msgspec.Struct, frozen=True):
    device: DeviceReadings = DeviceReadings()
    pipelines: tuple[PipelineReadings, ...] = ()


class Step(msgspec.Struct, frozen=True):
    """`depth`: how often this step is taken for this pipeline from now on (0: no more); `level`: how many steps in
    all. `fps`: the limit that follows (0: none). `reason`: what exceeded its `limit`, or did when the step that is
    given back was taken; `reading`: what it is now."""

    pipeline: str
    step: StepName
    direction: Literal["down", "up"]
    depth: int
    level: int
    fps: float
    reason: str
    reading: float
    limit: float


class _Rung(NamedTuple):
    pipeline: str
    step: StepName
    reason: str
    limit: float


class _Quantity(NamedTuple):
    """Something that is watched. `priority` is set where it is a pipeline's own: it asks nothing of higher ones."""

    reason: str
    reading: float
    limit: float
    is_over: bool
    is_well: bool
    priority: int | None = None


class Governor:
    """`decide` is to be called about once a second; `now_s` is on the monotonic clock."""

    def __init__(self, config: GovernorConfig) -> None:
        self._config = config
        self._taken: list[_Rung] = []
        self._refused_until_s: dict[tuple[str, StepName], float] = {}
        self._refusal_s: dict[tuple[str, StepName], float] = {}  # how long the last one of those that fail was
        self._full_fps: dict[str, float] = {}  # before the first limit
        self._stepped_at_s = float("-inf")
        self._up_at_s = float("-inf")
        self._well_since_s: float | None = None
        self._patience = 1

    def decide(self, readings: Readings, now_s: float) -> list[Step]:
        """The step to take now, if any: it counts as taken unless it is refused."""
        names = {pipeline.name for pipeline in readings.pipelines}
        self._taken = [rung for rung in self._taken if rung.pipeline in names]
        watched = list(self._watched(readings))
        if any(quantity.is_over for quantity in watched):
            self._well_since_s = None
            if now_s - self._stepped_at_s < self._config.hold_down_s:
                return []
            self._refused_until_s = {key: until for key, until in self._refused_until_s.items() if until > now_s}
            return self._down([quantity for quantity in watched if quantity.is_over], readings.pipelines, now_s)
        if not all(quantity.is_well for quantity in watched):
            self._well_since_s = None
            return []
        if self._well_since_s is None:
            self._well_since_s = now_s
        wait_s = self._config.hold_up_s * self._patience
        if now_s - max(self._well_since_s, self._stepped_at_s) < wait_s:
            return []
        return self._up(watched, now_s)

    def refuse(self, step: Step) -> None:
        """A step down that has just been decided cannot be taken: the pipeline has no such thing. Decide again."""
        rung = self._taken.pop()
        self._refused_until_s[rung.pipeline, rung.step] = float("inf")
        self._stepped_at_s = float("-inf")
        if not self._depth(step.pipeline, "frame_rate"):
            self._full_fps.pop(step.pipeline, None)

    def give_up(self, pipeline: str, step: StepName, now_s: float) -> Step | None:
        """A step that was taken cannot be kept: it counts as taken back, and is refused for a while, longer each
        time. None where it is not taken."""
        rungs = [rung for rung in self._taken if (rung.pipeline, rung.step) == (pipeline, step)]
        if not rungs:
            return None
        self._taken = [rung for rung in self._taken if rung not in rungs]
        key = (pipeline, step)
        self._refusal_s[key] = min(_LONGEST_REFUSAL_S, 2 * self._refusal_s.get(key, _FIRST_REFUSAL_S / 2))
        self._refused_until_s[key] = now_s + self._refusal_s[key]
        self._stepped_at_s = float("-inf")
        return self._step(rungs[-1], "up", 0.0)

    def depths(self, pipeline: str) -> dict[StepName, int]:
        """The steps that are taken for a pipeline, each with how often."""
        steps = dict.fromkeys(rung.step for rung in self._taken if rung.pipeline == pipeline)
        return {step: self._depth(pipeline, step) for step in steps}

    def fps(self, pipeline: str) -> float:
        """The limit of its frame rate; 0: none."""
        depth = self._depth(pipeline, "frame_rate")
        return self._full_fps.get(pipeline, 0.0) * self._config.frame_rate_factor**depth if depth else 0.0

    # What is watched.

    def _watched(self, readings: Readings) -> Iterator[_Quantity]:
        config, device = self._config, readings.device
        if config.throttled:
            held_back = bool(device.throttled)
            yield _Quantity("throttled", float(len(device.throttled)), 0.0, held_back, not held_back)
        limit = config.max_temperature_c
        if limit and device.temperature_c is not None:
            well = device.temperature_c <= limit - config.temperature_margin_c
            yield _Quantity("temperature", device.temperature_c, limit, device.temperature_c > limit, well)
        yield from self._below("power", device.power_w, config.max_power_w)
        if config.min_battery_percent and device.battery_percent is not None:
            yield self._battery(device.battery_percent, on_battery=device.on_battery is True)
        yield from self._below("memory_pressure", device.memory_pressure, config.max_memory_pressure)
        yield from self._below("cpu_pressure", device.cpu_pressure, config.max_cpu_pressure)
        for pipeline in readings.pipelines:
            # One without frames has no age, only a memory of it.
            if pipeline.fps > 0 and not self._depth(pipeline.name, "pause"):
                yield from self._below("latency", pipeline.age_ms, pipeline.latency_budget_ms, pipeline.priority)

    def _below(
        self, reason: str, reading: float | None, limit: float, priority: int | None = None
    ) -> Iterator[_Quantity]:
        if limit and reading is not None:
            well = reading <= limit * (1 - self._config.margin)
            yield _Quantity(reason, reading, limit, reading > limit, well, priority)

    def _battery(self, percent: float, *, on_battery: bool) -> _Quantity:
        limit = self._config.min_battery_percent
        well = not on_battery or percent >= min(100.0, limit * (1 + self._config.margin))
        return _Quantity("battery", percent, limit, on_battery and percent < limit, well)

    # Steps.

    def _down(self, over: Sequence[_Quantity], pipelines: Sequence[PipelineReadings], now_s: float) -> list[Step]:
        for quantity in over:
            for pipeline, step in self._ladder(pipelines, quantity.priority):
                if step == "frame_rate":
                    self._full_fps.setdefault(pipeline.name, pipeline.fps)
                self._taken.append(_Rung(pipeline.name, step, quantity.reason, quantity.limit))
                if now_s - self._up_at_s < _RELAPSE * self._config.hold_up_s:
                    self._patience = min(_MOST_PATIENCE, 2 * self._patience)
                self._stepped_at_s, self._up_at_s = now_s, float("-inf")
                return [self._step(self._taken[-1], "down", quantity.reading)]
        return []

    def _ladder(
        self, pipelines: Sequence[PipelineReadings], up_to_priority: int | None
    ) -> Iterator[tuple[PipelineReadings, StepName]]:
        """The rungs that are left, in order. What concerns one pipeline asks nothing of more important ones, and one
        without frames has nothing to give."""
        most = max((pipeline.priority for pipeline in pipelines), default=0)
        for step in self._config.steps:
            for depth in range(1, self._config.frame_rate_levels + 1 if step == "frame_rate" else 2):
                for pipeline in sorted(pipelines, key=lambda pipeline: pipeline.priority):
                    allowed = up_to_priority is None or pipeline.priority <= up_to_priority
                    sensible = pipeline.fps > 0 and (step != "pause" or pipeline.priority < most)
                    known = (pipeline.name, step) not in self._refused_until_s
                    if allowed and sensible and known and self._depth(pipeline.name, step) < depth:
                        yield pipeline, step

    def _up(self, watched: Sequence[_Quantity], now_s: float) -> list[Step]:
        if not self._taken:
            if now_s - self._stepped_at_s > _RELAPSE * _MOST_PATIENCE * self._config.hold_up_s:
                self._patience = 1
            return []
        rung = self._taken.pop()
        self._stepped_at_s = self._up_at_s = now_s
        if not self._taken:
            # Packages change: it may be asked again.
            self._refused_until_s = {key: until for key, until in self._refused_until_s.items() if until < float("inf")}
        reading = next((quantity.reading for quantity in watched if quantity.reason == rung.reason), 0.0)
        step = self._step(rung, "up", reading)
        if not self._depth(rung.pipeline, "frame_rate"):
            self._full_fps.pop(rung.pipeline, None)
        return [step]

    def _step(self, rung: _Rung, direction: Literal["down", "up"], reading: float) -> Step:
        return Step(
            pipeline=rung.pipeline,
            step=rung.step,
            direction=direction,
            depth=self._depth(rung.pipeline, rung.step),
            level=sum(taken.pipeline == rung.pipeline for taken in self._taken),
            fps=self.fps(rung.pipeline),
            reason=rung.reason,
            reading=reading,
            limit=rung.limit,
        )

    def _depth(self, pipeline: str, step: StepName) -> int:
        return sum(rung.pipeline == pipeline and rung.step == step for rung in self._taken)
