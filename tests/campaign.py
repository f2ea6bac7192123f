"""Kills the processes of an installation at random moments while they work, and remembers what had been promised.

with Installation(tmp_path) as loop:
    campaign = Campaign(loop, random.Random(seed))
    campaign.run(kills=40)
    campaign.finish()                         # everything durable has arrived
"""

import random
import threading
from collections import Counter
from contextlib import suppress
from typing import Protocol

from edgeinfer.runtime.errors import BufferStorageError
from loops import Installation, Service
from waiting import wait_until

__all__ = ["Campaign"]

# Every so many kills, the campaign waits until results go all the way: it is work that is interrupted.
_PROGRESS_EVERY = 20
_PATIENCE_S = 120.0


class Victim(Protocol):
    def start(self) -> None: ...

    def kill(self) -> None: ...

    def is_running(self) -> bool: ...


class Campaign:
    """`kills` counts what was killed by name; `durable` is the highest number that was ever seen to be durable."""

    def __init__(self, loop: Installation, chance: random.Random) -> None:
        self._loop = loop
        self._chance = chance
        self._console = Service(loop.folder, "console-killed", "console", "--config", str(loop.folder / "console.toml"))
        self._victims: dict[str, Victim] = {
            "daemon": loop.daemon,
            "agent": loop.agent,
            "console": self._console,
            "broker": loop.broker,
        }
        self._pause = threading.Event()
        self.kills: Counter[str] = Counter()
        self.durable = 0
        self.acknowledged = 0

    def run(self, kills: int) -> None:
        """Ends with all processes running. Raises AssertionError where a promise is broken."""
        self._loop.console.kill()
        self._console.start()
        rested = 0
        while (done := self.kills.total()) < kills:
            if done >= rested + _PROGRESS_EVERY:
                rested = done
                self._wait_for_progress()
            self._wait_a_moment()
            self._kill(self._choose())

    def finish(self) -> int:
        """Let everything durable arrive, and end the daemon and the console; how many results were made."""
        self._wait_for_progress()
        self._console.kill()
        self._loop.console.start()
        assert self._loop.daemon.terminate() == 0
        made = self._loop.durable()
        assert made >= self.durable
        wait_until(lambda: self._loop.acknowledged() == made, timeout_s=_PATIENCE_S, what="the last acknowledgement")
        return made

    def _choose(self) -> list[str]:
        """One; now and then all of them, as when a machine with everything on it loses its power."""
        names = sorted(self._victims)
        if self._chance.random() < 0.03:
            self._chance.shuffle(names)
            return names
        return [self._chance.choice(names)]

    def _kill(self, names: list[str]) -> None:
        self._witness()
        for name in names:
            assert self._victims[name].is_running(), f"the {name} has ended by itself"
            self._victims[name].kill()
            self.kills[name] += 1
        self._witness()
        self._pause.wait(self._chance.choice((0.0, 0.0, 0.3)))
        for name in names:
            self._victims[name].start()

    def _wait_a_moment(self) -> None:
        """Often so short that what was started last is still starting; else some work is done."""
        self._pause.wait(self._chance.choice((self._chance.uniform(0.0, 0.4), self._chance.uniform(0.2, 1.2))))

    def _witness(self) -> None:
        """What is durable, and what the agent knows to be acknowledged, never goes back."""
        durable, acknowledged = self._loop.durable(), self._loop.acknowledged()
        if durable:  # 0 stands for a file that is just being opened
            assert durable >= self.durable, f"durable were {self.durable}, now {durable}"
            self.durable = durable
        if acknowledged:
            assert acknowledged >= self.acknowledged, f"acknowledged were {self.acknowledged}, now {acknowledged}"
            self.acknowledged = acknowledged

    def _wait_for_progress(self) -> None:
        goal = 0
        with suppress(BufferStorageError):
            goal = self._loop.durable()
        wait_until(
            lambda: min(self._loop.durable(), self._loop.acknowledged()) > goal + 20,
            timeout_s=_PATIENCE_S,
            what="results to go all the way",
        )
