"""The models that are loaded on this device: pipelines with the same model share one copy, within a memory budget.

    pool = ModelPool(config.models)
    engine = pool.share("onnx", path, threads=1, config=pipeline.engine)    # the same object for the same file
    engine.configure(pipeline.engine, user=model)                           # that counts until release(model)
    engine.run([x])                                                         # from any thread; loads it where needed
    for incident in pool.tend(time.monotonic()): ...                        # ten times a second; that thread loads none

An engine lives as long as somebody holds it.
"""

import logging
import math
import threading
import time
from collections import deque
from pathlib import Path
from weakref import WeakValueDictionary

from edgeinfer.runtime.engine_settings import EngineConfig, ModelsConfig
from edgeinfer.runtime.incidents import EngineIncident
from edgeinfer.runtime.shared_engine import LOAD_S, SharedEngine

__all__ = ["LOAD_S", "EngineIncident", "ModelPool", "SharedEngine"]

logger = logging.getLogger(__name__)

_MAX_INCIDENTS = 1000
# A model that has to go twice in so short a time was wanted in between.
_TAKES_TURNS_S = 30.0
# Models that take turns go several times a second: so often, for each, it is told.
_TELL_AGAIN_S = 60.0
_NO_BUDGET = ModelsConfig()
_ANY_ENGINE = EngineConfig()

# Engine, file, threads, whether it was asked for in a process of its own, and which of several copies.
Key = tuple[str, Path, int, bool, int]


class ModelPool:
    """One per daemon. Every method may be called from any thread."""

    def __init__(self, models: ModelsConfig = _NO_BUDGET) -> None:
        self._budget_bytes = models.budget_mb << 20
        self._unloaded_s: dict[str, float] = {}  # for the budget, by label: when last
        self._told_s: dict[str, float] = {}  # when that was last told, by label
        self._untold: dict[str, int] = {}  # how often it has happened since
        self._has_warned = False
        self._lock = threading.Lock()
        self._engines: WeakValueDictionary[Key, SharedEngine] = WeakValueDictionary()
        self._quarantined: set[tuple[str, Path, int, bool]] = set()  # no copy of it is trusted
        self._incidents: deque[EngineIncident] = deque(maxlen=_MAX_INCIDENTS)

    def share(
        self,
        variant_engine: str,
        path: Path,
        *,
        threads: int = 1,
        config: EngineConfig = _ANY_ENGINE,
        replica: int = 0,
    ) -> SharedEngine:
        """The engine for this file, loaded now where nobody has it yet; one that was loaded before is there at once,
        whatever it is at. Who infers several frames at once asks for as many replicas, numbered from 0. A model that
        has hung once is isolated from then on. Raises ModelError, DependencyError."""
        key = (variant_engine, path, threads, config.isolate, replica)
        with self._lock:
            shared = self._engines.get(key)
            if shared is None:
                shared = SharedEngine(
                    variant_engine,
                    path,
                    threads=threads,
                    isolate=config.isolate or key[:-1] in self._quarantined,
                    note=self._incidents.append,
                    make_room=self._make_room,
                )
                self._engines[key] = shared
        shared.configure(config)
        shared.load()
        return shared

    def release(self, user: object) -> None:
        """What `user` wanted of any engine no longer counts (`SharedEngine.configure`). Without this, it counts until
        the interpreter has collected `user`."""
        for engine in self.all():
            engine.release(user)

    def tend(self, now_s: float) -> list[EngineIncident]:
        """Watch every engine; what has happened since the last time. `now_s` is on the monotonic clock. Waits for no
        call and loads nothing."""
        for key, engine in self._items():
            engine.watch(now_s)
            if engine.quarantined:
                self._quarantined.add(key[:-1])
        self._make_room()
        return [self._incidents.popleft() for _ in range(len(self._incidents))]

    def loaded_bytes(self) -> int:
        """What all loaded models take together."""
        return sum(engine.bytes for engine in self.all() if engine.loaded)

    def all(self) -> list[SharedEngine]:
        return [engine for _, engine in self._items()]

    def _items(self) -> list[tuple[Key, SharedEngine]]:
        with self._lock:
            return list(self._engines.items())

    def _make_room(self, wanting: SharedEngine | None = None) -> None:
        """Unload the least recently used until what is loaded, and `wanting`, fit the budget; never one that is
        pinned or at work. Where all of these are, the budget is exceeded: a frame is worth more."""
        if not self._budget_bytes:
            return
        others = [engine for engine in self.all() if engine is not wanting and engine.loaded]
        total = sum(engine.bytes for engine in others) + (wanting.bytes if wanting is not None else 0)
        for engine in sorted(others, key=lambda engine: engine.last_used_s):
            if total <= self._budget_bytes:
                return
            if engine.config.pinned or not engine.idle:
                continue
            reason = self._reason(str(engine), time.monotonic())
            if engine.unload(reason):
                self._note_unloaded(str(engine), total, told=bool(reason))
                total -= engine.bytes

    def _reason(self, label: str, now_s: float) -> str:
        """Why a model goes for another one; empty where that was told a moment ago: results are kept and sent."""
        if now_s - self._told_s.get(label, -math.inf) < _TELL_AGAIN_S:
            return ""
        untold = self._untold.get(label, 0)
        return "another model needs the memory" + (f", {untold} more times since this was said" if untold else "")

    def _note_unloaded(self, label: str, needed_bytes: int, *, told: bool) -> None:
        """Warn, once, where models that get frames at the same time take turns in memory, each loaded for a few."""
        now_s = time.monotonic()
        self._untold[label] = 0 if told else self._untold.get(label, 0) + 1
        if told:
            self._told_s[label] = now_s
        again = now_s - self._unloaded_s.get(label, -math.inf) < _TAKES_TURNS_S
        self._unloaded_s[label] = now_s
        if again and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "event=models_over_budget budget_mb=%d needed_mb=%d unloaded_again=%s hint=%r",
                self._budget_bytes >> 20, (needed_bytes >> 20) + 1, label,
                "models that are in use do not fit [models] budget_mb together, and are loaded over and over",
            )  # fmt: skip
