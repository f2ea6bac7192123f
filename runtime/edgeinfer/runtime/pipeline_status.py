"""What a pipeline shows of itself to the status document, the governor and the commands."""

import time
from collections import deque

from edgeinfer.runtime.results import Result

__all__ = ["PipelineStatus"]

_RECENT = 512
_RATE_OVER_S = 3.0


class PipelineStatus:
    """Written by the pipeline's own threads, read by others."""

    def __init__(self) -> None:
        self.source = "waiting"
        self.error = ""
        self.trouble = ""  # of a stage; stays while frames go on
        self.results = 0
        self.events = 0
        self.began_s = 0.0
        self.ended_s = 0.0
        self.last_result: Result | None = None
        self.last_result_ns = 0
        self.swap_ms = 0.0
        self.latencies_us: deque[int] = deque(maxlen=_RECENT)
        self.ages_us: deque[int] = deque(maxlen=_RECENT)
        self._rate_counted = 0
        self._rate_since_s = time.monotonic()
        self._rate = 0.0

    def seconds(self) -> float:
        """From the first frame to the last result, or to now."""
        if not self.began_s:
            return 0.0
        return (self.ended_s or time.monotonic()) - self.began_s

    def latency_us(self) -> dict[str, int]:
        """The engine's call: p50 and p99 of the recent frames."""
        return _quantiles(self.latencies_us)

    def age_us(self) -> dict[str, int]:
        """Capture to result: p50 and p99 of the recent frames."""
        return _quantiles(self.ages_us)

    def frame_rate(self, captured: int) -> float:
        """Frames captured a second, over the last three seconds or more; `captured` is the count until now."""
        now_s = time.monotonic()
        elapsed_s = now_s - self._rate_since_s
        if elapsed_s >= _RATE_OVER_S:
            self._rate = (captured - self._rate_counted) / elapsed_s
            self._rate_counted, self._rate_since_s = captured, now_s
        return self._rate


def _quantiles(values: deque[int]) -> dict[str, int]:
    recent = sorted(values)
    if not recent:
        return {"p50": 0, "p99": 0}
    return {"p50": recent[len(recent) // 2], "p99": recent[min(len(recent) - 1, len(recent) * 99 // 100)]}
