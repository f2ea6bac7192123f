"""What may be said of rules: every combination that means nothing is refused, and says why."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.runtime.config import parse_config
from edgeinfer.runtime.errors import ConfigError
from edgeinfer.runtime.results import Item
from edgeinfer.runtime.rules.rule import Scene, compile_rule
from edgeinfer.runtime.rules.settings import MotionConfig, RuleConfig, SnapshotConfig, TrackerConfig, check_rules
from edgeinfer.runtime.settings import RuntimeConfig

SQUARE = "[[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]]"


def rule(text: str) -> RuleConfig:
    return parse_config(f'name = "r"\n{text}', RuleConfig)


@pytest.mark.parametrize(
    "text",
    [
        "",
        'labels = ["person", 3]\nmin_score = 0.4',
        f"zone = {SQUARE}\nanchor = 'centre'\ndwell_s = 2.5\nend = true",
        "above = 0.8\nclear = 0.6\nn_of_m = [3, 5]",
        "below = 3\nclear = 4.5",
        "count = 3\nclear = 2",
        'line = [[0.2, 0.5], [0.8, 0.5]]\ndirection = "left"\ncooldown_s = 5\nmax_per_hour = 10',
        'on = "change"\nmin_score = 0.5\nn_of_m = [2, 3]\ndwell_s = 1',
        'on = "frame"\ncooldown_s = 60',
        '[[schedule]]\nfrom = "22:00"\nto = "06:00"\ndays = ["fri", "sat"]\n[[schedule]]\nfrom = "12:00"\nto = "13:00"',
    ],
)
def test_what_means_something_is_taken(text: str) -> None:
    rule(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("above = 1\nbelow = 2", "above and below: choose one"),
        ("above = 1\ncount = 2", "above and count: choose one"),
        ("above = nan", "above: expected a number, found nan"),
        ("min_score = inf", "min_score: expected a number, found inf"),
        ("clear = 1", "none of them is given"),
        ("above = 0.5\nclear = 0.6", "at most above = 0.5, found 0.6"),
        ("below = 0.5\nclear = 0.4", "at least below = 0.5, found 0.4"),
        ("count = 2\nclear = 3", "at most count = 2"),
        ("count = 2\nclear = 0", "never be over"),
        ("count = 0", "count"),
        ("labels = [-1]", "negative"),
        ("n_of_m = [0, 3]", "1 <= n <= m"),
        ("n_of_m = [4, 3]", "1 <= n <= m"),
        ("n_of_m = [1, 20000]", "1 <= n <= m"),
        ("n_of_m = [3]", "n_of_m"),
        ("zone = [[0.1, 0.1], [0.9, 0.9]]", "at least 3 corners, found 2"),
        ("zone = [[0.1, 0.1], [0.5, 0.5], [0.9, 0.9]]", "with an area"),
        ("zone = [[0.1, 0.1], [300, 0.1], [0.9, 0.9]]", r"in 0\.\.1 of the picture, found \[300.0, 0.1\]"),
        ("zone = [[0.1, 0.1], [nan, 0.1], [0.9, 0.9]]", r"in 0\.\.1"),
        ("line = [[0.1, 0.1], [0.1, 0.1]]", "apart from each other"),
        ("line = [[0.1, 0.1], [1.1, 0.1]]", r"in 0\.\.1"),
        (f"line = [[0, 0], [1, 1]]\nzone = {SQUARE}", "line and zone: a crossing is one moment"),
        ("line = [[0, 0], [1, 1]]\ndwell_s = 1", "line and dwell_s"),
        ("line = [[0, 0], [1, 1]]\nn_of_m = [2, 3]", "line and n_of_m"),
        ("line = [[0, 0], [1, 1]]\nabove = 0.5", "line and above"),
        ("line = [[0, 0], [1, 1]]\nend = true", "line and end"),
        ('line = [[0, 0], [1, 1]]\non = "change"', "line and on"),
        ('line = [[0, 0], [1, 1]]\nper = "frame"', 'needs per = "track"'),
        ('direction = "left"', "needs a line"),
        ('on = "change"\nabove = 0.5', "it compares what is found"),
        ('on = "change"\ncount = 2', "it compares what is found"),
        ('on = "change"\nend = true', "has no end"),
        ('on = "frame"\nend = true', "has no end"),
        ('per = "track"\ncount = 2', "about the whole frame"),
        ('per = "track"\non = "change"', "about the whole frame"),
        ('timezone = "Europe/Berlin"', "needs a schedule"),
        ("dwell_s = -1", "dwell_s"),
        ("cooldown = 1", "did you mean 'cooldown_s'"),
    ],
)
def test_what_means_nothing_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rule(text)


PIPELINE = """
device = "d"
[[pipeline]]
name = "door"
model = "m"
[pipeline.source]
kind = "host"
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[[pipeline.rule]]\nname = "a"\n[[pipeline.rule]]\nname = "a"',
            "pipeline 'door': rule 'a' is configured twice",
        ),
        (
            '[[pipeline.rule]]\nname = "a"\nline = [[0, 0], [1, 1]]',
            r"pipeline 'door': rule 'a': line needs \[pipeline.tracker\]",
        ),
        ('[[pipeline.rule]]\nname = "a"\nper = "track"', r'per = "track" needs \[pipeline.tracker\]'),
        ('[[pipeline.rule]]\nname = ""', "name"),
        ("[[pipeline.rule]]\ncount = 1", "name"),
        ("[pipeline.tracker]\nlow = 0.7", "low <= high <= begin"),
        ("[pipeline.tracker]\nhigh = 0.8", "low <= high <= begin"),
        ("[pipeline.motion]\nmask = [[[0, 0], [1, 1]]]", "mask: expected at least 3 corners"),
        ("[pipeline.motion]\nthreshold = 0", "threshold"),
        ("[snapshots]\nquality = 101", "quality"),
    ],
)
def test_what_does_not_fit_the_pipeline_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(PIPELINE + text, RuntimeConfig)


