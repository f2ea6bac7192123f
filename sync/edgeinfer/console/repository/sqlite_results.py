"""Results, counts per pipeline and the buckets behind the charts, in SQLite."""

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from edgeinfer.console.repository.base import Bucket, PipelineCount, StoredResult
from edgeinfer.console.repository.connection import Row
from edgeinfer.console.repository.sqlite_devices import SqliteDevices
from edgeinfer.runtime.results import Item, Kind

__all__ = ["SqliteResults"]

_RESULT = (
    "SELECT r.epoch, r.seq, p.name, r.kind, r.t_ns, r.frame, r.latency_us, r.age_us, r.items, r.extra"
    " FROM result r JOIN pipeline p ON p.id = r.pipeline WHERE r.device = ?1"
    " AND (?2 IS NULL OR p.name = ?2) AND r.epoch = ?3"
)
_items = msgspec.msgpack.Decoder(tuple[Item, ...])
_latencies = msgspec.msgpack.Decoder(dict[int, int])


class SqliteResults(SqliteDevices):
    """Part of SqliteRepository."""

    def add_results(self, results: Sequence[StoredResult]) -> int:
        if not results:
            return 0
        device, epoch = results[0].device, results[0].epoch
        number = self.device_id(device)
        with self.transaction():
            self.know_epoch(number, epoch)
            held = self._held(number, epoch, results)
            fresh = [result for result in results if result.seq not in held]
            pipelines = {name: self._pipeline_id(number, name) for name in {result.pipeline for result in fresh}}
            added = self.write_many(
                "INSERT OR IGNORE INTO result VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [(number, epoch, r.seq, pipelines[r.pipeline], *_columns(r)) for r in fresh],
            )
            self._count(fresh, pipelines)
        return added if fresh else 0

    def _held(self, number: int, epoch: int, results: Sequence[StoredResult]) -> set[int]:
        rows = self.rows(
            "SELECT seq FROM result WHERE device = ? AND epoch = ? AND seq BETWEEN ? AND ?",
            (number, epoch, min(r.seq for r in results), max(r.seq for r in results)),
        )
        return {seq for (seq,) in rows}

    def _pipeline_id(self, device: int, name: str) -> int:
        self.write("INSERT OR IGNORE INTO pipeline (device, name) VALUES (?, ?)", (device, name))
        row = self.row("SELECT id FROM pipeline WHERE device = ? AND name = ?", (device, name))
        return 0 if row is None else int(row[0])

    def _count(self, fresh: Sequence[StoredResult], pipelines: dict[str, int]) -> None:
        results = Counter(r.pipeline for r in fresh)
        events = Counter(r.pipeline for r in fresh if r.kind == Kind.EVENT)
        newest: dict[str, int] = {}
        for r in fresh:
            newest[r.pipeline] = max(newest.get(r.pipeline, 0), r.t_ns)
        self.write_many(
            "UPDATE pipeline SET results = results + ?, events = events + ?, last_t_ns = max(last_t_ns, ?)"
            " WHERE id = ?",
            [(n, events[name], newest[name], pipelines[name]) for name, n in results.items()],
        )

    def results(
        self, device: str, *, pipeline: str | None = None, after: tuple[int, int] | None = None, limit: int
    ) -> list[StoredResult]:
        row = self.row("SELECT id FROM device WHERE name = ?", (device,))
        if row is None:
            return []
        query = (
            f"{_RESULT} ORDER BY r.seq DESC LIMIT ?4"
            if after is None
            else f"{_RESULT} AND r.seq > ?5 ORDER BY r.seq LIMIT ?4"
        )
        found: list[StoredResult] = []
        # Epoch by epoch: each is a stretch of the primary key, where ordering them in a join would sort everything.
        for epoch, after_seq in self._epochs_from(row[0], after):
            values = (row[0], pipeline, epoch, limit - len(found), *(() if after is None else (after_seq,)))
            found += [_result(device, read) for read in self.rows(query, values)]
            if len(found) >= limit:
                break
        return found

    def _epochs_from(self, device: int, after: tuple[int, int] | None) -> list[tuple[int, int]]:
        """The epochs to read, in order, each with the number to begin after."""
        if after is None:
            return self.rows("SELECT epoch, 0 FROM epoch WHERE device = ? ORDER BY ordinal DESC", (device,))
        epoch, seq = after
        return self.rows(
            "SELECT epoch, CASE epoch WHEN ?2 THEN ?3 ELSE 0 END FROM epoch WHERE device = ?1 AND ordinal >="
            " coalesce((SELECT ordinal FROM epoch WHERE device = ?1 AND epoch = ?2), 0) ORDER BY ordinal",
            (device, epoch, seq),
        )

    def pipelines(self, device: str | None = None) -> list[PipelineCount]:
        rows = self.rows(
            "SELECT d.name, p.name, p.results, p.events, p.last_t_ns FROM pipeline p JOIN device d ON d.id = p.device"
            " WHERE ?1 IS NULL OR d.name = ?1 ORDER BY d.name, p.name",
            (device,),
        )
        return [PipelineCount(*row) for row in rows]

    def add_buckets(self, buckets: Iterable[Bucket]) -> None:
        with self.transaction():
            for bucket in buckets:
                pipeline = self._pipeline_id(self.device_id(bucket.device), bucket.pipeline)
                key = (bucket.resolution_s, bucket.t_s, pipeline)
                row = self.row(
                    "SELECT n, latencies FROM bucket WHERE resolution_s = ? AND t_s = ? AND pipeline = ?", key
                )
                n, latencies = (0, Counter[int]()) if row is None else (row[0], Counter(_latencies.decode(row[1])))
                latencies.update(bucket.latencies)
                self.write(
                    "INSERT OR REPLACE INTO bucket VALUES (?, ?, ?, ?, ?)",
                    (*key, n + bucket.n, msgspec.msgpack.encode(dict(latencies))),
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


def _columns(result: StoredResult) -> tuple[object, ...]:
    items = msgspec.msgpack.encode(result.items) if result.items else None
    extra = msgspec.msgpack.encode(result.extra) if result.extra is not None else None
    return (result.kind, result.t_ns, result.frame, result.latency_us, result.age_us, items, extra)


def _result(device: str, row: Row) -> StoredResult:
    epoch, seq, pipeline, kind, t_ns, frame, latency_us, age_us, items, extra = row
    return StoredResult(
        device=device,
        epoch=epoch,
        seq=seq,
        pipeline=pipeline,
        kind=kind,
        t_ns=t_ns,
        frame=frame,
        latency_us=latency_us,
        age_us=age_us,
        items=_items.decode(items) if items else (),
        extra=msgspec.msgpack.decode(extra) if extra else None,
    )
