"""Whose turn it is: the variants' processes run one block of calls each, round after round."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from edgeinfer.runtime.bench.contestant import Command, Contestant
from edgeinfer.runtime.bench.energy import find_meter
from edgeinfer.runtime.bench.entry import Entry, reference_of
from edgeinfer.runtime.bench.machine import available_bytes
from edgeinfer.runtime.bench.messages import Timed
from edgeinfer.runtime.bench.sensors import Watcher
from edgeinfer.runtime.errors import ModelError

__all__ = ["Moment", "Race"]

# Long enough for full clock and warm caches, short enough that what slows the machine slows a whole round. A power
# monitor needs some more readings.
_BLOCK_S, _SAMPLED_BLOCK_S, _MIN_ROUNDS = 0.1, 0.25, 10
# One more process must fit beside those that are there, and leave the rest of the device some memory.
_SPARE_BYTES = 32 << 20


class Moment(NamedTuple):
    """What a person is shown meanwhile; `median_us` of the last block of `doing`."""

    doing: str
    median_us: float
    done: float
    left_s: float
    temperature_c: float | None
    frequency_mhz: float | None


class _Runner:
    """An entry with its process; `measured_s` counts this heat alone."""

    def __init__(self, entry: Entry, contestant: Contestant) -> None:
        self.entry, self.contestant = entry, contestant
        self.measured_s = 0.0


class Race:
    """Runs entries of the package in `folder` for `seconds` each. `watcher`, `meter` and `elapsed_s` tell afterwards
    how it went."""

    def __init__(
        self,
        folder: Path,
        *,
        seconds: float,
        root: Path,
        watch: Callable[[Moment], None],
        patience_s: float,
        command: Command,
    ) -> None:
        self._folder, self._seconds, self._root = folder, seconds, root
        self._watch, self._patience_s, self._command = watch, patience_s, command
        self.watcher = Watcher(root)
        self.meter, self.energy_detail = find_meter(root)
        self._period_s = self.meter.period_s if self.meter is not None else None
        self._block_s = min(_BLOCK_S if self._period_s is None else _SAMPLED_BLOCK_S, seconds / _MIN_ROUNDS)
        self._begin_s = time.monotonic()
        self._round = 0
        self._done_s = self._all_s = 0.0
        self._rss_bytes = 0

    @property
    def elapsed_s(self) -> float:
        """Since the first look at the device."""
        return time.monotonic() - self._begin_s

    def run(self, entries: Sequence[Entry]) -> None:
        """Measure each entry that has no error yet. A KeyboardInterrupt leaves what was measured until then."""
        self._look(at_once=True)
        self._all_s = self._seconds * sum(not entry.error for entry in entries)
        try:
            while any(not entry.blocks and not entry.error for entry in entries):
                self._heat(entries)
        finally:
            self._look(at_once=True)

    def _heat(self, entries: Sequence[Entry]) -> None:
        """All entries at once where memory allows, else as many as fit. The reference is in every heat, so that each is
        held against what it was in the same rounds."""
        runners: list[_Runner] = []
        try:
            self._open_reference(entries, runners)
            for entry in entries:
                if not entry.blocks and not entry.error and all(runner.entry is not entry for runner in runners):
                    if len(runners) > 1 and not self._has_room():
                        break
                    self._open(entry, runners)
            self._take_turns(runners)
        finally:
            for runner in runners:
                runner.contestant.close()

    def _open_reference(self, entries: Sequence[Entry], runners: list[_Runner]) -> None:
        while not runners:
            reference = reference_of(entries)
            if reference is None:
                return
            self._open(reference, runners)

    def _open(self, entry: Entry, runners: list[_Runner]) -> None:
        """Start its process; what goes wrong is in the entry."""
        self._tell(f"loading {entry}")
        try:
            contestant = Contestant(
                self._command(self._folder, entry.variant.id, entry.threads),
                patience_s=self._patience_s,
                meanwhile=self._sample,
                period_s=self._period_s,
            )
        except ModelError as error:
            entry.error = error.message
            return
        runners.append(_Runner(entry, contestant))
        try:
            entry.ready = contestant.ready()
            self._rss_bytes = max(self._rss_bytes, entry.ready.rss_bytes)
        except ModelError as error:
            self._give_up(runners[-1], error, runners)

    def _take_turns(self, runners: list[_Runner]) -> None:
        while active := [runner for runner in runners if runner.measured_s < self._seconds]:
            self._round += 1
            reference = reference_of([runner.entry for runner in runners])
            for runner in list(runners):
                # The reference goes on for as long as anybody does, so that every round has one.
                if runner in active or runner.entry is reference:
                    self._take_turn(runner, runners)

    def _take_turn(self, runner: _Runner, runners: list[_Runner]) -> None:
        entry = runner.entry
        try:
            timed, energy_uj = self._block(runner.contestant)
        except ModelError as error:
            self._give_up(runner, error, runners)
            return
        entry.add(timed, turn=self._round, at_s=self.elapsed_s, energy_uj=energy_uj)
        took_s = timed.total_ns / 1e9
        self._done_s += min(took_s, max(0.0, self._seconds - runner.measured_s))
        runner.measured_s += took_s
        self._look()
        self._tell(str(entry), timed.median_ns / 1000)

    def _block(self, contestant: Contestant) -> tuple[Timed, float | None]:
        if self.meter is None:
            return contestant.turn(self._block_s), None
        self.meter.begin(time.monotonic())
        timed = contestant.turn(self._block_s)
        energy_uj = self.meter.end(time.monotonic())
        # The calls that filled the caches took their share.
        return timed, None if energy_uj is None else energy_uj * timed.calls / (timed.calls + timed.warm_up_calls)

    def _give_up(self, runner: _Runner, error: ModelError, runners: list[_Runner]) -> None:
        runner.entry.error = error.message
        runner.contestant.close()
        runners.remove(runner)
        self._done_s += max(0.0, self._seconds - runner.measured_s)

    def _has_room(self) -> bool:
        available = available_bytes(self._root)
        return available is None or available > self._rss_bytes + _SPARE_BYTES

    def _sample(self) -> None:
        if self.meter is not None:
            self.meter.sample(time.monotonic())

    def _look(self, *, at_once: bool = False) -> None:
        self.watcher.look(time.monotonic(), at_once=at_once)

    def _tell(self, doing: str, median_us: float = 0.0) -> None:
        done = min(self._done_s / self._all_s, 1.0) if self._all_s else 0.0
        self._watch(
            Moment(
                doing=doing,
                median_us=median_us,
                done=done,
                left_s=max(0.0, self._all_s - self._done_s),
                temperature_c=self.watcher.temperature_c,
                frequency_mhz=self.watcher.frequency_mhz,
            )
        )
