"""Engines that hang, crash, raise or leak: the frame is lost, and nothing else."""

import functools
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import numpy as np
import psutil
import pytest

from awkward_models import awkward, awkward_model, countdown_model, stubborn_model
from edgeinfer.runtime.engine_settings import EngineConfig
from edgeinfer.runtime.engines import load_engine
from edgeinfer.runtime.engines.isolated import IsolatedEngine
from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.memory import resident_bytes
from edgeinfer.runtime.models import EngineIncident, ModelPool, SharedEngine
from edgeinfer.runtime.turns import Turns
from packages import linear_model
from waiting import wait_until

_FOR_EVER = np.array([np.inf], dtype=np.float32)
_SECONDS = np.array([1.6e7], dtype=np.float32)  # the most that steps of one can count
_AT_ONCE = np.array([7.0], dtype=np.float32)
# A call that takes no time does not take so long on a machine that has other things to do.
_TIMEOUT_S = 3.0


class TendedPool:
    """A pool whose daemon's main loop is running: ten times a second, and a little faster."""

    def __init__(self) -> None:
        self.pool = ModelPool()
        self.incidents: list[EngineIncident] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tend)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _tend(self) -> None:
        while not self._stop.wait(0.05):
            self.incidents += self.pool.tend(time.monotonic())

    def share(self, name: str, path: Path, **config: float) -> SharedEngine:
        return self.pool.share(name, path, config=EngineConfig(**config))  # type: ignore[arg-type]  # checked by msgspec

    def what(self) -> list[str]:
        return [incident.what for incident in self.incidents]

    def wait_for(self, *what: str) -> None:
        wait_until(lambda: self.what() == list(what), what=f"{what}, found {self.what()}")


@pytest.fixture(autouse=True)
def clean_slate() -> None:
    """What an earlier test held is gone, also what only an exception's traceback held."""
    gc.collect()
    _BEFORE.clear()
    _BEFORE.update(child.pid for child in psutil.Process().children())


_BEFORE: set[int] = set()


@pytest.fixture
def tended() -> Iterator[TendedPool]:
    with TendedPool() as pool:
        yield pool


