"""What becomes of a frame once its inference is over: its result, what the observers add, its state, the counts."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from edgeinfer.runtime.errors import BufferStorageError, EdgeInferError
from edgeinfer.runtime.frame import NO_DATA, Frame, FrameCounts, FrameState
from edgeinfer.runtime.model import Inferred, LoadedModel, Prepared
from edgeinfer.runtime.pipeline_status import PipelineStatus
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.runtime.stages import Observer, Seen

__all__ = ["Append", "Recorder"]

logger = logging.getLogger(__name__)

# What a power cut can take of the counts of frames that gave no result.
_FRAMES_INTERVAL_S = 5.0

Append = Callable[[str, Result], None]


class Recorder:
    """Used by one thread at a time, frame after frame in the order of their capture; `failed` and `end` by any.

    Observers belong to a model: frames of another one, still in flight at a swap, are not shown to them. They may be
    changed by any thread. `swapped_from` is set when another model takes over, and the first result of the new one
    says so.
    """

    def __init__(self, name: str, append: Append, model: LoadedModel, observers: Sequence[Observer] = ()) -> None:
        self.counts = FrameCounts()
        self.status = PipelineStatus()
        self._watching = (model, tuple(observers))
        self._changing = threading.Lock()
        self.swapped_from: LoadedModel | None = None
        self.consecutive_failures = 0
        self._name = name
        self._append = append
        self._next_frames_s = time.monotonic() + _FRAMES_INTERVAL_S

    @property
    def observers(self) -> tuple[Observer, ...]:
        return self._watching[1]

    def observe_with(self, observers: Sequence[Observer], model: LoadedModel | None = None) -> None:
        """Put these in the place of all; `model` is the one that they belong to, if it is another now. Those that are
        left out are closed."""
        with self._changing:
            before = self._watching
            self._watching = (model or before[0], tuple(observers))
        _close([one for one in before[1] if one not in observers])

    def add_observer(self, observer: Observer) -> None:
        with self._changing:
            model, observers = self._watching
            self._watching = (model, (*observers, observer))

    def remove_observer(self, observer: Observer) -> None:
        """Take it away and close it."""
        with self._changing:
            model, observers = self._watching
            self._watching = (model, tuple(one for one in observers if one is not observer))
        _close([observer])

    def record(self, prepared: Prepared, inferred: Inferred, current: LoadedModel) -> None:
        """Append the result, and what the observers add to it. `current` is the pipeline's model."""
        frame, model, status = prepared.frame, prepared.model, self.status
        now_ns = time.monotonic_ns()
        age_us = (now_ns - frame.mono_ns) // 1000
        result = Result(
            model.kind,
            frame.t_ns,
            frame.index,
            inferred.latency_us,
            age_us,
            inferred.items,
            _where_from(frame) if frame.origin is not None or frame.file else None,
        )
        try:
            if self.swapped_from is not None and model is current:
                self._tell_of_swap(frame.t_ns, now_ns, current)
            self._append(self._name, result)
        except BufferStorageError:  # closed: this inference took longer than the daemon's end
            self.end(prepared, FrameState.STALE)
            return
        status.results += 1
        status.last_result = result
        status.last_result_ns = now_ns
        status.latencies_us.append(inferred.latency_us)
        status.ages_us.append(age_us)
        if self.consecutive_failures:
            self.consecutive_failures, status.error = 0, ""
        watched, observers = self._watching
        if observers and watched is model and frame.data is not NO_DATA:  # not captured before there was one
            self._observe(observers, Seen(frame, result, prepared.target, inferred.outputs))
        self.end(prepared, FrameState.INFERRED)

    def failed(self, error: EdgeInferError, frame: Frame) -> None:
        """Count a frame that could not be used."""
        if str(error) != self.status.error:
            logger.warning("event=frame_failed pipeline=%s error=%s", self._name, error)
        self.status.error = str(error)
        self.consecutive_failures += 1
        self.counts.end(FrameState.FAILED, frame)

    def end(self, prepared: Prepared, state: FrameState) -> None:
        prepared.model.release(prepared)
        self.counts.end(state, prepared.frame)

    def report_when_due(self) -> None:
        """Report the counts of frames, every five seconds."""
        if time.monotonic() >= self._next_frames_s:
            self.report()

    def report(self) -> None:
        """Report the frames that ended since the last report."""
        self._next_frames_s = time.monotonic() + _FRAMES_INTERVAL_S
        new = self.counts.take_new()
        if not new:
            return
        try:
            self._append(self._name, Result(Kind.FRAMES, time.time_ns(), extra=dict(new)))
        except BufferStorageError as error:  # closed: a thread that outlived the daemon's end
            logger.warning("event=frames_lost pipeline=%s frames=%s error=%s", self._name, new, error)

    def _observe(self, observers: tuple[Observer, ...], seen: Seen) -> None:
        for observer in observers:
            try:
                for more in observer(seen):
                    self.status.events += more.kind is Kind.EVENT
                    self._append(self._name, more)
            except BufferStorageError as error:
                logger.warning("event=event_lost pipeline=%s error=%s", self._name, error)
            except Exception:
                # It would fail at every frame: one report is enough, and the frames matter more.
                stage = type(observer).__name__
                logger.exception("event=observer_crashed pipeline=%s stage=%s", self._name, stage)
                self.status.trouble = (
                    f"{stage} has crashed and is left out until the pipeline starts again, see the log"
                )
                self.remove_observer(observer)

    def _tell_of_swap(self, t_ns: int, now_ns: int, current: LoadedModel) -> None:
        """The first result of a new model: say so in a result of its own."""
        old, self.swapped_from = self.swapped_from, None
        if old is None:
            return
        status = self.status
        status.swap_ms = (now_ns - status.last_result_ns) / 1e6 if status.last_result_ns else 0.0
        extra: dict[str, int | float | str] = {
            "from": old.version,
            "to": current.version,
            "gap_ms": round(status.swap_ms, 3),
            "model": old.name,
        }
        if old.variant.id != current.variant.id:
            extra |= {"from_variant": old.variant.id, "to_variant": current.variant.id}
        self._append(self._name, Result(Kind.SWAP, t_ns, extra=extra))
        logger.info("event=swapped pipeline=%s from=%s to=%s gap_ms=%.1f", self._name, old, current, status.swap_ms)


def _where_from(frame: Frame) -> dict[str, int | float | str]:
    """The result of another pipeline that the frame was made of, and the file that it is."""
    origin = frame.origin
    said: dict[str, int | float | str] = {}
    if origin is not None:
        said |= {"of": origin.pipeline, "of_frame": origin.frame, "label": origin.label}
    if frame.file:
        said["file"] = frame.file
    return said


def _close(observers: Sequence[Observer]) -> None:
    for observer in observers:
        try:
            observer.close()
        except Exception:
            logger.exception("event=observer_not_closed stage=%s", type(observer).__name__)
