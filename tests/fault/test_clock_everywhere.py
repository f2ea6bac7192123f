"""Wall clocks that jump by ten years under daemon, agent and console, each on its own, while results go up."""

import itertools
import random
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from fault_report import FaultReport
from loops import DEVICE, Installation, free_of_tracebacks
from shifted_clock import YEARS_10_S, ShiftedClock, build
from stored import doubled, stored_results
from waiting import wait_until

HOUR_NS = 3600 * 1_000_000_000
OFFSETS_S = (YEARS_10_S, -YEARS_10_S, 3600, -86_400, 0)


def test_clocks_that_jump_lose_and_double_nothing(
    tmp_path: Path, faults: FaultReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(faults.seed)
    jumps = faults.size(ci=6, full=60)
    library = build(tmp_path)
    with ExitStack() as stack:
        loop = Installation(tmp_path, interval_s=0.01)
        starts: dict[str, Callable[[], None]] = {
            "console": loop.console.start, "daemon": loop.daemon.start, "agent": loop.agent.start
        }  # fmt: skip
        stack.callback(loop._end)
        with (tmp_path / "sync.toml").open("a") as file:
            file.write("[upload]\npersist_interval_s = 0.1\n")
        loop.broker.start()
        clocks: dict[str, ShiftedClock] = {}
        for name, start in starts.items():
            clocks[name] = ShiftedClock(tmp_path / f"clock-{name}", library)
            with monkeypatch.context() as patch:
                for variable, value in clocks[name].environment().items():
                    patch.setenv(variable, value)
                start()
        wait_until(lambda: loop.acknowledged() > 0, what="the first acknowledgement")
        for number in range(jumps):
            name = sorted(clocks)[number % len(clocks)]
            # Each has its ten years before chance has its way.
            clocks[name].move(OFFSETS_S[number % 2] if number < len(clocks) else chance.choice(OFFSETS_S))
            goal = loop.durable() + 40
            wait_until(
                lambda goal=goal: min(loop.durable(), loop.acknowledged()) > goal,  # type: ignore[misc]  # bound in the loop
                what=f"results to go all the way after the clock of the {name} has jumped",
            )
        assert loop.daemon.terminate() == 0
        made = loop.durable()
        wait_until(lambda: loop.acknowledged() == made, what="the last acknowledgement")
        audit = loop.console.audit(DEVICE)
        assert loop.console.terminate() == 0

        rows = stored_results(tmp_path / "console" / "console.db", DEVICE)
        faults.add(
            "clock jumps", times=jumps, made=made, durable=made, stored=len(rows), refused=audit["duplicates"],
            lost=made - len({row.seq for row in rows}), doubled=doubled(rows),
        )  # fmt: skip
        assert [row.seq for row in rows] == list(range(1, made + 1))
        assert (audit["stored"], audit["gaps"]) == (made, 0)
        assert {row.seq: row.t_ns for row in rows} == {seq: result.t_ns for seq, _, result in loop.buffered()}
        assert any(abs(later.t_ns - earlier.t_ns) > HOUR_NS for earlier, later in itertools.pairwise(rows))
        assert free_of_tracebacks(tmp_path)
