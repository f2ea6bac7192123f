"""Counts per pipeline and the buckets behind the charts, in SQLite."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import msgspec

from edgeinfer.console.repository.base import Bucket, PipelineCount
from edgeinfer.console.repository.sqlite_records import SqliteRecords

__all__ = ["SqliteCounts"]

_latencies = msgspec.msgpack.Decoder(dict[int, int])


class SqliteCounts(SqliteRecords):
    """Part of SqliteRepository."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._pipelines: dict[tuple[int, str], int] = {}

    def rolled_back(self) -> None:
        super().rolled_back()
        self._pipelines.clear()

    def pipeline_id(self, device: int, name: str) -> int:
        """Known ones are remembered; a new one is made. Inside a transaction only."""
        known = self._pipelines.get((device, name))
        if known is not None:
            return known
        self.write("INSERT OR IGNORE INTO pipeline (device, name) VALUES (?, ?)", (device, name))
        row = self.row("SELECT id FROM pipeline WHERE device = ? AND name = ?", (device, name))
        self._pipelines[device, name] = 0 if row is None else int(row[0])
        return self._pipelines[device, name]

    def pipelines(self, device: str | None = None) -> list[PipelineCount]:
        rows = self.rows(
            "SELECT d.name, p.name, p.results, p.events, p.last_t_ns FROM pipeline p JOIN device d ON d.id = p.device"
            " WHERE ?1 IS NULL OR d.name = ?1 ORDER BY d.name, p.name",
            (device,),
        )
        return [PipelineCount(*row) for row in rows]

    def add_counts(self, counts: Iterable[PipelineCount]) -> None:
        with self.transaction():
            for count in counts:
                self.write(
                    "UPDATE pipeline SET results = results + ?, events = events + ?, last_t_ns = max(last_t_ns, ?)"
                    " WHERE id = ?",
                    (
                        count.results, count.events, count.last_t_ns,
                        self.pipeline_id(self.device_id(count.device), count.pipeline),
                    ),
                )  # fmt: skip

    def add_buckets(self, buckets: Iterable[Bucket]) -> None:
        with self.transaction():
            for bucket in buckets:
                pipeline = self.pipeline_id(self.device_id(bucket.device), bucket.pipeline)
                key = (bucket.resolution_s, bucket.t_s, pipeline)
                row = self.row(
                    "SELECT n, latencies FROM bucket WHERE resolution_s = ? AND t_s = ? AND pipeline = ?", key
                )
                n, latencies = bucket.n, bucket.latencies
                if row is not None:
                    added = Counter(_latencies.decode(row[1]))
                    added.update(latencies)
                    n, latencies = n + row[0], dict(added)
                self.write(
                    "INSERT OR REPLACE INTO bucket VALUES (?, ?, ?, ?, ?)",
                    (*key, n, msgspec.msgpack.encode(latencies)),
                )

    def buckets(self, *, resolution_s: int, since_s: int, until_s: int, device: str | None = None) -> list[Bucket]:
        rows = self.rows(
            "SELECT d.name, p.name, b.resolution_s, b.t_s, b.n, b.latencies FROM bucket b"
            " JOIN pipeline p ON p.id = b.pipeline JOIN device d ON d.id = p.device"
            " WHERE b.resolution_s = ?1 AND b.t_s >= ?2 AND b.t_s < ?3 AND (?4 IS NULL OR d.name = ?4) ORDER BY b.t_s",
            (resolution_s, since_s, until_s, device),
        )
        return [
            Bucket(name, pipeline, resolution, t_s, n, _latencies.decode(latencies))
            for name, pipeline, resolution, t_s, n, latencies in rows
        ]

    def drop_buckets(self, *, resolution_s: int, before_s: int) -> None:
        self.write("DELETE FROM bucket WHERE resolution_s = ? AND t_s < ?", (resolution_s, before_s))
