"""Has the governor read the device and the pipelines, and does what it decides. Every step is a result."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from edgeinfer.devices.thermal import DeviceReadings, DeviceSensors
from edgeinfer.runtime.engine_settings import GovernorConfig, StepName
from edgeinfer.runtime.errors import BufferStorageError, EdgeInferError
from edgeinfer.runtime.governor import Governor, PipelineReadings, Readings, Step
from edgeinfer.runtime.results import Kind, Result

__all__ = ["Governed", "Governing"]

logger = logging.getLogger(__name__)

# A step that cannot be taken again is given up after so many tries, with growing waits: each may load a model.
_TRIES = 3
_FIRST_WAIT_S = 10.0


class Governed(Protocol):
    """A pipeline, as far as the governor is concerned."""

    @property
    def name(self) -> str: ...

    @property
    def priority(self) -> int: ...

    @property
    def latency_budget_ms(self) -> float: ...

    def frame_rate(self) -> float:
        """Frames captured a second, recently."""
        ...

    def age_p99_us(self) -> int:
        """From capture to result, of the recent frames."""
        ...

    def limit_fps(self, fps: float) -> None:
        """0: no limit."""
        ...

    def pause(self, paused: bool) -> None:
        """Frames end as shed."""
        ...

    def skip_motionless(self, on: bool) -> bool:
        """False where it has no motion gate."""
        ...

    def use_smaller(self, on: bool) -> bool:
        """The fastest variant of the package. False where there is no other."""
        ...


class Governing:
    """`tick` is called about once a second by one thread. `append` takes a pipeline's name and a result; `read` gives
    the device's readings at a monotonic time."""

    def __init__(
        self,
        config: GovernorConfig,
        *,
        pipelines: Callable[[], Sequence[Governed]],
        append: Callable[[str, Result], None],
        read: Callable[[float], DeviceReadings] | None = None,
    ) -> None:
        self._governor = Governor(config)
        self._pipelines = pipelines
        self._append = append
        self._read = read if read is not None else DeviceSensors().read
        self._failing: dict[tuple[str, StepName], tuple[int, float]] = {}  # tries, when to try again
        self.readings = DeviceReadings()  # the last ones, for whoever shows them

    def tick(self, now_s: float) -> None:
        """Read, decide, apply. Raises nothing: a step that fails is refused, and said in the log."""
        pipelines = {pipeline.name: pipeline for pipeline in self._pipelines()}
        self.readings = self._read(now_s)
        readings = Readings(self.readings, tuple(_readings(pipeline) for pipeline in pipelines.values()))
        while steps := self._governor.decide(readings, now_s):
            step = steps[0]
            done = self._apply(pipelines[step.pipeline], step.step, on=step.depth > 0)
            if done or step.direction == "up":
                self._report(step)
                break
            self._governor.refuse(step)
        self._keep(pipelines, now_s)

    def _keep(self, pipelines: dict[str, Governed], now_s: float) -> None:
        """A pipeline that was made anew, or that has got a new version, knows nothing of the steps that are taken."""
        for name, pipeline in pipelines.items():
            for step in self._governor.depths(name):
                tries, next_s = self._failing.get((name, step), (0, now_s))
                if now_s < next_s:
                    continue
                if self._apply(pipeline, step, on=True) is not None:
                    self._failing.pop((name, step), None)
                elif tries + 1 < _TRIES:
                    self._failing[name, step] = (tries + 1, now_s + _FIRST_WAIT_S * 2**tries)
                else:
                    self._give_up(pipeline, step, now_s)

    def _give_up(self, pipeline: Governed, step: StepName, now_s: float) -> None:
        """The pipeline goes on without this step, and another one may be taken in its place."""
        del self._failing[pipeline.name, step]
        given_up = self._governor.give_up(pipeline.name, step, now_s)
        if given_up is not None:
            self._apply(pipeline, step, on=False)
            self._report(given_up)

    def _apply(self, pipeline: Governed, step: StepName, *, on: bool) -> bool | None:
        """Bring the pipeline to what the governor wants of it; asking twice does no harm. False where it has no such
        thing, or is there; None where that has failed."""
        try:
            match step:
                case "frame_rate":
                    pipeline.limit_fps(self._governor.fps(pipeline.name))
                case "pause":
                    pipeline.pause(on)
                case "motion":
                    return pipeline.skip_motionless(on)
                case "variant":
                    return pipeline.use_smaller(on)
        except EdgeInferError as error:
            logger.warning("event=step_failed pipeline=%s step=%s error=%s", pipeline.name, step, error)
            return None
        return True

    def _report(self, step: Step) -> None:
        extra: dict[str, int | float | str] = {
            "step": step.step,
            "direction": step.direction,
            "reason": step.reason,
            "reading": round(step.reading, 3),
            "limit": round(step.limit, 3),
            "level": step.level,
        }
        if step.step == "frame_rate":
            extra["fps"] = round(step.fps, 3)
        logger.info(
            "event=step pipeline=%s step=%s direction=%s reason=%s reading=%.1f limit=%.1f level=%d",
            step.pipeline,
            step.step,
            step.direction,
            step.reason,
            step.reading,
            step.limit,
            step.level,
        )
        try:
            self._append(step.pipeline, Result(Kind.STEP, time.time_ns(), extra=extra))
        except BufferStorageError as error:  # closed: the daemon ends
            logger.warning("event=step_lost pipeline=%s error=%s", step.pipeline, error)


def _readings(pipeline: Governed) -> PipelineReadings:
    return PipelineReadings(
        name=pipeline.name,
        priority=pipeline.priority,
        fps=pipeline.frame_rate(),
        age_ms=pipeline.age_p99_us() / 1000,
        latency_budget_ms=pipeline.latency_budget_ms,
    )
