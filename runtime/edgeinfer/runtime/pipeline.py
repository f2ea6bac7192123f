"""A pipeline: one source, one model, and results into the buffer.

The capturing thread reads, asks the gates, preprocesses and hands over; the inference threads
(`edgeinfer.runtime.inference`) run the engine, and the recorder (`edgeinfer.runtime.recorder`) appends the result and
calls the observers. Every captured frame ends in exactly one state (`edgeinfer.runtime.frame`), and the counts are
results too. A swap changes the model between two frames: frames that were prepared for the old one end on it, so none
is lost.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence

import msgspec

from edgeinfer.runtime.backing import Backing
from edgeinfer.runtime.backoff import Backoff
from edgeinfer.runtime.channel import Channel
from edgeinfer.runtime.errors import EdgeInferError, ModelError, SourceError
from edgeinfer.runtime.frame import NO_DATA, Frame, FrameCounts, FrameState
from edgeinfer.runtime.inference import Inference
from edgeinfer.runtime.model import LoadedModel, Prepared
from edgeinfer.runtime.pace import Pace
from edgeinfer.runtime.pipeline_status import PipelineStatus
from edgeinfer.runtime.pres import Preprocess
from edgeinfer.runtime.recorder import Append, Recorder
from edgeinfer.runtime.settings import PipelineConfig
from edgeinfer.runtime.sources.base import Settling, Source, is_live, open_source
from edgeinfer.runtime.sources.named_channels import check_same_channels, declared_channels
from edgeinfer.runtime.sources.settings import SensorSource
from edgeinfer.runtime.stages import Gate, Observer

__all__ = ["Pipeline"]

logger = logging.getLogger(__name__)

_PAUSE_POLL_S = 0.25


class Pipeline:
    """Start it once; stop it once. `failed` says why it ended, where it did not end by itself.

    `pace` and `gates` may be set before the start; observers are added and removed at any time.
    """

    def __init__(
        self,
        config: PipelineConfig,
        model: LoadedModel,
        append: Append,
        *,
        until_end: bool = False,
        gates: Sequence[Gate] = (),
        observers: Sequence[Observer] = (),
        opener: Callable[[threading.Event], Source] | None = None,
        on_end: Callable[[], None] | None = None,
        backing: Backing | None = None,
    ) -> None:
        self.config = config
        self.failed: EdgeInferError | None = None
        self.live = False  # known once the source is open
        self.pace = Pace(config.max_fps)
        self.gates = tuple(gates)
        self._recorder = Recorder(config.name, append, model, observers)
        self._until_end = until_end
        self._open = opener or self._open_configured
        self._on_end = on_end
        self._backing = backing
        self._model = model
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._channel: Channel | None = None
        self._opened_for: Preprocess | None = None  # of a sensor: the package's channels say what it gives
        self._source_begins = False
        self._capture_thread = threading.Thread(target=self._capture, name=f"capture-{config.name}", daemon=True)
        self._inference = Inference(
            config.name,
            self._recorder,
            workers=len(model.engines),
            current=lambda: self._model,
            on_end=self._end_of_source,
        )

    @property
    def model(self) -> LoadedModel:
        return self._model

    @property
    def counts(self) -> FrameCounts:
        return self._recorder.counts

    @property
    def status(self) -> PipelineStatus:
        return self._recorder.status

    @property
    def observers(self) -> tuple[Observer, ...]:
        return self._recorder.observers

    def add_observer(self, observer: Observer) -> None:
        self._recorder.add_observer(observer)

    def remove_observer(self, observer: Observer) -> None:
        """Take it away and close it."""
        self._recorder.remove_observer(observer)

    @property
    def gives(self) -> Preprocess | None:
        """What the package declared for which a sensor was opened; None where there is none, or while nothing comes of
        it: then it is opened for the package that is in place."""
        return self._opened_for if self.status.source == "running" else None

    @property
    def workers(self) -> int:
        """How many frames are inferred at once."""
        return self._inference.workers

    @property
    def ended(self) -> bool:
        """Whether the source came to its end and every frame of it is accounted for."""
        return self._ended.is_set()

    @property
    def consecutive_failures(self) -> int:
        """Inferences that failed since the last one that did not."""
        return self._recorder.consecutive_failures

    @property
    def stuck(self) -> bool:
        """Whether a thread of a stopped pipeline is still in an engine's call."""
        return self._inference.left_behind

    def busy_since_s(self) -> float:
        """When the oldest engine call that is under way began, on the monotonic clock; 0 where none is."""
        return self._inference.busy_since_s()

    def start(self) -> None:
        self._capture_thread.start()
        self._inference.start()

    def stop(self, timeout_s: float = 1.5) -> None:
        """End all threads; what was captured and not inferred is counted as stale."""
        self._stop.set()
        self._inference.stop()
        channel = self._channel
        for prepared in channel.close() if channel is not None else ():
            self._recorder.end(prepared, FrameState.STALE)
        deadline_s = time.monotonic() + timeout_s
        self._inference.join(deadline_s)
        if self._capture_thread.is_alive():
            self._capture_thread.join(max(0.0, deadline_s - time.monotonic()))
        self._recorder.report()
        self._recorder.observe_with(())
        self._model.close()

    def swap(self, model: LoadedModel, observers: Sequence[Observer] = ()) -> None:
        """From the next captured frame on, `model` is used, and its results are shown to `observers`."""
        old = self._model
        # In this order: the recorder must never see a swap under way with the old model in place.
        self._model = model
        self._recorder.swapped_from = old
        self._recorder.consecutive_failures = 0
        self._recorder.observe_with(observers, model)

    def abandon_call(self, thread: int) -> bool:
        """Give up the engine call that `thread` is stuck in: its frame has failed, and a new thread goes on. False
        where that thread is none of this pipeline's, or has come back meanwhile."""
        return self._inference.abandon(thread)

    def _open_configured(self, stop: threading.Event) -> Source:
        declared = self._model.package.manifest.preprocess
        self._opened_for = declared if isinstance(self.config.source, SensorSource) else None
        return open_source(self.config.source, stop, declared_channels(declared))

    def _check_opened(self) -> None:
        """Raises ConfigError where a sensor was opened for another package, whose rows were others."""
        source, before, declared = self.config.source, self._opened_for, self._model.package.manifest.preprocess
        if before is not None and before is not declared and isinstance(source, SensorSource):
            check_same_channels(self.config.name, source, before, declared)
            self._opened_for = declared

    def _end_of_source(self) -> None:
        self._ended.set()
        if self._on_end is not None:
            self._on_end()

    def _capture(self) -> None:
        backoff = Backoff()
        while not self._stop.is_set():
            source: Source | None = None
            try:
                source = self._open(self._stop)
                if self._pump(source, backoff):
                    break
            except EdgeInferError as error:
                if self._give_up_or_wait(error, backoff):
                    break
            except Exception:
                logger.exception("event=source_crashed pipeline=%s", self.config.name)
                if self._give_up_or_wait(SourceError("internal error in the source, see the log"), backoff):
                    break
            finally:
                self._close_source(source)
        self.status.source = "ended"
        self._inference.finish()

    def _close_source(self, source: Source | None) -> None:
        try:
            if source is not None:
                source.close()
        except Exception:
            logger.exception("event=source_not_closed pipeline=%s", self.config.name)

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
            channel = self._channel = Channel(latest_wins=source.live, depth=getattr(source, "depth", 0))
            self._inference.open(channel)
        logger.info("event=source_opened pipeline=%s kind=%s", self.config.name, type(source).__name__)
        if self._backing is not None and isinstance(source, Settling):
            source.settle_by(self._backing)
        self._source_begins, self.live = True, source.live
        while not self._stop.is_set():
            frame = source.read()
            if frame is None or self._stop.is_set():
                return not self._stop.is_set()
            self._check_opened()
            if not self.counts.captured:
                self.status.began_s = time.monotonic()
            if self.status.source != "running":
                # A recorded one that fails halfway would give the same frames over and over.
                if source.live or is_live(self.config.source):
                    backoff.reset()
                self.status.source, self.status.error = "running", ""
            self._offer(msgspec.structs.replace(frame, index=self.counts.capture()), channel, live=source.live)
            del frame  # while the next one is read, its memory is of use
        return False

    def _offer(self, frame: Frame, channel: Channel, *, live: bool) -> None:
        """Count, prepare and hand over a captured frame, or let it end here."""
        if not self._passes(frame, live=live):
            return
        prepared = self._prepare(frame)
        if prepared is None:
            return
        if not self.observers:  # nobody will look at the picture any more: the next one is decoded into its place
            prepared = prepared._replace(frame=msgspec.structs.replace(frame, data=NO_DATA))
        lost = channel.put(prepared)
        if lost is not None:
            self._recorder.end(lost, FrameState.STALE if self._stop.is_set() else FrameState.SUPERSEDED)

    def _passes(self, frame: Frame, *, live: bool) -> bool:
        """Ask the pace and the gates. A frame that does not pass has been counted."""
        state = self.pace(frame) if live else self._wait_for_turn()
        for gate in self.gates:
            if state is not None:
                break
            try:
                state = gate(frame)
            except Exception:
                logger.exception("event=gate_crashed pipeline=%s gate=%s", self.config.name, type(gate).__name__)
                self.gates = tuple(other for other in self.gates if other is not gate)
        if state is not None:
            self.counts.end(state, frame)
        return state is None

    def _wait_for_turn(self) -> FrameState | None:
        """Frames of a recorded source are never shed: they wait, also for a disk that is slower than they are."""
        if self._backing is not None:
            self._backing.wait_for_room(self._stop)
        wait_s = self.pace.wait_s(time.monotonic_ns())
        if wait_s:
            self._stop.wait(wait_s)
        while self.pace.paused and not self._stop.wait(_PAUSE_POLL_S):
            pass
        return FrameState.STALE if self._stop.is_set() else None

    def _prepare(self, frame: Frame) -> Prepared | None:
        """None for a frame that cannot be used: it has been counted as failed."""
        try:
            prepared = self._model.prepare(frame, is_first=self._source_begins)
        except EdgeInferError as error:
            self._recorder.failed(error, frame)
        except Exception as error:
            logger.exception("event=preprocessing_crashed pipeline=%s", self.config.name)
            self._recorder.failed(ModelError(f"internal error: {error}"), frame)
        else:
            self._source_begins = False
            return prepared
        return None
