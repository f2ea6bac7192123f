"""Rules, compiled from the configuration: what is seen in a frame becomes events, as values.

A rule looks at the frame as a whole (`FrameRule`, `ChangeRule`) or at each track apart (`TrackRule`, `LineRule`). What
they share: a `Selection` of items, a `Condition` for each subject, and one `Allowance` for the events of all subjects.
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from edgeinfer.runtime.errors import ConfigError
from edgeinfer.runtime.results import Item
from edgeinfer.runtime.rules.conditions import Allowance, Dwell, Level, NOfM, Settled
from edgeinfer.runtime.rules.geometry import Line, Point, anchor_of, crossing_share, distance_to_right, is_inside
from edgeinfer.runtime.rules.settings import RuleConfig

__all__ = ["Firing", "Rule", "Scene", "compile_rule"]

_SECOND_NS = 1_000_000_000
# A thing that stands on a line must not cross it with every tremble of its box: so far off it has to be, as a share
# of the picture, to be on a side at all.
_SURE = 0.01
_LABELS_SHOWN = 10
_NO_TRACK = 0


class Scene(NamedTuple):
    """What rules see of a frame. `tracks`: of each item, 0 for none; `gone`: those that were given up; `now_ns`:
    monotonic clock at capture."""

    items: tuple[Item, ...]
    tracks: tuple[int, ...]
    gone: tuple[int, ...]
    now_ns: int


class Firing(NamedTuple):
    """A rule raises an event. `state`: `begin`, `end`, or `pulse` for what has no end; `items`: those that caused it,
    with their `tracks`; `track`: the one that it is about, 0 for the frame; `suppressed`: events left out before this
    one; `held_s`: how long it was true, of an `end`; `direction`: of a crossing."""

    state: str
    items: tuple[Item, ...]
    tracks: tuple[int, ...]
    track: int = 0
    suppressed: int = 0
    held_s: float = 0.0
    direction: str = ""


class Rule(Protocol):
    def see(self, scene: Scene, *, active: bool) -> Iterable[Firing]:
        """Step by one frame. `active`: whether the schedule holds; while it does not, nothing is true."""
        ...


def compile_rule(config: RuleConfig, labels: Sequence[str], *, tracked: bool) -> Rule:
    """Raises ConfigError for a label that the package does not have. `tracked`: there is a tracker."""
    selection = _Selection(config, _label_numbers(config, labels))
    if config.line is not None:
        return LineRule(config, selection, config.line)
    if config.on == "change":
        return ChangeRule(config, selection)
    if config.watches_tracks(tracked=tracked):
        return TrackRule(config, selection)
    return FrameRule(config, selection)


class FrameRule:
    """A condition of the frame as a whole: how many items there are, or the best score among them."""

    def __init__(self, config: RuleConfig, selection: "_Selection") -> None:
        self._selection = selection
        self._subject = _Condition(config)
        self._events = _Events(config)
        self._of_score = config.above is not None or config.below is not None
        self._best = min if config.below is not None else max

    def see(self, scene: Scene, *, active: bool) -> Iterable[Firing]:
        chosen = self._selection.of(scene)
        holds = self._subject.step(self._value(scene, chosen), scene.now_ns, active=active)
        return self._events.of(self._subject, holds, _about(scene, chosen), scene.now_ns)

    def _value(self, scene: Scene, chosen: Sequence[int]) -> float | None:
        if not self._of_score:
            return len(chosen)
        return self._best(scene.items[index].score for index in chosen) if chosen else None


class TrackRule:
    """A condition of each track apart. A track that is hidden for a while stays what it was."""

    def __init__(self, config: RuleConfig, selection: "_Selection") -> None:
        self._config = config
        self._selection = selection
        self._events = _Events(config)
        self._of_score = config.above is not None or config.below is not None
        self._subjects: dict[int, _Condition] = {}

    def see(self, scene: Scene, *, active: bool) -> Iterator[Firing]:
        if not self._subjects and not any(scene.tracks):
            return
        now_ns = scene.now_ns
        for track in scene.gone:
            subject = self._subjects.pop(track, None)
            if subject is not None:
                yield from self._events.of(subject, False, _nothing(track), now_ns)
        chosen = {scene.tracks[index]: index for index in self._selection.of(scene)}
        for track, subject in self._subjects.items():
            if track in chosen:
                continue
            if track in scene.tracks:
                yield from self._events.of(subject, subject.step(None, now_ns, active=active), _nothing(track), now_ns)
            elif not active:
                yield from self._events.of(subject, subject.interrupt(now_ns), _nothing(track), now_ns)
        for track, index in chosen.items():
            subject = self._subjects.get(track)
            if subject is None:
                subject = self._subjects[track] = _Condition(self._config)
            value = scene.items[index].score if self._of_score else 1.0
            holds = subject.step(value, now_ns, active=active)
            yield from self._events.of(subject, holds, _about(scene, (index,))._replace(track=track), now_ns)


class LineRule:
    """A track's anchor goes from one side of a line to the other, between the line's ends."""

    def __init__(self, config: RuleConfig, selection: "_Selection", line: Line) -> None:
        self._selection = selection
        self._line = line
        self._directions = ("left", "right") if config.direction == "any" else (config.direction,)
        self._events = _Events(config)
        self._last: dict[int, Point] = {}  # where each track was surely on one side

    def see(self, scene: Scene, *, active: bool) -> Iterator[Firing]:
        for track in scene.gone:
            self._last.pop(track, None)
        for index in self._selection.of(scene):
            track, box = scene.tracks[index], scene.items[index].box
            if box is None:
                continue
            direction = self._crossed(track, anchor_of(box, self._selection.anchor))
            if active and direction in self._directions and self._events.allowance.take(scene.now_ns):
                about = _about(scene, (index,))
                suppressed = self._events.allowance.take_suppressed()
                yield about._replace(track=track, direction=direction, suppressed=suppressed)

    def _crossed(self, track: int, point: Point) -> str:
        """The side that the track has come to between the ends of the line; empty for none."""
        now = distance_to_right(point, self._line)
        if abs(now) < _SURE:
            return ""
        last = self._last.get(track)
        self._last[track] = point
        if last is None or (distance_to_right(last, self._line) > 0.0) == (now > 0.0):
            return ""
        if not 0.0 <= crossing_share(last, point, self._line) <= 1.0:
            return ""
        return "right" if now > 0.0 else "left"


class ChangeRule:
    """Other labels than before: the best one's, or of items with boxes all."""

    def __init__(self, config: RuleConfig, selection: "_Selection") -> None:
        self._selection = selection
        n, m = config.n_of_m
        self._labels: Settled[tuple[int, ...]] = Settled((), n=n, m=m, dwell_s=config.dwell_s)
        self._events = _Events(config)

    def see(self, scene: Scene, *, active: bool) -> Iterator[Firing]:
        chosen = self._selection.of(scene) if active else []
        if chosen and scene.items[chosen[0]].box is None:
            chosen = [max(chosen, key=lambda index: scene.items[index].score)]
        labels = tuple(sorted(scene.items[index].label for index in chosen))
        changed = self._labels.step(labels, scene.now_ns)
        # To nothing at all is no event, but what comes after it is one.
        if changed and self._labels.value and self._events.allowance.take(scene.now_ns):
            yield _about(scene, chosen)._replace(suppressed=self._events.allowance.take_suppressed())


