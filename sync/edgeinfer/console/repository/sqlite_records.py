"""What did not become a stored result: absent ranges, refused messages, conflicts, in SQLite."""

from collections.abc import Sequence

from edgeinfer.console.repository.base import Absent, Conflict, Refusal
from edgeinfer.console.repository.sqlite_devices import SqliteDevices

__all__ = ["SqliteRecords"]

# Enough to see what goes on; hostile clients must not fill the disk.
_REFUSALS_KEPT = 200
_ABSENT_KEPT = 10_000
_CONFLICTS_KEPT = 200


class SqliteRecords(SqliteDevices):
    """Part of SqliteRepository."""

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
