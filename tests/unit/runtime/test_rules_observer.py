"""Tracker, rules and snapshots together: results in, events out."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeinfer.runtime.codec import PACKED, decode, encode
from edgeinfer.runtime.config import parse_config
from edgeinfer.runtime.errors import ConfigError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.results import Item, Kind, Result
from edgeinfer.runtime.rules.observer import RuleObserver
from edgeinfer.runtime.rules.settings import RuleConfig, SnapshotConfig, TrackerConfig
from edgeinfer.runtime.snapshots import SnapshotStore
from edgeinfer.runtime.stages import Seen

NOON_NS = int(datetime(2026, 5, 4, 12, tzinfo=UTC).timestamp()) * 10**9  # a Monday
LABELS = ("person", "car")
PICTURE = np.zeros((48, 64, 3), np.uint8)


def rules(text: str) -> tuple[RuleConfig, ...]:
    return tuple(parse_config(f'name = "r{index}"\n{part}', RuleConfig) for index, part in enumerate(text.split("---")))


def observer(text: str, *, kind: Kind = Kind.DETECTION, tracked: bool = False, **about: Any) -> RuleObserver:
    tracker = TrackerConfig() if tracked else None
    return RuleObserver("door", rules(text), kind=kind, labels=LABELS, tracker=tracker, **about)


def thing(x: float, label: int = 0) -> Item:
    return Item(label, 0.9, (x - 0.05, 0.4, x + 0.05, 0.6))


class Film:
    """Ten frames a second; wall clock and monotonic clock go apart where a test moves one."""

    def __init__(self, made: RuleObserver) -> None:
        self.made = made
        self.frame = 0
        self.jump_ns = 0

    def show(self, *items: Item) -> list[Result]:
        self.frame += 1
        passed_ns = self.frame * 10**8
        t_ns = NOON_NS + passed_ns + self.jump_ns
        frame = Frame(PICTURE, t_ns, passed_ns, self.frame)
        events = self.made(Seen(frame, Result(Kind.DETECTION, t_ns, self.frame, items=items), PICTURE, ()))
        for event in events:
            assert (event.kind, event.t_ns, event.frame) == (Kind.EVENT, t_ns, self.frame)
            assert decode(PACKED, encode([event]), n=1)[0].extra == event.extra
        return events

    def extras(self, *items: Item) -> list[dict[str, Any]]:
        return [event.extra or {} for event in self.show(*items)]


def test_an_event_says_which_rule_and_what_caused_it() -> None:
    film = Film(observer('labels = ["car"]\nend = true\n---\ncount = 3'))
    car = thing(0.7, label=1)
    assert film.show(thing(0.2)) == []
    (event,) = film.show(thing(0.2), car)
    assert event.items == (car,)
    assert event.extra == {"rule": "r0", "state": "begin", "count": 1}
    assert film.extras(thing(0.2), thing(0.4)) == [{"rule": "r0", "state": "end", "count": 0, "held_s": 0.1}]
    assert film.extras(thing(0.1), thing(0.3), thing(0.5)) == [{"rule": "r1", "state": "begin", "count": 3}]


def test_with_a_tracker_an_event_says_which_track() -> None:
    film = Film(observer("---\ncount = 2", tracked=True))
    one, two = thing(0.2), thing(0.7)
    assert film.show(one, two) == []
    assert film.extras(one, two) == [
        {"rule": "r0", "state": "begin", "count": 1, "track": 1},
        {"rule": "r0", "state": "begin", "count": 1, "track": 2},
        {"rule": "r1", "state": "begin", "count": 2, "tracks": "1,2"},
    ]
    film.show(one)
    assert film.extras(one, two) == [{"rule": "r1", "state": "begin", "count": 2, "tracks": "1,2"}]


def test_a_crossing_says_its_direction_and_what_was_left_out() -> None:
    film = Film(observer("line = [[0.0, 0.5], [1.0, 0.5]]\nanchor = 'centre'\ncooldown_s = 100", tracked=True))

    def at(y: float) -> Item:
        return Item(0, 0.9, (0.4, y - 0.2, 0.6, y + 0.2))

    found = [extra for y in (0.4, 0.43, 0.46, 0.52, 0.56, 0.52, 0.46) for extra in film.extras(at(y))]
    assert found == [{"rule": "r0", "state": "pulse", "count": 1, "track": 1, "direction": "right"}]
    film.frame += 1000
    film.show(at(0.46))
    assert film.extras(at(0.53)) == [{**found[0], "suppressed": 1}]


@pytest.mark.parametrize("years", [-10, 10])
def test_a_clock_that_jumps_moves_no_dwell_and_no_cooldown(years: int) -> None:
    film = Film(observer("dwell_s = 1\ncooldown_s = 3\nmax_per_hour = 2\nend = true"))
    found = []
    for frame in range(1, 120):
        if frame % 7 == 0:
            film.jump_ns += years * 365 * 86_400 * 10**9 * (1 if frame % 2 else -1)
        found += [(frame, event.extra or {}) for event in film.show(*([] if frame % 40 > 35 else [thing(0.5)]))]
    assert [(frame, extra["state"]) for frame, extra in found] == [
        (11, "begin"),
        (36, "end"),
        (50, "begin"),
        (76, "end"),
    ]


class TestSchedule:
    AT_NOON = '\n[[schedule]]\nfrom = "12:00"\nto = "13:00"\ndays = ["mon"]'

    def test_it_is_asked_with_the_zones_own_time(self) -> None:
        assert Film(observer('timezone = "UTC"' + self.AT_NOON)).extras(thing(0.5)) == [
            {"rule": "r0", "state": "begin", "count": 1}
        ]
        assert Film(observer('timezone = "Asia/Tokyo"' + self.AT_NOON)).show(thing(0.5)) == []

    def test_while_the_clock_is_not_set_it_is_no_bar_and_the_event_says_so(self) -> None:
        film = Film(observer('timezone = "Asia/Tokyo"' + self.AT_NOON))
        film.jump_ns = -NOON_NS
        assert film.extras(thing(0.5)) == [{"rule": "r0", "state": "begin", "count": 1, "clock": "unset"}]

    def test_an_unknown_zone_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="Asia/Tokio"):
            observer('timezone = "Asia/Tokio"' + self.AT_NOON)


class TestSnapshots:
    @pytest.mark.usefixtures("patient_writers")
    def test_rules_of_one_frame_share_a_snapshot_and_an_end_has_none(self, tmp_path: Path) -> None:
        store = SnapshotStore(tmp_path / "snapshots", SnapshotConfig())
        film = Film(observer("snapshot = true\nend = true\n---\nsnapshot = true\n---\nend = true", snapshots=store))
        begun = film.extras(thing(0.5))
        ended = film.extras()
        film.made.close()
        film.made.close()
        (name,) = [path.name for path in (tmp_path / "snapshots").iterdir()]
        assert [extra.get("snapshot") for extra in begun] == [name, name, None]
        assert [extra.get("snapshot") for extra in ended] == [None, None]

    def test_one_that_is_dropped_is_said_to_be(self, tmp_path: Path) -> None:
        store = SnapshotStore(tmp_path / "snapshots", SnapshotConfig())
        made = observer("snapshot = true", snapshots=store)
        store.close()  # as if the writer could take no more
        (extra,) = Film(made).extras(thing(0.5))
        assert extra["snapshot"] == "dropped"

    def test_it_may_be_closed_in_the_middle_of_a_frame(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store = SnapshotStore(tmp_path / "snapshots", SnapshotConfig())
        made = observer("snapshot = true\n---\nsnapshot = true", snapshots=store)
        keep = store.keep

        def closed_meanwhile(*about: Any) -> str:
            made.close()
            return keep(*about)

        monkeypatch.setattr(store, "keep", closed_meanwhile)  # another thread, at the worst moment
        found = Film(made).extras(thing(0.5))
        assert [extra["snapshot"] for extra in found] == ["dropped", "dropped"]

    def test_without_a_rule_that_wants_one_nothing_is_opened(self, tmp_path: Path) -> None:
        store = SnapshotStore(tmp_path / "snapshots", SnapshotConfig())
        made = observer("count = 1", snapshots=store)
        assert "snapshot" not in Film(made).extras(thing(0.5))[0]
        made.close()
        assert not (tmp_path / "snapshots").exists()


@pytest.mark.parametrize(
    ("text", "kind", "tracked", "message"),
    [
        ("min_score = 0.5", Kind.CLASSIFICATION, True, "tracker: expected a model that detects, found one for classif"),
        ("zone = [[0, 0], [1, 0], [1, 1]]", Kind.ANOMALY, False, "zone: expected results with boxes, found anomaly"),
        ("", Kind.CLASSIFICATION, False, "would always be true"),
        ("dwell_s = 3", Kind.ANOMALY, False, "would always be true"),
        ('labels = ["persn"]', Kind.DETECTION, False, "did you mean 'person'"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(text: str, kind: Kind, tracked: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        observer(text, kind=kind, tracked=tracked)


def test_an_anomaly_with_hysteresis() -> None:
    made = observer("above = 0.8\nclear = 0.4\nn_of_m = [2, 3]\nend = true", kind=Kind.ANOMALY)
    film = Film(made)
    scores = [0.1, 0.9, 0.2, 0.9, 0.5, 0.5, 0.3, 0.3, 0.3]
    states = [[extra["state"] for extra in film.extras(Item(int(score > 0.5), score))] for score in scores]
    assert states == [[], [], [], ["begin"], [], [], [], ["end"], []]