class _Selection:
    """The items that a rule is about."""

    def __init__(self, config: RuleConfig, labels: frozenset[int]) -> None:
        self.anchor = config.anchor
        self._labels = labels
        self._min_score = config.min_score
        self._zone = config.zone

    def of(self, scene: Scene) -> list[int]:
        """Their places among the items. Where there is a tracker, what is no track (yet) is left out: it is too often
        a ghost, or a second box of the same thing."""
        tracks = scene.tracks
        return [
            index
            for index, item in enumerate(scene.items)
            if self._selects(item) and (not tracks or tracks[index] != _NO_TRACK)
        ]

    def _selects(self, item: Item) -> bool:
        if self._labels and item.label not in self._labels:
            return False
        if self._min_score and not item.score >= self._min_score:
            return False
        if not self._zone:
            return True
        return item.box is not None and is_inside(anchor_of(item.box, self.anchor), self._zone)


class _Condition:
    """Whether something is true of one subject: a level with hysteresis, N of M, then dwell."""

    def __init__(self, config: RuleConfig) -> None:
        self._level = _level(config)
        self._n_of_m = NOfM(*config.n_of_m)
        self._dwell = Dwell(config.dwell_s)
        self.held = False
        self.since_ns = 0
        self.reported = False  # an event has said that it began

    def step(self, value: float | None, now_ns: int, *, active: bool) -> bool:
        return self._dwell.step(self._n_of_m.step(self._level.step(value)) and active, now_ns)

    def interrupt(self, now_ns: int) -> bool:
        """Not true now, though nothing new was seen of the subject."""
        return self._dwell.step(False, now_ns)


