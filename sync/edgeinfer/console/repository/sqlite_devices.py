"""Devices and the ledgers of their epochs, in SQLite."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgeinfer.console.ledger import Ledger
from edgeinfer.console.repository.base import Device, DeviceChange, StorageError
from edgeinfer.console.repository.connection import Row, SqliteConnection

__all__ = ["SqliteDevices"]

_DEVICE = (
    "SELECT name, first_seen_ns, last_seen_ns, online, session, agent_version, groups, profile, engines, reported,"
    " telemetry, refused FROM device"
)
_LEDGER = (
    "p.epoch, contiguous, ranges, made, stored, duplicates, evicted, missing, undecodable, conflicts FROM progress p"
    " JOIN epoch e ON e.device = p.device AND e.epoch = p.epoch JOIN device ON device.id = p.device"
)
_COUNTS = ("stored", "duplicates", "evicted", "missing", "undecodable", "conflicts")


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
        counts = [getattr(ledger, name) for name in _COUNTS]
        with self.transaction():
            self.know_epoch(number, epoch)
            self.write(
                "INSERT OR REPLACE INTO progress (device, epoch, contiguous, ranges, made, stored, duplicates, evicted,"
                " missing, undecodable, conflicts) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (number, epoch, ledger.contiguous, ranges, ledger.made, *counts),
            )

    def retire_epoch(self, device: str, epoch: int) -> None:
        number = self.device_id(device)
        names, sums = ", ".join(_COUNTS), ", ".join(f"{name} = {name} + excluded.{name}" for name in _COUNTS)
        with self.transaction():
            self.write(
                "UPDATE epoch SET retired_seq = coalesce((SELECT contiguous FROM progress WHERE device = ?1"
                " AND epoch = ?2), retired_seq) WHERE device = ?1 AND epoch = ?2",
                (number, epoch),
            )
            # The names are those of _COUNTS.
            self.write(
                f"INSERT INTO retired (device, {names}) SELECT device, {names} FROM progress"  # noqa: S608
                f" WHERE device = ? AND epoch = ? ON CONFLICT (device) DO UPDATE SET {sums}",
                (number, epoch),
            )
            self.write("DELETE FROM progress WHERE device = ? AND epoch = ?", (number, epoch))
            self._epochs.discard((number, epoch))

    def retired_seq(self, device: str, epoch: int) -> int:
        row = self.row(
            "SELECT retired_seq FROM epoch JOIN device ON device.id = epoch.device WHERE name = ? AND epoch = ?",
            (device, epoch),
        )
        return 0 if row is None else int(row[0])

    def retired(self) -> dict[str, Ledger]:
        rows = self.rows(
            "SELECT name, stored, duplicates, evicted, missing, undecodable, conflicts FROM retired"
            " JOIN device ON device.id = retired.device"
        )
        return {name: _ledger((0, "[]", 0, *counts)) for name, *counts in rows}

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


def _column(value: object) -> object:
    return int(value) if isinstance(value, bool) else value if isinstance(value, str) else _json(value)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _ledger(row: Sequence[Any]) -> Ledger:
    contiguous, ranges, made, *counts = row
    return Ledger(
        contiguous=contiguous,
        ranges=msgspec.json.decode(ranges, type=list[tuple[int, int]]),
        made=made,
        **dict(zip(_COUNTS, counts, strict=True)),
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
