"""The inference threads of a pipeline: they take prepared frames, run the engine, and have the results recorded.

One thread is enough for a live source. Of a recorded one several frames may be inferred at once, each by a thread and
an engine of its own: no thread then waits for another at the end of each operator, as the threads of one engine do.
Frames are recorded in the order in which they were taken, whoever is done first.
"""

import itertools
import logging
import threading
import time
from collections.abc import Callable

from edgeinfer.runtime.channel import Channel
from edgeinfer.runtime.errors import EdgeInferError, ModelError
from edgeinfer.runtime.model import Inferred, LoadedModel, Prepared, Ran
from edgeinfer.runtime.recorder import Recorder

__all__ = ["Inference"]

logger = logging.getLogger(__name__)

_IDLE_POLL_S = 0.25
_BEFORE_SOURCE_S = 0.002

# What came of a frame; None where its engine is still to be run, in the order of the frames.
Outcome = tuple[Prepared, Ran | EdgeInferError | None]


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
        self._source_ended = threading.Event()
        self._channel: Channel | None = None
        self._take_lock = threading.Lock()
        self._busy_lock = threading.Lock()  # guards who ends the frame that is in an engine
        self._workers = [_Worker(self._new_thread(number), number) for number in range(workers)]
        self._active = workers
        self._order = _Order()

    def start(self) -> None:
        for worker in self._workers:
            worker.thread.start()

    def open(self, channel: Channel) -> None:
        """From now on frames come through `channel`."""
        self._channel = channel

    def finish(self) -> None:
        """No more frames will come."""
        self._source_ended.set()
        if self._channel is not None:
            self._channel.finish()

    def stop(self) -> None:
        self._stop.set()

    def join(self, deadline_s: float) -> None:
        """Wait for the threads, at most until `deadline_s` on the monotonic clock."""
        for worker in self._workers:
            if worker.thread.is_alive():
                worker.thread.join(max(0.0, deadline_s - time.monotonic()))

    def busy_since_s(self) -> float:
        """When the oldest engine call that is under way began, on the monotonic clock; 0 where none is."""
        return min((worker.busy_since_s for worker in self._workers if worker.busy_since_s), default=0.0)

    def abandon(self, thread: int) -> bool:
        """Give up the engine call that `thread` is stuck in: its frame has failed, and a new thread goes on. False
        where that thread is none of these, or has come back meanwhile."""
        for worker in self._workers:
            with self._busy_lock:
                if worker.thread.ident != thread or not worker.busy_since_s or self._stop.is_set():
                    continue
                worker.thread, worker.busy_since_s = self._new_thread(worker.number), 0.0
                call = worker.call
            if call is not None:
                failure = ModelError("the engine's call was stuck and has been given up")
                self._order.done(call[0], (call[1], failure), self._record)
            worker.thread.start()
            return True
        return False

    def _new_thread(self, number: int) -> threading.Thread:
        return threading.Thread(target=self._work, args=(number,), name=f"infer-{self._name}-{number}", daemon=True)

    def _work(self, number: int) -> None:
        worker, me = self._workers[number], threading.current_thread()
        while not self._stop.is_set():
            taken = self._take()
            if taken is None:
                if self._source_ended.is_set() and not self._waiting_frames():
                    break
            elif not self._infer(worker, me, *taken):
                return  # given up meanwhile: another thread has gone on, and the frame has been counted
            self._recorder.report_when_due()
        self._leave()

    def _take(self) -> tuple[int, Prepared] | None:
        channel = self._channel
        if channel is None:
            self._source_ended.wait(_BEFORE_SOURCE_S)
            return None
        if len(self._workers) == 1:
            prepared = channel.get(_IDLE_POLL_S)
            return None if prepared is None else (self._order.ticket(), prepared)
        with self._take_lock:
            prepared = channel.get(_IDLE_POLL_S)
            return None if prepared is None else (self._order.ticket(), prepared)

    def _waiting_frames(self) -> int:
        # Read anew: a short source may have made the channel, filled it and ended since the last look.
        channel = self._channel
        return len(channel) if channel is not None else 0

    def _infer(self, worker: "_Worker", me: threading.Thread, ticket: int, prepared: Prepared) -> bool:
        """False where the call was given up while it was under way."""
        if len(prepared.model.engines) < len(self._workers):
            # After a swap to a model that remembers: it has one engine, and needs its frames one after the other.
            self._order.done(ticket, (prepared, None), lambda outcome: self._record_in_line(worker, outcome))
            return True
        worker.call = (ticket, prepared)
        worker.busy_since_s = time.monotonic()
        outcome = self._run(prepared, worker.number)
        with self._busy_lock:
            if me is not worker.thread:
                return False
            worker.busy_since_s, worker.call = 0.0, None
        self._order.done(ticket, (prepared, outcome), self._record)
        return True

    def _run(self, prepared: Prepared, engine: int) -> Ran | EdgeInferError:
        try:
            return prepared.model.run(prepared, engine)
        except ModelError as error:
            return error
        except Exception as error:
            logger.exception("event=inference_crashed pipeline=%s", self._name)
            return ModelError(f"internal error: {error}")

    def _record_in_line(self, worker: "_Worker", outcome: Outcome) -> None:
        worker.busy_since_s = time.monotonic()
        self._record(outcome)
        worker.busy_since_s = 0.0

    def _record(self, outcome: Outcome) -> None:
        """One frame after the other."""
        prepared, ran = outcome
        if ran is None:
            ran = self._run(prepared, 0)
        if isinstance(ran, EdgeInferError):
            self._recorder.failed(ran)
            return
        try:
            items = prepared.model.interpret(prepared, ran.outputs)
        except Exception as error:
            logger.exception("event=interpretation_crashed pipeline=%s", self._name)
            self._recorder.failed(ModelError(f"internal error: {error}"))
            return
        self._recorder.record(prepared, Inferred(items, ran.latency_us, ran.outputs), self._current())

    def _leave(self) -> None:
        with self._busy_lock:
            self._active -= 1
            is_last = self._active == 0
        if is_last:
            self._recorder.status.ended_s = time.monotonic()
            if self._source_ended.is_set():
                self._recorder.report()
                self._on_end()


class _Worker:
    """A thread and what it is at. `call` is the frame in its engine, with its place in the order."""

    def __init__(self, thread: threading.Thread, number: int) -> None:
        self.thread = thread
        self.number = number
        self.busy_since_s = 0.0
        self.call: tuple[int, Prepared] | None = None


class _Order:
    """Has what several threads are done with recorded in the order in which they took it. No thread waits for another:
    who finds that a frame before its own is missing leaves it to who brings that one."""

    def __init__(self) -> None:
        self._tickets = itertools.count()
        self._next = 0
        self._waiting: dict[int, Outcome] = {}
        self._recording = threading.Lock()

    def ticket(self) -> int:
        return next(self._tickets)

    def done(self, ticket: int, outcome: Outcome, record: Callable[[Outcome], None]) -> None:
        self._waiting[ticket] = outcome
        # Looked at once more after the lock was given back: who came meanwhile did not get it.
        while self._next in self._waiting and self._recording.acquire(blocking=False):
            try:
                while (outcome_of_next := self._waiting.pop(self._next, None)) is not None:
                    record(outcome_of_next)
                    self._next += 1
            finally:
                self._recording.release()
