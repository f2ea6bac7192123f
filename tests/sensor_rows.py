"""Rows of sensors for tests, and what a series makes of them.

windows = run(Shape(window=4), [arrival(0.5, 1.0, 2.0), arrival(1.5, 3.0, 4.0)])
"""

from collections.abc import Iterable, Sequence

from edgeinfer.runtime.series import Arrival, Shape, Shaper, Window

__all__ = ["SECOND", "WALL", "arrival", "rows_of", "run"]

SECOND = 1_000_000_000
# A wall clock that has nothing to do with the places.
WALL = 1_700_000_000 * SECOND


def arrival(at_s: float, *values: float, wall_s: float = 0.0, source: int = 0) -> Arrival:
    """A row at `at_s` of the series; the wall clock is `wall_s` ahead."""
    place = round(at_s * SECOND)
    return Arrival(place, WALL + place + round(wall_s * SECOND), place + 5, values, source)


def run(shape: Shape, arrivals: Iterable[Arrival], *, channels: Sequence[int] | None = None) -> list[Window]:
    """All windows of a series that ends."""
    shaper = Shaper(shape, channels=channels)
    windows = [window for one in arrivals for window in shaper.add(one)]
    return windows + shaper.finish()


def rows_of(windows: Iterable[Window]) -> list[list[float]]:
    """Of windows of one channel."""
    return [window.data[:, 0].tolist() for window in windows]
