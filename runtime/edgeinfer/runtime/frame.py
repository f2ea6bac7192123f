"""Frames and their accounting: every captured frame ends in exactly one counted state."""

import enum
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

__all__ = ["NO_DATA", "Frame", "FrameCounts", "FrameState", "Origin"]


class FrameState(enum.StrEnum):
    """Where a frame can end."""

    INFERRED = "inferred"
    SUPERSEDED = "superseded"  # a newer one of a live source came before it was inferred
    MOTION_SKIPPED = "motion_skipped"
    SHED = "shed"  # given up for heat, power or budget
    STALE = "stale"  # the camera's picture is frozen, or the pipeline stopped before the frame was inferred
    FAILED = "failed"  # could not be preprocessed or inferred


class Origin(msgspec.Struct, frozen=True):
    """Where a frame of a cascade comes from: a result of another pipeline, and the item that it was cut out by.

    `box` is that item's (x1, y1, x2, y2) in 0..1 of the picture that the other pipeline saw.
    """

    pipeline: str
    frame: int
    label: int = -1
    score: float = 0.0
    box: tuple[float, float, float, float] | None = None


class Frame(msgspec.Struct, frozen=True):
    """One input from a source.

    `data`: a picture (H, W, 3) uint8 BGR, a sensor window (length, channels) float32, samples of sound (n,)
    float32 in -1..1, or a tensor. `origin`: set where the frame was made by another pipeline.
    `stream_ns`: where in its recording the frame lies, which is read faster than it was made; -1 for a live source.
    `t_ns`: wall clock at capture; `mono_ns`: monotonic clock at capture; `index`: from 0 in its source,
    and once a pipeline has captured it, from 0 in the pipeline. `on_end`: called by any thread, once, with the state
    that the frame ended in, after what came of it was handed to the buffer. `file`: the name of the file that it is.
    """

    data: npt.NDArray[Any]
    t_ns: int
    mono_ns: int
    index: int
    origin: "Origin | None" = None
    stream_ns: int = -1
    on_end: Callable[[FrameState], None] | None = None
    file: str = ""

    @property
    def clock_ns(self) -> int:
        """The clock that durations between frames are measured by: a recording's own, else the monotonic one."""
        return self.stream_ns if self.stream_ns >= 0 else self.mono_ns


# In place of a frame's data once nobody needs it any more.
NO_DATA: npt.NDArray[Any] = np.empty(0, dtype=np.uint8)


class FrameCounts:
    """Counts by state, for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {state.value: 0 for state in FrameState}
        self._taken: dict[str, int] = dict(self._counts)
        self.captured = 0

    def capture(self) -> int:
        """Count a captured frame; its number, from 0."""
        with self._lock:
            self.captured += 1
            return self.captured - 1

    def end(self, state: FrameState, frame: Frame | None = None) -> None:
        """Count a frame that has ended, and tell its source if that wants to know."""
        with self._lock:
            self._counts[state.value] += 1
        if frame is not None and frame.on_end is not None:
            frame.on_end(state)

    def totals(self) -> dict[str, int]:
        """Every state with its count."""
        with self._lock:
            return dict(self._counts)

    def take_new(self) -> dict[str, int]:
        """The counts that came since the last call, without zeros: what the next frames result says."""
        with self._lock:
            new = {state: count - self._taken[state] for state, count in self._counts.items()}
            self._taken = dict(self._counts)
        return {state: count for state, count in new.items() if count}
