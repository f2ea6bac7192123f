"""Several inference threads, calls that get stuck, gates and observers: the frames stay in order and in the books."""

import itertools
import random
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.runtime.engines import load_engine
from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.frame import Frame, FrameState
from edgeinfer.runtime.in_order import InOrder
from edgeinfer.runtime.manifest import ClassifyPost, TensorPre
from edgeinfer.runtime.model import LoadedModel, Prepared, Ran
from edgeinfer.runtime.pipeline import Pipeline
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.runtime.settings import PipelineConfig
from edgeinfer.runtime.sources.base import Source
from edgeinfer.runtime.sources.settings import TensorsSource
from edgeinfer.runtime.stages import Gate, Observer, Seen
from edgeinfer.runtime.store import InstalledPackage, Store
from packages import linear_model, make_package
from waiting import wait_until

FEATURES = 4
FRAMES = 400


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> InstalledPackage:
    folder = tmp_path_factory.mktemp("package")
    model = linear_model(folder / "m.onnx", features=FEATURES)
    make_package(folder / "m.edgepkg", model, name="m", pre=TensorPre(), post=ClassifyPost())
    return Store(folder / "state").install(folder / "m.edgepkg")


def loaded(package: InstalledPackage, *, workers: int = 1) -> LoadedModel:
    path = package.folder / package.manifest.variants[0].file
    return LoadedModel(package, engines=[load_engine("onnx", path) for _ in range(workers)])


