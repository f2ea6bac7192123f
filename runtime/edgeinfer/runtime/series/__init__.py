"""Sensor series: rows of numbers become windows. No I/O: rows, and the time, are handed in.

    shaper = Shaper(Shape(window=16, stride=4, period_ns=100_000_000), channels=(3,))
    for window in shaper.add(Arrival(place_ns, t_ns, mono_ns, (1.0, 2.0, 3.0))): ...

A row lies where its *place* says, in ns of a clock that never goes back: the monotonic clock for live rows, the
recording's own times otherwise. What the wall clock does in the meantime moves no window.
"""

from edgeinfer.runtime.series.placement import Placement
from edgeinfer.runtime.series.rows import Arrival, Window
from edgeinfer.runtime.series.shaping import Shape, Shaper

__all__ = ["Arrival", "Placement", "Shape", "Shaper", "Window"]
