"""Cascades: what one pipeline has found becomes the frames of others.

    [pipeline.source]
    kind = "pipeline"
    of = "door"                # a detector
    labels = ["person"]        # only these go on
    input = "crops"            # each in a frame of its own

The pipeline that finds has a `RelayObserver`; each pipeline that reads it has a `RelaySource`. In between lies an
inbox of a few frames: who finds waits until there is room, so no frame goes uncounted. Of a live source the reading
pipeline then lets the latest win, and counts what it leaves out.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.errors import ConfigError
from edgeinfer.runtime.frame import Frame, Origin
from edgeinfer.runtime.results import Item, Result
from edgeinfer.runtime.sources.settings import PipelineSource
from edgeinfer.runtime.stages import Seen

__all__ = ["Inbox", "RelayHub", "RelayObserver", "RelaySource", "check_cascades", "check_labels"]

Array = npt.NDArray[Any]
_INBOX_FRAMES = 16
_POLL_S = 0.25
_PICTURE_AXES = 3


class Inbox:
    """Frames on their way from one pipeline to another. `live`: those of a live source, known once there is one."""

    def __init__(self, config: PipelineSource) -> None:
        self.config = config
        self.live = False
        self._frames: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._finished = False

    def put(self, frame: Frame, *, live: bool) -> None:
        """Waits for room; a frame for a reader that has gone is dropped, for nobody has captured it."""
        with self._changed:
            self.live = live
            while len(self._frames) >= _INBOX_FRAMES and not self._closed:
                self._changed.wait()
            if not self._closed:
                self._frames.append(frame)
                self._changed.notify_all()

    def get(self, timeout_s: float) -> Frame | None:
        with self._changed:
            self._wait_for_frame(timeout_s)
            frame = self._frames.popleft() if self._frames else None
            self._changed.notify_all()
            return frame

    def has_begun(self, timeout_s: float) -> bool:
        """Whether there is a frame, or an end. Waits for it."""
        with self._changed:
            self._wait_for_frame(timeout_s)
            return bool(self._frames) or self._finished or self._closed

    @property
    def at_end(self) -> bool:
        with self._changed:
            return (self._finished and not self._frames) or self._closed

    def finish(self) -> None:
        """Nothing more will come."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody reads any more."""
        with self._changed:
            self._closed = True
            self._frames.clear()
            self._changed.notify_all()

    def _wait_for_frame(self, timeout_s: float) -> None:
        if not self._frames and not self._finished and not self._closed:
            self._changed.wait(timeout_s)


class RelayHub:
    """The inboxes of a device, by the pipeline that they read. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inboxes: dict[str, tuple[Inbox, ...]] = {}

    def of(self, pipeline: str) -> tuple[Inbox, ...]:
        """Who reads `pipeline`."""
        return self._inboxes.get(pipeline, ())

    def join(self, config: PipelineSource) -> Inbox:
        """From now on, what `config` asks for goes into this inbox."""
        inbox = Inbox(config)
        with self._lock:
            self._inboxes[config.of] = (*self.of(config.of), inbox)
        return inbox

    def leave(self, inbox: Inbox) -> None:
        inbox.close()
        with self._lock:
            rest = tuple(other for other in self.of(inbox.config.of) if other is not inbox)
            self._inboxes[inbox.config.of] = rest

    def end(self, pipeline: str) -> None:
        """The pipeline's source has ended, and every frame of it is done."""
        for inbox in self.of(pipeline):
            inbox.finish()


class RelaySource:
    """Frames from another pipeline. `live` as that one is: so it begins with that one's first frame."""

    def __init__(self, inbox: Inbox, stop: threading.Event) -> None:
        self._inbox = inbox
        self._stop = stop
        while not stop.is_set() and not inbox.has_begun(_POLL_S):
            pass
        self.live = inbox.live
        # All crops of a frame may wait for their turn, else those of one frame would replace each other.
        self.depth = 2 * inbox.config.max_crops if self.live else 0

    def read(self) -> Frame | None:
        while not self._stop.is_set():
            frame = self._inbox.get(_POLL_S)
            if frame is not None:
                return frame
            if self._inbox.at_end:
                return None
        return None

    def close(self) -> None:
        """The inbox is its pipeline's, which may open it again."""


