"""Devices, their accounting and what was refused, in SQLite."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgeinfer.console.ledger import Ledger, Range
from edgeinfer.console.repository.base import Absent, Device, DeviceChange, Refusal, StorageError
from edgeinfer.console.repository.connection import Row, SqliteConnection

__all__ = ["SqliteDevices"]

_DEVICE = (
    "SELECT name, first_seen_ns, last_seen_ns, online, session, agent_version, groups, profile, engines, reported,"
    " telemetry, refused FROM device"
)
_LEDGER = (
    "p.epoch, contiguous, ranges, stored, duplicates, evicted, missing, undecodable FROM progress p"
    " JOIN epoch e ON e.device = p.device AND e.epoch = p.epoch JOIN device ON device.id = p.device"
)
# Enough to see what goes on; hostile clients must not fill the disk.
_REFUSALS_KEPT = 200
_ABSENT_KEPT = 10_000


class SqliteDevices(SqliteConnection):
    """Part of SqliteRepository. Names become small integers in the large tables; known ones are remembered."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._ids: dict[str, int] = {}
        self._epochs: set[tuple[int, int]] = set()

    def device_id(self, name: str) -> int:
        """Raises StorageError for a device that was never seen."""
        known = self._ids.get(name)
        if known is not None:
            return known
        row = self.row("SELECT id FROM device WHERE name = ?", (name,))
        if row is None:
            raise StorageError(f"{self.path}: no such device: {name}")
        self._ids[name] = int(row[0])
        return self._ids[name]

    def rolled_back(self) -> None:
        super().rolled_back()
        self._ids.clear()
        self._epochs.clear()

    def change_device(self, name: str, change: DeviceChange, *, t_ns: int) -> None:
        values = {field: _column(value) for field, value in msgspec.structs.asdict(change).items() if value is not None}
        changes = "".join(f", {field} = ?" for field in values)
        with self.transaction():
            self.write(
                "INSERT OR IGNORE INTO device (name, first_seen_ns, last_seen_ns) VALUES (?, ?, ?)", (name, t_ns, t_ns)
            )
            # The names in `changes` are the fields of DeviceChange.
            self.write(
                f"UPDATE device SET last_seen_ns = max(last_seen_ns, ?){changes} WHERE name = ?",  # noqa: S608
                (t_ns, *values.values(), name),
            )

    def all_offline(self) -> None:
        self.write("UPDATE device SET online = 0 WHERE online")

    def device(self, name: str) -> Device | None:
        row = self.row(f"{_DEVICE} WHERE name = ?", (name,))
        return None if row is None else _device(row)

    def devices(self) -> list[Device]:
        return [_device(row) for row in self.rows(f"{_DEVICE} ORDER BY name")]

    def ledgers(self, device: str) -> dict[int, Ledger]:
        rows = self.rows(
            f"SELECT {_LEDGER} WHERE name = ? ORDER BY ordinal",
            (device,),
        )
        return {epoch: _ledger(rest) for epoch, *rest in rows}

    def all_ledgers(self) -> dict[str, dict[int, Ledger]]:
        found: dict[str, dict[int, Ledger]] = {}
        for name, epoch, *rest in self.rows(f"SELECT name, {_LEDGER} ORDER BY name, ordinal"):
            found.setdefault(name, {})[epoch] = _ledger(rest)
        return found

    def save_ledger(self, device: str, epoch: int, ledger: Ledger) -> None:
        number, ranges = self.device_id(device), _json(ledger.ranges)
        counts = (ledger.stored, ledger.duplicates, ledger.evicted, ledger.missing, ledger.undecodable)
        with self.transaction():
            self.know_epoch(number, epoch)
            self.write(
                "INSERT OR REPLACE INTO progress (device, epoch, contiguous, ranges, stored, duplicates, evicted,"
                " missing, undecodable) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (number, epoch, ledger.contiguous, ranges, *counts),
            )

    def retire_epoch(self, device: str, epoch: int) -> None:
        number = self.device_id(device)
        counts = ("stored", "duplicates", "evicted", "missing", "undecodable")
        sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in counts)
        with self.transaction():
            self.write(
                "UPDATE epoch SET retired_seq = coalesce((SELECT contiguous FROM progress WHERE device = ?1"
                " AND epoch = ?2), retired_seq) WHERE device = ?1 AND epoch = ?2",
                (number, epoch),
            )
            # The names in `sums` are those above.
            self.write(
                f"INSERT INTO retired SELECT device, {', '.join(counts)} FROM progress"  # noqa: S608
                f" WHERE device = ? AND epoch = ? ON CONFLICT (device) DO UPDATE SET {sums}",
                (number, epoch),
            )
            self.write("DELETE FROM progress WHERE device = ? AND epoch = ?", (number, epoch))

    def retired_seq(self, device: str, epoch: int) -> int:
        row = self.row(
            "SELECT retired_seq FROM epoch JOIN device ON device.id = epoch.device WHERE name = ? AND epoch = ?",
            (device, epoch),
        )
        return 0 if row is None else int(row[0])

    def retired(self) -> dict[str, Ledger]:
        rows = self.rows(
            "SELECT name, stored, duplicates, evicted, missing, undecodable FROM retired"
            " JOIN device ON device.id = retired.device"
        )
        return {name: _ledger((0, "[]", *counts)) for name, *counts in rows}

    def know_epoch(self, device: int, epoch: int) -> None:
        """Give an epoch that is new its place after those that were seen before it."""
        if (device, epoch) in self._epochs:
            return
        self.write(
            "INSERT OR IGNORE INTO epoch (device, epoch, ordinal)"
            " SELECT ?1, ?2, coalesce(max(ordinal), 0) + 1 FROM epoch WHERE device = ?1",
            (device, epoch),
        )
        self._epochs.add((device, epoch))

    def add_absent(self, device: str, epoch: int, ranges: Sequence[Range], *, cause: str, reason: str) -> None:
        number = self.device_id(device)
        with self.transaction():
            self.write_many(
                "INSERT INTO absent (device, epoch, first, last, cause, reason) VALUES (?, ?, ?, ?, ?, ?)",
                [(number, epoch, first, last, cause, reason) for first, last in ranges],
            )
            self.write(
                "DELETE FROM absent WHERE device = ?1 AND id <= "
                "(SELECT id FROM absent WHERE device = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
                (number, _ABSENT_KEPT),
            )

    def absent(self, device: str, *, limit: int) -> list[Absent]:
        rows = self.rows(
            "SELECT epoch, first, last, cause, reason FROM absent JOIN device ON device.id = absent.device"
            " WHERE name = ? ORDER BY absent.id DESC LIMIT ?",
            (device, limit),
        )
        return [Absent(device, *row) for row in rows]

    def add_refusal(self, refusal: Refusal) -> None:
        with self.transaction():
            known = self.write("UPDATE device SET refused = refused + 1 WHERE name = ?", (refusal.device,))
            self.write("INSERT INTO counter VALUES ('refused', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1")
            number = self.insert(
                "INSERT INTO refusal (t_ns, device, topic, reason, bytes) VALUES (?, ?, ?, ?, ?)",
                (refusal.t_ns, refusal.device if known else "", refusal.topic, refusal.reason, refusal.bytes),
            )
            self.write("DELETE FROM refusal WHERE id <= ?", (number - _REFUSALS_KEPT,))

    def refusals(self, *, limit: int, device: str | None = None) -> list[Refusal]:
        rows = self.rows(
            "SELECT t_ns, device, topic, reason, bytes FROM refusal WHERE ?1 IS NULL OR device = ?1"
            " ORDER BY id DESC LIMIT ?2",
            (device, limit),
        )
        return [Refusal(*row) for row in rows]

    def refused_count(self) -> int:
        row = self.row("SELECT value FROM counter WHERE name = 'refused'")
        return 0 if row is None else int(row[0])


def _column(value: object) -> object:
    return int(value) if isinstance(value, bool) else value if isinstance(value, str) else _json(value)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _ledger(row: Sequence[Any]) -> Ledger:
    contiguous, ranges, stored, duplicates, evicted, missing, undecodable = row
    return Ledger(
        contiguous=contiguous,
        ranges=msgspec.json.decode(ranges, type=list[tuple[int, int]]),
        stored=stored,
        duplicates=duplicates,
        evicted=evicted,
        missing=missing,
        undecodable=undecodable,
    )


def _device(row: Row) -> Device:
    name, first_seen_ns, last_seen_ns, online, session, agent_version, *documents, refused = row
    groups, profile, engines, reported, telemetry = (msgspec.json.decode(document) for document in documents)
    return Device(
        name=name,
        first_seen_ns=first_seen_ns,
        last_seen_ns=last_seen_ns,
        online=bool(online),
        session=session,
        agent_version=agent_version,
        groups=tuple(groups),
        profile=profile,
        engines=engines,
        reported=reported,
        telemetry=telemetry,
        refused=refused,
    )
