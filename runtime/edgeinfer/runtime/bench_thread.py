"""Times packages here for somebody else: what the console orders, over the agent. One at a time.

Everything is checked as for an update: the order's signature against [trust] console_keys, the package's hash, its
signature against [trust] release_keys, its files' hashes. The measuring process is short-lived and of low priority; no
slot is touched, and what runs goes on.
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable

import msgspec

from edgeinfer.runtime.agent_view import AgentView
from edgeinfer.runtime.bench_order import BENCH_NOTE, MAX_DOCUMENT_BYTES, BenchAnswer, BenchOrder, read_order
from edgeinfer.runtime.errors import BufferStorageError, EdgeInferError, GateError
from edgeinfer.runtime.handoff import RuntimeDb
from edgeinfer.runtime.hashing import sha256
from edgeinfer.runtime.settings import RuntimeConfig
from edgeinfer.runtime.store import Store
from edgeinfer.runtime.verify import AssignmentRequest, BenchRequest, ask

__all__ = ["BenchThread"]

logger = logging.getLogger(__name__)

_INTERVAL_S = 0.5
# The envelope of a command is far smaller.
_MAX_ORDER_BYTES = 64 << 10
_MAX_ERROR = 500
# An order is good for minutes; what takes longer than this hangs.
_LONGEST_S = 2 * 3600.0


class BenchThread:
    """Looks for orders until `stop` is set. `config` is asked for each order, so that a reload counts; `agent` must be
    this thread's own."""

    def __init__(
        self,
        config: Callable[[], RuntimeConfig],
        *,
        store: Store,
        db: RuntimeDb,
        agent: AgentView,
        stop: threading.Event,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._store = store
        self._db = db
        self._agent = agent
        self._stop = stop
        self._wall_s = wall_s
        self._thread = threading.Thread(target=self._run, name="bencher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        shutil.rmtree(self._store.bench_folder, ignore_errors=True)  # of a daemon that was killed
        said = ""
        while not self._stop.wait(_INTERVAL_S):
            try:
                self.look()
            except EdgeInferError as error:
                if str(error) != said:
                    logger.warning("event=bench_waits error=%s", error)
                said = str(error)
            except Exception:  # the top of the thread: what runs goes on
                logger.exception("event=bench_crashed")
            else:
                said = ""

    def look(self) -> None:
        """Carry out the order that is there, unless that has been done. Raises BufferStorageError where the databases
        cannot be used now."""
        envelope = self._envelope()
        if not envelope:
            return
        order, known = sha256(envelope).hexdigest(), self._db.bench()
        if known.order == order:
            if not known.done:
                self._answer(
                    known, error="it was broken off: the daemon was restarted, or its database could not be read"
                )
            return
        taken = BenchAnswer(order=order, issued_s=known.issued_s)
        try:
            wanted = self._checked(envelope, after_s=known.issued_s)
            taken = msgspec.structs.replace(taken, issued_s=wanted.issued_s)
            self._db.set_bench(taken)
            logger.info("event=bench id=%s sha256=%s", wanted.id, wanted.blob_sha256[:12])
            document = self._measure(wanted, envelope)
        except BufferStorageError:
            raise
        except EdgeInferError as error:
            logger.warning("event=bench_refused error=%s", error)
            self._answer(taken, error=str(error))
        else:
            self._answer(taken, document=document)

    def _envelope(self) -> bytes:
        sync = self._agent.db()
        found = sync.note(BENCH_NOTE) if sync is not None else b""
        return found if len(found) <= _MAX_ORDER_BYTES else b""

    def _checked(self, envelope: bytes, *, after_s: int) -> BenchOrder:
        config = self._config()
        payload = ask(AssignmentRequest(envelope, config.trust.console_keys))
        return read_order(payload, device=config.device, after_s=after_s, now_s=self._wall_s())

    def _measure(self, order: BenchOrder, envelope: bytes) -> str:
        """The bench document. Raises RefusedError, StorageError."""
        with self._store.bench_room(order.blob_sha256, order.blob_bytes) as path:
            request = BenchRequest(
                str(path), self._config().trust.release_keys, seconds=order.each_ms / 1000, threads=order.threads
            )
            raw = ask(
                request,
                timeout_s=min(_LONGEST_S, order.expires_s - order.issued_s),
                is_over=lambda: self._stop.is_set() or self._envelope() != envelope,
            )
        if len(raw) > MAX_DOCUMENT_BYTES:
            raise GateError(f"expected figures of at most {MAX_DOCUMENT_BYTES} bytes, found {len(raw)}")
        return raw.decode()

    def _answer(self, taken: BenchAnswer, *, document: str = "", error: str = "") -> None:
        self._db.set_bench(msgspec.structs.replace(taken, done=True, document=document, error=error[:_MAX_ERROR]))
