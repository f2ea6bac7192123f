"""A pipeline: one source, one model, two threads, and results into the buffer.

The capturing thread reads, preprocesses and hands over; the inference thread runs the engine, reads its
outputs and appends the result. Every captured frame ends in exactly one state (`edgeinfer.runtime.frame`),
and the counts are results too. A swap changes the model between two frames: frames that were prepared for
the old one end on it, so none is lost.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

import msgspec

from edgeinfer.runtime.backoff import Backoff
from edgeinfer.runtime.channel import Channel
from edgeinfer.runtime.errors import BufferStorageError, EdgeInferError, ModelError
from edgeinfer.runtime.frame import Frame, FrameCounts, FrameState
from edgeinfer.runtime.model import LoadedModel, Prepared
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.runtime.settings import PipelineConfig
from edgeinfer.runtime.sources.base import Source, is_live, open_source

__all__ = ["Pipeline", "PipelineStatus"]

logger = logging.getLogger(__name__)

# What a power cut can take of the counts of frames that gave no result.
_FRAMES_INTERVAL_S = 5.0
_IDLE_POLL_S = 0.25
_LATENCIES = 512

Append = Callable[[str, Result], None]


class PipelineStatus:
    """What a pipeline shows of itself; written by its own threads, read by others."""

    def __init__(self) -> None:
        self.source = "waiting"
        self.error = ""
        self.results = 0
        self.events = 0
        self.began_s = 0.0
        self.ended_s = 0.0
        self.last_result_ns = 0
        self.engine_busy_since_s = 0.0
        self.swap_ms = 0.0
        self.latencies_us: deque[int] = deque(maxlen=_LATENCIES)

    def seconds(self) -> float:
        """From the first frame to the last result, or to now."""
        if not self.began_s:
            return 0.0
        return (self.ended_s or time.monotonic()) - self.began_s

    def latency_us(self) -> dict[str, int]:
        recent = sorted(self.latencies_us)
        if not recent:
            return {"p50": 0, "p99": 0}
        return {"p50": recent[len(recent) // 2], "p99": recent[min(len(recent) - 1, len(recent) * 99 // 100)]}


class Pipeline:
    """Start it once; stop it once. `failed` says why it ended, where it did not end by itself."""

    def __init__(self, config: PipelineConfig, model: LoadedModel, append: Append, *, until_end: bool = False) -> None:
        self.config = config
        self.counts = FrameCounts()
        self.status = PipelineStatus()
        self.failed: EdgeInferError | None = None
        self._append = append
        self._until_end = until_end
        self._model = model
        self._swap_from: LoadedModel | None = None
        self._consecutive_failures = 0
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._source_ended = threading.Event()
        self._channel: Channel | None = None
        self._next_frames_s = time.monotonic() + _FRAMES_INTERVAL_S
        name = config.name
        self._capture_thread = threading.Thread(target=self._capture, name=f"capture-{name}", daemon=True)
        self._infer_thread = threading.Thread(target=self._infer, name=f"infer-{name}", daemon=True)

    @property
    def model(self) -> LoadedModel:
        return self._model

    @property
    def ended(self) -> bool:
        """Whether the source came to its end and every frame of it is accounted for."""
        return self._ended.is_set()

    @property
    def consecutive_failures(self) -> int:
        """Inferences that failed since the last one that did not."""
        return self._consecutive_failures

    def start(self) -> None:
        self._capture_thread.start()
        self._infer_thread.start()

    def stop(self, timeout_s: float = 1.5) -> None:
        """End both threads; what was captured and not inferred is counted as stale."""
        self._stop.set()
        channel = self._channel
        for prepared in channel.close() if channel is not None else ():
            self._end(prepared, FrameState.STALE)
        deadline = time.monotonic() + timeout_s
        for thread in (self._infer_thread, self._capture_thread):
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
        self._emit_frames()

    def swap(self, model: LoadedModel) -> None:
        """From the next captured frame on, `model` is used."""
        old = self._model
        # In this order: the inference thread must never see a swap under way with the old model in place.
        self._model = model
        self._swap_from = old
        self._consecutive_failures = 0

    def _capture(self) -> None:
        backoff = Backoff()
        while not self._stop.is_set():
            try:
                source = open_source(self.config.source, self._stop)
            except EdgeInferError as error:
                if self._give_up_or_wait(error, backoff):
                    break
                continue
            try:
                at_end = self._pump(source, backoff)
            except EdgeInferError as error:
                if self._give_up_or_wait(error, backoff):
                    break
            except Exception:
                logger.exception("event=capture_crashed pipeline=%s", self.config.name)
                self.status.error = "internal error in the capturing thread: see the log"
                self._stop.wait(backoff.next())
            else:
                if at_end:
                    break
            finally:
                source.close()
        self.status.source = "ended"
        self._source_ended.set()
        if self._channel is not None:
            self._channel.finish()

    def _give_up_or_wait(self, error: EdgeInferError, backoff: Backoff) -> bool:
        """True where trying again makes no sense: a recorded source in a run until its end."""
        self.status.error = str(error)
        if self._until_end and not is_live(self.config.source):
            self.failed = error
            return True
        wait_s = backoff.next()
        self.status.source = "waiting"
        logger.warning("event=source_failed pipeline=%s retry_s=%.1f error=%s", self.config.name, wait_s, error)
        self._stop.wait(wait_s)
        return False

    def _pump(self, source: Source, backoff: Backoff) -> bool:
        """Read until the end (True) or a stop (False). Raises SourceError when the source gives out."""
        channel = self._channel
        if channel is None:
            channel = self._channel = Channel(latest_wins=source.live)
        logger.info("event=source_opened pipeline=%s kind=%s", self.config.name, type(source).__name__)
        while not self._stop.is_set():
            frame = source.read()
            if frame is None or self._stop.is_set():
                return not self._stop.is_set()
            if not self.counts.captured:
                self.status.began_s = time.monotonic()
            if self.status.source != "running":
                if source.live:  # a recorded one that fails halfway would give the same frames over and over
                    backoff.reset()
                self.status.source, self.status.error = "running", ""
            frame = msgspec.structs.replace(frame, index=self.counts.capture())
            prepared = self._prepare(frame)
            if prepared is None:
                continue
            lost = channel.put(prepared)
            if lost is not None:
                self._end(lost, FrameState.STALE if self._stop.is_set() else FrameState.SUPERSEDED)
        return False

    def _prepare(self, frame: Frame) -> Prepared | None:
        """None for a frame that cannot be used: it has been counted as failed."""
        try:
            return self._model.prepare(frame)
        except EdgeInferError as error:
            self._note_failure(error)
        except Exception as error:
            logger.exception("event=preprocessing_crashed pipeline=%s", self.config.name)
            self._note_failure(ModelError(f"internal error: {error}"))
        return None

    def _infer(self) -> None:
        while not self._stop.is_set():
            channel = self._channel
            prepared = channel.get(_IDLE_POLL_S) if channel is not None else None
            if prepared is not None:
                self._handle(prepared)
            elif channel is None:
                self._source_ended.wait(0.002)
            if time.monotonic() >= self._next_frames_s:
                self._emit_frames()
            if prepared is None and self._source_ended.is_set() and not self._waiting_frames():
                break
        self.status.ended_s = time.monotonic()
        if self._source_ended.is_set():
            self._emit_frames()
            self._ended.set()

    def _waiting_frames(self) -> int:
        # Read anew: a short source may have made the channel, filled it and ended since the last look.
        channel = self._channel
        return len(channel) if channel is not None else 0

    def _handle(self, prepared: Prepared) -> None:
        frame, model, status = prepared.frame, prepared.model, self.status
        status.engine_busy_since_s = time.monotonic()
        try:
            inferred = model.infer(prepared)
        except ModelError as error:
            self._note_failure(error)
            return
        except Exception as error:
            logger.exception("event=inference_crashed pipeline=%s", self.config.name)
            self._note_failure(ModelError(f"internal error: {error}"))
            return
        finally:
            status.engine_busy_since_s = 0.0
        now_ns = time.monotonic_ns()
        result = Result(
            kind=model.kind,
            t_ns=frame.t_ns,
            frame=frame.index,
            latency_us=inferred.latency_us,
            age_us=(now_ns - frame.mono_ns) // 1000,
            items=inferred.items,
        )
        try:
            if self._swap_from is not None and model is self._model:
                self._finish_swap(frame.t_ns, now_ns)
            self._append(self.config.name, result)
        except BufferStorageError:  # closed: this inference took longer than the daemon's end
            self._end(prepared, FrameState.STALE)
            return
        status.results += 1
        status.last_result_ns = now_ns
        status.latencies_us.append(inferred.latency_us)
        if self._consecutive_failures:
            self._consecutive_failures, status.error = 0, ""
        self._end(prepared, FrameState.INFERRED)

    def _finish_swap(self, t_ns: int, now_ns: int) -> None:
        """The first result of a new model: say so in a result of its own."""
        old, self._swap_from = self._swap_from, None
        if old is None:
            return
        status = self.status
        status.swap_ms = (now_ns - status.last_result_ns) / 1e6 if status.last_result_ns else 0.0
        extra: dict[str, int | float | str] = {
            "from": old.version,
            "to": self._model.version,
            "gap_ms": round(status.swap_ms, 3),
            "model": old.name,
        }
        self._append(self.config.name, Result(Kind.SWAP, t_ns, extra=extra))
        logger.info(
            "event=swapped pipeline=%s from=%s to=%s gap_ms=%.1f", self.config.name, old, self._model, status.swap_ms
        )

    def _note_failure(self, error: EdgeInferError) -> None:
        if str(error) != self.status.error:
            logger.warning("event=frame_failed pipeline=%s error=%s", self.config.name, error)
        self.status.error = str(error)
        self._consecutive_failures += 1
        self.counts.end(FrameState.FAILED)

    def _end(self, prepared: Prepared, state: FrameState) -> None:
        prepared.model.release(prepared)
        self.counts.end(state)

    def _emit_frames(self) -> None:
        """Report the frames that ended since the last report."""
        self._next_frames_s = time.monotonic() + _FRAMES_INTERVAL_S
        new = self.counts.take_new()
        if not new:
            return
        try:
            self._append(self.config.name, Result(Kind.FRAMES, time.time_ns(), extra=dict(new)))
        except BufferStorageError as error:  # closed: a thread that outlived the daemon's end
            logger.warning("event=frames_lost pipeline=%s frames=%s error=%s", self.config.name, new, error)
