"""Watches the engines and the device while the pipelines run: ends stuck calls, unloads, has the governor decide."""

import logging
import time
from collections.abc import Callable

from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.models import EngineIncident, ModelPool
from edgeinfer.runtime.pipelines import PipelineSet
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.runtime.settings import RuntimeConfig

__all__ = ["Supervisor"]

logger = logging.getLogger(__name__)

_GOVERN_INTERVAL_S = 1.0
# The engines' own watch ends stuck calls. Where one is under way for so much longer, that watch has failed too.
_STUCK_BEYOND_S = 60.0


class Supervisor:
    """`tick` is called ten times a second by the daemon's main thread."""

    def __init__(
        self, config: RuntimeConfig, *, pipelines: PipelineSet, pool: ModelPool, append: Callable[[str, Result], None]
    ) -> None:
        self._pipelines = pipelines
        self._pool = pool
        self._append = append
        self.governing = None
        if config.governor is not None:
            from edgeinfer.runtime.governing import Governing

            self.governing = Governing(config.governor, pipelines=pipelines.governed, append=append)
        self._govern_due_s = time.monotonic() + _GOVERN_INTERVAL_S

    def tick(self, now_s: float) -> None:
        for incident in self._pool.tend(now_s):
            if incident.thread is not None:
                self._pipelines.abandon_call(incident.thread)
            self._tell(incident)
        if self.governing is not None and now_s >= self._govern_due_s:
            self._govern_due_s = now_s + _GOVERN_INTERVAL_S
            self.governing.tick(now_s)

    def healthy(self) -> bool:
        """False where an engine's call is stuck and nothing has ended it: only a new process helps."""
        allowed_s = max((p.config.engine.timeout_s for p in self._pipelines.all()), default=0.0) + _STUCK_BEYOND_S
        return self._pipelines.stuck_s() < allowed_s

    def _tell(self, incident: EngineIncident) -> None:
        """What happened to an engine is a result of each pipeline that uses it."""
        extra: dict[str, int | float | str] = {"what": incident.what, "reason": incident.reason}
        for pipeline in self._pipelines.using(incident.engine):
            try:
                self._append(pipeline.config.name, Result(Kind.ENGINE, time.time_ns(), extra=extra))
            except BufferStorageError as error:
                logger.warning("event=incident_lost engine=%s error=%s", incident.engine, error)
