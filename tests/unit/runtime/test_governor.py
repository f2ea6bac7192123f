"""The governor: one step at a time, in the declared order, and never to and fro."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.devices.thermal import DeviceReadings
from edgeinfer.runtime.config import parse_config
from edgeinfer.runtime.engine_settings import GovernorConfig
from edgeinfer.runtime.errors import BufferStorageError, ConfigError, ModelError
from edgeinfer.runtime.governing import Governing
from edgeinfer.runtime.governor import Governor, PipelineReadings, Readings, Step
from edgeinfer.runtime.results import Kind, Result

CONFIG = GovernorConfig(hold_down_s=10, hold_up_s=60)
HOT, WARM, COOL = (DeviceReadings(temperature_c=degrees) for degrees in (80.0, 72.0, 60.0))
DOOR = PipelineReadings("door", priority=5, fps=30.0)
YARD = PipelineReadings("yard", priority=0, fps=10.0)


def run(
    governor: Governor,
    device: DeviceReadings,
    seconds: float,
    *,
    begin_s: float = 0.0,
    pipelines: Sequence[PipelineReadings] = (DOOR, YARD),
) -> list[tuple[float, Step]]:
    """Decide once a second; the steps with their times."""
    found = []
    for second in range(int(seconds)):
        now_s = begin_s + second
        found += [(now_s, step) for step in governor.decide(Readings(device, tuple(pipelines)), now_s)]
    return found


def names(steps: Sequence[tuple[float, Step]]) -> list[str]:
    return [f"{step.pipeline} {step.step} {step.depth}" for _, step in steps]


class TestDown:
    def test_in_the_declared_order_and_the_least_important_first(self) -> None:
        steps = run(Governor(CONFIG), HOT, 200)
        assert names(steps) == [
            "yard frame_rate 1",
            "door frame_rate 1",
            "yard frame_rate 2",
            "door frame_rate 2",
            "yard variant 1",
            "door variant 1",
            "yard motion 1",
            "door motion 1",
            "yard pause 1",  # the door, never: it matters most
        ]
        assert [now_s for now_s, _ in steps] == [10.0 * n for n in range(9)]
        assert [step.level for _, step in steps] == [1, 1, 2, 2, 3, 3, 4, 4, 5]
        assert {(step.direction, step.reason, step.reading, step.limit) for _, step in steps} == {
            ("down", "temperature", 80.0, 75.0)
        }

    def test_in_another_order(self) -> None:
        config = GovernorConfig(steps=("pause", "motion"), hold_down_s=10)
        assert names(run(Governor(config), HOT, 100)) == ["yard pause 1", "yard motion 1", "door motion 1"]

    def test_frame_rates_are_fractions_of_what_they_were(self) -> None:
        governor = Governor(CONFIG)
        slowed = PipelineReadings("door", fps=15.0)
        run(governor, HOT, 1, pipelines=[PipelineReadings("door", fps=30.0)])
        assert governor.fps("door") == 15
        run(governor, HOT, 1, begin_s=10, pipelines=[slowed])
        assert governor.fps("door") == 7.5, "not of what it has become since"
        assert governor.depths("door") == {"frame_rate": 2}

    def test_a_pipeline_without_frames_has_nothing_to_give(self) -> None:
        steps = run(Governor(CONFIG), HOT, 15, pipelines=[PipelineReadings("door"), YARD])
        assert names(steps) == ["yard frame_rate 1", "yard frame_rate 2"]

    @pytest.mark.parametrize(
        ("config", "device", "reason"),
        [
            ({}, DeviceReadings(throttled=("under_voltage",)), "throttled"),
            ({"max_cpu_pressure": 50}, DeviceReadings(cpu_pressure=60), "cpu_pressure"),
            ({"max_memory_pressure": 5}, DeviceReadings(memory_pressure=9), "memory_pressure"),
            ({"min_battery_percent": 20}, DeviceReadings(battery_percent=19, on_battery=True), "battery"),
            ({"max_power_w": 7}, DeviceReadings(power_w=7.1), "power"),
        ],
    )
    def test_everything_that_is_watched(self, config: dict[str, Any], device: DeviceReadings, reason: str) -> None:
        ((_, step),) = run(Governor(GovernorConfig(**config)), device, 1)
        assert step.reason == reason
        unwatched = GovernorConfig(throttled=False, max_temperature_c=0)
        assert run(Governor(unwatched), device, 100) == []

    @pytest.mark.parametrize(
        "device", [DeviceReadings(), COOL, WARM, DeviceReadings(battery_percent=5, on_battery=False)]
    )
    def test_without_need_there_is_none(self, device: DeviceReadings) -> None:
        assert run(Governor(GovernorConfig(min_battery_percent=20)), device, 500) == []

    def test_a_pipeline_that_is_late_asks_nothing_of_more_important_ones(self) -> None:
        late = PipelineReadings("mid", priority=3, fps=10, age_ms=250, latency_budget_ms=200)
        steps = run(Governor(CONFIG), COOL, 500, pipelines=[DOOR, late, YARD])
        assert {step.pipeline for _, step in steps} == {"mid", "yard"}
        assert steps[0][1].reason == "latency"
        assert "mid pause 1" in names(steps)

    def test_one_that_gets_no_frames_is_not_late(self) -> None:
        gone = PipelineReadings("mid", fps=0, age_ms=250, latency_budget_ms=200)
        assert run(Governor(CONFIG), COOL, 100, pipelines=[gone]) == []


class TestUp:
    def test_the_last_step_is_taken_back_first_once_all_is_well(self) -> None:
        governor = Governor(CONFIG)
        down = run(governor, HOT, 25)
        up = run(governor, COOL, 1000, begin_s=25)
        assert names(down) == ["yard frame_rate 1", "door frame_rate 1", "yard frame_rate 2"]
        assert names(up) == ["yard frame_rate 1", "door frame_rate 0", "yard frame_rate 0"]
        assert [now_s for now_s, _ in up] == [85.0, 145.0, 205.0]
        assert [step.level for _, step in up] == [1, 0, 0]
        assert [step.fps for _, step in up] == [5.0, 0.0, 0.0]
        assert {(step.direction, step.reason) for _, step in up} == {("up", "temperature")}

    def test_between_the_limit_and_its_margin_nothing_moves(self) -> None:
        governor = Governor(CONFIG)
        assert run(governor, WARM, 100) == []
        run(governor, HOT, 1, begin_s=100)
        assert run(governor, WARM, 1000, begin_s=101) == []

    def test_the_wait_begins_anew_with_every_moment_that_is_not_well(self) -> None:
        governor = Governor(CONFIG)
        run(governor, HOT, 1)
        assert run(governor, COOL, 59, begin_s=1) == []
        assert run(governor, WARM, 1, begin_s=60) == []
        assert run(governor, COOL, 60, begin_s=61) == []
        assert len(run(governor, COOL, 1, begin_s=121)) == 1

    def test_pipelines_that_are_gone_need_no_step(self) -> None:
        governor = Governor(CONFIG)
        run(governor, HOT, 15)
        steps = run(governor, COOL, 500, begin_s=15, pipelines=[DOOR])
        assert names(steps) == ["door frame_rate 0"]

    def test_a_device_that_is_hot_only_at_full_rate_settles(self) -> None:
        """Each step up is too much: they become rarer, up to once in half an hour."""
        governor = Governor(GovernorConfig(hold_down_s=10, hold_up_s=60, steps=("frame_rate",), frame_rate_levels=1))
        times: list[float] = []
        for now_s in range(24 * 3600):
            device = COOL if governor.depths("door") else HOT
            readings = Readings(device, (PipelineReadings("door", fps=30.0),))
            times += [now_s for step in governor.decide(readings, now_s) if step.direction == "up"]
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert gaps[0] < 200
        assert min(gaps[5:]) >= 32 * 60
        assert len(times) < 60


@given(
    st.lists(st.sampled_from([HOT, WARM, COOL, DeviceReadings()]), min_size=1, max_size=60),
    st.integers(1, 90),
)
def test_whatever_the_readings_steps_keep_their_distance(devices: list[DeviceReadings], each_s: int) -> None:
    governor, steps, begin_s = Governor(CONFIG), [], 0.0
    well_since = 0.0
    for device in devices:
        now = run(governor, device, each_s, begin_s=begin_s)
        if device in (HOT, WARM):
            well_since = begin_s + each_s
        for at_s, step in now:
            assert (step.direction == "down") == (device is HOT)
            assert step.direction == "down" or at_s - well_since >= CONFIG.hold_up_s
        steps += now
        begin_s += each_s
    for (before_s, _), (after_s, step) in itertools.pairwise(steps):
        assert after_s - before_s >= (CONFIG.hold_down_s if step.direction == "down" else CONFIG.hold_up_s)
    for name in ("door", "yard"):
        mine = [step for _, step in steps if step.pipeline == name]
        level = 0
        for step in mine:
            level += 1 if step.direction == "down" else -1
            assert step.level == level
        assert sum(governor.depths(name).values()) == level


@pytest.mark.parametrize(
    "text",
    [
        'steps = ["frame_rate", "frame_rate"]',
        'steps = ["hibernate"]',
        "margin = 0",
        "temperature_margin_c = 0",
        "frame_rate_factor = 1.0",
        "max_cpu_pressure = 101",
        "hold_down_s = 0",
        "max_temp = 3",
    ],
)
def test_settings_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_config(text, GovernorConfig)


class Board:
    """A pipeline that does what it is told and remembers it."""

    def __init__(self, name: str, *, priority: int = 0, motion: bool = True, smaller: bool = True) -> None:
        self.name, self.priority, self.latency_budget_ms = name, priority, 0.0
        self.fps, self.paused, self.motionless, self.small = 0.0, False, False, False
        self.broken = False
        self._has_motion, self._has_smaller = motion, smaller

    def frame_rate(self) -> float:
        return 30.0

    def age_p99_us(self) -> int:
        return 1000

    def limit_fps(self, fps: float) -> None:
        self.fps = fps

    def pause(self, paused: bool) -> None:
        self.paused = paused

    def skip_motionless(self, on: bool) -> bool:
        self.motionless = on and self._has_motion
        return self._has_motion

    def use_smaller(self, on: bool) -> bool:
        if self.broken:
            raise ModelError("cannot be loaded")
        changed = self._has_smaller and on != self.small
        self.small = on and self._has_smaller
        return changed

    def state(self) -> tuple[float, bool, bool, bool]:
        return self.fps, self.small, self.motionless, self.paused


class Device:
    """Governing with readings that the test sets."""

    def __init__(self, *boards: Board, config: GovernorConfig = CONFIG) -> None:
        self.boards = list(boards)
        self.readings = COOL
        self.results: list[tuple[str, Result]] = []
        self.governing = Governing(
            config, pipelines=lambda: self.boards, append=self.append, read=lambda _: self.readings
        )
        self._now_s = 0.0

    def append(self, pipeline: str, result: Result) -> None:
        self.results.append((pipeline, result))

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.governing.tick(self._now_s)
            self._now_s += 1

    def steps(self) -> list[str]:
        return [f"{name} {(result.extra or {})['step']}" for name, result in self.results]


class TestGoverning:
    def test_all_the_way_down_and_up_again(self) -> None:
        door, yard = Board("door", priority=1), Board("yard")
        device = Device(door, yard)
        device.readings = HOT
        device.pass_time(200)
        assert door.state() == (7.5, True, True, False)
        assert yard.state() == (7.5, True, True, True)
        device.readings = COOL
        device.pass_time(1000)
        assert door.state() == yard.state() == (0.0, False, False, False)
        assert len(device.results) == 18
        assert {result.kind for _, result in device.results} == {Kind.STEP}
        assert device.results[0][0] == "yard"
        assert device.results[0][1].extra == {
            "step": "frame_rate",
            "direction": "down",
            "reason": "temperature",
            "reading": 80.0,
            "limit": 75.0,
            "level": 1,
            "fps": 15.0,
        }

    def test_what_a_pipeline_has_not_is_passed_over_at_once(self) -> None:
        door, yard = Board("door", priority=1, motion=False, smaller=False), Board("yard", motion=False)
        device = Device(door, yard, config=GovernorConfig(steps=("variant", "motion", "pause"), hold_down_s=10))
        device.readings = HOT
        device.pass_time(11)
        assert device.steps() == ["yard variant", "yard pause"]
        device.pass_time(200)
        assert len(device.steps()) == 2

    def test_a_step_that_fails_is_passed_over(self) -> None:
        door = Board("door")
        door.broken = True
        device = Device(door, config=GovernorConfig(steps=("variant", "motion")))
        device.readings = HOT
        device.pass_time(1)
        assert device.steps() == ["door motion"]

    def test_a_step_that_cannot_be_kept_is_given_up_for_a_while(self) -> None:
        door, tried = Board("door"), 0

        class Broken(Board):
            def use_smaller(self, on: bool) -> bool:
                nonlocal tried
                tried += on
                raise ModelError("cannot be loaded")

        device = Device(door, config=GovernorConfig(steps=("variant", "motion"), hold_down_s=1.0))
        device.readings = HOT
        device.pass_time(1)
        device.boards = [Broken("door")]
        device.pass_time(40)
        assert tried == 3
        assert device.steps() == ["door variant", "door motion", "door variant"]
        assert [(result.extra or {})["direction"] for _, result in device.results] == ["down", "down", "up"]
        assert (device.results[-1][1].extra or {})["level"] == 1
        device.pass_time(60)
        assert tried == 4, "it is asked for again, as a step that is refused where it fails"
        device.pass_time(2000)
        assert tried == 4

    def test_a_step_that_fails_once_is_kept(self) -> None:
        device = Device(Board("door"), config=GovernorConfig(steps=("variant",)))
        device.readings = HOT
        device.pass_time(1)
        device.boards[0].broken = True
        device.pass_time(5)
        device.boards[0].broken = False
        device.pass_time(100)
        assert device.steps() == ["door variant"]
        assert device.boards[0].small

    def test_a_pipeline_that_was_made_anew_is_told_again(self) -> None:
        device = Device(Board("door"))
        device.readings = HOT
        device.pass_time(31)
        device.boards = [Board("door")]
        device.pass_time(1)
        assert device.boards[0].state() == (7.5, True, True, False)
        assert len(device.results) == 4, "that is no step"

    def test_a_buffer_that_is_closed_is_no_reason_to_crash(self) -> None:
        device = Device(Board("door"))

        def closed(_: str, __: Result) -> None:
            raise BufferStorageError("closed")

        governing = Governing(CONFIG, pipelines=lambda: device.boards, append=closed, read=lambda _: HOT)
        governing.tick(0.0)
        assert device.boards[0].fps == 15

    def test_without_pipelines_there_is_nothing_to_do(self) -> None:
        device = Device()
        device.readings = HOT
        device.pass_time(100)
        assert device.results == []
        assert device.governing.readings == HOT
