"""A pipeline: every captured frame ends in exactly one state, whatever happens to it."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.runtime.errors import EdgeInferError, ModelError, SourceError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.manifest import ClassifyPost, TensorPre
from edgeinfer.runtime.model import LoadedModel, Prepared, Ran
from edgeinfer.runtime.pipeline import Pipeline
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.runtime.settings import PipelineConfig
from edgeinfer.runtime.sources.settings import HostSource, SourceConfig, TensorsSource
from edgeinfer.runtime.store import Store
from packages import linear_model, make_package
from waiting import wait_until

FEATURES = 8


class Results:
    """What a pipeline appended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.all: list[Result] = []

    def append(self, pipeline: str, result: Result) -> None:
        assert pipeline == "p"
        with self._lock:
            self.all.append(result)

    def of(self, kind: Kind) -> list[Result]:
        with self._lock:
            return [result for result in self.all if result.kind is kind]

    def frames(self) -> dict[str, int]:
        """The sum of all reports of frames."""
        totals: dict[str, int] = {}
        for result in self.of(Kind.FRAMES):
            for state, count in (result.extra or {}).items():
                totals[state] = totals.get(state, 0) + int(count)
        return totals


class Scripted:
    """A source that gives what it is told to: an array, an error to raise, or None for the end."""

    def __init__(self, script: Iterator[object], *, live: bool = False, pause_s: float = 0.0) -> None:
        self.live = live
        self.closed = 0
        self._script = script
        self._pause = threading.Event()
        self._pause_s = pause_s

    def read(self) -> Frame | None:
        if self._pause_s:
            self._pause.wait(self._pause_s)
        step = next(self._script, None)
        if isinstance(step, Exception):
            raise step
        return None if step is None else Frame(np.asarray(step), time.time_ns(), time.monotonic_ns(), 0)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def load(store: Store, *, version: str = "1.0.0", seed: int = 0) -> LoadedModel:
    folder = store.incoming
    model = linear_model(folder / "m.onnx", features=FEATURES, seed=seed)
    make_package(folder / f"{version}.edgepkg", model, name="m", version=version, pre=TensorPre(), post=ClassifyPost())
    return LoadedModel(store.install(folder / f"{version}.edgepkg"))


def pipeline(
    model: LoadedModel, results: Results, source: SourceConfig | None = None, *, until_end: bool = True
) -> Pipeline:
    config = PipelineConfig(name="p", source=source or TensorsSource(path="scripted"), model="m")
    return Pipeline(config, model, results.append, until_end=until_end)


def use(monkeypatch: pytest.MonkeyPatch, *sources: Scripted | EdgeInferError) -> None:
    """Have the next calls to open a source give these; the last one again and again."""
    left = list(sources)

    def open_(_: SourceConfig, __: threading.Event, ___: Sequence[str]) -> Scripted:
        found = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(found, EdgeInferError):
            raise found
        return found

    monkeypatch.setattr("edgeinfer.runtime.pipeline.open_source", open_)


def row(value: float = 1.0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.full(FEATURES, value, dtype=np.float32)


def assert_exact(made: Pipeline, results: Results) -> None:
    """At the end: captured = the sum of all states = what the reports say, and one result a frame inferred."""
    totals = made.counts.totals()
    assert sum(totals.values()) == made.counts.captured
    assert results.frames() == {state: count for state, count in totals.items() if count}
    assert len(results.of(Kind.CLASSIFICATION)) == totals["inferred"] == made.status.results


@pytest.mark.parametrize("count", [1, 2, 3, 4, 50])
def test_recorded_input_is_inferred_whole_and_in_order(store: Store, tmp_path: Path, count: int) -> None:
    """Short ones too: they have ended before the inference thread looks for the first time."""
    model = load(store)
    path = tmp_path / "x.npz"
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(count, FEATURES)).astype(np.float32)
    np.savez(path, x=rows)
    expected = [int(np.argmax(model.engines[0].run([one[None]])[0])) for one in rows]
    for _ in range(5):
        results = Results()
        made = pipeline(load(store), results, TensorsSource(path=str(path)))
        made.start()
        wait_until(lambda made=made: made.ended)  # type: ignore[misc]  # bound in the loop on purpose
        made.stop()
        assert made.counts.totals()["inferred"] == count
        assert_exact(made, results)
        found = results.of(Kind.CLASSIFICATION)
        assert [result.frame for result in found] == list(range(count))
        assert [result.items[0].label for result in found] == expected
        assert made.failed is None
        assert made.status.source == "ended"