class Run:
    """A pipeline over `FRAMES` recorded rows, and what it appended."""

    def __init__(
        self,
        folder: Path,
        model: LoadedModel,
        *,
        gates: Iterable[Gate] = (),
        observers: Iterable[Observer] = (),
        frames: int = FRAMES,
    ) -> None:
        self.results: list[Result] = []
        path = folder / "x.npz"
        np.savez(path, x=np.random.default_rng(0).normal(size=(frames, FEATURES)).astype(np.float32))
        config = PipelineConfig(name="p", source=TensorsSource(path=str(path)), model="m")
        self.pipeline = Pipeline(
            config,
            model,
            lambda _, result: self.results.append(result),
            until_end=True,
            gates=tuple(gates),
            observers=tuple(observers),
        )

    def to_the_end(self) -> "Run":
        self.pipeline.start()
        wait_until(lambda: self.pipeline.ended)
        self.pipeline.stop()
        return self

    def frames(self) -> list[int]:
        return [result.frame for result in self.results if result.kind is Kind.CLASSIFICATION]

    def assert_exact(self) -> None:
        totals = self.pipeline.counts.totals()
        assert sum(totals.values()) == self.pipeline.counts.captured
        reported: dict[str, int] = {}
        for result in self.results:
            for state, count in (result.extra or {}).items() if result.kind is Kind.FRAMES else ():
                reported[state] = reported.get(state, 0) + int(count)
        assert reported == {state: count for state, count in totals.items() if count}
        assert len(self.frames()) == totals["inferred"]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_several_threads_record_in_the_order_of_capture(
    package: InstalledPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    model = loaded(package, workers=workers)
    run, chance = model.run, random.Random(workers)

    def uneven(prepared: Prepared, engine: int = 0) -> Ran:
        threading.Event().wait(chance.random() * 0.002)
        if prepared.frame.index % 50 == 7:
            raise ModelError("this one fails")
        return run(prepared, engine)

    monkeypatch.setattr(model, "run", uneven)
    made = Run(tmp_path, model).to_the_end()
    assert made.frames() == [number for number in range(FRAMES) if number % 50 != 7]
    assert made.pipeline.counts.totals()["failed"] == FRAMES // 50
    made.assert_exact()


def test_several_threads_give_what_one_gives(package: InstalledPackage, tmp_path: Path) -> None:
    alone = Run(tmp_path, loaded(package)).to_the_end()
    together = Run(tmp_path, loaded(package, workers=3)).to_the_end()
    items = [[r.items for r in made.results if r.kind is Kind.CLASSIFICATION] for made in (alone, together)]
    assert items[0] == items[1]


def test_a_swap_to_a_model_of_one_engine_goes_frame_by_frame(
    package: InstalledPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that remembers is not inferred side by side, also where its predecessor was."""
    first, second = loaded(package, workers=3), loaded(package)
    run, seen, at_once = second.run, [], threading.Lock()

    def in_line(prepared: Prepared, engine: int = 0) -> Ran:
        assert engine == 0
        assert at_once.acquire(blocking=False), "two calls at once"
        seen.append(prepared.frame.index)
        threading.Event().wait(0.0005)
        at_once.release()
        return run(prepared, engine)

    monkeypatch.setattr(second, "run", in_line)
    made = Run(tmp_path, first)
    made.pipeline.pace.limit(2000.0)
    made.pipeline.start()
    wait_until(lambda: made.pipeline.status.results > 50)
    made.pipeline.swap(second)
    wait_until(lambda: made.pipeline.ended)
    made.pipeline.stop()
    assert made.frames() == list(range(FRAMES))
    assert len(seen) > 50
    assert seen == sorted(seen)
    made.assert_exact()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stuck_call_is_given_up_and_the_others_go_on(
    package: InstalledPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    model = loaded(package, workers=workers)
    run, release, stuck = model.run, threading.Event(), []

    def hang_once(prepared: Prepared, engine: int = 0) -> Ran:
        if prepared.frame.index == 20:
            stuck.append(threading.get_ident())
            release.wait(60)
        return run(prepared, engine)

    monkeypatch.setattr(model, "run", hang_once)
    made = Run(tmp_path, model)
    made.pipeline.start()
    wait_until(lambda: bool(stuck) and made.pipeline.busy_since_s() > 0)
    assert not made.pipeline.abandon_call(threading.get_ident()), "a thread of somebody else"
    assert made.pipeline.abandon_call(stuck[0])
    wait_until(lambda: made.pipeline.ended)
    release.set()
    made.pipeline.stop()
    assert made.frames() == [number for number in range(FRAMES) if number != 20]
    assert made.pipeline.counts.totals()["failed"] == 1
    made.assert_exact()


def test_a_call_that_comes_back_in_time_is_not_given_up(package: InstalledPackage, tmp_path: Path) -> None:
    made = Run(tmp_path, loaded(package)).to_the_end()
    ident = made.pipeline._inference._workers[0].thread.ident
    assert ident is not None
    assert not made.pipeline.abandon_call(ident)


def test_gates_decide_before_anything_is_spent(package: InstalledPackage, tmp_path: Path) -> None:
    def odd(frame: Frame) -> FrameState | None:
        return FrameState.MOTION_SKIPPED if frame.index % 2 else None

    def fourth(frame: Frame) -> FrameState | None:
        assert frame.index % 2 == 0, "a frame that is out is shown to no other gate"
        return FrameState.STALE if frame.index % 4 else None

    made = Run(tmp_path, loaded(package), gates=[odd, fourth]).to_the_end()
    assert made.frames() == list(range(0, FRAMES, 4))
    totals = made.pipeline.counts.totals()
    assert (totals["motion_skipped"], totals["stale"]) == (FRAMES // 2, FRAMES // 4)
    made.assert_exact()


class Watching:
    """An observer that makes an event of every tenth frame, and breaks where it is told to."""

    def __init__(self, *, breaks_at: int = -1) -> None:
        self.breaks_at = breaks_at
        self.seen: list[int] = []
        self.closed = 0

    def __call__(self, seen: Seen) -> list[Result]:
        frame = seen.frame.index
        if frame == self.breaks_at:
            raise ValueError("a mistake in an observer")
        self.seen.append(frame)
        assert len(seen.outputs) == 1
        return [] if frame % 10 else [Result(Kind.EVENT, seen.frame.t_ns, frame, extra={"rule": "tenth"})]

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("workers", [1, 3])
def test_observers_see_every_frame_in_order_and_add_results(
    package: InstalledPackage, tmp_path: Path, workers: int
) -> None:
    watching, broken = Watching(), Watching(breaks_at=5)
    made = Run(tmp_path, loaded(package, workers=workers), observers=[broken, watching]).to_the_end()
    assert watching.seen == list(range(FRAMES))
    assert watching.closed == 1
    assert broken.seen == [0, 1, 2, 3, 4], "what is broken is passed over from then on"
    events = [result.frame for result in made.results if result.kind is Kind.EVENT]
    assert events == [0, *range(0, FRAMES, 10)], "the broken one told of the first frame, too"
    assert made.pipeline.status.events == len(events)
    made.assert_exact()


def test_a_gate_that_is_broken_is_passed_over(package: InstalledPackage, tmp_path: Path) -> None:
    def broken(_: Frame) -> FrameState | None:
        raise ZeroDivisionError

    made = Run(tmp_path, loaded(package), gates=[broken]).to_the_end()
    assert made.frames() == list(range(FRAMES))
    made.assert_exact()


def test_a_pace_makes_recorded_frames_wait_and_none_is_shed(package: InstalledPackage, tmp_path: Path) -> None:
    made = Run(tmp_path, loaded(package), frames=20)
    made.pipeline.pace.limit(500.0)
    made.to_the_end()
    assert made.frames() == list(range(20))
    assert made.pipeline.status.seconds() >= 18 / 500


def test_a_paused_recorded_source_waits(package: InstalledPackage, tmp_path: Path) -> None:
    made = Run(tmp_path, loaded(package))
    made.pipeline.pace.paused = True
    made.pipeline.start()
    wait_until(lambda: made.pipeline.counts.captured == 1)
    assert made.frames() == []
    made.pipeline.pace.paused = False
    wait_until(lambda: made.pipeline.ended)
    made.pipeline.stop()
    assert made.frames() == list(range(FRAMES))


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_done_first_is_recorded_in_order(seed: int) -> None:
    recorded: list[int] = []
    order, chance = InOrder(recorded.append, ahead=8), random.Random(seed)
    lock, tickets = threading.Lock(), itertools.count()

    def work() -> None:
        while True:
            if not order.wait_for_room(1.0):
                continue
            with lock:
                if next(tickets) >= 200:
                    return
                ticket = order.ticket()
            if chance.random() < 0.2:
                threading.Event().wait(0.0005)
            order.deposit(ticket, ticket)
            order.drain()

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert recorded == list(range(200))
    assert order.rest() == []


def test_nobody_gets_far_ahead_of_the_oldest() -> None:
    recorded: list[int] = []
    order = InOrder(recorded.append, ahead=3)
    for number in (1, 2):
        order.ticket()
        order.deposit(number, number)
    order.ticket()
    order.drain()
    assert not order.wait_for_room(0.01)
    assert recorded == []
    assert order.rest() == [1, 2]


def test_a_record_that_fails_does_not_stop_the_others() -> None:
    recorded: list[int] = []

    def record(number: int) -> None:
        if number == 1:
            raise MemoryError
        recorded.append(number)

    order = InOrder(record, ahead=10)
    for number in range(3):
        order.deposit(order.ticket(), number)
    with pytest.raises(MemoryError):
        order.drain()
    order.drain()
    assert recorded == [0, 2]


@pytest.mark.parametrize("workers", [2, 3])
def test_a_slow_worker_does_not_let_the_others_fill_the_memory(
    package: InstalledPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    model = loaded(package, workers=workers)
    run, release = model.run, threading.Event()

    def first_is_slow(prepared: Prepared, engine: int = 0) -> Ran:
        if prepared.frame.index == 0:
            release.wait(60)
        return run(prepared, engine)

    monkeypatch.setattr(model, "run", first_is_slow)
    made = Run(tmp_path, model)
    made.pipeline.start()
    wait_until(lambda: made.pipeline.counts.captured > 4 * workers)
    wait_until(lambda: not made.pipeline._inference._order.wait_for_room(0.01))
    assert len(made.pipeline._inference._order._waiting) < 4 * workers
    release.set()
    wait_until(lambda: made.pipeline.ended)
    made.pipeline.stop()
    assert made.frames() == list(range(FRAMES))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_call_that_outlasts_the_stop_leaves_no_frame_uncounted(
    package: InstalledPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    model = loaded(package, workers=workers)
    run, release = model.run, threading.Event()

    def slow(prepared: Prepared, engine: int = 0) -> Ran:
        if prepared.frame.index == 5:
            release.wait(60)
        return run(prepared, engine)

    monkeypatch.setattr(model, "run", slow)
    made = Run(tmp_path, model)
    made.pipeline.start()
    wait_until(lambda: made.pipeline.counts.captured > 8)
    made.pipeline.stop(timeout_s=0.3)
    release.set()
    made.assert_exact()
    assert made.pipeline.counts.totals()["stale"] > 1


def test_frames_of_the_old_model_are_not_shown_to_the_new_one_s_observers(
    package: InstalledPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = loaded(package), loaded(package)
    run, go_on = first.run, threading.Event()

    def held(prepared: Prepared, engine: int = 0) -> Ran:
        go_on.wait(60)
        return run(prepared, engine)

    monkeypatch.setattr(first, "run", held)
    old, new = Watching(), Watching()
    made = Run(tmp_path, first, observers=[old])
    made.pipeline.start()
    wait_until(lambda: made.pipeline.counts.captured > 3)
    made.pipeline.swap(second, [new])
    in_flight = made.pipeline.counts.captured
    go_on.set()
    wait_until(lambda: made.pipeline.ended)
    made.pipeline.stop()
    assert made.frames() == list(range(FRAMES))
    assert new.seen == list(range(new.seen[0], FRAMES))
    assert 0 < new.seen[0] <= in_flight + 1
    assert (old.closed, new.closed) == (1, 1)


def test_an_observer_that_crashed_is_closed_and_said_of(package: InstalledPackage, tmp_path: Path) -> None:
    broken = Watching(breaks_at=5)
    made = Run(tmp_path, loaded(package), observers=[broken]).to_the_end()
    assert broken.closed == 1
    assert "Watching has crashed" in made.pipeline.status.trouble


def test_a_stopped_pipeline_lets_go_of_its_engines(package: InstalledPackage, tmp_path: Path) -> None:
    model = loaded(package)
    engine = weakref.ref(model.engines[0])
    made = Run(tmp_path, model).to_the_end()
    assert made.pipeline.model.name == "m"
    assert engine() is None


def test_a_source_that_cannot_be_opened_for_an_odd_reason_is_tried_again(
    package: InstalledPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Run(tmp_path, loaded(package))
    open_, tries = made.pipeline._open, itertools.count()

    def odd(stop: threading.Event) -> Source:
        if next(tries) == 0:
            raise RuntimeError("can't start new thread")
        return open_(stop)

    made.pipeline._until_end = False
    monkeypatch.setattr(made.pipeline, "_open", odd)
    made.to_the_end()
    assert made.frames() == list(range(FRAMES))
