"""The supervisor: it ends what is stuck, whoever else waits for it, and says when it cannot."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.devices.thermal import DeviceReadings
from edgeinfer.runtime import daemon as daemon_module
from edgeinfer.runtime import supervisor as supervisor_module
from edgeinfer.runtime.assembly import Surroundings
from edgeinfer.runtime.daemon import Daemon
from edgeinfer.runtime.engine_settings import EngineConfig, GovernorConfig
from edgeinfer.runtime.engines.base import Array, Engine
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.handoff import RuntimeDb
from edgeinfer.runtime.models import LOAD_S, EngineIncident, ModelPool
from edgeinfer.runtime.pipelines import PipelineSet
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.runtime.settings import PipelineConfig, RuntimeConfig
from edgeinfer.runtime.slots import Slots
from edgeinfer.runtime.sources.settings import TensorsSource
from edgeinfer.runtime.store import Store
from edgeinfer.runtime.supervisor import Supervisor
from packages import linear_model, make_package
from waiting import wait_until

FEATURES = 8


class Stuck:
    """An engine whose calls come to no end before `let_go`, and cannot be ended."""

    def __init__(self, real: Engine) -> None:
        self.name, self.version = real.name, real.version
        self.inputs, self.outputs = real.inputs, real.outputs
        self.let_go = threading.Event()
        self.called = threading.Event()

    def run(self, _inputs: object) -> list[Array]:
        self.called.set()
        self.let_go.wait(60)
        return [np.zeros((1, 3), np.float32)]

    def interrupt(self) -> bool:
        return False

    def close(self) -> None:
        pass


class Device:
    def __init__(self, folder: Path, governor: GovernorConfig | None = None) -> None:
        self._folder = folder
        state = folder / "state"
        self.config = RuntimeConfig(device="d", state_dir=str(state), governor=governor)
        store = Store(state)
        self._db = RuntimeDb(state / "runtime.db")
        self.pool = ModelPool()
        self.results: list[tuple[str, Result]] = []
        self.pipelines = PipelineSet(
            store=store,
            slots=Slots(self._db, store),
            append=lambda *_: None,
            around=Surroundings(state, self.config),
            pool=self.pool,
        )
        self.supervisor = Supervisor(self.config, pipelines=self.pipelines, pool=self.pool, append=self._append)
        linear_model(folder / "m.onnx", features=FEATURES)
        make_package(folder / "m.edgepkg", folder / "m.onnx", name="m")
        np.savez(folder / "x.npz", x=np.zeros((5000, FEATURES), np.float32))

    def _append(self, pipeline: str, result: Result) -> None:
        self.results.append((pipeline, result))

    def pipeline(self, name: str) -> PipelineConfig:
        source = TensorsSource(path=str(self._folder / "x.npz"))
        package = str(self._folder / "m.edgepkg")
        engine = EngineConfig(timeout_s=2.0)
        return PipelineConfig(name=name, source=source, package=package, max_fps=100, engine=engine)

    def get_stuck(self) -> Stuck:
        """The next call of the one engine."""
        (shared,) = self.pool.all()
        assert shared._engine is not None
        stuck = Stuck(shared._engine)
        shared._engine = stuck
        assert stuck.called.wait(60)
        return stuck

    def close(self) -> None:
        self.supervisor.stop(5)
        self.pipelines.stop()
        self._db.close()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path)
    yield made
    made.close()


def in_background(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_reload_that_waits_for_a_stuck_engine_goes_on_when_it_is_given_up(device: Device) -> None:
    device.pipelines.start([device.pipeline("a")])
    device.supervisor.start()
    stuck = device.get_stuck()
    reload = in_background(lambda: device.pipelines.apply([device.pipeline("a"), device.pipeline("b")]))
    reload.join(60)
    stuck.let_go.set()
    assert not reload.is_alive()
    assert {pipeline.config.name for pipeline in device.pipelines.all()} == {"a", "b"}
    wait_until(lambda: any((r.extra or {}).get("what") == "abandoned" for _, r in device.results))
    assert {result.kind for _, result in device.results} == {Kind.ENGINE}
    assert device.supervisor.healthy()


def test_what_is_raised_is_logged_and_it_goes_on(
    device: Device, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[float] = []

    def tend(now_s: float) -> list[EngineIncident]:
        calls.append(now_s)
        if len(calls) < 3:
            raise RuntimeError("a mistake")
        return []

    monkeypatch.setattr(device.pool, "tend", tend)
    device.supervisor.start()
    wait_until(lambda: len(calls) > 4)
    assert caplog.text.count("event=supervisor_crashed") == 2
    assert device.supervisor.healthy()


def test_without_its_thread_it_is_not_healthy(device: Device) -> None:
    assert not device.supervisor.healthy(), "it has not begun"
    device.supervisor.start()
    assert device.supervisor.healthy()
    device.supervisor.stop(10)
    assert not device.supervisor.healthy()


def test_a_thread_that_is_stuck_is_not_healthy_and_its_end_is_not_waited_for(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go, stuck = threading.Event(), threading.Event()

    def tend(_now_s: float) -> list[EngineIncident]:
        stuck.set()
        let_go.wait(60)
        return []

    monkeypatch.setattr(device.pool, "tend", tend)
    device.supervisor.start()
    assert stuck.wait(60)
    assert device.supervisor.healthy(), "not at once"
    device.supervisor._loops[0]._silent_s = 0.0  # in place of a long wait
    assert not device.supervisor.healthy()
    device.supervisor.stop(0.1)
    assert not let_go.is_set()
    let_go.set()


def test_a_governor_that_is_stuck_keeps_no_call_from_being_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "_GOVERN_INTERVAL_S", 0.01)
    device = Device(tmp_path, GovernorConfig())
    let_go, stuck = threading.Event(), threading.Event()

    def read(_now_s: float) -> DeviceReadings:
        stuck.set()
        let_go.wait(60)
        return DeviceReadings()

    assert device.supervisor.governing is not None
    device.supervisor.governing._read = read
    device.pipelines.start([device.pipeline("a")])
    device.supervisor.start()
    assert stuck.wait(60)
    engine = device.get_stuck()
    wait_until(lambda: device.pool.all()[0].quarantined)
    let_go.set()
    engine.let_go.set()
    device.close()


def test_a_model_may_take_its_time_to_load(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    device.supervisor.start()
    monkeypatch.setattr(device.pipelines, "stuck_s", lambda: LOAD_S + 50)
    assert device.supervisor.healthy()
    monkeypatch.setattr(device.pipelines, "stuck_s", lambda: LOAD_S + 70)
    assert not device.supervisor.healthy()


def test_a_result_that_has_no_place_is_given_up(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    def full(_pipeline: str, _result: Result) -> None:
        raise BufferStorageError("full")

    device.supervisor._append = full
    device.pipelines.start([device.pipeline("a")])
    label = device.pool.all()[0].label
    device.pool._incidents.append(EngineIncident(label, "terminated", "why"))
    device.supervisor.tick(time.monotonic())
    assert "event=incident_lost" in caplog.text


class Clock:
    """Time that passes when somebody sleeps, or works."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.time_ns = time.time_ns

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_the_watchdog_is_fed_by_the_clock_however_long_a_turn_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, fed_s = Clock(), [1000.0]
    config = RuntimeConfig(device="d", state_dir=str(tmp_path / "state"))
    daemon = Daemon(tmp_path / "edgeinfer.toml", config)

    def show(**_: object) -> None:
        clock.sleep(0.7)  # a slow disk
        if clock.now_s > 1060:
            daemon.ending = True

    def tell(state: str) -> None:
        assert state == "WATCHDOG=1"
        fed_s.append(clock.now_s)

    monkeypatch.setattr(daemon_module, "time", clock)
    monkeypatch.setattr(daemon_module, "watchdog_interval_s", lambda: 1.0)
    monkeypatch.setattr(daemon_module, "notify", tell)
    monkeypatch.setattr(daemon, "_publish_status", show)
    monkeypatch.setattr(daemon, "_describe_device", lambda: None)
    monkeypatch.setattr(daemon, "_forget_start", lambda: None)
    monkeypatch.setattr(daemon, "_reload", lambda: clock.sleep(5))
    monkeypatch.setattr(daemon._supervisor, "healthy", lambda: True)
    daemon._watch()
    assert max(np.diff(fed_s)) < 2.0
    daemon.ending, daemon.reload_wanted, before = False, True, clock.now_s
    fed_s.clear()
    daemon._watch()
    assert fed_s[0] == pytest.approx(before + 5.1), "at once after it"
    daemon.buffer.close()


@pytest.mark.parametrize("why", ["a signal", "it refuses"])
def test_a_run_until_its_end_does_not_wait_for_a_disk_that_hangs_at_any_price(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    clock = Clock()
    daemon = Daemon(tmp_path / "edgeinfer.toml", RuntimeConfig(device="d", state_dir=str(tmp_path / "state")))
    asked_s: list[float] = []

    def flush(timeout_s: float) -> bool:
        clock.sleep(timeout_s)
        asked_s.append(clock.now_s - 1000)
        if asked_s[-1] >= 30:
            daemon.ending = why == "a signal"
            daemon.buffer.error = "" if daemon.ending else "it refuses"
        return False

    monkeypatch.setattr(daemon_module, "time", clock)
    monkeypatch.setattr(daemon.buffer, "flush", flush)
    daemon._flush_unhurried()
    assert asked_s[-1] == pytest.approx(30)
    monkeypatch.undo()
    daemon.buffer.close()
