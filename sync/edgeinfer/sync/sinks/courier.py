"""The thread that a sink works in: one batch at a time goes in, what became of it comes out. Its owner never waits."""

import logging
import threading
from collections.abc import Callable

from edgeinfer.sync.messages import Ack
from edgeinfer.sync.sinks.base import Batch, Sink, SinkError

__all__ = ["Courier", "Outcome"]

_log = logging.getLogger(__name__)

Outcome = tuple[Batch, Ack | SinkError]

# Of the time that a stop may take: what an answer that is about to come gets.
_PATIENCE = 0.5


class Courier:
    """Owns the sink. `done` is called by its thread when there is an outcome to `take`."""

    def __init__(self, sink: Sink, *, name: str, done: Callable[[], None]) -> None:
        self._sink = sink
        self._done = done
        self._turn = threading.Condition()
        self._batch: Batch | None = None
        self._outcome: Outcome | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        """Nothing is under way, and no outcome waits."""
        with self._turn:
            return self._batch is None and self._outcome is None

    @property
    def local_address(self) -> str:
        return self._sink.local_address

    def hand(self, batch: Batch) -> None:
        """Have it delivered. Only while `idle`."""
        with self._turn:
            self._batch = batch
            self._turn.notify_all()

    def take(self) -> Outcome | None:
        """What became of the last batch, once; None while there is nothing to say."""
        with self._turn:
            outcome, self._outcome = self._outcome, None
            return outcome

    def stop(self, timeout_s: float) -> None:
        """Let a delivery that is under way end, or end it. `take` gives its outcome, if it came."""
        with self._turn:
            self._stopping = True
            self._turn.notify_all()
            self._turn.wait_for(lambda: self._batch is None, timeout_s * _PATIENCE)
        self._sink.abort()
        self._thread.join(timeout_s * (1 - _PATIENCE))
        if self._thread.is_alive():
            _log.warning("event=sink_does_not_stop thread=%s", self._thread.name)

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            outcome = self._deliver(batch)
            with self._turn:
                self._batch, self._outcome = None, (batch, outcome)
                self._turn.notify_all()
            self._done()
        self._sink.close()

    def _next(self) -> Batch | None:
        with self._turn:
            self._turn.wait_for(lambda: self._stopping or self._batch is not None)
            return None if self._stopping else self._batch

    def _deliver(self, batch: Batch) -> Ack | SinkError:
        try:
            return self._sink.deliver(batch)
        except SinkError as error:
            return error
        except Exception as error:  # the top of this thread: a defect must not end the delivery for good
            _log.exception("event=sink_bug")
            return SinkError(f"internal error: {type(error).__name__}: {error}")
