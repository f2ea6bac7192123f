"""From a stream's presentation times to times of capture. Values only: no clock in here.

    clock = MediaClock()
    captured_ns = clock.captured_ns(arrived_ns=time.monotonic_ns(), presented_ns=...)

A stream says when its pictures were taken relative to each other, on a clock of the camera that has nothing to do with
ours. The picture that was underway for the shortest time, of those of the last seconds, ties the two together: what
another one needed beyond that is its delay (the network's jitter, a queue that had built up), and is taken off its time
of arrival. The part of the delay that all pictures share cannot be known and is not in it. The window is short, because
the two clocks drift apart: 50 parts in a million are 1 ms in 20 s.
"""

__all__ = ["MediaClock"]

_SECOND_NS = 1_000_000_000


class MediaClock:
    """Never answers with a time in the future, before its last answer, or more than `max_age_ns` before the arrival:
    where the presentation times would lead there, the time of arrival is the answer and the two clocks are tied
    anew."""

    def __init__(self, *, window_ns: int = 10 * _SECOND_NS, max_age_ns: int = 5 * _SECOND_NS) -> None:
        self._window_ns = window_ns
        self._max_age_ns = max_age_ns
        self._last_presented_ns = 0
        self._last_ns = 0
        # The smallest difference of arrival and presentation in the window under way, and in the one before.
        self._window_began_ns: int | None = None
        self._least_ns = 0
        self._least_before_ns = 0

    def captured_ns(self, *, arrived_ns: int, presented_ns: int) -> int:
        """Both of them and the answer in ns; `arrived_ns` must not go backwards."""
        difference_ns = arrived_ns - presented_ns
        began_ns = self._window_began_ns
        if began_ns is None or presented_ns < self._last_presented_ns:
            self._tie(arrived_ns, difference_ns)
        elif arrived_ns - began_ns > self._window_ns:
            self._window_began_ns = arrived_ns
            self._least_before_ns, self._least_ns = self._least_ns, difference_ns
        self._last_presented_ns = presented_ns
        self._least_ns = min(self._least_ns, difference_ns)
        delay_ns = difference_ns - min(self._least_ns, self._least_before_ns)
        if delay_ns > self._max_age_ns:
            self._tie(arrived_ns, difference_ns)
            delay_ns = 0
        self._last_ns = min(max(arrived_ns - delay_ns, self._last_ns), arrived_ns)
        return self._last_ns

    def _tie(self, arrived_ns: int, difference_ns: int) -> None:
        self._window_began_ns = arrived_ns
        self._least_ns = self._least_before_ns = difference_ns
