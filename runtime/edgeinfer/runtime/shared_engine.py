"""An engine that pipelines share: one call at a time, loaded when it is needed, watched while it works.

Calls come from inference threads. `watch` and `unload` come from the pool (`edgeinfer.runtime.models`), at any moment
and from any thread; they never wait for a call. A call that is stuck is ended where the engine can be asked to.
Where it cannot, or does not obey, the call is given up: its thread stays where it is, and everybody else goes on
with a new engine, in a process of its own from now on.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import msgspec

from edgeinfer.runtime.engine_settings import EngineConfig
from edgeinfer.runtime.engines.base import Array, Engine, import_engine, load_engine
from edgeinfer.runtime.errors import EdgeInferError, ModelError
from edgeinfer.runtime.incidents import EngineIncident
from edgeinfer.runtime.manifest import TensorSpec
from edgeinfer.runtime.memory import give_back_memory, own_bytes, resident_bytes
from edgeinfer.runtime.revival import Revival
from edgeinfer.runtime.turns import Turns

if TYPE_CHECKING:
    from edgeinfer.runtime.engines.isolated import IsolatedEngine

__all__ = ["LOAD_S", "SharedEngine"]

logger = logging.getLogger(__name__)

# What a call that was asked to end may still take.
_GRACE_S = 2.0
# What loading may take, however short the time for a call is; longer than a process waits for its own start.
LOAD_S = 90.0
# So long a call waits for an engine that is to be started again; with more to wait its frame fails at once.
_PATIENCE_S = 1.0
# A process that replaces a stuck engine, and that nobody uses any more (its user may be the stuck thread itself).
_QUARANTINE_IDLE_S = 60.0
_GIVEN_UP = "the call was stuck and has been given up"


class SharedEngine:
    """Has the contract of an engine, and may be called from any number of threads: they take turns.

    `busy_since_s` is on the monotonic clock, 0.0 while no call is under way; so is `last_used_s`. `restarts` counts
    loads after a crash, a stuck call, or too much memory. `bytes` is what it takes in memory, or took when it was
    loaded: as measured, and no less than its file.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        *,
        threads: int,
        isolate: bool,
        note: Callable[[EngineIncident], None],
        make_room: Callable[["SharedEngine"], None],
    ) -> None:
        self.name = name
        self.path = path
        self.label = f"{path.parent.name[:12]}/{path.name}"
        self.version = ""
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self._configs: WeakKeyDictionary[object, EngineConfig] = WeakKeyDictionary()  # by user
        self._asked_for = EngineConfig()  # by nobody in particular
        self._configuring = threading.Lock()
        self.busy_since_s = 0.0
        self.last_used_s = time.monotonic()
        self.restarts = 0
        self.bytes = self._file_bytes = path.stat().st_size if path.is_file() else 0
        self.isolated = isolate
        self.quarantined = False
        self._threads = threads
        self._note = note
        self._make_room = make_room
        self._turns = Turns()
        self._guard = threading.Lock()  # over what a call and its watch both change; held for a moment only
        self._engine: Engine | None = None
        self._process: IsolatedEngine | None = None  # the same, where it is one
        self._thread = 0
        self._loading = False
        self._ended_for = ""  # why the call under way was asked to end
        self._asked_at_s = 0.0
        self._renew_for = ""  # why the engine is to be closed before the next call
        self._revival = Revival()
        self._own_before: int | None = None

    def __str__(self) -> str:
        return self.label

    @property
    def loaded(self) -> bool:
        return self._engine is not None

    @property
    def idle(self) -> bool:
        return not self.busy_since_s

    @property
    def config(self) -> EngineConfig:
        """What any of its users sets counts for all: what is left at its default says nothing. Where several set the
        same differently, the largest counts: no user's calls are ended earlier than it asked for."""
        with self._configuring:
            return _merge(list(self._configs.values()) or [self._asked_for])

    def configure(self, config: EngineConfig, *, user: object | None = None) -> None:
        """What `user`, usually a loaded model, wants; in place of what it wanted before, until it is released or
        gone. What was asked for without a user counts while there is none."""
        with self._configuring:
            if user is None:
                self._asked_for = _merge([self._asked_for, config])
            else:
                self._configs[user] = config

    def release(self, user: object) -> None:
        """What `user` wanted no longer counts."""
        with self._configuring:
            self._configs.pop(user, None)

    def load(self) -> None:
        """Load it, unless it was loaded before: `inputs` and `outputs` are known then, and no turn is waited for.
        Raises as `load_engine`."""
        if self.version:
            return
        token = self._begin_call()
        try:
            if not self.version:
                self._load(token)
        finally:
            self._end_call(token)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """One inference, loading the model before where it is not. Raises ModelError."""
        token = self._begin_call()
        engine = self._engine
        try:
            if engine is None or self._renew_for:
                engine = self._load(token)
            outputs = engine.run(inputs)
            if self._own_before is not None and self._turns.is_current(token):
                self._measure()
                self._own_before = None
                self._make_room(self)
        except BaseException as error:
            ended_for = self._end_call(token, engine, failed=True)
            if ended_for and isinstance(error, ModelError):
                raise ModelError(f"{self.label}: {ended_for}") from error
            raise
        if self._end_call(token, engine) == _GIVEN_UP:
            raise ModelError(f"{self.label}: {_GIVEN_UP}")
        return outputs

    def interrupt(self) -> bool:
        """Ask the call under way to end."""
        with self._guard:
            return not self.idle and self._engine is not None and self._engine.interrupt()

    def close(self) -> None:
        """Give back the memory now, unless a call is under way. Who still uses it has it loaded again."""
        self._try_close()

    def unload(self, reason: str) -> bool:
        """The same, as an incident where there is a reason to tell. Whether it was loaded and idle."""
        closed = self._try_close()
        if closed and reason:
            self._note(EngineIncident(self.label, "unloaded", reason))
        return closed

    def watch(self, now_s: float) -> None:
        """Ten times a second: ends what is stuck, gives up what does not end, sees to processes and to idleness.
        `now_s` is on the monotonic clock."""
        since_s, config = self.busy_since_s, self.config
        limit_s = max(config.timeout_s, LOAD_S) if self._loading else config.timeout_s
        if since_s and now_s - since_s > limit_s:
            self._act_on_stuck(since_s, now_s, f"the call took longer than {limit_s:g} s")
        if self._process is not None:
            self._watch_process(self._process)
        idle_s = config.idle_unload_s or (_QUARANTINE_IDLE_S if self.quarantined else 0.0)
        if idle_s and self.loaded and self.idle and now_s - self.last_used_s > idle_s:
            self.unload(f"no frame for {idle_s:g} s")

    # A call: its turn, its engine, its end.

    def _begin_call(self) -> threading.Lock:
        token = self._turns.take()
        self._thread = threading.get_ident()
        self.busy_since_s = self.last_used_s = time.monotonic()
        return token

    def _end_call(self, token: threading.Lock, engine: Engine | None = None, *, failed: bool = False) -> str:
        """Give the turn back. Why the call was ended, or that it was given up; empty where it came to its end."""
        with self._guard:
            given_up = not self._turns.is_current(token)
            if not given_up:
                ended_for, self._ended_for = self._ended_for, ""
                self.busy_since_s = 0.0
        if given_up:
            if engine is not None:
                engine.close()
            return _GIVEN_UP
        try:
            process = self._process
            if process is not None and (ended_for or (failed and not process.alive)):
                self._lose_engine(ended_for or process.obituary())
        finally:
            token.release()
        return ended_for

    def _load(self, token: threading.Lock) -> Engine:
        """Called with the turn. Raises ModelError, DependencyError."""
        if self._renew_for:
            self._close_engine()
            self._renew_for = ""
            self.restarts += 1
        wait_s = self._revival.wait_s(time.monotonic())
        if wait_s > _PATIENCE_S:
            raise ModelError(f"{self.label}: {self._revival.reason}; it is started again in {wait_s:.0f} s")
        self._loading = True
        try:
            if wait_s > 0:
                time.sleep(wait_s)
            engine = self._open()
        except EdgeInferError as error:
            if self._turns.is_current(token):
                self._loading = False
                if self.version:
                    self._lose_engine(error.message)
            raise
        return self._adopt(engine, token)

    def _open(self) -> Engine:
        self._make_room(self)
        if not self.isolated:
            import_engine(self.name)
        before = own_bytes()
        engine = load_engine(self.name, self.path, threads=self._threads, isolate=self.isolated)
        if self.version and (engine.inputs, engine.outputs) != (self.inputs, self.outputs):
            engine.close()
            raise ModelError(f"{self.path}: expected the model that it was, found one with other inputs or outputs")
        self._own_before = None if self.isolated else before
        return engine

    def _adopt(self, engine: Engine, token: threading.Lock) -> Engine:
        with self._guard:
            if not self._turns.is_current(token):  # loading was stuck, and somebody else has gone on
                engine.close()
                raise ModelError(f"{self.label}: {_GIVEN_UP}")
            self._engine, self._process = engine, _as_process(engine) if self.isolated else None
            self._loading = False
            self.busy_since_s = time.monotonic()  # from here on it is the call's own time
        self.inputs, self.outputs = engine.inputs, engine.outputs
        self.version = engine.version  # last: who sees it knows the others
        self._measure()
        reason = self._revival.came_back()
        if reason:
            self.restarts += 1
            self._note(EngineIncident(self.label, "restarted", reason))
            logger.info("event=engine_restarted engine=%s reason=%s", self.label, reason)
        return engine

    def _measure(self) -> None:
        """What a process takes is known. In this one, engines take memory when they load and at their first call, and
        so do other threads meanwhile: an estimate. The library's code is no model's."""
        if self._process is not None:
            self.bytes = max(self._file_bytes, resident_bytes(self._process.pid))
        elif self._own_before is not None:
            self.bytes = max(self._file_bytes, own_bytes() - self._own_before)

    def _lose_engine(self, reason: str) -> None:
        """Called with the turn: the engine is gone, or could not be loaded again."""
        self._close_engine()
        self._renew_for = ""
        if reason != self._revival.reason:
            logger.warning("event=engine_ended engine=%s reason=%s", self.label, reason)
        self._revival.crashed(reason, time.monotonic())

    def _close_engine(self) -> None:
        """Called with the turn."""
        engine, self._engine, self._process = self._engine, None, None
        if engine is not None:
            engine.close()
            give_back_memory()

    def _try_close(self) -> bool:
        """Whether it was loaded and no call under way."""
        token = self._turns.try_take() if self.loaded else None
        if token is None:
            return False
        was_loaded = self.loaded
        try:
            self._close_engine()
        finally:
            token.release()
        return was_loaded

    # What watches the calls.

    def _act_on_stuck(self, since_s: float, now_s: float, reason: str) -> None:
        with self._guard:
            if self.busy_since_s != since_s:  # it has just come back
                return
            if self._ended_for and now_s - self._asked_at_s < _GRACE_S:
                return
            if not self._ended_for and self._ask_to_end(f"{reason} and was ended", now_s):
                incident = EngineIncident(self.label, "terminated", reason)
            else:
                incident = self._abandon(reason)
        self._note(incident)
        logger.warning("event=engine_%s engine=%s reason=%s", incident.what, self.label, reason)

    def _ask_to_end(self, reason: str, now_s: float) -> bool:
        """Called with the guard, while a call is under way. False where the engine cannot be asked."""
        if self._loading or self._engine is None or not self._engine.interrupt():
            return False
        self._ended_for, self._asked_at_s = reason, now_s
        return True

    def _abandon(self, reason: str) -> EngineIncident:
        """Called with the guard: leave the stuck call its engine and its turn, and have new ones."""
        self._turns.leave_behind()
        self._engine = self._process = self._own_before = None
        self._ended_for, self._loading, self.busy_since_s = "", False, 0.0
        self._revival.reason = reason
        self.isolated = self.quarantined = True
        return EngineIncident(self.label, "abandoned", reason, self._thread)

    def _watch_process(self, process: "IsolatedEngine") -> None:
        if not process.alive:
            self._bury(process)
            return
        limit = self.config.max_mb << 20
        resident = resident_bytes(process.pid)
        if limit and resident > limit:
            self._hold_to_limit(resident, limit)

    def _bury(self, process: "IsolatedEngine") -> None:
        """It died between two calls: no zombie stays until the next one. A call under way notices it itself."""
        token = self._turns.try_take()
        if token is None:
            return
        try:
            if self._process is process:
                self._lose_engine(process.obituary())
        finally:
            token.release()

    def _hold_to_limit(self, resident: int, limit: int) -> None:
        """Start the process again between two calls; far beyond the limit, not even the call under way is waited
        for."""
        reason = f"its process takes {resident >> 20} MB, allowed are {limit >> 20}"
        if not self._renew_for:
            self._renew_for = reason
            self._note(EngineIncident(self.label, "over_memory", reason))
            logger.warning("event=engine_over_memory engine=%s reason=%s", self.label, reason)
        if resident > 2 * limit:
            with self._guard:
                if not self.idle and not self._ended_for:
                    self._ask_to_end(reason, time.monotonic())
        self._try_close()


def _merge(configs: Sequence[EngineConfig]) -> EngineConfig:
    merged = msgspec.structs.asdict(EngineConfig())
    for field, default in list(merged.items()):
        merged[field] = max((value for one in configs if (value := getattr(one, field)) != default), default=default)
    return EngineConfig(**merged)


def _as_process(engine: Engine) -> "IsolatedEngine":
    from edgeinfer.runtime.engines.isolated import IsolatedEngine

    if not isinstance(engine, IsolatedEngine):
        raise TypeError(f"expected an isolated engine, found {type(engine).__name__}")
    return engine
