"""What a configuration may say of rules, tracking, motion and snapshots.

    [pipeline.tracker]

    [[pipeline.rule]]
    name = "somebody at the gate"
    labels = ["person"]
    zone = [[0.1, 0.4], [0.6, 0.4], [0.6, 1.0], [0.1, 1.0]]
    dwell_s = 2
    snapshot = true

A rule is read from top to bottom: which items it is about (`labels`, `min_score`, `zone`), what has to be true of
them (`above`, `below`, `count`, `line`; none of them: there is one), for how long (`n_of_m`, `dwell_s`), when
(`schedule`), when that is an event (`on`, `end`), and how many events are too many (`cooldown_s`, `max_per_hour`).
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from edgeinfer.runtime.config import Section
from edgeinfer.runtime.rules.geometry import Line, Point, Polygon, area, length

__all__ = [
    "Anchor",
    "MotionConfig",
    "RuleConfig",
    "ScheduleConfig",
    "SnapshotConfig",
    "TrackerConfig",
    "Weekday",
    "check_rules",
]

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Anchor = Literal["bottom", "centre"]
Seconds = Annotated[float, msgspec.Meta(ge=0.0, le=1e9)]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Corners = Annotated[tuple[Point, ...], msgspec.Meta(max_length=64)]
ClockTime = Annotated[str, msgspec.Meta(pattern=r"^(([01]\d|2[0-3]):[0-5]\d|24:00)\Z")]

_LEAST_CORNERS = 3
_LEAST_AREA = 1e-5
_LEAST_LENGTH = 1e-3
_MOST_FRAMES = 10_000  # of n_of_m: a window is kept for each track


class MotionConfig(Section, frozen=True):
    """Frames in which nothing moves are not inferred.

    `threshold`: how far a pixel has to be from the background, in grey levels (0..255; sensor noise stays below 10
    once pixels are averaged); `min_area`: the share of the picture that has to be that far. `change`: for sensor
    windows and sound, how far mean or deviation of a channel have to be from their usual values, in usual deviations.
    `adapt_s`: the background's time constant. `hold_s`: frames go on being inferred for so long after the last
    motion; `refresh_s`: an inference at least so often, whatever moves (0: never); a rule notices that something
    has stayed, or is over, at a frame that was inferred. `mask`: polygons in 0..1 of the picture in which motion is
    not looked at.
    """

    threshold: Annotated[float, msgspec.Meta(gt=0.0, le=255.0)] = 15.0
    min_area: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 0.002
    change: Annotated[float, msgspec.Meta(gt=0.0, le=1e6)] = 0.5
    adapt_s: Annotated[float, msgspec.Meta(gt=0.0, le=1e6)] = 10.0
    hold_s: Seconds = 2.0
    refresh_s: Seconds = 60.0
    mask: Annotated[tuple[Corners, ...], msgspec.Meta(max_length=64)] = ()

    def __post_init__(self) -> None:
        for polygon in self.mask:
            _check_polygon("mask", polygon)


class TrackerConfig(Section, frozen=True):
    """Follows detections from frame to frame, so that one thing is one event. What is no track (yet) is there for no
    rule of the pipeline, also where things are counted.

    Detections of a score of `high` or more are matched first, and from `begin` on they may begin a track; those
    between `low` and `high` only keep one alive (the package's `score_threshold` has to let them through). `min_hits`:
    frames in a row until something is a track. `min_iou`: overlap (intersection over union) with where the track was
    expected. `max_lost_s`: how long a track that is no longer seen is expected to come back.
    """

    begin: Share = 0.6
    high: Share = 0.5
    low: Share = 0.1
    min_hits: Annotated[int, msgspec.Meta(ge=1, le=100)] = 2
    min_iou: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] = 0.2
    max_lost_s: Seconds = 2.0

    def __post_init__(self) -> None:
        if not self.low <= self.high <= self.begin:
            raise ValueError(f"tracker: expected low <= high <= begin, found {self.low}, {self.high} and {self.begin}")


class ScheduleConfig(Section, frozen=True):
    """From `from` to `to` (`"22:00"`) in local time, beginning on each of `days`. A `to` that is not later than `from`
    is of the next day."""

    from_: ClockTime = msgspec.field(name="from")
    to: ClockTime
    days: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

    def __post_init__(self) -> None:
        if not self.days:
            raise ValueError("schedule: expected at least one of days, found none")
        if self.from_ == "24:00":
            raise ValueError('schedule: expected from = "00:00" to "23:59", found "24:00"')


class RuleConfig(Section, frozen=True):
    """When a result is an event.

    Which items: `labels` (names of the package, or numbers; none: all), `min_score`, `zone`: a polygon in 0..1 of the
    picture that holds the item's `anchor` (bottom centre of its box, where a thing stands; or its centre).
    `per`: a condition is looked at for each `track` apart, or for the `frame` as a whole. Left out, it is `track`
    where the pipeline has a tracker and the condition is one of a single thing.

    Condition: `above` or `below` (of the score; of the frame, its best), `count` (at least so many items); what it has
    to come back to before it is over is `clear`. `line`: a track's anchor crosses from the first to the second point;
    `direction` `right` is to the right of who walks from the first point to the second. With none of them, the
    condition is that there is an item.

    For how long: `n_of_m` = [n, m], true in n of the last m frames; then `dwell_s`, true all that time.
    When: `schedule`, in local time of `timezone` (empty: the device's). While the clock is not set, it is no bar.

    An event: `on` = `begin`, when it comes to be true, and with `end` another when it is over; `change`, when other
    labels are found than before (the best one's of a classification, all of a detection); `frame`, each frame for
    which it is true. After an event none for `cooldown_s`, and no more than `max_per_hour` (0: no limit; so many at
    once, and then as they come back, evenly): those left out are counted in the next event as `suppressed`.
    `snapshot` keeps the picture or window.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    labels: tuple[str | int, ...] = ()
    min_score: float = 0.0
    zone: Corners = ()
    anchor: Anchor = "bottom"
    per: Literal["track", "frame"] | None = None
    above: float | None = None
    below: float | None = None
    count: Annotated[int, msgspec.Meta(ge=1, le=100_000)] | None = None
    clear: float | None = None
    line: Line | None = None
    direction: Literal["any", "left", "right"] = "any"
    n_of_m: tuple[int, int] = (1, 1)
    dwell_s: Seconds = 0.0
    schedule: Annotated[tuple[ScheduleConfig, ...], msgspec.Meta(max_length=64)] = ()
    timezone: str = ""
    on: Literal["begin", "change", "frame"] = "begin"
    end: bool = False
    cooldown_s: Seconds = 0.0
    max_per_hour: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    snapshot: bool = False

    def __post_init__(self) -> None:
        try:
            self._check_values()
            self._check_combination()
        except ValueError as error:
            raise ValueError(f"rule {self.name!r}: {error}") from error

    def _check_values(self) -> None:
        if self.zone:
            _check_polygon("zone", self.zone)
        if self.line is not None:
            _check_points("line", self.line)
            if length(self.line) < _LEAST_LENGTH:
                raise ValueError("line: expected two points apart from each other")
        n, m = self.n_of_m
        if not 1 <= n <= m <= _MOST_FRAMES:
            raise ValueError(f"n_of_m: expected 1 <= n <= m <= {_MOST_FRAMES}, found {[n, m]}")
        if any(isinstance(label, int) and label < 0 for label in self.labels):
            raise ValueError("labels: expected numbers from 0, found a negative one")
        self._check_levels()

    def _check_levels(self) -> None:
        for name in ("min_score", "above", "below", "clear"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name}: expected a number, found {value}")
        given = [name for name in ("above", "below", "count") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)}: choose one (min_score selects the items that are counted)")
        if self.clear is None:
            return
        if not given:
            raise ValueError("clear: is the level at which above, below or count is over, and none of them is given")
        level = float(getattr(self, given[0]))
        if (self.clear < level) if self.below is not None else (self.clear > level):
            side = "at least" if self.below is not None else "at most"
            raise ValueError(f"clear: expected {side} {given[0]} = {level:g}, found {self.clear:g}")
        if self.count is not None and self.clear <= 0:
            raise ValueError("clear: expected at least 1 with count, or it would never be over")

    def _check_combination(self) -> None:
        """Refuse what contradicts itself, and what would be silently without effect."""
        if self.line is not None:
            self._refuse("line", "a crossing is one moment", *_OF_A_STATE, "zone")
        elif self.direction != "any":
            raise ValueError("direction: needs a line")
        if self.on == "change":
            self._refuse('on = "change"', "it compares what is found", "above", "below", "count")
        if self.on != "begin" and self.end:
            raise ValueError(f'end: a rule with on = "{self.on}" has no end')
        if self.per == "track" and (self.count is not None or self.on == "change"):
            raise ValueError('per = "track": count and on = "change" are about the whole frame')
        if self.per == "frame" and self.line is not None:
            raise ValueError("line: needs per = \"track\", or leave 'per' out")
        if self.timezone and not self.schedule:
            raise ValueError("timezone: needs a schedule")

    def _refuse(self, name: str, reason: str, *others: str) -> None:
        """Raise ValueError where one of the fields `others` is given."""
        defaults = {field.name: field.default for field in msgspec.structs.fields(self)}
        for other in others:
            if getattr(self, other) != defaults[other]:
                raise ValueError(f"{name} and {other}: {reason}; leave one of them out")

    def watches_tracks(self, *, tracked: bool) -> bool:
        """Whether the condition is looked at for each track apart, in a pipeline that has a tracker or not."""
        if self.per is not None or self.line is not None:
            return self.per != "frame"
        return tracked and self.count is None and self.on != "change"


_OF_A_STATE = ("above", "below", "count", "n_of_m", "dwell_s", "on", "end")


class SnapshotConfig(Section, frozen=True):
    """`max_bytes` is what all pictures and windows of events may take together; the oldest go first, also where
    the disk is nearly full: its rest is for results. `quality` is JPEG's, 1..100; `draw` draws boxes and tracks into
    the picture."""

    max_bytes: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)] = 64 << 20
    quality: Annotated[int, msgspec.Meta(ge=1, le=100)] = 85
    draw: bool = False


def check_rules(tracker: TrackerConfig | None, rules: Sequence[RuleConfig]) -> None:
    """What the rules of a pipeline have to be together. Raises ValueError."""
    names = [rule.name for rule in rules]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"rule {name!r} is configured twice: names are how events are told apart")
    for rule in rules:
        if tracker is None and rule.watches_tracks(tracked=False):
            needs = "line" if rule.line is not None else 'per = "track"'
            raise ValueError(f"rule {rule.name!r}: {needs} needs [pipeline.tracker]")


def _check_polygon(what: str, polygon: Polygon) -> None:
    if len(polygon) < _LEAST_CORNERS:
        raise ValueError(f"{what}: expected at least {_LEAST_CORNERS} corners, found {len(polygon)}")
    _check_points(what, polygon)
    if area(polygon) < _LEAST_AREA:
        raise ValueError(f"{what}: expected a polygon with an area, found corners on one line")


def _check_points(what: str, points: Polygon) -> None:
    for x, y in points:
        if not (0.0 <= x <= 1.0 and 0.0 <= y <= 1.0):
            raise ValueError(f"{what}: expected points (x, y) in 0..1 of the picture, found {[x, y]}")
