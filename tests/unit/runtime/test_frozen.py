"""The gate against a frozen picture."""

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgeinfer.runtime.assembly import Surroundings, make_gates
from edgeinfer.runtime.frame import Frame, FrameState
from edgeinfer.runtime.frozen import FrozenGate
from edgeinfer.runtime.settings import PipelineConfig, RuntimeConfig
from edgeinfer.runtime.sources.settings import CameraSource, ImagesSource, SourceConfig, VideoSource

SECOND = 1_000_000_000
STALE = FrameState.STALE
Picture = npt.NDArray[np.uint8]


def noise(seed: int, shape: tuple[int, ...] = (90, 160, 3)) -> Picture:
    return np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)


def states(gate: FrozenGate, *pictures: Picture, begin_s: float = 0.0) -> list[FrameState | None]:
    """One picture a second, each an array of its own."""
    return [
        gate(Frame(picture.copy(), 0, int((begin_s + index) * SECOND), index)) for index, picture in enumerate(pictures)
    ]


@pytest.mark.parametrize("shape", [(90, 160, 3), (90, 160), (90, 160, 4), (90, 160, 1), (1, 1, 3), (2000, 3, 3)])
def test_the_same_picture_for_long_enough_is_stale_until_it_changes(shape: tuple[int, ...]) -> None:
    gate, still = FrozenGate("cam", 3.0), noise(0, shape)
    assert states(gate, *[still] * 6) == [None, None, None, STALE, STALE, STALE]
    assert gate.frozen_s == 5.0
    assert gate.trouble
    assert states(gate, 255 - still, still, begin_s=6) == [None, None]
    assert gate.frozen_s == 0.0
    assert not gate.trouble
    assert states(gate, *[still] * 4, begin_s=8) == [None, None, STALE, STALE], "the last picture counts"


def test_pictures_that_differ_pass() -> None:
    assert states(FrozenGate("cam", 0.001), *(noise(seed) for seed in range(20))) == [None] * 20


def test_a_single_pixel_between_those_that_are_compared_is_seen() -> None:
    gate, still = FrozenGate("cam", 3.0), noise(0, (720, 1280, 3))
    moved = still.copy()
    moved[7, 7, 0] ^= 1
    assert states(gate, still, still, still, moved, still, still, moved) == [None] * 7
    assert states(gate, *[moved] * 5, begin_s=7) == [None, None, None, STALE, STALE]


def test_another_size_is_another_picture() -> None:
    gate = FrozenGate("cam", 2.0)
    black, large = np.zeros((48, 48, 3), np.uint8), np.zeros((96, 96, 3), np.uint8)
    assert states(gate, black, black, large, large, black) == [None] * 5


def test_a_picture_that_could_not_be_decoded_is_for_others_to_judge() -> None:
    none = np.empty((0, 0, 3), np.uint8)
    gate, still = FrozenGate("cam", 2.0), noise(1)
    assert states(gate, none, none, none, none) == [None] * 4
    assert states(gate, still, none, still, none, still) == [None, None, STALE, None, STALE]


def test_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    gate, still = FrozenGate("cam", 2.0), noise(1)
    states(gate, *[still] * 10, noise(2), noise(3))
    assert [record.message for record in caplog.records] == [
        "event=picture_frozen pipeline=cam seconds=2",
        "event=picture_moves pipeline=cam seconds=9",
    ]


@pytest.mark.parametrize(
    ("source", "guarded"),
    [
        (CameraSource(), True),
        (CameraSource(frozen_after_s=0.0), False),
        (VideoSource(path="v", paced=True, frozen_after_s=5.0), True),
        (VideoSource(path="v", paced=True), False),
        (VideoSource(path="v", frozen_after_s=5.0), False),
        (ImagesSource(path="f"), False),
    ],
)
def test_cameras_have_the_gate_unless_it_is_off(source: SourceConfig, guarded: bool, tmp_path: Path) -> None:
    around = Surroundings(tmp_path, RuntimeConfig(device="d"))
    gates = make_gates(PipelineConfig(name="p", source=source, model="m"), around)
    assert [isinstance(gate, FrozenGate) for gate in gates] == [True] * guarded
