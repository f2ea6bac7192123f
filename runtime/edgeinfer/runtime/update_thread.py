"""The updater's thread: its checks may take longer than the watchdog waits.

It ends with the daemon alone: a device whose updater has died can be mended only by hand.
"""

import logging
import threading

from edgeinfer.runtime.agent_view import AgentView
from edgeinfer.runtime.backoff import Backoff
from edgeinfer.runtime.errors import EdgeInferError
from edgeinfer.runtime.handoff import RuntimeDb
from edgeinfer.runtime.settings import RuntimeConfig
from edgeinfer.runtime.slots import Slots
from edgeinfer.runtime.store import Store
from edgeinfer.runtime.trial_view import TrialView
from edgeinfer.runtime.updater import Updater

__all__ = ["UpdateThread"]

logger = logging.getLogger(__name__)

_INTERVAL_S = 0.25


class UpdateThread:
    """Walks the update machine until `stop` is set. Its database connection is its own."""

    def __init__(
        self,
        config: RuntimeConfig,
        *,
        store: Store,
        db: RuntimeDb,
        slots: Slots,
        running: TrialView,
        agent: AgentView,
        stop: threading.Event,
    ) -> None:
        self._config = config
        self._store = store
        self._db = db
        self._slots = slots
        self._running = running
        self._agent = agent
        self._stop = stop
        self._updater: Updater | None = None
        self._thread = threading.Thread(target=self._run, name="updater", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def reconfigure(self, config: RuntimeConfig) -> None:
        """From its next step on, the updater goes by `config`."""
        self._config = config
        if self._updater is not None:
            self._updater.config = config

    def _run(self) -> None:
        backoff = Backoff()
        while not self._stop.is_set():
            try:
                self._walk()
            except EdgeInferError as error:
                logger.warning("event=updater_waits error=%s", error)
            except Exception:
                logger.exception("event=updater_crashed")
            self._stop.wait(backoff.next())

    def _walk(self) -> None:
        updater = self._updater = Updater(
            self._config,
            store=self._store,
            db=self._db,
            slots=self._slots,
            running=self._running,
            sync=self._agent.db,
        )
        while not self._stop.wait(_INTERVAL_S):
            updater.tick()
