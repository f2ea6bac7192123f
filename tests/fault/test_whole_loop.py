"""Daemon, agent, console and broker as they are, killed at random while they work: nothing durable is lost."""

import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeinfer.console.commands import deploy
from edgeinfer.runtime.errors import ConsoleError
from edgeinfer.runtime.results import OF_A_FRAME
from loops import Installation, free_of_tracebacks
from waiting import wait_until

KILLS = 24


def stored(folder: Path) -> list[tuple[int, int]]:
    """(epoch, number) of every result in the console's database, as it lies there."""
    db = sqlite3.connect(folder / "console" / "console.db")
    try:
        return db.execute("SELECT epoch, seq FROM result ORDER BY epoch, seq").fetchall()
    finally:
        db.close()


@pytest.mark.slow
def test_kill_9_of_everything_loses_and_doubles_nothing(tmp_path: Path) -> None:
    choose = random.Random(20)
    with Installation(tmp_path) as loop:
        wait_until(lambda: loop.acknowledged() > 0, timeout_s=60, what="the first acknowledgement")
        victims: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
            "daemon": (loop.daemon.kill, loop.daemon.start),
            "agent": (loop.agent.kill, loop.agent.start),
            "console": (loop.console.kill, loop.console.start),
            "broker": (loop.broker.kill, loop.broker.start),
        }
        promised = 0
        for number in range(KILLS):
            kill, start = victims[choose.choice(sorted(victims)) if number >= len(victims) else sorted(victims)[number]]
            # What was durable before a kill has to be there after it.
            promised = max(promised, loop.durable())
            kill()
            assert loop.durable() >= promised
            start()
            wait_for_more(loop, choose.randrange(20, 200), what=f"results after kill {number}")
        assert loop.daemon.terminate() == 0
        made = loop.durable()
        wait_until(lambda: loop.acknowledged() == made, timeout_s=90, what="the last acknowledgement")
        audit = loop.console.audit("dev-1")

        numbers = [number for number, _, _ in loop.buffered()]
        assert numbers == list(range(1, made + 1)), "the device's own numbering has no holes"
        inferred = sum(1 for _, _, result in loop.buffered() if result.kind in OF_A_FRAME)
        assert loop.frames()["inferred"] == inferred, "the count of frames has not lost what the results prove"
        rows = stored(tmp_path)
        assert [seq for _, seq in rows] == numbers, "the console has exactly what was durable, each once"
        assert len({epoch for epoch, _ in rows}) == 1
        assert audit["stored"] == made
        assert not audit["gaps"]
        print(f"kills={KILLS} durable={made} stored={len(rows)} duplicates_refused={audit['duplicates']} lost=0")
        assert free_of_tracebacks(tmp_path)


@pytest.mark.slow
def test_a_new_version_arrives_over_a_bad_line(tmp_path: Path) -> None:
    """Broker and agent are killed while the package travels; it arrives, and no frame is lost in the swap."""
    with Installation(tmp_path) as loop:
        digest = loop.make_package("2.0.0", seed=2)
        wait_until(loop.online, timeout_s=60, what="the device online")
        rollout = deploy(loop.package("2.0.0"), to="all", console_url=loop.console.url)
        loop.broker.kill()
        loop.agent.kill()
        loop.broker.start()
        loop.agent.start()
        wait_until(lambda: loop.update_row().finished != {}, timeout_s=60, what="the end of the update")

        row = loop.update_row()
        assert list(row.finished.values()) == ["COMMITTED"], row
        assert row.digest == digest
        assert 0 < row.swap_ms < 2000
        wait_until(
            lambda: all_states(loop, rollout["id"]) <= {"COMMITTED", "REPORTED"},
            timeout_s=30,
            what="the console to know",
        )
        assert loop.daemon.terminate() == 0
        frames = sorted(r.frame for _, pipeline, r in loop.buffered() if pipeline == "door" and r.items)
        assert len(frames) == len(set(frames))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "why", "expected"),
    [("2.0.1", "unsigned", "signature"), ("2.0.2", "golden", "golden outputs differ")],
)
def test_a_bad_version_is_refused_with_its_reason(tmp_path: Path, version: str, why: str, expected: str) -> None:
    with Installation(tmp_path) as loop:
        loop.make_package(version, seed=3, signed=why != "unsigned", golden_offset=0.5 if why == "golden" else 0.0)
        wait_until(loop.online, timeout_s=60, what="the device online")
        rollout = deploy(loop.package(version), to="all", console_url=loop.console.url)
        wait_until(lambda: all_states(loop, rollout["id"]) == {"FAILED"}, timeout_s=60, what="the refusal")

        reasons = [d["reason"] for d in loop.console.get(f"/api/rollouts/{rollout['id']}")["deployments"]]
        assert expected in reasons[0]
        before = loop.durable()
        wait_until(lambda: loop.durable() > before + 20, what="the old version to go on")
        with pytest.raises(ConsoleError):
            deploy(loop.package(version), to="all", console_url=loop.console.url, wait=True, timeout_s=0.01)


def wait_for_more(loop: Installation, count: int, *, what: str) -> None:
    goal = loop.durable() + count
    wait_until(lambda: loop.durable() >= goal, timeout_s=60, what=what)


def all_states(loop: Installation, rollout: int) -> set[str]:
    return {d["state"] for d in loop.console.get(f"/api/rollouts/{rollout}")["deployments"]}