def test_a_source_with_nothing_in_it_ends(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Scripted(iter([]))
    use(monkeypatch, source)
    results = Results()
    made = pipeline(load(store), results)
    made.start()
    wait_until(lambda: made.ended)
    made.stop()
    assert made.counts.captured == 0
    assert results.all == []
    assert source.closed


def test_frames_that_do_not_fit_are_failed_and_the_others_go_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Scripted(iter([row(), np.zeros(3), row(), np.array(["x"] * FEATURES), row(), None])))
    results = Results()
    made = pipeline(load(store), results)
    made.start()
    wait_until(lambda: made.ended)
    made.stop()
    assert made.counts.totals()["failed"] == 2
    assert made.counts.totals()["inferred"] == 3
    assert_exact(made, results)
    assert [result.frame for result in results.of(Kind.CLASSIFICATION)] == [0, 2, 4]
    assert made.status.error == "", "the last frame was good"


@pytest.mark.parametrize("error", [ModelError("broken"), ValueError("unexpected")])
def test_an_engine_that_fails_costs_its_frames_only(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    model = load(store)
    run = model.run
    calls = 0

    def sometimes(prepared: Prepared, engine: int = 0) -> Ran:
        nonlocal calls
        calls += 1
        if calls in {2, 3, 4}:
            raise error
        return run(prepared, engine)

    monkeypatch.setattr(model, "run", sometimes)
    failures: list[int] = []
    use(monkeypatch, Scripted(iter([row()] * 4 + [None])))
    results = Results()
    made = pipeline(model, results)
    made.start()
    wait_until(lambda: made.ended)
    made.stop()
    failures.append(made.consecutive_failures)
    assert made.counts.totals()["failed"] == 3
    assert_exact(made, results)
    assert failures == [3]
    assert str(error) in made.status.error


def test_of_a_live_source_the_latest_frame_wins(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(store)
    run, go_on = model.run, threading.Event()

    def slow(prepared: Prepared, engine: int = 0) -> Ran:
        go_on.wait(60)
        return run(prepared, engine)

    monkeypatch.setattr(model, "run", slow)
    use(monkeypatch, Scripted(iter([row()] * 100), live=True, pause_s=0.001))
    results = Results()
    made = pipeline(model, results)
    made.start()
    wait_until(lambda: made.counts.captured == 100)
    wait_until(lambda: made.status.source == "ended")
    go_on.set()
    wait_until(lambda: made.ended)
    made.stop()
    totals = made.counts.totals()
    assert totals["superseded"] == 98, "one was in the engine, and the last one waited"
    assert [result.frame for result in results.of(Kind.CLASSIFICATION)][-1] == 99
    assert_exact(made, results)


def test_at_every_moment_no_more_than_the_queue_is_in_flight(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Scripted(iter([row()] * 400)))
    results = Results()
    made = pipeline(load(store), results)
    made.start()
    while not made.ended:
        ended = sum(made.counts.totals().values())
        captured = made.counts.captured
        later = sum(made.counts.totals().values())
        assert ended <= captured <= later + 35, "thirty-two queued, one in each thread, one just taken"
    made.stop()
    assert made.counts.captured == 400
    assert_exact(made, results)


def test_a_stop_is_quick_and_counts_what_was_left(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(store)
    run = model.run

    def slow(prepared: Prepared, engine: int = 0) -> Ran:
        threading.Event().wait(0.5)
        return run(prepared, engine)

    monkeypatch.setattr(model, "run", slow)
    use(monkeypatch, Scripted(iter([row()] * 100)))
    results = Results()
    made = pipeline(model, results)
    made.start()
    wait_until(lambda: made.counts.captured >= 4)
    began = time.monotonic()
    made.stop()
    assert time.monotonic() - began < 20, "all of them would take 50 s"
    assert made.counts.totals()["stale"] >= 3
    assert_exact(made, results)


def test_a_stop_does_not_wait_for_a_source_that_hangs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Scripted(iter([row()] * 100), pause_s=60)
    use(monkeypatch, source)
    made = pipeline(load(store), Results())
    made.start()
    wait_until(lambda: made.status.source == "waiting")
    began = time.monotonic()
    made.stop()
    assert time.monotonic() - began < 20
    source._pause.set()


def test_a_swap_in_mid_stream_loses_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = load(store), load(store, version="2.0.0", seed=1)
    use(monkeypatch, Scripted(iter([row()] * 2000), pause_s=0.0005))
    results = Results()
    made = pipeline(first, results)
    made.start()
    for model in (second, first, second):
        reached = made.status.results + 200
        wait_until(lambda reached=reached: made.status.results >= reached, timeout_s=60)  # type: ignore[misc]  # as above
        made.swap(model)
    wait_until(lambda: made.ended, timeout_s=120)
    made.stop()
    assert made.counts.totals()["inferred"] == 2000
    assert_exact(made, results)
    assert [result.frame for result in results.of(Kind.CLASSIFICATION)] == list(range(2000))
    swaps = [(swap.extra or {}) for swap in results.of(Kind.SWAP)]
    assert [(swap["from"], swap["to"]) for swap in swaps] == [
        ("1.0.0", "2.0.0"),
        ("2.0.0", "1.0.0"),
        ("1.0.0", "2.0.0"),
    ]
    assert all(0 <= float(swap["gap_ms"]) < 60_000 for swap in swaps)


class TestSourcesThatFail:
    @pytest.fixture(autouse=True)
    def short_waits(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """The waits that were asked for, in units of the first one; they pass at once."""
        waits: list[float] = []

        class Recorded:
            def __init__(self) -> None:
                self._tries = 0

            def next(self) -> float:
                self._tries += 1
                waits.append(self._tries)
                return 0.001

            def reset(self) -> None:
                self._tries = 0

        monkeypatch.setattr("edgeinfer.runtime.pipeline.Backoff", Recorded)
        return waits

    def test_a_camera_that_is_not_there_is_tried_again(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, short_waits: list[float]
    ) -> None:
        absent = SourceError("no camera")
        use(
            monkeypatch, absent, absent, absent, Scripted(iter([row(), row(), SourceError("cable")]), live=True), absent
        )
        results = Results()
        made = pipeline(load(store), results, HostSource())
        made.start()
        wait_until(lambda: len(short_waits) > 6)
        made.stop()
        assert short_waits[:6] == [1, 2, 3, 1, 2, 3], "waits grow, and begin anew after a success"
        assert made.counts.captured == 2
        assert made.status.error == "no camera"
        assert not made.ended or made.failed is None
        assert_exact(made, results)

    def test_a_recorded_source_that_fails_ends_a_run_until_the_end(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        use(monkeypatch, Scripted(iter([row(), SourceError("line 3 is no CSV")])))
        results = Results()
        made = pipeline(load(store), results)
        made.start()
        wait_until(lambda: made.ended)
        made.stop()
        assert str(made.failed) == "line 3 is no CSV"
        assert made.counts.totals()["inferred"] == 1
        assert_exact(made, results)

    def test_a_recorded_source_that_fails_halfway_is_not_read_over_and_over(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, short_waits: list[float]
    ) -> None:
        use(monkeypatch, *[Scripted(iter([row(), SourceError("line 3")])) for _ in range(5)], SourceError("x"))
        made = pipeline(load(store), Results(), until_end=False)
        made.start()
        wait_until(lambda: len(short_waits) > 5)
        made.stop()
        assert short_waits[:5] == [1, 2, 3, 4, 5], "waits grow although frames came"

    def test_a_source_that_crashes_is_waited_out_too(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, short_waits: list[float]
    ) -> None:
        crashing = Scripted(iter([row(), RuntimeError("driver")]), live=True)
        use(monkeypatch, crashing, Scripted(iter([row(), None]), live=True))
        results = Results()
        made = pipeline(load(store), results, HostSource())
        made.start()
        wait_until(lambda: made.ended)
        made.stop()
        assert made.counts.captured == 2
        assert crashing.closed
        assert len(short_waits) == 1
        assert_exact(made, results)
