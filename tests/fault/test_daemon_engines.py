"""The daemon with engines that hang, crash or leak next to one that does not: one process, and no other frame lost."""

import functools
import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest

from awkward_models import awkward, awkward_model, countdown_model
from daemon_process import Daemon, configuration, results_of
from edgeinfer.runtime.posts import RegressPost
from edgeinfer.runtime.results import Kind, Result
from packages import EngineName, linear_model, make_package
from waiting import wait_until

_FRAMES = 30
_FAULTS = (10, 20)  # the frames of the bad pipeline that are asked to misbehave
_FPS = 20


def bad_pipeline(folder: Path, *, engine: EngineName = "onnx", extra: str = "", **fault: float) -> str:
    """Frames of which some do what `fault` says."""
    if engine == "onnx":
        model = awkward_model(folder / "bad.onnx")
        rows = [awkward(number, **(fault if number in _FAULTS else {}))[0][0] for number in range(_FRAMES)]  # type: ignore[arg-type]  # by name
    else:
        model = countdown_model(folder / "bad.tflite")
        rows = [np.array([np.inf if number in _FAULTS else number], np.float32) for number in range(_FRAMES)]
    make_package(folder / "bad.edgepkg", model, name="bad", engine=engine, post=RegressPost())
    np.savez(folder / "bad.npz", x=np.stack(rows))
    return (
        f'name = "bad"\npackage = "{folder}/bad.edgepkg"\nmax_fps = {_FPS}\n'
        f'source = {{ kind = "tensors", path = "{folder}/bad.npz" }}\n[pipeline.engine]\n{extra}\n'
    )


def good_pipeline(folder: Path) -> str:
    make_package(folder / "good.edgepkg", linear_model(folder / "good.onnx", features=8), name="good")
    np.savez(folder / "good.npz", x=np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32))
    return (
        f'name = "good"\npackage = "{folder}/good.edgepkg"\nmax_fps = {_FPS}\n'
        f'source = {{ kind = "tensors", path = "{folder}/good.npz", repeat = true }}\n'
    )


def ended(daemon: Daemon) -> bool:
    assert daemon.process.poll() is None, "\n".join(daemon.log)
    found = daemon.pipeline("bad")
    return found.get("source") == "ended" and sum(found["frames"].values()) == found["captured"]


def has_come_to(daemon: Daemon, frame: int) -> bool:
    """Whether every frame before this one has ended."""
    return bool(sum(daemon.pipeline("bad").get("frames", {}).values()) >= frame)


def wait_for_loop(process: psutil.Process) -> None:
    """Until it has computed for a while: between two frames it would not."""
    before_s = process.cpu_times().user
    wait_until(lambda: process.cpu_times().user > before_s + 0.2, what="the loop")


def stop(daemon: Daemon) -> None:
    """It is still the process that was started, and it leaves in good time, whatever is stuck in it."""
    assert daemon.process.poll() is None
    daemon.end()
    assert daemon.process.returncode == 0, "\n".join(daemon.log)
    assert not any("Traceback" in line for line in daemon.log), "\n".join(daemon.log)


def of_frames(results: list[Result]) -> list[Result]:
    return [result for result in results if result.kind in {Kind.CLASSIFICATION, Kind.REGRESSION}]


def assert_only_the_faults_are_lost(folder: Path) -> list[str]:
    """What was told of the engine, in order."""
    bad, good = results_of(folder, "bad"), results_of(folder, "good")
    assert [result.frame for result in of_frames(bad)] == [n for n in range(_FRAMES) if n not in _FAULTS]
    assert frames(bad) == {"inferred": _FRAMES - len(_FAULTS), "failed": len(_FAULTS)}
    assert set(frames(good)) <= {"inferred", "stale"}
    inferred = of_frames(good)
    assert [result.frame for result in inferred] == list(range(len(inferred)))
    # While the bad one was stuck, the good one went on.
    times = {result.frame: done_ns(result) for result in of_frames(bad)}
    for fault in _FAULTS:
        assert sum(times[fault - 1] < done_ns(result) < times[fault + 1] for result in inferred) >= 3
    return [str((result.extra or {})["what"]) for result in bad if result.kind is Kind.ENGINE]


def done_ns(result: Result) -> int:
    return result.t_ns + result.age_us * 1000


def frames(results: list[Result]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for result in results:
        for state, count in (result.extra or {}).items() if result.kind is Kind.FRAMES else ():
            totals[state] = totals.get(state, 0) + int(count)
    return totals


def test_a_loop_that_hangs_is_ended(tmp_path: Path) -> None:
    config = configuration(tmp_path, bad_pipeline(tmp_path, hang=True, extra="timeout_s = 3"), good_pipeline(tmp_path))
    with Daemon(tmp_path, config) as daemon:
        wait_until(lambda: ended(daemon))
        stop(daemon)
    assert assert_only_the_faults_are_lost(tmp_path) == ["terminated"] * 2


def test_a_call_that_cannot_be_ended_is_given_up(tmp_path: Path) -> None:
    """The first one costs a thread that never comes back; from then on the engine is a process, which can be ended."""
    pipeline = bad_pipeline(tmp_path, engine="litert", extra="timeout_s = 3")
    with Daemon(tmp_path, configuration(tmp_path, pipeline, good_pipeline(tmp_path))) as daemon:
        wait_until(lambda: ended(daemon))
        stop(daemon)
    told = assert_only_the_faults_are_lost(tmp_path)
    assert told == ["abandoned", "restarted", "terminated", "restarted"]


def test_an_engine_in_a_process_is_ended_and_started_again(tmp_path: Path) -> None:
    pipeline = bad_pipeline(tmp_path, hang=True, extra="timeout_s = 3\nisolate = true")
    with Daemon(tmp_path, configuration(tmp_path, pipeline, good_pipeline(tmp_path))) as daemon:
        wait_until(lambda: ended(daemon))
        (child,) = psutil.Process(daemon.process.pid).children()
        stop(daemon)
        wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    assert assert_only_the_faults_are_lost(tmp_path) == ["terminated", "restarted"] * 2


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_an_engine_that_crashes_costs_a_frame(tmp_path: Path, how: signal.Signals) -> None:
    pipeline = bad_pipeline(tmp_path, hang=True, extra="timeout_s = 300\nisolate = true")
    with Daemon(tmp_path, configuration(tmp_path, pipeline, good_pipeline(tmp_path))) as daemon:
        for number, fault in enumerate(_FAULTS, 1):
            wait_until(functools.partial(has_come_to, daemon, fault))
            (child,) = psutil.Process(daemon.process.pid).children()
            wait_for_loop(child)
            os.kill(child.pid, how)
            daemon.wait_for("event=engine_restarted", times=number)
        wait_until(lambda: ended(daemon))
        stop(daemon)
    assert assert_only_the_faults_are_lost(tmp_path) == ["restarted"] * 2


def test_a_daemon_that_is_killed_takes_its_engines_with_it(tmp_path: Path) -> None:
    pipeline = bad_pipeline(tmp_path, hang=True, extra="isolate = true")
    with Daemon(tmp_path, configuration(tmp_path, pipeline)) as daemon:
        daemon.wait_for("event=started")
        wait_until(lambda: psutil.Process(daemon.process.pid).children() != [])
        (child,) = psutil.Process(daemon.process.pid).children()
        wait_for_loop(child)
        daemon.process.kill()
        wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