class Call:
    """An engine's call in a thread of its own: what it gave, or raised."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.outcome: object = None
        self._call = call
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.outcome = self._call()
        except ModelError as error:
            self.outcome = error

    def wait(self, timeout_s: float = 120) -> object:
        self.thread.join(timeout_s)
        assert not self.thread.is_alive()
        return self.outcome


class TestHanging:
    def test_a_loop_is_ended_and_the_engine_goes_on(self, tmp_path: Path, tended: TendedPool) -> None:
        engine = tended.share("onnx", awkward_model(tmp_path / "m.onnx"), timeout_s=_TIMEOUT_S)
        for _ in range(2):
            with pytest.raises(ModelError, match=r"took longer than 3 s"):
                engine.run(awkward(hang=True))
            assert engine.run(awkward(3))[0] == 6
        tended.wait_for("terminated", "terminated")
        assert not engine.isolated
        assert engine.restarts == 0

    def test_who_waits_for_a_stuck_engine_goes_on(self, tmp_path: Path, tended: TendedPool) -> None:
        engine = tended.share("onnx", awkward_model(tmp_path / "m.onnx"), timeout_s=_TIMEOUT_S)
        stuck = Call(lambda: engine.run(awkward(hang=True)))
        wait_until(lambda: engine.busy_since_s > 0)
        others = [Call(lambda number=number: engine.run(awkward(number))[0].item()) for number in range(5)]  # type: ignore[misc]  # bound in the loop
        assert [other.wait() for other in others] == [0, 2, 4, 6, 8]
        assert isinstance(stuck.wait(), ModelError)

    def test_an_isolated_one_is_killed_and_started_again(self, tmp_path: Path, tended: TendedPool) -> None:
        engine = tended.share("onnx", awkward_model(tmp_path / "m.onnx"), timeout_s=_TIMEOUT_S, isolate=True)
        with pytest.raises(ModelError, match=r"took longer than 3 s"):
            engine.run(awkward(hang=True))
        assert engine.run(awkward(3))[0] == 6
        tended.wait_for("terminated", "restarted")
        assert engine.restarts == 1
        assert _children() == [_pid(engine)]

    def test_one_that_cannot_be_ended_is_given_up_and_replaced(self, tmp_path: Path, tended: TendedPool) -> None:
        """LiteRT, in this process: the thread is lost, the model is not."""
        engine = tended.share("litert", countdown_model(tmp_path / "m.tflite"), timeout_s=1.0)
        stuck = Call(lambda: engine.run([_SECONDS]))
        wait_until(lambda: engine.busy_since_s > 0)
        waiting = Call(lambda: float(engine.run([_AT_ONCE])[0][0]))
        assert waiting.wait() == 7
        assert tended.incidents[0].what == "abandoned"
        assert tended.incidents[0].thread == stuck.thread.ident
        tended.wait_for("abandoned", "restarted")
        assert engine.isolated
        assert engine.quarantined
        # The call comes back one day, and breaks nothing.
        assert "given up" in str(stuck.wait(280))
        assert engine.run([_AT_ONCE])[0] == 7
        with pytest.raises(ModelError, match="took longer"):
            engine.run([_FOR_EVER])
        assert engine.run([_AT_ONCE])[0] == 7
        tended.wait_for("abandoned", "restarted", "terminated", "restarted")

    def test_once_hung_it_is_isolated_for_who_comes_later(self, tmp_path: Path, tended: TendedPool) -> None:
        path = countdown_model(tmp_path / "m.tflite")
        engine = tended.share("litert", path, timeout_s=1.0)
        stuck = Call(functools.partial(engine.run, [_SECONDS]))
        wait_until(lambda: tended.what() == ["abandoned"])
        del engine
        stuck.wait(280)
        del stuck
        gc.collect()
        assert tended.pool.all() == []
        assert tended.share("litert", path).isolated

    def test_a_node_that_does_not_obey_is_given_up(
        self, tmp_path: Path, tended: TendedPool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edgeinfer.runtime.shared_engine._GRACE_S", 0.2)
        engine = tended.share("onnx", stubborn_model(tmp_path / "m.onnx"), timeout_s=_TIMEOUT_S)
        stuck = Call(lambda: engine.run([np.array([[250_000.0]], np.float32)]))
        tended.wait_for("terminated", "abandoned")
        assert engine.run([np.array([[20.0]], np.float32)])[0][0, 0] == 10
        assert "given up" in str(stuck.wait(280))

    def test_a_quarantined_process_that_nobody_uses_is_ended(self, tmp_path: Path) -> None:
        pool = ModelPool()
        engine = pool.share("litert", countdown_model(tmp_path / "m.tflite"), config=EngineConfig(timeout_s=0.1))
        stuck = Call(lambda: engine.run([_SECONDS]))
        wait_until(lambda: engine.busy_since_s > 0)
        assert [incident.what for incident in pool.tend(time.monotonic() + 1)] == ["abandoned"]
        engine.run([_AT_ONCE])
        assert len(_children()) == 1
        assert "unloaded" in {incident.what for incident in pool.tend(time.monotonic() + 61)}
        assert _children() == []
        stuck.wait(280)


class TestCrashing:
    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
    def test_a_child_that_dies_in_mid_call_costs_that_frame(
        self, tmp_path: Path, tended: TendedPool, how: signal.Signals
    ) -> None:
        engine = tended.share("onnx", awkward_model(tmp_path / "m.onnx"), isolate=True)
        hanging = Call(lambda: engine.run(awkward(hang=True)))
        wait_until(lambda: engine.busy_since_s > 0)
        os.kill(_pid(engine), how)
        assert how.name in str(hanging.wait())
        assert engine.run(awkward(3))[0] == 6
        tended.wait_for("restarted")
        assert how.name in tended.incidents[0].reason
        assert engine.restarts == 1

    def test_a_child_that_dies_between_two_calls_costs_nothing(self, tmp_path: Path, tended: TendedPool) -> None:
        engine = tended.share("onnx", awkward_model(tmp_path / "m.onnx"), isolate=True)
        os.kill(_pid(engine), signal.SIGKILL)
        wait_until(lambda: not engine.loaded)
        assert _children() == [], "no zombie"
        assert engine.run(awkward(3))[0] == 6
        tended.wait_for("restarted")

    def test_one_that_crashes_again_and_again_is_started_less_and_less_often(
        self, tmp_path: Path, tended: TendedPool
    ) -> None:
        engine = tended.share("onnx", awkward_model(tmp_path / "m.onnx"), isolate=True)
        wait_s: list[float] = []
        while not wait_s or wait_s[-1] <= 1:
            assert len(wait_s) < 10
            os.kill(_pid(engine), signal.SIGKILL)
            wait_until(lambda: engine._revival.reason != "")
            wait_s.append(engine._revival.wait_s(time.monotonic()))
            if wait_s[-1] <= 1:
                engine.run(awkward(3))
        with pytest.raises(ModelError, match=r"started again in \d+ s"):
            engine.run(awkward(3))
        assert _children() == []

    def test_an_engine_that_raises_is_used_again(self, tmp_path: Path, tended: TendedPool) -> None:
        for isolate in (False, True):
            engine = tended.share("onnx", awkward_model(tmp_path / "m.onnx"), isolate=isolate)
            with pytest.raises(ModelError, match="out of data bounds"):
                engine.run(awkward(fail=True))
            assert engine.run(awkward(3))[0] == 6
            assert engine.restarts == 0
        assert tended.what() == []

    def test_threads_files_and_memory_stay_the_same_over_restarts(
        self, tmp_path: Path, tended: TendedPool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edgeinfer.runtime.revival._HEALTHY_S", 0.0)  # the wait has a test of its own
        engine = tended.share("onnx", awkward_model(tmp_path / "m.onnx"), isolate=True)

        def crash(times: int) -> None:
            for _ in range(times):
                os.kill(_pid(engine), signal.SIGKILL)
                wait_until(lambda: not engine.loaded)
                assert engine.run(awkward(3))[0] == 6

        crash(5)
        before = _belongings()
        resident = resident_bytes()
        crash(15)
        wait_until(lambda: _belongings() == before, what="threads and files of the last one to be gone")
        assert resident_bytes() - resident < 2 << 20
        assert len(_children()) == 1


class TestLeaking:
    def test_a_child_over_its_limit_is_started_again_between_two_calls(
        self, tmp_path: Path, tended: TendedPool
    ) -> None:
        engine = tended.share("onnx", awkward_model(tmp_path / "m.onnx"), isolate=True, max_mb=250)
        most = 0
        for megabytes in range(0, 1200, 20):  # what it has taken before is not enough for the next one
            assert engine.run(awkward(3, megabytes=megabytes % 240))[0] == 6
            most = max(most, resident_bytes(_pid(engine)))
            if "over_memory" in tended.what() and engine.restarts:
                break
        assert engine.restarts >= 1
        assert most < 500 << 20
        assert set(tended.what()) == {"over_memory"}
        assert "allowed are 250" in tended.incidents[0].reason

    def test_one_far_over_it_is_ended_in_mid_call(self, tmp_path: Path, tended: TendedPool) -> None:
        engine = tended.share("onnx", awkward_model(tmp_path / "m.onnx"), isolate=True, max_mb=100)
        with pytest.raises(ModelError, match="allowed are 100"):
            engine.run(awkward(megabytes=400, hang=True))
        assert engine.run(awkward(3))[0] == 6
        tended.wait_for("over_memory", "restarted")

    def test_a_limit_without_a_process_is_refused(self) -> None:
        with pytest.raises(ValueError, match="needs isolate = true"):
            EngineConfig(max_mb=100)


class TestNothingIsLeft:
    def test_a_closed_engine_leaves_no_process_and_no_file(self, tmp_path: Path) -> None:
        path = linear_model(tmp_path / "m.onnx")
        before = _belongings()
        for _ in range(3):
            engine = load_engine("onnx", path, isolate=True)
            engine.close()
            engine.close()
            with pytest.raises(ModelError):
                engine.run([np.ones((1, 8), np.float32)])
        dropped = load_engine("onnx", path, isolate=True)
        dropped.run([np.ones((1, 8), np.float32)])
        del dropped, engine
        gc.collect()
        assert _children() == []
        assert _belongings() == before

    def test_a_child_dies_with_a_parent_that_was_killed_even_in_mid_call(self, tmp_path: Path) -> None:
        path = awkward_model(tmp_path / "m.onnx")
        shared_memory = set(os.listdir("/dev/shm"))  # noqa: PTH208 - names only
        script = (
            "import sys, threading\nfrom pathlib import Path\nimport numpy as np\n"
            "from edgeinfer.runtime.engines import load_engine\n"
            f"engine = load_engine('onnx', Path({str(path)!r}), isolate=True)\n"
            "print(engine.pid, flush=True)\n"
            "engine.run([np.array([[1, 1, 0, 0]], np.float32)])\n"
        )
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout is not None
            child = psutil.Process(int(parent.stdout.readline()))
            wait_until(lambda: child.cpu_times().user > 0.5, what="the loop to run")
            parent.kill()
            wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
        wait_until(lambda: set(os.listdir("/dev/shm")) <= shared_memory)  # noqa: PTH208 - as above

    def test_a_child_leaves_signals_for_the_service_to_its_parent(self, tmp_path: Path) -> None:
        engine = load_engine("onnx", awkward_model(tmp_path / "m.onnx"), isolate=True)
        assert isinstance(engine, IsolatedEngine)
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(engine.pid, number)
        assert engine.run(awkward(3))[0] == 6
        engine.close()


def test_turns_that_were_left_behind_are_not_waited_for() -> None:
    """Many holders one after the other, each stuck: whoever comes next always gets a turn."""
    turns = Turns()
    for _ in range(100):
        assert turns.is_current(turns.take())
        turns.leave_behind()


def _pid(engine: SharedEngine) -> int:
    assert engine._process is not None
    return engine._process.pid


def _children() -> list[int]:
    """Also those that have ended and that nobody has asked for."""
    return [child.pid for child in psutil.Process().children() if child.pid not in _BEFORE]


def _belongings() -> tuple[int, int]:
    """How many threads and open files this process has."""
    process = psutil.Process()
    return process.num_threads(), process.num_fds()
