"""What is known of files that devices sent, in SQLite."""

import msgspec

from edgeinfer.console.repository.base import DeviceBlob
from edgeinfer.console.repository.connection import Row
from edgeinfer.console.repository.sqlite_devices import SqliteDevices

__all__ = ["SqliteBlobs"]

_BLOB = (
    "SELECT d.name, b.sha256, b.kind, b.name, b.pipeline, b.t_ns, b.total_bytes, b.received_ns, b.done"
    " FROM device_blob b JOIN device d ON d.id = b.device"
)


class SqliteBlobs(SqliteDevices):
    """Part of SqliteRepository."""

    def save_device_blob(self, blob: DeviceBlob) -> None:
        _, *values = msgspec.structs.astuple(blob)
        self.write(
            "INSERT OR REPLACE INTO device_blob VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (self.device_id(blob.device), *values),
        )

    def device_blob(self, device: str, sha256: str) -> DeviceBlob | None:
        row = self.row(f"{_BLOB} WHERE d.name = ? AND b.sha256 = ?", (device, sha256))
        return None if row is None else _blob(row)

    def device_blobs(self, device: str | None = None, *, done: bool = True, limit: int) -> list[DeviceBlob]:
        rows = self.rows(
            f"{_BLOB} WHERE (?1 IS NULL OR d.name = ?1) AND b.done >= ?2"
            " ORDER BY b.received_ns DESC, b.t_ns DESC LIMIT ?3",
            (device, done, limit),
        )
        return [_blob(row) for row in rows]

    def oldest_device_blob(self, device: str) -> DeviceBlob | None:
        row = self.row(f"{_BLOB} WHERE d.name = ? ORDER BY b.received_ns, b.t_ns LIMIT 1", (device,))
        return None if row is None else _blob(row)

    def device_blob_bytes(self) -> dict[str, int]:
        return dict(
            self.rows(
                "SELECT d.name, sum(max(b.total_bytes, 4096)) FROM device_blob b JOIN device d ON d.id = b.device"
                " GROUP BY b.device"
            )
        )

    def drop_device_blob(self, device: str, sha256: str) -> None:
        self.write("DELETE FROM device_blob WHERE device = ? AND sha256 = ?", (self.device_id(device), sha256))


def _blob(row: Row) -> DeviceBlob:
    device, sha256, kind, name, pipeline, t_ns, total_bytes, received_ns, done = row
    return DeviceBlob(
        device=device,
        sha256=sha256,
        kind=kind,
        name=name,
        pipeline=pipeline,
        t_ns=t_ns,
        total_bytes=total_bytes,
        received_ns=received_ns,
        done=bool(done),
    )
