"""Daemon, agent, console and broker as they are: new versions over a bad line, and versions that are refused. What
kills them while they work is in test_kill_campaign.py."""

from pathlib import Path

import pytest

from edgeinfer.console.commands import deploy
from edgeinfer.runtime.errors import ConsoleError
from loops import Installation
from waiting import wait_until


@pytest.mark.slow
def test_a_new_version_arrives_over_a_bad_line(tmp_path: Path) -> None:
    """Broker and agent are killed while the package travels; it arrives, and no frame is lost in the swap."""
    with Installation(tmp_path) as loop:
        digest = loop.make_package("2.0.0", seed=2)
        wait_until(loop.online, what="the device online")
        rollout = deploy(loop.package("2.0.0"), to="all", console_url=loop.console.url)
        loop.broker.kill()
        loop.agent.kill()
        loop.broker.start()
        loop.agent.start()
        wait_until(lambda: loop.update_row().finished != {}, what="the end of the update")

        row = loop.update_row()
        assert list(row.finished.values()) == ["COMMITTED"], row
        assert row.digest == digest
        assert row.swap_ms > 0
        wait_until(
            lambda: all_states(loop, rollout["id"]) <= {"COMMITTED", "REPORTED"},
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
        wait_until(loop.online, what="the device online")
        rollout = deploy(loop.package(version), to="all", console_url=loop.console.url)
        wait_until(lambda: all_states(loop, rollout["id"]) == {"FAILED"}, what="the refusal")

        reasons = [d["reason"] for d in loop.console.get(f"/api/rollouts/{rollout['id']}")["deployments"]]
        assert expected in reasons[0]
        before = loop.durable()
        wait_until(lambda: loop.durable() > before + 20, what="the old version to go on")
        with pytest.raises(ConsoleError):
            deploy(loop.package(version), to="all", console_url=loop.console.url, wait=True, timeout_s=0.01)


def all_states(loop: Installation, rollout: int) -> set[str]:
    return {d["state"] for d in loop.console.get(f"/api/rollouts/{rollout}")["deployments"]}
