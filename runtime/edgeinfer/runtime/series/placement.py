"""Places recorded rows by their time column, whatever is written there.

The places never go back. A row that is a little late (two rows changed places) lies where the one before it lies; a
clock that was set back (summer time, a battery that was changed) goes on from where it was; a cell that is no time
follows the row before it at the usual distance. A clock that was set forward cannot be told from a pause and is one.
"""

from collections import deque

__all__ = ["Placement"]

# Up to so many usual distances a row that goes back is a late one; beyond, the clock was set back.
_LATE_STEPS = 3
_REMEMBERED_STEPS = 5


class Placement:
    """One series. All times are integers in ns."""

    def __init__(self) -> None:
        self._last: int | None = None
        self._offset = 0
        self._steps: deque[int] = deque(maxlen=_REMEMBERED_STEPS)

    def place(self, raw: int | None) -> int | None:
        """Where a row lies whose time column says `raw` (None: no time). None before the first that has one."""
        last = self._last
        if last is None:
            self._last = raw
            return raw
        step = self._usual_step()
        place = last + step if raw is None else raw + self._offset
        late_by = last - place
        if late_by > _LATE_STEPS * step:
            self._offset += late_by + step
            place = last + step
        elif late_by > 0:
            place = last
        elif raw is not None and late_by < 0:
            self._steps.append(-late_by)
        self._last = place
        return place

    def _usual_step(self) -> int:
        """The median of the last few: a single jump changes nothing."""
        return sorted(self._steps)[(len(self._steps) - 1) // 2] if self._steps else 0