def test_what_is_watched_follows_from_the_condition() -> None:
    assert rule("").watches_tracks(tracked=True)
    assert not rule("").watches_tracks(tracked=False)
    assert not rule("count = 2").watches_tracks(tracked=True)
    assert not rule('on = "change"').watches_tracks(tracked=True)
    assert not rule('per = "frame"').watches_tracks(tracked=True)
    assert rule("line = [[0, 0], [1, 1]]").watches_tracks(tracked=True)


def test_the_defaults_are_valid() -> None:
    for section in (MotionConfig, TrackerConfig, SnapshotConfig):
        parse_config("", section)


reals = st.floats(-0.5, 1.5) | st.just(float("nan"))
points = st.tuples(reals, reals)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "labels": st.lists(st.integers(-1, 4) | st.sampled_from(["a", "b"]), max_size=2),
    "min_score": reals,
    "zone": st.lists(points, max_size=4) | st.just([(0, 0), (1, 0), (1, 1)]),
    "anchor": st.sampled_from(["bottom", "centre", "top"]),
    "per": st.sampled_from(["track", "frame", None]),
    "above": reals,
    "below": reals,
    "count": st.integers(0, 3),
    "clear": reals,
    "line": st.tuples(points, points) | st.just(((0, 0), (1, 1))),
    "direction": st.sampled_from(["any", "left", "right"]),
    "n_of_m": st.tuples(st.integers(0, 3), st.integers(0, 3)),
    "dwell_s": st.sampled_from([-1, 0, 0.1]),
    "schedule": st.just([{"from": "22:00", "to": "06:00"}]),
    "on": st.sampled_from(["begin", "change", "frame"]),
    "end": st.booleans(),
    "cooldown_s": st.sampled_from([0, 0.1]),
    "max_per_hour": st.integers(-1, 3),
}
boxes = st.tuples(*[st.floats(0.0, 1.0)] * 4)
items = st.builds(Item, st.integers(0, 3), reals, boxes | st.none())
frames = st.lists(st.tuples(st.lists(items, max_size=3), st.booleans()), max_size=6)


few = st.lists(st.sampled_from(sorted(FIELDS)), unique=True, max_size=4)


@given(few.flatmap(lambda names: st.fixed_dictionaries({name: FIELDS[name] for name in names})), st.booleans(), frames)
@settings(max_examples=300)
def test_what_is_taken_also_runs(about: dict[str, Any], tracked: bool, shown: list[tuple[list[Item], bool]]) -> None:
    """Whatever a rule says, it is refused with a reason, or it can be stepped over any frames."""
    try:
        config = msgspec.convert({"name": "r", **about}, RuleConfig)
        check_rules(TrackerConfig() if tracked else None, [config])
        made = compile_rule(config, ("a", "b", "c", "d"), tracked=tracked)
    except (msgspec.ValidationError, ValueError, ConfigError):
        return
    for index, (seen, active) in enumerate(shown):
        tracks = tuple(range(1, len(seen) + 1)) if tracked else ()
        scene = Scene(tuple(seen), tracks, (index,) if tracked and index > 3 else (), index * 10**8)
        for firing in made.see(scene, active=active):
            assert firing.state in {"begin", "end", "pulse"}
            assert set(firing.items) <= set(seen) or any(item.score != item.score for item in seen)
