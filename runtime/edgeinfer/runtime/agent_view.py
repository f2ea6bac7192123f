"""What the daemon reads of the agent's database, without ever trusting or awaiting it.

The agent talks to the network, so its files may hold anything, pipes included. Whoever must not stand still asks
`AcknowledgedReader`, whose answers were read before by a thread that nothing depends on.
"""

import logging
import threading
import time
from pathlib import Path

import msgspec

from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.handoff import SyncDb
from edgeinfer.runtime.watched import Watched

__all__ = ["AcknowledgedReader", "AgentView"]

logger = logging.getLogger(__name__)

_INTERVAL_S = 1.0
# How long the start of the daemon waits for the first answer.
_FIRST_WAIT_S = 2.0
_SEQ_LIMIT = 1 << 63


class AgentView:
    """The agent's database, which comes and goes. Used from one thread."""

    def __init__(self, path: Path | None) -> None:
        self._watched = None if path is None else Watched(path, lambda found: SyncDb(found, read_only=True))
        self._reason = ""

    def db(self) -> SyncDb | None:
        return None if self._watched is None else self._watched.current()

    def acknowledged(self, epoch: int) -> int:
        """0 while the agent's database cannot be read or holds nonsense: nothing is dropped then."""
        return self._progress(epoch)[0]

    def seen(self, epoch: int) -> int:
        """The highest number that the agent is known to have sent; 0 as above."""
        return max(self._progress(epoch))

    def _progress(self, epoch: int) -> tuple[int, int]:
        db = self.db()
        if db is None or self._watched is None:
            return 0, 0
        try:
            sent = db.counter("sent") if db.counter("sent_epoch") == epoch else 0
            progress = _checked(db.acknowledged(epoch)), _checked(sent)
        except (BufferStorageError, ValueError) as error:
            self._watched.close()  # the next look opens it anew
            self._note(str(error))
            return 0, 0
        self._note("")
        return progress

    def _note(self, reason: str) -> None:
        """Say it once: what the agent wrote must not fill the log."""
        if reason and reason != self._reason:
            logger.warning("event=agent_progress_unreadable reason=%r", reason)
        self._reason = reason


class _Known(msgspec.Struct, frozen=True):
    epoch: int
    acknowledged: int
    seen: int


class AcknowledgedReader:
    """Reads once a second, in a thread that may hang or die without harm: the last answers stay.

    `acknowledged` never waits; `seen` waits for the first answer, shortly.
    """

    def __init__(self, path: Path | None, *, interval_s: float = _INTERVAL_S) -> None:
        self._view = AgentView(path)
        self._interval_s = interval_s
        self._known: _Known | None = None
        self._epoch = 0
        self._wake = threading.Event()
        self._answered = threading.Event()
        self._stopping = threading.Event()
        self._has_agent = path is not None
        if self._has_agent:
            threading.Thread(target=self._run, name="acknowledged-reader", daemon=True).start()

    def acknowledged(self, epoch: int) -> int:
        """What was last read for this epoch; 0 before the first time."""
        self._ask(epoch)
        known = self._known
        return known.acknowledged if known is not None and known.epoch == epoch else 0

    def seen(self, epoch: int) -> int:
        """As `AgentView.seen`, and 0 where there is no answer within two seconds."""
        deadline = time.monotonic() + _FIRST_WAIT_S
        self._ask(epoch)
        known = self._known
        while known is None or known.epoch != epoch:
            self._answered.clear()
            if not self._answered.wait(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                logger.warning("event=agent_progress_unknown reason=%r", "no answer in time")
                return 0
            known = self._known
        return known.seen

    def stop(self) -> None:
        """The thread ends when it can; it is not waited for."""
        self._stopping.set()
        self._wake.set()

    def _ask(self, epoch: int) -> None:
        if self._epoch != epoch:
            self._epoch = epoch
            if not self._has_agent:  # nothing was ever sent from here
                self._known = _Known(epoch, 0, 0)
            self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait(self._interval_s)
            self._wake.clear()
            if self._stopping.is_set():
                return
            if self._epoch:
                self._read(self._epoch)

    def _read(self, epoch: int) -> None:
        try:
            found = _Known(epoch, self._view.acknowledged(epoch), self._view.seen(epoch))
        except Exception:  # the top of a thread that reads what others wrote
            logger.exception("event=agent_progress_unreadable")
            return
        # Unreadable just now is no reason to forget: the console has not lost what it once acknowledged.
        if self._known is None or self._known.epoch != epoch or found.acknowledged >= self._known.acknowledged:
            self._known = found
        self._answered.set()


def _checked(value: int) -> int:
    if not 0 <= value < _SEQ_LIMIT:
        raise ValueError(f"expected a sequence number, found {value}")
    return value
