"""Rules as a whole: what is seen in, events out."""

import itertools
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.runtime.config import parse_config
from edgeinfer.runtime.errors import ConfigError
from edgeinfer.runtime.results import Item
from edgeinfer.runtime.rules.rule import Firing, Rule, Scene, compile_rule
from edgeinfer.runtime.rules.settings import RuleConfig

SECOND = 1_000_000_000
LABELS = ("nothing", "person", "car", "crane", "crane")
ZONE = "zone = [[0.5, 0.0], [1.0, 0.0], [1.0, 1.0], [0.5, 1.0]]"  # the right half


def compiled(text: str, *, tracked: bool = False, labels: Sequence[str] = LABELS) -> Rule:
    return compile_rule(parse_config(f'name = "r"\n{text}', RuleConfig), labels, tracked=tracked)


def thing(x: float, y: float = 0.5, *, label: int = 1, score: float = 0.9) -> Item:
    """Its bottom centre at (x, y)."""
    return Item(label, score, (x - 0.05, y - 0.2, x + 0.05, y))


class Film:
    """Shows frames to a rule, ten a second."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._frame = 0

    def show(
        self,
        *items: Item,
        tracks: Iterable[int] = (),
        gone: Iterable[int] = (),
        active: bool = True,
        after_s: float = 0.1,
    ) -> list[Firing]:
        self._frame += 1
        self.now_ns = getattr(self, "now_ns", 0) + int(after_s * SECOND)
        return list(self._rule.see(Scene(items, tuple(tracks), tuple(gone), self.now_ns), active=active))

    def states(self, *items: Item, tracks: Iterable[int] = (), active: bool = True) -> list[str]:
        return [firing.state for firing in self.show(*items, tracks=tracks, active=active)]


class TestSelection:
    def test_labels_scores_and_zone_all_have_to_fit(self) -> None:
        film = Film(compiled(f'labels = ["person"]\nmin_score = 0.5\n{ZONE}'))
        assert film.show(thing(0.7, label=2), thing(0.7, score=0.4), thing(0.3), Item(1, 0.9)) == []
        (event,) = film.show(thing(0.2), thing(0.7), thing(0.8))
        assert event.items == (thing(0.7), thing(0.8))

    def test_a_label_is_a_name_or_a_number(self) -> None:
        assert Film(compiled("labels = [2]")).states(thing(0.5, label=2)) == ["begin"]
        assert Film(compiled("labels = [7]", labels=())).states(thing(0.5, label=7)) == ["begin"]

    def test_all_classes_of_one_name_are_meant(self) -> None:
        for label in (3, 4):
            assert Film(compiled('labels = ["crane"]')).states(thing(0.5, label=label)) == ["begin"]

    @pytest.mark.parametrize(
        ("text", "labels", "message"),
        [
            ('labels = ["persn"]', LABELS, "did you mean 'person'"),
            ('labels = ["zebra"]', LABELS, "it has nothing, person, car, crane, crane"),
            ('labels = ["zebra"]', [f"class {n}" for n in range(50)], r"class 9, \.\.\."),
            ('labels = ["person"]', (), "use their numbers"),
            ("labels = [5]", LABELS, "below 5, found 5"),
        ],
    )
    def test_an_unknown_label_is_refused(self, text: str, labels: Sequence[str], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            compiled(text, labels=labels)

    def test_the_anchor_decides_whether_a_thing_is_in_the_zone(self) -> None:
        low = "zone = [[0.0, 0.45], [1.0, 0.45], [1.0, 1.0], [0.0, 1.0]]"
        assert Film(compiled(low)).states(thing(0.5, 0.5)) == ["begin"]
        assert Film(compiled(f'{low}\nanchor = "centre"')).states(thing(0.5, 0.5)) == []


class TestFrame:
    def test_an_event_is_raised_when_it_begins_and_with_end_when_it_is_over(self) -> None:
        film = Film(compiled("count = 2\nend = true"))
        a, b = thing(0.2), thing(0.7)
        assert film.show(a) == []
        (begin,) = film.show(a, b)
        assert (begin.state, begin.items) == ("begin", (a, b))
        assert film.show(a, b, b) == []
        (end,) = film.show(a)
        assert (end.state, end.items) == ("end", (a,))
        assert end.held_s == pytest.approx(0.2)
        assert film.show() == []

    def test_a_count_has_its_hysteresis(self) -> None:
        film = Film(compiled("count = 3\nclear = 2\nend = true"))
        a = thing(0.5)
        found = [film.states(*[a] * n) for n in (2, 3, 2, 2, 3, 1, 2, 3)]
        assert found == [[], ["begin"], [], [], [], ["end"], [], ["begin"]]

    def test_the_best_score_counts(self) -> None:
        high = Film(compiled("above = 0.8\nclear = 0.5\nend = true"))
        low = Film(compiled("below = 10\nclear = 12\nend = true"))
        assert high.states(Item(0, 0.3), Item(1, 0.7)) == []
        assert high.states(Item(0, 0.3), Item(1, 0.9)) == ["begin"]
        assert high.states(Item(0, 0.3), Item(1, 0.6)) == []
        assert high.states(Item(0, 0.3), Item(1, 0.4)) == ["end"]
        assert [low.states(Item(0, v)) for v in (11, 10, 9.9, 11, 12.1, 9)] == [
            [],
            [],
            ["begin"],
            [],
            ["end"],
            ["begin"],
        ]

    def test_each_frame_for_which_it_is_true(self) -> None:
        film = Film(compiled('on = "frame"\ncooldown_s = 0.35'))
        found = [film.show(thing(0.5)) for _ in range(10)]
        assert [[f.state for f in one] for one in found] == [["pulse"] if n % 4 == 0 else [] for n in range(10)]
        assert [one[0].suppressed for one in found if one] == [0, 3, 3]

    def test_who_was_not_told_of_the_beginning_is_not_told_of_the_end(self) -> None:
        film = Film(compiled("cooldown_s = 10\nend = true"))
        one = thing(0.5)
        assert [film.states(*([one] if seen else [])) for seen in (1, 0, 1, 0)] == [["begin"], ["end"], [], []]
        (later,) = film.show(one, after_s=10)
        assert (later.state, later.suppressed) == ("begin", 1)

    def test_outside_of_the_schedule_nothing_is_true(self) -> None:
        film = Film(compiled("end = true\nn_of_m = [1, 5]"))
        one = thing(0.5)
        found = [film.states(one, active=active) for active in (False, True, True, False, True)]
        assert found == [[], ["begin"], [], ["end"], ["begin"]], "also of what was there before and goes on"

    @given(
        st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=40),
        st.integers(1, 3),
        st.integers(1, 3),
        st.integers(0, 2),
        st.sampled_from([0.0, 0.1, 0.25]),
    )
    def test_everything_together_is_what_its_parts_are(
        self, frames: list[tuple[int, bool]], count: int, n: int, more: int, dwell_s: float
    ) -> None:
        """A naive oracle, from the whole history at each frame."""
        m = n + more
        film = Film(compiled(f"count = {count}\nn_of_m = [{n}, {m}]\ndwell_s = {dwell_s}\nend = true"))
        levels = [seen >= count for seen, _ in frames]
        often = [sum(levels[max(0, i + 1 - m) : i + 1]) >= n and frames[i][1] for i in range(len(frames))]
        before = False
        for index, (seen, active) in enumerate(frames):
            run = sum(1 for _ in itertools.takewhile(bool, reversed(often[: index + 1])))
            holds = run > 0 and (run - 1) * SECOND // 10 >= int(dwell_s * SECOND)
            wanted = ["begin"] if holds and not before else ["end"] if before and not holds else []
            assert film.states(*[thing(0.5)] * seen, active=active) == wanted
            before = holds


class TestChange:
    def test_of_a_classification_the_best_label_counts(self) -> None:
        film = Film(compiled('on = "change"\nmin_score = 0.4'))
        cat, dog, unsure = (Item(1, 0.8), Item(2, 0.1)), (Item(2, 0.5), Item(1, 0.45)), (Item(1, 0.3), Item(2, 0.3))
        found = [
            [f.items[0].label for f in film.show(*items)] for items in (cat, cat, dog, dog, unsure, unsure, dog, cat)
        ]
        assert found == [[1], [], [2], [], [], [], [2], [1]]

    def test_of_a_detection_all_labels_count(self) -> None:
        film = Film(compiled('on = "change"'))
        person, car = thing(0.2), thing(0.7, label=2)
        found = [film.states(*items) for items in ((), (person,), (person,), (car, person), (person, car), (car,), ())]
        assert found == [[], ["pulse"], [], ["pulse"], [], ["pulse"], []]

    def test_a_single_wrong_frame_is_no_change(self) -> None:
        film = Film(compiled('on = "change"\nn_of_m = [3, 4]'))
        found = [film.states(Item(label, 0.9)) for label in (1, 1, 1, 2, 1, 1, 2, 2, 1, 2, 2)]
        assert [index for index, states in enumerate(found) if states] == [2, 9]


class TestTracks:
    def test_each_track_is_an_event_of_its_own(self) -> None:
        film = Film(compiled(ZONE + "\nend = true", tracked=True))
        a, b = thing(0.6), thing(0.8)
        assert [(f.state, f.track, f.items) for f in film.show(a, b, tracks=(1, 2))] == [
            ("begin", 1, (a,)),
            ("begin", 2, (b,)),
        ]
        assert film.show(a, b, tracks=(1, 2)) == []
        assert [(f.state, f.track) for f in film.show(thing(0.3), b, tracks=(1, 2))] == [("end", 1)]
        assert film.show(tracks=()) == [], "hidden for a moment"
        assert [(f.state, f.track) for f in film.show(gone=(2, 1))] == [("end", 2)]

    def test_what_is_no_track_yet_is_no_event(self) -> None:
        film = Film(compiled("", tracked=True))
        assert film.show(thing(0.5), tracks=(0,)) == []
        assert [f.track for f in film.show(thing(0.5), tracks=(1,))] == [1]

    def test_a_track_has_to_stay(self) -> None:
        film = Film(compiled(ZONE + "\ndwell_s = 0.3", tracked=True))
        places = [0.6, 0.7, 0.4, 0.6, 0.6, 0.6, 0.6, 0.6]
        assert [len(film.show(thing(x), tracks=(1,))) for x in places] == [0, 0, 0, 0, 0, 0, 1, 0]

    def test_the_clock_runs_while_a_track_is_hidden(self) -> None:
        film = Film(compiled("dwell_s = 1", tracked=True))
        assert film.show(thing(0.5), tracks=(1,)) == []
        assert film.show(after_s=0.9) == []
        assert len(film.show(thing(0.5), tracks=(1,))) == 1

    def test_n_of_m_of_a_track_that_goes_away_ends_at_once(self) -> None:
        film = Film(compiled("n_of_m = [1, 5]\nend = true", tracked=True))
        film.show(thing(0.5), tracks=(1,))
        assert [f.state for f in film.show(gone=(1,))] == ["end"]

    def test_the_cooldown_is_the_rules_and_not_the_tracks(self) -> None:
        film = Film(compiled("cooldown_s = 5", tracked=True))
        assert len(film.show(thing(0.2), thing(0.7), tracks=(1, 2))) == 1
        (event,) = film.show(thing(0.4), tracks=(3,), after_s=5)
        assert event.suppressed == 1

    def test_the_end_of_the_schedule_ends_also_what_is_hidden(self) -> None:
        film = Film(compiled("end = true", tracked=True))
        film.show(thing(0.5), tracks=(1,))
        assert [f.state for f in film.show(active=False)] == ["end"]
        assert film.show(active=False) == []
        assert [f.state for f in film.show(thing(0.5), tracks=(1,))] == ["begin"]

    def test_nothing_is_kept_of_tracks_that_are_gone(self) -> None:
        rule = compiled("", tracked=True)
        film = Film(rule)
        for track in range(1, 1000):
            film.show(thing(0.5), tracks=(track,), gone=(track - 1,))
        assert len(rule._subjects) == 1  # type: ignore[attr-defined]  # what must not grow

    def test_a_rule_of_the_frame_counts_tracks_and_names_them(self) -> None:
        film = Film(compiled("count = 2", tracked=True))
        assert film.show(thing(0.2), thing(0.4), tracks=(4, 0)) == []
        (event,) = film.show(thing(0.2), thing(0.4), thing(0.7), tracks=(4, 0, 2))
        assert (event.track, event.tracks, event.items) == (0, (4, 2), (thing(0.2), thing(0.7)))


class TestLine:
    LINE = "line = [[0.5, 0.2], [0.5, 0.8]]"  # downwards: who walks along it has the left of the picture to the right

    def crossings(self, text: str, places: Iterable[tuple[float, float]]) -> list[str]:
        film = Film(compiled(text, tracked=True))
        return [f.direction for x, y in places for f in film.show(thing(x, y), tracks=(1,))]

    def test_a_crossing_has_a_direction(self) -> None:
        there = [(0.3 + 0.05 * n, 0.5) for n in range(9)]
        assert self.crossings(self.LINE, there) == ["left"]
        assert self.crossings(self.LINE, reversed(there)) == ["right"]
        assert self.crossings(f'{self.LINE}\ndirection = "right"', there) == []
        assert self.crossings(f'{self.LINE}\ndirection = "left"', [*there, *reversed(there), *there]) == ["left"] * 2

    def test_who_goes_around_the_line_does_not_cross_it(self) -> None:
        assert self.crossings(self.LINE, [(0.4, 0.5), (0.4, 0.9), (0.6, 0.9), (0.6, 0.5)]) == []

    def test_who_stands_on_the_line_and_trembles_does_not_cross_it(self) -> None:
        trembling = [(0.5 + 0.008 * (-1) ** n, 0.5) for n in range(50)]
        assert self.crossings(self.LINE, trembling) == []
        assert self.crossings(self.LINE, [(0.4, 0.5), *trembling, (0.6, 0.5)]) == ["left"]

    def test_who_appears_beyond_the_line_has_not_crossed_it(self) -> None:
        film = Film(compiled(self.LINE, tracked=True))
        assert film.show(thing(0.4), tracks=(1,)) == []
        assert film.show(thing(0.6), tracks=(2,), gone=(1,)) == []
        assert film.show(thing(0.6), tracks=(0,)) == []

    def test_who_was_hidden_while_crossing_has_crossed(self) -> None:
        film = Film(compiled(self.LINE, tracked=True))
        film.show(thing(0.4), tracks=(1,))
        film.show()
        (event,) = film.show(thing(0.6), tracks=(1,))
        assert (event.state, event.track, event.items) == ("pulse", 1, (thing(0.6),))

    def test_outside_of_the_schedule_sides_are_followed_all_the_same(self) -> None:
        film = Film(compiled(self.LINE, tracked=True))
        film.show(thing(0.4), tracks=(1,))
        assert film.show(thing(0.6), tracks=(1,), active=False) == []
        assert film.show(thing(0.6), tracks=(1,)) == []
        assert [f.direction for f in film.show(thing(0.4), tracks=(1,))] == ["right"]

    @given(st.lists(st.floats(0.0, 1.0), max_size=60))
    def test_left_and_right_take_turns(self, places: list[float]) -> None:
        """Whatever way a track takes along one line through the whole picture: it cannot cross twice to one side."""
        found = self.crossings("line = [[0.5, 0.0], [0.5, 1.0]]", [(x, 0.5) for x in places])
        assert all(a != b for a, b in itertools.pairwise(found))
        sure = [x > 0.5 for x in places if abs(x - 0.5) > 0.011]
        if len(sure) == len([x for x in places if abs(x - 0.5) >= 0.009]):
            assert len(found) == sum(a != b for a, b in itertools.pairwise(sure))
