"""Watches the engines and the device while the pipelines run: ends stuck calls, unloads, has the governor decide.

Two threads, neither of which is the daemon's main one, which may itself wait for an engine (a reload loads models).
`supervisor` waits for no engine and no disk, so that it can end whatever is stuck. `governor`, where there is one,
loads models when it changes variants: it is one of those that may get stuck.
"""

import logging
import threading
import time
from collections.abc import Callable

from edgeinfer.runtime.backoff import Backoff
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.models import LOAD_S, EngineIncident, ModelPool
from edgeinfer.runtime.pipelines import PipelineSet
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.runtime.settings import RuntimeConfig

__all__ = ["Supervisor"]

logger = logging.getLogger(__name__)

_TICK_S = 0.1
_GOVERN_INTERVAL_S = 1.0
# The engines' own watch ends stuck calls. Where one is under way for so much longer, that watch has failed too.
_STUCK_BEYOND_S = 60.0
# A thread of ours that has come to no end for so long is stuck. The governor may load several models in a row.
_SILENT_S = 120.0
_GOVERNOR_SILENT_S = 600.0
# Between tries of what fails each time.
_LONGEST_WAIT_S = 5.0


class _Loop:
    """A thread that calls `work` with the time until it is stopped; what it raises is logged, and it goes on."""

    def __init__(self, name: str, work: Callable[[float], None], *, interval_s: float, silent_s: float) -> None:
        self._name = name
        self._work = work
        self._interval_s = interval_s
        self._silent_s = silent_s
        self._stop = threading.Event()
        self._done_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._done_s = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def join(self, deadline_s: float) -> None:
        if self._thread.is_alive():
            self._thread.join(max(0.0, deadline_s - time.monotonic()))

    def healthy(self, now_s: float) -> bool:
        """Whether the thread is there, and has come to the end of its work lately."""
        return self._thread.is_alive() and now_s - self._done_s < self._silent_s

    def _run(self) -> None:
        backoff = Backoff(first_s=self._interval_s, cap_s=_LONGEST_WAIT_S)
        wait_s = self._interval_s
        while not self._stop.wait(wait_s):
            wait_s = self._interval_s
            try:
                self._work(time.monotonic())
                backoff.reset()
            except Exception:
                logger.exception("event=%s_crashed", self._name)
                wait_s = backoff.next()
            self._done_s = time.monotonic()


class Supervisor:
    """`append` takes a pipeline's name and a result, and must not wait: it raises BufferStorageError instead."""

    def __init__(
        self, config: RuntimeConfig, *, pipelines: PipelineSet, pool: ModelPool, append: Callable[[str, Result], None]
    ) -> None:
        self._pipelines = pipelines
        self._pool = pool
        self._append = append
        self._loops = [_Loop("supervisor", self.tick, interval_s=_TICK_S, silent_s=_SILENT_S)]
        self.governing = None
        if config.governor is not None:
            from edgeinfer.runtime.governing import Governing

            self.governing = Governing(config.governor, pipelines=pipelines.governed, append=append)
            self._loops.append(
                _Loop("governor", self.governing.tick, interval_s=_GOVERN_INTERVAL_S, silent_s=_GOVERNOR_SILENT_S)
            )

    def start(self) -> None:
        for loop in self._loops:
            loop.start()

    def stop(self, timeout_s: float = 0.2) -> None:
        """Does not wait for longer: a thread that is stuck, or loads a model, is left behind."""
        deadline_s = time.monotonic() + timeout_s
        for loop in self._loops:
            loop.stop()
        for loop in self._loops:
            loop.join(deadline_s)

    def tick(self, now_s: float) -> None:
        """What the thread does ten times a second. Waits for no engine and no disk."""
        for incident in self._pool.tend(now_s):
            if incident.thread is not None:
                self._pipelines.abandon_call(incident.thread)
            self._tell(incident)

    def healthy(self) -> bool:
        """False where an engine's call is stuck and nothing has ended it, or a thread of the supervisor is gone or
        stuck: only a new process helps."""
        now_s = time.monotonic()
        if not all(loop.healthy(now_s) for loop in self._loops):
            return False
        allowed_s = max((p.config.engine.timeout_s for p in self._pipelines.all()), default=0.0)
        return self._pipelines.stuck_s() < max(allowed_s, LOAD_S) + _STUCK_BEYOND_S

    def _tell(self, incident: EngineIncident) -> None:
        """What happened to an engine is a result of each pipeline that uses it."""
        extra: dict[str, int | float | str] = {"what": incident.what, "reason": incident.reason}
        for pipeline in self._pipelines.using(incident.engine):
            try:
                self._append(pipeline.config.name, Result(Kind.ENGINE, time.time_ns(), extra=extra))
            except BufferStorageError as error:
                logger.warning("event=incident_lost engine=%s error=%s", incident.engine, error)