class RelayObserver:
    """Hands what a pipeline finds to whoever reads it."""

    def __init__(self, hub: RelayHub, pipeline: str, labels: Sequence[str], *, live: Callable[[], bool]) -> None:
        self._hub = hub
        self._pipeline = pipeline
        self._live = live
        self._labels = tuple(labels)

    def __call__(self, seen: Seen) -> Iterable[Result]:
        for inbox in self._hub.of(self._pipeline):
            for frame in self._frames(seen, inbox.config):
                inbox.put(frame, live=self._live())
        return ()

    def close(self) -> None:
        """The inboxes are their readers'."""

    def _frames(self, seen: Seen, config: PipelineSource) -> list[Frame]:
        chosen = [item for item in seen.result.items if self._is_wanted(item, config)]
        if not chosen and (config.labels or config.input == "crops"):
            return []
        match config.input:
            case "crops":
                boxed = [item for item in chosen if item.box is not None][: config.max_crops]
                return [self._frame(seen, item, crop(seen.frame.data, item, config.margin)) for item in boxed]
            case "frame":
                return [self._frame(seen, chosen[0] if chosen else None, seen.frame.data)]
            case "output":
                # The engine's own memory: it is overwritten by its next call.
                output = np.array(seen.outputs[min(config.output, len(seen.outputs) - 1)], copy=True)
                return [self._frame(seen, chosen[0] if chosen else None, output)]

    def _is_wanted(self, item: Item, config: PipelineSource) -> bool:
        if item.score < config.min_score:
            return False
        return not config.labels or str(item.label) in config.labels or self._name(item.label) in config.labels

    def _name(self, label: int) -> str:
        return self._labels[label] if 0 <= label < len(self._labels) else str(label)

    def _frame(self, seen: Seen, item: Item | None, data: Array) -> Frame:
        found = seen.frame
        origin = Origin(
            self._pipeline, found.index,
            label=item.label if item else -1, score=item.score if item else 0.0, box=item.box if item else None,
        )  # fmt: skip
        return Frame(data, found.t_ns, found.mono_ns, 0, origin, found.stream_ns, file=found.file)


def crop(picture: Array, item: Item, margin: float) -> Array:
    """What lies in the item's box, widened on each side by `margin` of the box's own size: a view, at least one pixel
    wide and high."""
    if item.box is None or picture.ndim < _PICTURE_AXES - 1:
        return picture
    height, width = picture.shape[:2]
    x1, y1, x2, y2 = item.box
    wider, higher = (x2 - x1) * margin, (y2 - y1) * margin
    left, right = _span(x1 - wider, x2 + wider, width)
    top, bottom = _span(y1 - higher, y2 + higher, height)
    return picture[top:bottom, left:right]


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    first = min(max(0, int(low * size)), size - 1)
    return first, max(first + 1, min(size, round(high * size)))


def check_labels(name: str, source: PipelineSource, labels: Sequence[str]) -> None:
    """Raises ConfigError for a label of `source` that the package does not know; numbers may always be."""
    for label in source.labels:
        if label not in labels and not label.isdigit():
            import difflib

            near = difflib.get_close_matches(label, labels, n=1)
            raise ConfigError(
                f"pipeline {name!r}: the package of pipeline {source.of!r} has no label {label!r}",
                hint=f"did you mean {near[0]!r}?" if near else f"it has {', '.join(labels[:20]) or 'none'}",
            )


def check_cascades(sources: dict[str, PipelineSource | None]) -> None:
    """`sources`: each pipeline with its source where that is another pipeline. Raises ConfigError for one that reads
    a pipeline that is not there, or itself through others."""
    for name in sources:
        seen = [name]
        while (source := sources[seen[-1]]) is not None:
            if source.of not in sources:
                raise ConfigError(
                    f"pipeline {seen[-1]!r} reads pipeline {source.of!r}, which is not configured",
                    hint=f"known here: {', '.join(sorted(sources))}",
                )
            if source.of in seen:
                raise ConfigError(f"pipelines read each other in a circle: {' <- '.join([*seen, source.of])}")
            seen.append(source.of)
