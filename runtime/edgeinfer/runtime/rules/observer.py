"""Rules at work in a pipeline: what was inferred goes through tracker and rules, and comes out as events.

An event is a result of its own, with the items that caused it. Its `extra`:

    rule       the rule's name
    state      begin, end, or pulse (for what has no end)
    count      how many items there are
    track      the track that it is about; or for a rule of the whole frame
    tracks     those of its items, in their order: "3,7"
    direction  left or right: of a line that was crossed
    held_s     how long it was true, of an end
    suppressed events that cooldown or limit have left out since the last one
    snapshot   the file's name below state_dir/snapshots; or "dropped", where the disk is too slow for so many
    clock      "unset": the schedule could not be looked at
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from edgeinfer.runtime.errors import ConfigError
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.runtime.rules.local_time import LocalTime
from edgeinfer.runtime.rules.rule import Firing, Rule, Scene, compile_rule
from edgeinfer.runtime.rules.schedule import Schedule
from edgeinfer.runtime.rules.settings import RuleConfig, TrackerConfig
from edgeinfer.runtime.rules.tracker import Tracker
from edgeinfer.runtime.snapshots import SnapshotStore
from edgeinfer.runtime.stages import Seen

__all__ = ["RuleObserver", "check_kind"]

_BOXED = frozenset({Kind.DETECTION, Kind.KEYPOINTS, Kind.SEGMENTATION})
_DROPPED = "dropped"


class _Watched(NamedTuple):
    config: RuleConfig
    rule: Rule
    schedule: Schedule
    clock: LocalTime


class RuleObserver:
    """One pipeline's. Raises ConfigError where the rules do not fit what the model gives."""

    def __init__(
        self,
        pipeline: str,
        rules: Sequence[RuleConfig],
        *,
        kind: Kind,
        labels: Sequence[str],
        tracker: TrackerConfig | None = None,
        snapshots: SnapshotStore | None = None,
    ) -> None:
        check_kind(kind, rules, tracked=tracker is not None)
        self._pipeline = pipeline
        self._tracker = None if tracker is None else Tracker(tracker)
        tracked = tracker is not None
        self._watched = tuple(
            _Watched(
                rule, compile_rule(rule, labels, tracked=tracked), Schedule(rule.schedule), LocalTime(rule.timezone)
            )
            for rule in rules
        )
        self._snapshots = snapshots if any(rule.snapshot for rule in rules) else None
        if self._snapshots is not None:
            self._snapshots.open()
        self._last_frame = -1

    def __call__(self, seen: Seen) -> list[Result]:
        scene = self._scene(seen)
        store = self._snapshots  # another thread may close at any moment
        snapshot = ""
        events = []
        for watched, firing, is_set in self._fired(scene, seen.frame.t_ns):
            if store is not None and watched.config.snapshot and firing.state != "end":
                snapshot = snapshot or store.keep(self._pipeline, seen, scene.tracks) or _DROPPED
                events.append(_event(watched.config.name, firing, seen, is_set=is_set, snapshot=snapshot))
            else:
                events.append(_event(watched.config.name, firing, seen, is_set=is_set))
        return events

    def close(self) -> None:
        store, self._snapshots = self._snapshots, None
        if store is not None:
            store.close()

    def _scene(self, seen: Seen) -> Scene:
        items, frame = seen.result.items, seen.frame
        if self._tracker is None:
            return Scene(items, (), (), frame.clock_ns)
        steps, self._last_frame = frame.index - self._last_frame, frame.index
        tracks, gone = self._tracker.update(items, steps=steps, now_ns=frame.clock_ns)
        return Scene(items, tracks, gone, frame.clock_ns)

    def _fired(self, scene: Scene, t_ns: int) -> Iterator[tuple[_Watched, Firing, bool]]:
        """The events of this frame, and whether the clock that their schedule asked is set."""
        for watched in self._watched:
            local_s = watched.clock.seconds(t_ns) if watched.config.schedule else 0
            for firing in watched.rule.see(scene, active=watched.schedule.holds(local_s)):
                yield watched, firing, local_s is not None


def check_kind(kind: Kind, rules: Sequence[RuleConfig], *, tracked: bool) -> None:
    """Refuse what can never be, or always is, true of such results. Raises ConfigError."""
    if tracked and kind is not Kind.DETECTION:
        raise ConfigError(f"tracker: expected a model that detects, found one for {kind.name.lower()}")
    for rule in rules:
        if rule.zone and kind not in _BOXED:
            raise ConfigError(f"rule {rule.name!r}: zone: expected results with boxes, found {kind.name.lower()}")
        told_apart = (rule.labels, rule.min_score, rule.above, rule.below, rule.count, rule.zone)
        if kind not in _BOXED and rule.on != "change" and not any(value not in ((), None, 0.0) for value in told_apart):
            raise ConfigError(
                f"rule {rule.name!r}: would always be true: there is always an item in {kind.name.lower()} results",
                hint="give it labels, min_score, above or below",
            )


def _event(rule: str, firing: Firing, seen: Seen, *, is_set: bool, snapshot: str = "") -> Result:
    extra: dict[str, int | float | str] = {"rule": rule, "state": firing.state, "count": len(firing.items)}
    if firing.track:
        extra["track"] = firing.track
    elif firing.tracks:
        extra["tracks"] = ",".join(map(str, firing.tracks))
    if firing.direction:
        extra["direction"] = firing.direction
    if firing.state == "end":
        extra["held_s"] = round(firing.held_s, 3)
    if firing.suppressed:
        extra["suppressed"] = firing.suppressed
    if snapshot:
        extra["snapshot"] = snapshot
    if not is_set:
        extra["clock"] = "unset"
    return Result(Kind.EVENT, seen.frame.t_ns, seen.frame.index, items=firing.items, extra=extra)
