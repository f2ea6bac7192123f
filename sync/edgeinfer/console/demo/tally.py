"""Counts for the demo, read where they are kept: the device's files and the console's REST API."""

from typing import Any

import msgspec

from edgeinfer.console.demo.stage import DEVICE, Stage
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.chunk import TOMBSTONE
from edgeinfer.runtime.codec import decode
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.frame import FrameState
from edgeinfer.runtime.handoff import RuntimeDb, SyncDb, UpdateRow
from edgeinfer.runtime.results import Kind, Result

__all__ = ["Counts", "Tally"]

_BAR = 12
_RECENT = 64  # results back from the newest: every pipeline has said something in them


class Counts(msgspec.Struct, frozen=True):
    """What the device holds (durable), and what the console has confirmed to it (acknowledged)."""

    durable: int = 0
    acknowledged: int = 0

    @property
    def backlog(self) -> int:
        return self.durable - self.acknowledged


class Tally:
    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def read(self) -> Counts:
        """Zeros while the device's files are not there yet."""
        try:
            with BufferReader(self._stage.runtime_dir / "buffer.db") as buffer:
                durable, epoch = buffer.durable_seq(), buffer.epoch
            with SyncDb(self._stage.sync_dir / "sync.db", read_only=True) as sync:
                return Counts(durable, sync.acknowledged(epoch))
        except BufferStorageError:
            return Counts()

    def line(self) -> str:
        """One line for the person who watches."""
        counts = self.read()
        bar = "█" * min(_BAR, counts.backlog // 10)
        seen = "   ".join(f"{name}: {text}" for name, text in sorted(self._latest().items()))
        return (
            f"made {counts.durable:>5}   acknowledged {counts.acknowledged:>5}   waiting {counts.backlog:>4} "
            f"{bar:<{_BAR}}  {seen}"
        )

    def _latest(self) -> dict[str, str]:
        """What each pipeline said last, in words."""
        found: dict[str, str] = {}
        try:
            with BufferReader(self._stage.runtime_dir / "buffer.db") as buffer:
                for chunk in buffer.chunks(max(0, buffer.durable_seq() - _RECENT), limit=_RECENT):
                    if chunk.codec != TOMBSTONE:
                        for result in decode(chunk.codec, chunk.body, n=chunk.n):
                            if result.items:
                                found[chunk.pipeline] = _in_words(result)
        except BufferStorageError:
            pass  # the device is not up yet
        return found

    def device_is_online(self) -> bool:
        devices: Any = self._stage.get("api/devices")
        rows = devices if isinstance(devices, list) else devices.get("devices", [])
        return any(row.get("online") for row in rows)

    def update_row(self) -> UpdateRow:
        with RuntimeDb(self._stage.runtime_dir / "runtime.db", read_only=True) as db:
            return db.update()

    def frames(self) -> dict[str, int]:
        """Frames by state over all pipelines, every state named."""
        totals = {state.value: 0 for state in FrameState}
        with BufferReader(self._stage.runtime_dir / "buffer.db") as buffer:
            for states in buffer.frames().values():
                for state, count in states.items():
                    totals[state] = totals.get(state, 0) + count
        return totals

    def results(self) -> dict[str, int]:
        """Both sides of the audit."""
        with BufferReader(self._stage.runtime_dir / "buffer.db") as buffer:
            made = buffer.audit_counts()
        counts = self.read()
        return {**made, "acknowledged": counts.acknowledged, **self._console_side()}

    def _console_side(self) -> dict[str, int]:
        answer: Any = self._stage.get(f"api/audit?device={DEVICE}")
        rows = answer if isinstance(answer, list) else answer.get("devices", [])
        return {
            "stored": sum(int(row["stored"]) for row in rows),
            "duplicates": sum(int(row["duplicates"]) for row in rows),
            "gaps": sum(len(row["gaps"]) if isinstance(row["gaps"], list) else int(row["gaps"]) for row in rows),
        }


def _in_words(result: Result) -> str:
    first = result.items[0]
    if result.kind is Kind.ANOMALY:
        return f"{'ANOMALY' if first.label else 'normal'} ({first.score:.3f})"
    return f"digit {first.label} ({first.score:.2f})"
