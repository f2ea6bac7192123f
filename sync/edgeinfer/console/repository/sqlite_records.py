"""What did not become a stored result: absent ranges, refused messages, conflicts, in SQLite."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgeinfer.console.repository.base import Absent, Conflict, Refusal, Unread
from edgeinfer.console.repository.sqlite_devices import SqliteDevices
from edgeinfer.runtime.chunk import NO_LINK, StoredChunk

__all__ = ["SqliteRecords"]

# Enough to see what goes on; hostile clients must not fill the disk.
_REFUSALS_KEPT = 200
_ABSENT_KEPT = 10_000
_CONFLICTS_KEPT = 200
# Of a device: as much as its buffer holds. Each counts as a page at least.
_UNREAD_BYTES_KEPT = 256 << 20
_PAGE_BYTES = 4096


class SqliteRecords(SqliteDevices):
    """Part of SqliteRepository."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._unread_bytes: dict[int, int] = {}  # by device, once it was asked for

    def rolled_back(self) -> None:
        super().rolled_back()
        self._unread_bytes.clear()

    def add_absent(self, device: str, absents: Sequence[Absent]) -> None:
        number = self.device_id(device)
        with self.transaction():
            for absent in absents:
                joined = self.write(
                    "UPDATE absent SET last = ?1, link = ?2 WHERE device = ?3 AND epoch = ?4 AND last = ?5"
                    " AND cause = ?6 AND reason = ?7",
                    (absent.last, absent.link, number, absent.epoch, absent.first - 1, absent.cause, absent.reason),
                )
                if not joined:
                    self._insert_absent(number, absent)

    def _insert_absent(self, device: int, absent: Absent) -> None:
        self.write(
            "INSERT INTO absent (device, epoch, first, last, cause, reason, t_ns, link)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                device, absent.epoch, absent.first, absent.last, absent.cause, absent.reason, absent.t_ns, absent.link,
            ),
        )  # fmt: skip
        self.write(
            "DELETE FROM absent WHERE device = ?1 AND id <= "
            "(SELECT id FROM absent WHERE device = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
            (device, _ABSENT_KEPT),
        )

    def absent(self, device: str, *, limit: int) -> list[Absent]:
        rows = self.rows(
            "SELECT epoch, first, last, cause, reason, t_ns, link FROM absent JOIN device ON device.id = absent.device"
            " WHERE name = ? ORDER BY absent.id DESC LIMIT ?",
            (device, limit),
        )
        return [Absent(device, *row) for row in rows]

    def absent_in(self, device: str, epoch: int, first: int, last: int) -> list[Absent]:
        return [_within(absent, first, last) for _, absent in self._touching(device, epoch, first, last)]

    def forget_absent(self, device: str, epoch: int, first: int, last: int) -> None:
        number = self.device_id(device)
        with self.transaction():
            for id_, absent in self._touching(device, epoch, first, last):
                self.write("DELETE FROM absent WHERE id = ?", (id_,))
                if absent.first < first:
                    self._insert_absent(number, _within(absent, absent.first, first - 1))
                if absent.last > last:
                    self._insert_absent(number, _within(absent, last + 1, absent.last))

    def _touching(self, device: str, epoch: int, first: int, last: int) -> list[tuple[int, Absent]]:
        # Absent ranges do not overlap: of those that end behind `last`, only the first can begin before it.
        rows = self.rows(
            "SELECT id, epoch, first, last, cause, reason, t_ns, link FROM absent WHERE device = ?1 AND epoch = ?2"
            " AND last >= ?3 AND first <= ?4 AND last <= coalesce("
            "(SELECT min(last) FROM absent WHERE device = ?1 AND epoch = ?2 AND last >= ?4), ?4) ORDER BY last",
            (self.device_id(device), epoch, first, last),
        )
        return [(id_, Absent(device, *row)) for id_, *row in rows]

    def keep_unread(self, device: str, epoch: int, chunk: StoredChunk) -> None:
        number = self.device_id(device)
        with self.transaction():
            held = self._unread_held(number) + max(_PAGE_BYTES, len(chunk.body))
            self.write(
                "INSERT INTO unread (device, epoch, first_seq, n, pipeline, codec, link, crc, body)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    number, epoch, chunk.first_seq, chunk.n, chunk.pipeline, chunk.codec, chunk.link, chunk.crc,
                    chunk.body,
                ),
            )  # fmt: skip
            while held > _UNREAD_BYTES_KEPT:
                ((id_, size),) = self.rows(
                    "SELECT id, max(?2, length(body)) FROM unread WHERE device = ?1 ORDER BY id LIMIT 1",
                    (number, _PAGE_BYTES),
                )
                self.write("DELETE FROM unread WHERE id = ?", (id_,))
                held -= size
            self._unread_bytes[number] = held

    def _unread_held(self, device: int) -> int:
        if device not in self._unread_bytes:
            ((held,),) = self.rows(
                "SELECT coalesce(sum(max(?2, length(body))), 0) FROM unread WHERE device = ?1", (device, _PAGE_BYTES)
            )
            self._unread_bytes[device] = held
        return self._unread_bytes[device]

    def next_unread(self, after_id: int) -> Unread | None:
        row = self.row(
            "SELECT unread.id, name, epoch, first_seq, n, pipeline, codec, crc, body, link FROM unread"
            " JOIN device ON device.id = unread.device WHERE unread.id > ? ORDER BY unread.id LIMIT 1",
            (after_id,),
        )
        if row is None:
            return None
        id_, device, epoch, first_seq, n, *rest = row
        return Unread(id_, device, epoch, StoredChunk(first_seq, n, 0, *rest))

    def drop_unread(self, id_: int) -> None:
        self.write("DELETE FROM unread WHERE id = ?", (id_,))
        self._unread_bytes.clear()

    def add_conflict(self, conflict: Conflict) -> None:
        number = self.device_id(conflict.device)
        with self.transaction():
            self.write(
                "INSERT INTO conflict VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET n = excluded.n,"
                " reason = excluded.reason, last_ns = excluded.last_ns, times = times + excluded.times",
                (
                    number, conflict.epoch, conflict.first_seq, conflict.n, conflict.reason, conflict.first_ns,
                    conflict.last_ns, conflict.times,
                ),
            )  # fmt: skip
            self.write(
                "DELETE FROM conflict WHERE device = ?1 AND last_ns < "
                "(SELECT last_ns FROM conflict WHERE device = ?1 ORDER BY last_ns DESC LIMIT 1 OFFSET ?2)",
                (number, _CONFLICTS_KEPT),
            )

    def conflicts(self, device: str, *, limit: int) -> list[Conflict]:
        rows = self.rows(
            "SELECT epoch, first_seq, n, reason, first_ns, last_ns, times FROM conflict"
            " JOIN device ON device.id = conflict.device WHERE name = ?"
            " ORDER BY last_ns DESC, epoch, first_seq LIMIT ?",
            (device, limit),
        )
        return [Conflict(device, *row) for row in rows]

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


def _within(absent: Absent, first: int, last: int) -> Absent:
    """What of it lies within: its time is that of its first number, its link that of its last."""
    return msgspec.structs.replace(
        absent,
        first=max(first, absent.first),
        last=min(last, absent.last),
        t_ns=absent.t_ns if absent.first >= first else 0,
        link=absent.link if absent.last <= last else NO_LINK,
    )
