"""The agent: one loop that carries results up, wishes and packages down, and says how the device fares.

    Agent(config).run(stop)                 # until the event is set
    Agent(config).drain_once(timeout_s=30)  # for a device that is online now and then

Everything it needs to remember is in `sync.db`; it can be killed at any line. Broker, console, daemon and their
databases may each be absent, come and go: all of that is waited out.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edgeinfer.runtime.errors import BrokerError, BufferStorageError, ConsoleError
from edgeinfer.runtime.handoff import SyncDb
from edgeinfer.runtime.locking import lock, unlock
from edgeinfer.sync.allowance import Priority
from edgeinfer.sync.broker import BrokerConfig
from edgeinfer.sync.log_ring import listening
from edgeinfer.sync.loglimit import LogLimit
from edgeinfer.sync.parts import Parts
from edgeinfer.sync.settings import SyncConfig

__all__ = ["Agent", "DrainReport"]

_log = logging.getLogger(__name__)

_IDLE_WAIT_S = 0.2
# A signal is noticed once a turn, and the service has two seconds to end.
_STORAGE_WAIT_S = 0.5
# How long `--once` gives a live daemon to take up an assignment that has just come.
_SETTLE_S = 2.0


class DrainReport(msgspec.Struct, frozen=True):
    """What `--once` did: results sent and acknowledged, payload bytes, and the update machine's state."""

    sent: int
    acknowledged: int
    bytes: int
    seconds: float
    update: str


class Agent:
    """One device's agent. `run` and `drain_once` own everything they open and close it before they return.

    Raises BufferStorageError when `sync.db` cannot be opened.
    """

    def __init__(self, config: SyncConfig) -> None:
        self.config = config
        self._session = os.urandom(8).hex()
        self._limit = LogLimit()

    def run(self, stop: threading.Event, *, on_turn: Callable[[], None] = lambda: None) -> None:
        """Work until `stop` is set; `on_turn` is called at each turn of the loop, several times a second."""
        with self._open() as parts:
            while not stop.is_set():
                try:
                    parts.turn(_IDLE_WAIT_S)
                except BufferStorageError as error:
                    self._complain("storage", str(error))
                    stop.wait(_STORAGE_WAIT_S)
                on_turn()

    def drain_once(
        self,
        timeout_s: float = 30.0,
        *,
        stop: threading.Event | None = None,
        on_turn: Callable[[], None] = lambda: None,
    ) -> DrainReport:
        """Send all that the buffer holds now, finish a download that is under way, report, and leave. What a data
        budget holds back is left for another time.

        `timeout_s` is for the time without any progress; `stop` and `on_turn` are as for `run`. Raises
        BrokerError when the broker, ConsoleError when the console does not answer within it,
        BufferStorageError when `sync.db` cannot be written.
        """
        began_s = time.monotonic()
        stopped = stop or threading.Event()
        with self._open() as parts:
            _wait_connected(parts, stopped, timeout_s, on_turn)
            target = parts.way.durable_seq() or 0
            progress, progress_s = parts.progress(), time.monotonic()
            settled_s = progress_s
            while not stopped.is_set():
                parts.turn(0.05)
                on_turn()
                now_s = time.monotonic()
                if parts.progress() != progress:
                    progress, progress_s = parts.progress(), now_s
                if parts.awaits_daemon and now_s - settled_s < _SETTLE_S:
                    continue
                if _is_drained(parts, target, now_s):
                    break
                if now_s - progress_s > timeout_s:
                    raise _no_answer(parts, target, timeout_s)
            if parts.way.acked_seq < target:
                _log.warning(
                    "event=left_for_later network=%s acknowledged=%d", parts.meter.network, parts.way.acked_seq
                )
            parts.reporter.report_now()
            parts.link.flush(min(timeout_s, 5.0))
            row = parts.view.row
            return DrainReport(
                sent=parts.way.sent_results,
                acknowledged=parts.way.acknowledged_results,
                bytes=parts.way.sent_bytes,
                seconds=round(time.monotonic() - began_s, 3),
                update="IDLE" if row is None else row.state,
            )

    @contextmanager
    def _open(self) -> Iterator[Parts]:
        config = self.config
        path = Path(config.state_dir) / "sync.db"
        # Two agents would throw each other off the broker, which knows them by one name.
        held = lock(path, hint="is an agent already running with this state_dir?")
        try:
            with listening() as ring, SyncDb(path) as db:
                parts = Parts(config, db, session=self._session, ring=ring, complain=self._complain)
                parts.start()
                try:
                    yield parts
                finally:
                    parts.close()
        finally:
            unlock(held)

    def _complain(self, key: str, reason: str) -> None:
        """Log a trouble that may come again and again."""
        if (held := self._limit.admit(key, time.monotonic())) is not None:
            _log.warning("event=trouble where=%s reason=%r held_back=%d", key, reason, held)


def _is_drained(parts: Parts, target: int, now_s: float) -> bool:
    """Whether nothing is left that may go and that somebody takes. Where results go through a sink, the broker may be
    away."""
    if parts.way.acked_seq < target and (parts.way.busy or not parts.meter.closed(Priority.RESULTS, now_s)):
        return False
    if not parts.needs_broker and not parts.link.connected:
        return True
    is_downloading = parts.updates.downloading and not parts.meter.closed(Priority.UPDATES, now_s)
    return not is_downloading and parts.jobs.idle and parts.blobs.idle


def _wait_connected(parts: Parts, stop: threading.Event, timeout_s: float, on_turn: Callable[[], None]) -> None:
    """A sink has no connection to wait for: it is tried with the first results."""
    deadline_s = time.monotonic() + timeout_s
    while parts.needs_broker and not (parts.link.connected or stop.is_set()):
        if time.monotonic() > deadline_s:
            broker = parts.link.address
            raise BrokerError(
                f"{broker}: no connection within {timeout_s:g} s: {parts.link.last_error or 'no answer'}",
                hint=_connection_hint(parts.link.broker),
            )
        parts.link.receive(0.05)
        on_turn()
    parts.turn(0.0)


def _connection_hint(broker: BrokerConfig) -> str:
    """A broker that minds TLS or a certificate says nothing: it hangs up."""
    hint = "is the broker running, and are [broker] host, port and user right?"
    if broker.tls_cert:
        return f"{hint} Does it take the certificate {broker.tls_cert}?"
    return f"{hint} Does it want {'a certificate of this device (tls_cert, tls_key)' if broker.encrypted else 'TLS'}?"


def _no_answer(parts: Parts, target: int, timeout_s: float) -> BrokerError | ConsoleError:
    if parts.way.trouble and parts.way.acked_seq < target:
        return ConsoleError(parts.way.trouble)
    if not parts.link.connected and parts.needs_broker:
        return BrokerError(f"{parts.link.address}: connection lost: {parts.link.last_error or 'no answer'}")
    hint = "is the console running, on the same broker and for the same tenant?"
    if parts.way.acked_seq < target:
        return ConsoleError(
            f"expected the console to acknowledge {target}, found {parts.way.acked_seq} "
            f"and nothing new for {timeout_s:g} s",
            hint=hint,
        )
    if not parts.updates.downloading and not parts.jobs.idle:
        return ConsoleError(
            f"expected the console to acknowledge the end of {parts.jobs.unacknowledged}, "
            f"found no answer for {timeout_s:g} s",
            hint=hint,
        )
    return ConsoleError(f"expected the package from the console, found nothing new for {timeout_s:g} s", hint=hint)
