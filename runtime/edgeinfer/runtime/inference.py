"""The inference threads of a pipeline: they take prepared frames, run the engine, and have the results recorded.

One thread is enough for a live source. Of a recorded one several frames may be inferred at once, each by a thread and
an engine of its own: no thread then waits for another at the end of each operator, as the threads of one engine do.
Frames are recorded in the order in which they were taken, whoever is done first.
"""

import logging
import threading
import time
from collections.abc import Callable

from edgeinfer.runtime.channel import Channel
from edgeinfer.runtime.errors import EdgeInferError, ModelError
from edgeinfer.runtime.frame import FrameState
from edgeinfer.runtime.in_order import InOrder
from edgeinfer.runtime.model import Inferred, LoadedModel, Prepared, Ran
from edgeinfer.runtime.recorder import Recorder
from edgeinfer.runtime.turns import Turns

__all__ = ["Inference"]

logger = logging.getLogger(__name__)

_IDLE_POLL_S = 0.25
# How many frames a worker may be ahead of the oldest that is not done.
_AHEAD = 4

Outcome = tuple[Prepared, Ran | EdgeInferError]


class Inference:
    """`channel` is known once the source is open: `open` tells. `on_end` is called by the last thread, once the source
    has ended and every frame of it is recorded."""

    def __init__(
        self,
        name: str,
        recorder: Recorder,
        *,
        workers: int,
        current: Callable[[], LoadedModel],
        on_end: Callable[[], None],
    ) -> None:
        self._name = name
        self._recorder = recorder
        self._current = current
        self._on_end = on_end
        self._stop = threading.Event()
        self._opened = threading.Event()
        self._source_ended = threading.Event()
        self._channel: Channel | None = None
        self._turns = Turns()  # of taking a frame
        self._busy_lock = threading.Lock()  # guards who ends the frame that is in an engine
        self._order: InOrder[Outcome] = InOrder(self._record, ahead=_AHEAD * workers)
        self._workers = [_Worker(self._new_thread(number), number) for number in range(workers)]
        self._active = workers
        self.left_behind = False  # a thread has been left in an engine's call

    @property
    def workers(self) -> int:
        """How many frames are inferred at once."""
        return len(self._workers)

    def start(self) -> None:
        for worker in self._workers:
            worker.thread.start()

    def open(self, channel: Channel) -> None:
        """From now on frames come through `channel`."""
        self._channel = channel
        self._opened.set()

    def finish(self) -> None:
        """No more frames will come."""
        self._source_ended.set()
        self._opened.set()
        if self._channel is not None:
            self._channel.finish()

    def stop(self) -> None:
        self._stop.set()
        self._opened.set()

    def join(self, deadline_s: float) -> None:
        """Wait for the threads, at most until `deadline_s` on the monotonic clock. What is in an engine or waits for
        its turn then is stale."""
        for worker in self._workers:
            if worker.thread.is_alive():
                worker.thread.join(max(0.0, deadline_s - time.monotonic()))
        for worker in self._workers:
            call = self._take_over(worker) if worker.thread.is_alive() else None
            if call is not None:
                self._recorder.end(call[1], FrameState.STALE)
        for prepared, _ in self._order.rest():
            self._recorder.end(prepared, FrameState.STALE)

    def busy_since_s(self) -> float:
        """When the oldest engine call that is under way began, on the monotonic clock; 0 where none is."""
        return min((worker.busy_since_s for worker in self._workers if worker.busy_since_s), default=0.0)

    def abandon(self, thread: int) -> bool:
        """Give up the engine call that `thread` is stuck in: its frame has failed, and a new thread goes on. False
        where that thread is none of these, or has come back meanwhile."""
        for worker in self._workers:
            if worker.thread.ident != thread or self._stop.is_set():
                continue
            call = self._take_over(worker)
            if call is None:
                return False
            if worker.keeps_turn:
                worker.keeps_turn = False
                self._turns.leave_behind()
            # Recorded by the new thread: whoever has found the call stuck has others to look after.
            self._order.deposit(call[0], (call[1], ModelError("the engine's call was stuck and has been given up")))
            worker.thread.start()
            return True
        return False

    def _take_over(self, worker: "_Worker") -> tuple[int, Prepared] | None:
        """Take the frame of a call under way from its thread, which ends once it finds out; None without a call."""
        with self._busy_lock:
            call, worker.call = worker.call, None
            if call is not None:
                self.left_behind = True
                worker.thread, worker.busy_since_s = self._new_thread(worker.number), 0.0
        return call

    def _new_thread(self, number: int) -> threading.Thread:
        return threading.Thread(target=self._work, args=(number,), name=f"infer-{self._name}-{number}", daemon=True)

    def _work(self, number: int) -> None:
        worker = self._workers[number]
        try:
            while not self._stop.is_set() and self._step(worker):
                self._recorder.report_when_due()
        except _GivenUpError:
            return  # another thread has gone on, and the frame has been counted
        except Exception:
            logger.exception("event=inference_thread_crashed pipeline=%s", self._name)
        self._leave()

    def _step(self, worker: "_Worker") -> bool:
        """One frame, or a short wait for one. False at the end of the source."""
        self._order.drain()
        channel = self._channel
        if channel is None:
            self._opened.wait(_IDLE_POLL_S)
            return self._channel is not None or not self._source_ended.is_set()
        if not self._order.wait_for_room(_IDLE_POLL_S):
            return True
        token = self._turns.take()
        try:
            if not self._order.has_room():
                return True  # whoever had the turn before took the last of it
            prepared = channel.get(_IDLE_POLL_S)
            if prepared is None:
                return not self._source_ended.is_set() or len(channel) > 0
            ticket = self._order.ticket()
            if len(prepared.model.engines) < len(self._workers):
                # After a swap to a model that remembers: it has one engine, and needs its frames one after the other.
                worker.keeps_turn = True
                self._infer(worker, ticket, prepared, engine=0)
                worker.keeps_turn = False
                return True
        finally:
            token.release()
        self._infer(worker, ticket, prepared, engine=worker.number)
        return True

    def _infer(self, worker: "_Worker", ticket: int, prepared: Prepared, *, engine: int) -> None:
        """Raises _GivenUpError where the call was given up while it was under way."""
        worker.call = (ticket, prepared)
        worker.busy_since_s = time.monotonic()
        outcome = self._run(prepared, engine)
        with self._busy_lock:
            if threading.current_thread() is not worker.thread:
                raise _GivenUpError
            worker.busy_since_s, worker.call = 0.0, None
        self._order.deposit(ticket, (prepared, outcome))
        self._order.drain()

    def _run(self, prepared: Prepared, engine: int) -> Ran | EdgeInferError:
        try:
            return prepared.model.run(prepared, engine)
        except ModelError as error:
            return error
        except Exception as error:
            logger.exception("event=inference_crashed pipeline=%s", self._name)
            return ModelError(f"internal error: {error}")

    def _record(self, outcome: Outcome) -> None:
        """One frame after the other."""
        prepared, ran = outcome
        if isinstance(ran, EdgeInferError):
            if prepared.is_first:
                prepared.model.forget_interpretation()
            self._recorder.failed(ran, prepared.frame)
            return
        try:
            items = prepared.model.interpret(prepared, ran.outputs)
        except Exception as error:
            logger.exception("event=interpretation_crashed pipeline=%s", self._name)
            self._recorder.failed(ModelError(f"internal error: {error}"), prepared.frame)
            return
        self._recorder.record(prepared, Inferred(items, ran.latency_us, ran.outputs), self._current())

    def _leave(self) -> None:
        with self._busy_lock:
            self._active -= 1
            is_last = self._active == 0
        if is_last:
            self._order.drain()
            self._recorder.status.ended_s = time.monotonic()
            if self._source_ended.is_set():
                self._recorder.report()
                self._on_end()


class _GivenUpError(Exception):
    """The call that this thread was in has been given up."""


class _Worker:
    """A thread and what it is at. `call` is the frame in its engine, with its place in the order; `keeps_turn`: nobody
    else may take a frame meanwhile."""

    def __init__(self, thread: threading.Thread, number: int) -> None:
        self.thread = thread
        self.number = number
        self.busy_since_s = 0.0
        self.call: tuple[int, Prepared] | None = None
        self.keeps_turn = False
