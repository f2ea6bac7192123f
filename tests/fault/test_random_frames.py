"""Ten thousand frames of any shape, type and content: none crashes a pipeline, and each is counted once."""

import threading
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgeinfer.runtime.errors import SourceError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.frozen import FrozenGate
from edgeinfer.runtime.manifest import ImagePre
from edgeinfer.runtime.model import LoadedModel
from edgeinfer.runtime.pipeline import Pipeline
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.runtime.settings import PipelineConfig
from edgeinfer.runtime.sources.settings import ImagesSource
from edgeinfer.runtime.store import Store
from packages import make_package
from waiting import wait_until

FRAMES = 10_000
DTYPES = (np.uint8, np.uint8, np.uint8, np.uint8, np.int8, np.uint16, np.float32, np.float64, np.bool_, np.complex64)
LONG = 3000


def random_frame(rng: np.random.Generator) -> npt.NDArray[np.generic]:
    """Half of them as a camera gives them; the rest of zero to four axes, empty, huge in one direction, strided,
    read-only, or of a type that is none of a picture."""
    kind = rng.integers(10)
    if kind < 5:
        shape: tuple[int, ...] = (int(rng.integers(1, 200)), int(rng.integers(1, 200)), 3)
        return rng.integers(0, 256, shape, dtype=np.uint8)
    if kind == 5:
        thin = (int(rng.integers(1, LONG)), 1) if rng.integers(2) else (1, int(rng.integers(1, LONG)))
        return rng.integers(0, 256, (*thin, 3), dtype=np.uint8)
    shape = tuple(int(side) for side in rng.integers(0, 9, rng.integers(0, 5)))
    if kind == 6:
        shape = (*(int(side) for side in rng.integers(0, 60, 2)), int(rng.integers(0, 6)))
    if kind == 7:
        shape = tuple(int(side) for side in rng.integers(0, 60, 2))
    dtype = DTYPES[rng.integers(len(DTYPES))]
    with np.errstate(all="ignore"):
        data = np.asarray(rng.normal(0, 10.0 ** rng.integers(0, 30), shape)).astype(dtype)
    if kind == 8 and data.ndim > 1:
        data = data[::-2, ::2].swapaxes(0, 1)
    data.flags.writeable = kind != 9
    return data


class RandomFrames:
    def __init__(self, seed: int, count: int, *, live: bool) -> None:
        self.live = live
        self._rng = np.random.default_rng(seed)
        self._left = count

    def read(self) -> Frame | None:
        if not self._left:
            return None
        self._left -= 1
        return Frame(random_frame(self._rng), time.time_ns(), time.monotonic_ns(), 0)

    def close(self) -> None:
        self._left = 0


PREPARATIONS = {
    "stretch": ImagePre(8, 6),
    "crop gray": ImagePre(8, 6, resize="crop", color="gray", interpolation="nearest"),
    "letterbox planes": ImagePre(8, 6, resize="letterbox", layout="nchw", color="bgr", interpolation="area"),
}


@pytest.fixture(params=PREPARATIONS)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> LoadedModel:
    pre = PREPARATIONS[request.param]
    store = Store(tmp_path)
    make_package(store.incoming / "p.edgepkg", one_input(store.incoming / "p.onnx", pre), name="p", pre=pre)
    return LoadedModel(store.install(store.incoming / "p.edgepkg"))


def one_input(path: Path, pre: ImagePre) -> Path:
    """A model for what `pre` makes."""
    from packages import _save

    channels = 1 if pre.color == "gray" else 3
    shape = (pre.height, pre.width, channels) if pre.layout == "nhwc" else (channels, pre.height, pre.width)
    weights = np.random.default_rng(1).normal(size=(int(np.prod(shape)), 3)).astype(np.float32)
    nodes = [("Flatten", ["x"], ["flat"]), ("MatMul", ["flat", "w"], ["logits"]), ("Softmax", ["logits"], ["y"])]
    return _save(path, nodes, shape, 3, weights)


def test_a_model_prepares_them_or_refuses_them(model: LoadedModel) -> None:
    rng, prepared = np.random.default_rng(0), 0
    for index in range(FRAMES):
        data = random_frame(rng)
        before = data.copy()
        try:
            ready = model.prepare(Frame(data, 0, 0, index))
        except SourceError:
            continue
        assert np.array_equal(data, before, equal_nan=data.dtype.kind in "fc"), "a frame's data is not written to"
        assert np.isfinite(ready.target).all()
        model.release(ready)
        prepared += 1
    assert FRAMES // 2 < prepared < FRAMES


@pytest.mark.parametrize("live", [False, True], ids=["recorded", "live"])
def test_a_pipeline_counts_each_of_them_once(model: LoadedModel, live: bool) -> None:
    results: list[Result] = []
    lock = threading.Lock()

    def append(_: str, result: Result) -> None:
        with lock:
            results.append(result)

    config = PipelineConfig(name="p", source=ImagesSource(path="random"), model="p")
    made = Pipeline(
        config,
        model,
        append,
        until_end=True,
        gates=[FrozenGate("p", 0.001)],
        opener=lambda _: RandomFrames(1, FRAMES, live=live),
    )
    made.start()
    wait_until(lambda: made.ended, timeout_s=120)
    made.stop()
    totals = made.counts.totals()
    assert made.counts.captured == FRAMES == sum(totals.values())
    assert totals["inferred"] == sum(result.kind is Kind.CLASSIFICATION for result in results) > 0
    assert totals["inferred"] + totals["superseded"] > FRAMES // 2
    assert totals["superseded"] == 0 or live
    assert totals["failed"] > 100
    assert len(made.gates) == 1, "the gate has raised nothing"
    said: dict[str, int] = {}
    for result in results:
        for state, count in (result.extra or {}).items() if result.kind is Kind.FRAMES else ():
            said[state] = said.get(state, 0) + int(count)
    assert said == {state: count for state, count in totals.items() if count}
