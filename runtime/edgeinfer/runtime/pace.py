"""How many frames of a pipeline may be inferred: a limit of frames a second, or none for a while."""

from edgeinfer.runtime.frame import Frame, FrameState

__all__ = ["Pace"]

_SECOND_NS = 1_000_000_000


class Pace:
    """A gate. `max_fps` (frames/s; 0: no limit) is the configuration's; `limit` sets a tighter one, `pause` lets no
    frame pass. Frames beyond it are shed; of a recorded source none may be, so there it tells how long to wait."""

    def __init__(self, max_fps: float = 0.0) -> None:
        self._max_fps = max_fps
        self.paused = False
        self._period_ns = 0
        self._due_ns = 0
        self.limit(0.0)

    def limit(self, fps: float) -> None:
        """At most `fps` frames a second, and no more than the configuration says; 0: as many as that."""
        limits = [one for one in (fps, self._max_fps) if one > 0]
        self._period_ns = int(_SECOND_NS / min(limits)) if limits else 0

    def __call__(self, frame: Frame) -> FrameState | None:
        if self.paused:
            return FrameState.SHED
        if self._period_ns:
            # A quarter of a period early is on time: frames of a camera come with some jitter.
            if frame.mono_ns < self._due_ns - self._period_ns // 4:
                return FrameState.SHED
            self._advance(frame.mono_ns)
        return None

    def wait_s(self, now_ns: int) -> float:
        """How long the next frame of a recorded source has to wait, from the monotonic `now_ns` on."""
        if not self._period_ns:
            return 0.0
        wait_ns = max(0, self._due_ns - now_ns)
        self._advance(now_ns + wait_ns)
        return wait_ns / _SECOND_NS

    def _advance(self, at_ns: int) -> None:
        """The next frame is due a period after this one was; what was missed is not made up for."""
        self._due_ns = max(self._due_ns, at_ns - self._period_ns) + self._period_ns
