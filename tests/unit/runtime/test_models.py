"""Models that pipelines share: one copy, within a budget, loaded again when they are needed."""

import gc
import math
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from awkward_models import awkward, awkward_model
from edgeinfer.runtime.engine_settings import EngineConfig, ModelsConfig
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import DependencyError, ModelError
from edgeinfer.runtime.models import ModelPool, SharedEngine
from edgeinfer.runtime.revival import Revival
from edgeinfer.runtime.turns import Turns
from packages import linear_model
from waiting import wait_until

FEATURES = 8
ROW = [np.ones((1, FEATURES), dtype=np.float32)]


@pytest.fixture
def known_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are as large as their files: what loading one takes in this process is an estimate."""
    monkeypatch.setattr(SharedEngine, "_measure", lambda _: None)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return linear_model(tmp_path / "m.onnx", features=FEATURES)


class TestSharing:
    def test_the_same_file_is_loaded_once(self, model: Path) -> None:
        pool = ModelPool()
        first, second = pool.share("onnx", model), pool.share("onnx", model)
        assert first is second
        assert pool.all() == [first]

    def test_other_threads_and_processes_are_other_engines(self, model: Path) -> None:
        pool = ModelPool()
        engines = [
            pool.share("onnx", model),
            pool.share("onnx", model, threads=2),
            pool.share("onnx", model, config=EngineConfig(isolate=True)),
        ]
        assert len({id(engine) for engine in engines}) == len(pool.all()) == 3
        outputs = [engine.run(ROW)[0] for engine in engines]
        assert all(np.array_equal(output, outputs[0]) for output in outputs)

    def test_it_has_the_contract_of_an_engine(self, model: Path) -> None:
        shared = ModelPool().share("onnx", model)
        assert (shared.name, shared.loaded, shared.restarts, shared.busy_since_s) == ("onnx", True, 0, 0.0)
        assert shared.version
        assert shared.inputs[0].shape == (-1, FEATURES)
        assert shared.run(ROW)[0].shape == (1, 3)
        assert not shared.interrupt(), "no call is under way"
        with pytest.raises(ModelError):
            shared.run([])
        assert shared.run(ROW)[0].shape == (1, 3)

    def test_it_is_gone_with_its_last_user(self, model: Path) -> None:
        pool = ModelPool()
        shared = pool.share("onnx", model)
        shared.run(ROW)
        del shared
        gc.collect()
        assert pool.all() == []
        assert pool.loaded_bytes() == 0

    @pytest.mark.parametrize("isolate", [False, True])
    def test_what_cannot_be_loaded_leaves_nothing_behind(self, tmp_path: Path, model: Path, isolate: bool) -> None:
        pool = ModelPool()
        (tmp_path / "bad.onnx").write_bytes(b"no model")
        config = EngineConfig(isolate=isolate)
        for name, path, error in (
            ("onnx", tmp_path / "bad.onnx", ModelError),
            ("onnx", tmp_path / "none.onnx", ModelError),
            ("abacus", model, DependencyError),
        ):
            with pytest.raises(error):
                pool.share(name, path, config=config)
        gc.collect()
        assert pool.all() == []
        assert pool.tend(time.monotonic()) == []

    def test_two_that_come_at_once_share(self, model: Path) -> None:
        pool, found = ModelPool(), []
        gate = threading.Barrier(8)

        def ask() -> None:
            gate.wait()
            found.append(pool.share("onnx", model))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({id(engine) for engine in found}) == 1

    def test_what_any_pipeline_sets_counts(self, model: Path) -> None:
        pool = ModelPool()
        shared = pool.share("onnx", model, config=EngineConfig(timeout_s=2.0, pinned=True))
        pool.share("onnx", model)
        assert shared.config == EngineConfig(timeout_s=2.0, pinned=True)
        pool.share("onnx", model, config=EngineConfig(timeout_s=3.0, idle_unload_s=9.0))
        assert shared.config == EngineConfig(timeout_s=3.0, idle_unload_s=9.0, pinned=True)

    def test_what_a_user_has_set_goes_with_it(self, model: Path) -> None:
        class User:
            pass

        pool, first, second = ModelPool(), User(), User()
        shared = pool.share("onnx", model, config=EngineConfig(timeout_s=0.05, pinned=True))
        shared.configure(EngineConfig(timeout_s=0.05, idle_unload_s=1.0, pinned=True), user=first)
        shared.configure(EngineConfig(timeout_s=2.0), user=second)
        assert shared.config == EngineConfig(timeout_s=2.0, idle_unload_s=1.0, pinned=True), "the largest counts"
        shared.configure(EngineConfig(idle_unload_s=3.0), user=second)
        assert shared.config == EngineConfig(timeout_s=0.05, idle_unload_s=3.0, pinned=True)
        pool.release(first)
        assert shared.config == EngineConfig(idle_unload_s=3.0)
        shared.configure(EngineConfig(pinned=True), user=first)
        del first
        gc.collect()
        assert shared.config == EngineConfig(idle_unload_s=3.0), "nobody has to say so"
        assert pool.share("onnx", model, config=EngineConfig()) is shared
        assert shared.config == EngineConfig(idle_unload_s=3.0)
        shared.configure(EngineConfig(), user=second)
        assert shared.config == EngineConfig(), "taken back"

    def test_one_that_is_at_work_is_shared_at_once(self, model: Path) -> None:
        pool = ModelPool()
        shared = pool.share("onnx", model)
        token = shared._turns.try_take()
        assert token is not None
        found: list[SharedEngine] = []
        thread = threading.Thread(target=lambda: found.append(pool.share("onnx", model)))
        thread.start()
        thread.join(60)
        assert found == [shared]
        token.release()
        thread.join()


class TestUnloading:
    def test_an_idle_model_is_unloaded_and_comes_back_with_the_next_frame(self, model: Path) -> None:
        pool = ModelPool()
        shared = pool.share("onnx", model, config=EngineConfig(idle_unload_s=5.0))
        before = shared.run(ROW)[0]
        now_s = time.monotonic()
        assert pool.tend(now_s + 1) == []
        (incident,) = pool.tend(now_s + 6)
        assert (incident.what, incident.engine) == ("unloaded", shared.label)
        assert not shared.loaded
        assert pool.loaded_bytes() == 0
        assert pool.tend(now_s + 60) == [], "once is enough"
        assert np.array_equal(shared.run(ROW)[0], before)
        assert pool.loaded_bytes() > 0
        assert shared.restarts == 0, "that is no fault of its"

    def test_by_default_an_idle_model_stays(self, model: Path) -> None:
        pool = ModelPool()
        shared = pool.share("onnx", model)
        assert pool.tend(time.monotonic() + 1e6) == []
        assert shared.loaded

    @pytest.mark.usefixtures("known_sizes")
    def test_over_the_budget_the_least_recently_used_goes(self, tmp_path: Path) -> None:
        """The budget has room for two of three, of 4 MB each."""
        pool = ModelPool(ModelsConfig(budget_mb=11))
        shared = [_heavy(pool, tmp_path, number) for number in range(2)]
        _use(shared[1])
        _use(shared[0])
        shared.append(_heavy(pool, tmp_path, 2))
        assert [engine.loaded for engine in shared] == [True, False, True]
        assert pool.loaded_bytes() <= 11 << 20
        _use(shared[1])
        assert [engine.loaded for engine in shared] == [False, True, True]
        assert {incident.what for incident in pool.tend(time.monotonic())} == {"unloaded"}

    @pytest.mark.usefixtures("known_sizes")
    def test_models_that_take_turns_in_memory_are_told_of_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("edgeinfer.runtime.models._TAKES_TURNS_S", math.inf)  # however slow the machine is
        pool = ModelPool(ModelsConfig(budget_mb=11))
        shared = [_heavy(pool, tmp_path, number) for number in range(3)]
        assert not [one for one in caplog.messages if "event=models_over_budget" in one], "each had to go once at most"
        for _ in range(2):
            for engine in shared:
                _use(engine)
        (told,) = [one for one in caplog.messages if "event=models_over_budget" in one]
        assert "budget_mb=11 needed_mb=1" in told, "three of 4 MB each"

    @pytest.mark.usefixtures("known_sizes")
    def test_what_happens_several_times_a_second_is_told_now_and_then(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edgeinfer.runtime.models._TELL_AGAIN_S", math.inf)  # however slow the machine is
        pool = ModelPool(ModelsConfig(budget_mb=11))
        shared = [_heavy(pool, tmp_path, number) for number in range(3)]
        for _ in range(3):
            for engine in shared:
                _use(engine)
        told = pool.tend(time.monotonic())
        assert sorted(incident.engine for incident in told) == sorted(engine.label for engine in shared)
        assert {incident.reason for incident in told} == {"another model needs the memory"}
        monkeypatch.setattr("edgeinfer.runtime.models._TELL_AGAIN_S", 0.0)
        _use(shared[0])
        (incident,) = pool.tend(time.monotonic())
        assert incident.reason == "another model needs the memory, 2 more times since this was said"

    def test_a_pinned_one_stays_whatever_the_budget(self, tmp_path: Path) -> None:
        pool = ModelPool(ModelsConfig(budget_mb=1))
        pinned = _heavy(pool, tmp_path, 0, EngineConfig(pinned=True))
        other = _heavy(pool, tmp_path, 1)
        pool.tend(time.monotonic())
        assert pinned.loaded
        assert not other.loaded, "between frames, it is over the budget"
        _use(other)

    def test_a_model_at_work_is_not_unloaded(self, tmp_path: Path) -> None:
        pool = ModelPool(ModelsConfig(budget_mb=1))
        shared = pool.share("onnx", awkward_model(tmp_path / "a.onnx"), config=EngineConfig(idle_unload_s=1e-3))
        failures: list[str] = []

        def call() -> None:
            with pytest.raises(ModelError) as caught:
                shared.run(awkward(hang=True))
            failures.append(str(caught.value))

        thread = threading.Thread(target=call)
        thread.start()
        wait_until(lambda: shared.busy_since_s > 0)
        assert pool.tend(time.monotonic() + 1) == []
        shared.close()
        assert shared.loaded
        assert shared.interrupt()
        thread.join(60)
        assert len(failures) == 1

    def test_a_model_whose_file_is_gone_fails_its_frames_until_it_is_back(self, model: Path) -> None:
        pool = ModelPool()
        shared = pool.share("onnx", model)
        content = model.read_bytes()
        shared.close()
        model.unlink()
        with pytest.raises(ModelError, match="no such model"):
            shared.run(ROW)
        model.write_bytes(content)
        assert shared.run(ROW)[0].shape == (1, 3)
        assert [incident.what for incident in pool.tend(time.monotonic())] == ["restarted"]

    def test_another_model_in_its_place_is_refused(self, tmp_path: Path, model: Path) -> None:
        shared = ModelPool().share("onnx", model)
        shared.close()
        model.write_bytes(linear_model(tmp_path / "other.onnx", features=FEATURES + 1).read_bytes())
        with pytest.raises(ModelError, match="expected the model that it was"):
            shared.run(ROW)


@pytest.mark.usefixtures("known_sizes")
def test_many_threads_get_right_results_while_models_come_and_go(tmp_path: Path) -> None:
    """Three models in a budget for two, ten threads, and a caretaker: every answer is the right one."""
    pool = ModelPool(ModelsConfig(budget_mb=11))
    shared = [_heavy(pool, tmp_path, number) for number in range(3)]
    wrong: list[object] = []
    stop = threading.Event()

    def hammer(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(15):
            number = int(rng.integers(3))
            row = rng.normal(size=(1, 1024)).astype(np.float32)
            output = shared[number].run([row])[0]
            if not np.allclose(output, _expected(number, row), atol=1e-4):
                wrong.append((number, output))

    def tend() -> None:
        while not stop.wait(0.01):
            pool.tend(time.monotonic())

    caretaker = threading.Thread(target=tend)
    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(10)]
    for thread in (caretaker, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    caretaker.join()
    assert wrong == []
    pool.tend(time.monotonic())
    assert pool.loaded_bytes() <= 11 << 20
    assert all(engine.restarts == 0 for engine in shared)


def _heavy(pool: ModelPool, folder: Path, number: int, config: EngineConfig = EngineConfig()) -> SharedEngine:  # noqa: B008 - frozen
    """A model of 4 MB: softmax(x W), W (1024, 1024)."""
    return pool.share(
        "onnx", linear_model(folder / f"{number}.onnx", features=1024, classes=1024, seed=number), config=config
    )


def _use(shared: SharedEngine) -> None:
    shared.run([np.ones((1, 1024), dtype=np.float32)])


def _expected(number: int, row: Array) -> Array:
    weights = np.random.default_rng(number).normal(size=(1024, 1024)).astype(np.float32)
    logits = row @ weights
    powers: Array = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())


class TestTurns:
    def test_one_at_a_time(self) -> None:
        turns, inside, most = Turns(), [0], [0]

        def work() -> None:
            for _ in range(500):
                token = turns.take()
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1
                token.release()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most == [1]

    def test_one_that_is_left_behind_holds_nobody_up(self) -> None:
        turns = Turns()
        stuck = turns.take()
        assert turns.try_take() is None
        got: list[bool] = []

        def wait() -> None:
            token = turns.take()
            got.append(turns.is_current(token))
            token.release()

        thread = threading.Thread(target=wait)
        thread.start()
        turns.leave_behind()
        thread.join(60)
        assert got == [True]
        assert not turns.is_current(stuck)
        stuck.release()
        token = turns.try_take()
        assert token is not None
        assert turns.is_current(token)


class TestRevival:
    def test_the_first_crash_costs_no_wait(self) -> None:
        revival = Revival()
        revival.crashed("why", 100.0)
        assert revival.wait_s(100.0) <= 0
        assert revival.came_back() == "why"
        assert revival.came_back() == ""

    def test_after_a_good_while_it_is_the_first_again(self) -> None:
        revival = Revival()
        for moment in (100.0, 101.0, 102.0):
            revival.crashed("why", moment)
        assert revival.wait_s(102.0) > 0
        revival.crashed("why", 300.0)
        assert revival.wait_s(300.0) <= 0

    @given(st.lists(st.floats(0, 30), min_size=1, max_size=50))
    def test_the_wait_is_never_longer_than_a_minute(self, gaps: list[float]) -> None:
        revival, now_s = Revival(), 0.0
        for gap in gaps:
            now_s += gap
            revival.crashed("why", now_s)
            assert revival.wait_s(now_s) <= 60