class _Events:
    """When what a subject's condition says is an event."""

    def __init__(self, config: RuleConfig) -> None:
        self.allowance = Allowance(cooldown_s=config.cooldown_s, per_hour=config.max_per_hour)
        self._each_frame = config.on == "frame"
        self._end = config.end

    def of(self, subject: _Condition, holds: bool, about: Firing, now_ns: int) -> Iterator[Firing]:
        begins, ends = holds and not subject.held, subject.held and not holds
        subject.held = holds
        if begins:
            subject.since_ns = now_ns
        if begins or (holds and self._each_frame):
            subject.reported = self.allowance.take(now_ns)
            if subject.reported:
                state = "pulse" if self._each_frame else "begin"
                yield about._replace(state=state, suppressed=self.allowance.take_suppressed())
        elif ends and self._end and subject.reported:
            # Who was told of the beginning is told of the end, however many events there were in between.
            yield about._replace(state="end", held_s=(now_ns - subject.since_ns) / _SECOND_NS)


def _about(scene: Scene, chosen: Sequence[int]) -> Firing:
    tracks = tuple(scene.tracks[index] for index in chosen) if scene.tracks else ()
    return Firing("pulse", tuple(scene.items[index] for index in chosen), tracks)


def _nothing(track: int) -> Firing:
    return Firing("pulse", (), (), track)


def _level(config: RuleConfig) -> Level:
    if config.above is not None:
        return Level(config.above, config.above if config.clear is None else config.clear)
    if config.below is not None:
        return Level(config.below, config.below if config.clear is None else config.clear, below=True)
    # Counts are whole numbers: at least n is more than n - 1/2.
    least = config.count or 1
    return Level(least - 0.5, (least if config.clear is None else config.clear) - 0.5)


def _label_numbers(config: RuleConfig, labels: Sequence[str]) -> frozenset[int]:
    """Some packages give several classes one name: then all of them are meant."""
    return frozenset(number for label in config.labels for number in _numbers_of(config.name, label, labels))


def _numbers_of(rule: str, label: str | int, labels: Sequence[str]) -> list[int]:
    if isinstance(label, int):
        if labels and label >= len(labels):
            raise ConfigError(f"rule {rule!r}: expected a label below {len(labels)}, found {label}")
        return [label]
    if not labels:
        raise ConfigError(f"rule {rule!r}: label {label!r}: the package names no labels", hint="use their numbers")
    found = [number for number, name in enumerate(labels) if name == label]
    if not found:
        near = difflib.get_close_matches(label, labels, n=1, cutoff=0.5)
        few = ", ".join(labels[:_LABELS_SHOWN]) + (", ..." if len(labels) > _LABELS_SHOWN else "")
        raise ConfigError(
            f"rule {rule!r}: the package has no label {label!r}",
            hint=f"did you mean {near[0]!r}?" if near else f"it has {few}",
        )
    return found
