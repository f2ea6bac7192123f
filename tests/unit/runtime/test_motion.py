"""The motion gate: what moves is inferred, what is still is not, and both are said of each frame."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.runtime.frame import Frame, FrameState
from edgeinfer.runtime.motion import MotionGate
from edgeinfer.runtime.rules.settings import MotionConfig

Array = npt.NDArray[Any]
MILLISECOND = 1_000_000
HEIGHT, WIDTH = 240, 320


class Camera:
    """Thirty frames a second of a scene with sensor noise, through a gate."""

    def __init__(self, config: MotionConfig, *, noise: float = 4.0) -> None:
        self.gate = MotionGate(config)
        self.now_ms = 1_000_000
        smooth = np.add.outer(np.linspace(40, 150, HEIGHT), np.linspace(0, 60, WIDTH))
        self.scene = np.repeat(smooth[..., None], 3, axis=2).astype(np.float32)
        # Making noise for each frame takes far longer than the gate.
        rng = np.random.default_rng(0)
        self._noises = [rng.normal(0, noise, self.scene.shape).astype(np.float32) for _ in range(16)]

    def picture(self, x: int | None = None, y: int = 100, *, size: int = 40, brighter: float = 0.0) -> Array:
        picture = self.scene + np.float32(brighter) + self._noises[self.now_ms % 16]
        if x is not None:
            picture[y : y + size, x : x + size] = 230
        clipped: Array = np.clip(picture, 0, 255).astype(np.uint8)
        return clipped

    def shows(self, picture: Array, *, after_ms: int = 33) -> bool:
        """Whether the frame passes."""
        self.now_ms += after_ms
        state = self.gate(Frame(picture, 0, self.now_ms * MILLISECOND, 0))
        assert state in {None, FrameState.MOTION_SKIPPED}
        return state is None

    def still(self, seconds: float, **about: Any) -> int:
        """How many frames of a still scene pass."""
        return sum(self.shows(self.picture(**about)) for _ in range(int(seconds * 30)))


QUICK = MotionConfig(hold_s=0.0, refresh_s=0.0)


class TestPictures:
    def test_the_first_frame_passes_and_a_still_scene_does_not(self) -> None:
        assert Camera(QUICK).still(20) == 1

    @pytest.mark.parametrize("noise", [0.0, 2.0, 6.0])
    def test_noise_is_no_motion(self, noise: float) -> None:
        assert Camera(QUICK, noise=noise).still(10) == 1

    def test_what_moves_passes_at_once(self) -> None:
        camera = Camera(QUICK)
        camera.still(2)
        assert all(camera.shows(camera.picture(x)) for x in range(20, 260, 8))
        # Where it was the longest it has left a little in the background, for a moment.
        assert camera.still(5) <= 10

    def test_frames_pass_for_a_while_after_motion(self) -> None:
        camera = Camera(MotionConfig(hold_s=1.0, refresh_s=0.0))
        camera.still(3)
        assert camera.shows(camera.picture(100))
        assert camera.still(5) == 30

    def test_there_is_an_inference_at_least_so_often(self) -> None:
        camera = Camera(MotionConfig(hold_s=0.0, refresh_s=2.0))
        assert camera.still(20) == pytest.approx(10, abs=1)

    def test_what_stays_becomes_background(self) -> None:
        camera = Camera(MotionConfig(hold_s=0.0, refresh_s=0.0, adapt_s=1.0))
        camera.still(3)
        camera.still(10, x=100)
        assert camera.still(10, x=100) == 0
        assert camera.shows(camera.picture()), "that it left is motion again"

    def test_daylight_that_fades_slowly_is_no_motion(self) -> None:
        camera = Camera(QUICK)
        camera.still(2)
        passed = [camera.shows(camera.picture(brighter=-step * 0.02)) for step in range(1500)]
        assert sum(passed) == 0

    @pytest.mark.parametrize("fps", [2, 30])
    def test_the_background_adapts_by_time_and_not_by_frames(self, fps: int) -> None:
        camera = Camera(MotionConfig(hold_s=0.0, refresh_s=0.0, adapt_s=2.0))
        camera.shows(camera.picture())
        step_ms = 1000 // fps
        passed_ms = sum(step_ms for _ in range(20 * fps) if camera.shows(camera.picture(100), after_ms=step_ms))
        # A grey level of 230 over about 100, until 15 are left: 2 s times ln(130 / 15).
        assert passed_ms == pytest.approx(2000 * math.log(130 / 15), rel=0.25)

    def test_a_small_thing_is_no_motion_where_a_large_one_is_asked_for(self) -> None:
        small, large = (
            MotionConfig(hold_s=0, refresh_s=0, min_area=0.01),
            MotionConfig(hold_s=0, refresh_s=0, min_area=0.1),
        )
        for config, passes in ((small, True), (large, False)):
            camera = Camera(config)
            camera.still(1)
            assert camera.shows(camera.picture(100, size=50)) is passes

    def test_motion_under_the_mask_is_not_looked_at(self) -> None:
        left_half = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
        camera = Camera(MotionConfig(hold_s=0, refresh_s=0, mask=(left_half,)))
        camera.still(1)
        assert not camera.shows(camera.picture(60))
        assert camera.shows(camera.picture(240))

    def test_another_size_begins_anew(self) -> None:
        camera = Camera(QUICK)
        camera.still(1)
        half = camera.picture()[::2, ::2]
        assert camera.shows(half)
        assert not camera.shows(half)
        assert camera.shows(camera.picture())

    def test_a_gate_that_is_switched_off_passes_everything_and_learns_anew(self) -> None:
        camera = Camera(QUICK)
        camera.still(1)
        camera.gate.enabled = False
        assert camera.still(1) == 30
        camera.gate.enabled = True
        assert camera.still(1, x=100) == 1, "what came meanwhile is background"

    def test_made_switched_off(self) -> None:
        gate = MotionGate(QUICK, enabled=False)
        frame = Frame(np.zeros((4, 4, 3), np.uint8), 0, 0, 0)
        assert [gate(frame), gate(frame)] == [None, None]
        gate.enabled = True
        assert [gate(frame), gate(frame)] == [None, FrameState.MOTION_SKIPPED]

    @given(st.tuples(st.integers(1, 40), st.integers(1, 40)), st.integers(0, 3))
    @settings(max_examples=50)
    def test_pictures_of_any_size(self, shape: tuple[int, int], masks: int) -> None:
        triangle = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0))
        gate = MotionGate(MotionConfig(hold_s=0, refresh_s=0, mask=(triangle,) * masks))
        picture = np.zeros((*shape, 3), np.uint8)
        assert gate(Frame(picture, 0, 0, 0)) is None
        assert gate(Frame(picture, 0, MILLISECOND, 1)) is FrameState.MOTION_SKIPPED


class TestWindows:
    def passes(self, windows: list[Array], config: MotionConfig = QUICK) -> list[bool]:
        gate = MotionGate(config)
        return [
            gate(Frame(window, 0, index * 100 * MILLISECOND, index)) is None for index, window in enumerate(windows)
        ]

    def windows(self, count: int, *, mean: float = 20.0, deviation: float = 1.0) -> list[Array]:
        rng = np.random.default_rng(int(mean * 10 + deviation))
        return [rng.normal(mean, deviation, (200, 2)).astype(np.float32) for _ in range(count)]

    def test_another_level_passes(self) -> None:
        assert self.passes([*self.windows(10), *self.windows(1, mean=21)]) == [True, *[False] * 9, True]

    def test_another_deviation_passes(self) -> None:
        assert self.passes([*self.windows(10), *self.windows(1, deviation=2)]) == [True, *[False] * 9, True]

    def test_one_channel_is_enough(self) -> None:
        moved = self.windows(1)[0]
        moved[:, 1] += 2
        assert self.passes([*self.windows(5), moved])[-1]

    def test_sound_over_silence_passes(self) -> None:
        silence, sound = np.zeros(512, np.float32), np.sin(np.arange(512, dtype=np.float32))
        assert self.passes([silence, silence, sound])[-1]

    def test_what_is_no_number_passes_and_spoils_nothing(self) -> None:
        broken = np.full((200, 2), np.nan, np.float32)
        assert self.passes([*self.windows(3), broken, *self.windows(2)]) == [True, False, False, True, False, False]
        assert self.passes([broken, *self.windows(2)]) == [True, True, False]

    def test_tensors_of_any_shape(self) -> None:
        tensor = np.ones((3, 4, 5), np.float32)
        assert self.passes([tensor, tensor, tensor * 2]) == [True, False, True]
        assert self.passes([np.array(1.0, np.float32), np.array(1.0, np.float32)]) == [True, False]
