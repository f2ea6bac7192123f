"""Packages, rollouts, deployments and what each device was told, in SQLite."""

from collections.abc import Collection
from typing import Any

import msgspec

from edgeinfer.console.repository.base import Deployment, Package, Rollout, SignedDesired
from edgeinfer.console.repository.connection import Row, SqliteConnection

__all__ = ["SqliteFleet"]

_DEPLOYMENT = (
    'SELECT rollout, device, job, digest, model, state, desired_version, created_ns, changed_ns, reason, "offset",'
    " bytes, swap_ms FROM deployment"
)
_ROLLOUT = "SELECT id, digest, target, state, created_ns, finished_ns FROM rollout"


class SqliteFleet(SqliteConnection):
    """Part of SqliteRepository."""

    def add_package(self, package: Package) -> bool:
        values = (
            package.digest,
            package.name,
            package.version,
            package.task,
            package.blob_sha256,
            package.blob_bytes,
            package.added_ns,
            _json(package.labels),
            package.label_offset,
            _json(package.variants),
            package.signed_by,
        )
        with self.transaction():
            self.write("INSERT OR REPLACE INTO blob VALUES (?, ?)", (package.blob_sha256, package.blob_bytes))
            new = self.write("INSERT OR IGNORE INTO package VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
            self.write(
                "UPDATE package SET blob_sha256 = ?, blob_bytes = ?, signed_by = ? WHERE digest = ?",
                (package.blob_sha256, package.blob_bytes, package.signed_by, package.digest),
            )
        return new == 1

    def packages(self) -> list[Package]:
        return [_package(row) for row in self.rows("SELECT * FROM package ORDER BY added_ns DESC, digest")]

    def package(self, digest: str) -> Package | None:
        row = self.row("SELECT * FROM package WHERE digest = ?", (digest,))
        return None if row is None else _package(row)

    def blob_bytes(self, sha256: str) -> int:
        row = self.row("SELECT bytes FROM blob WHERE sha256 = ?", (sha256,))
        return 0 if row is None else int(row[0])

    def add_rollout(self, *, digest: str, target: str, state: str, t_ns: int) -> Rollout:
        number = self.insert(
            "INSERT INTO rollout (digest, target, state, created_ns) VALUES (?, ?, ?, ?)", (digest, target, state, t_ns)
        )
        return Rollout(number, digest, target, state, t_ns, 0)

    def rollouts(self, *, limit: int) -> list[Rollout]:
        return [Rollout(*row) for row in self.rows(f"{_ROLLOUT} ORDER BY id DESC LIMIT ?", (limit,))]

    def rollout(self, rollout_id: int) -> Rollout | None:
        row = self.row(f"{_ROLLOUT} WHERE id = ?", (rollout_id,))
        return None if row is None else Rollout(*row)

    def is_unfinished(self, rollout_id: int, *, final: Collection[str]) -> bool:
        states = ", ".join("?" * len(final))
        row = self.row(
            f"SELECT EXISTS (SELECT 1 FROM deployment WHERE rollout = ? AND state NOT IN ({states}))",  # noqa: S608 - marks only
            (rollout_id, *final),
        )
        return row is not None and bool(row[0])

    def set_rollout_state(self, rollout_id: int, state: str, *, t_ns: int) -> None:
        self.write("UPDATE rollout SET state = ?, finished_ns = ? WHERE id = ?", (state, t_ns, rollout_id))

    def save_deployment(self, deployment: Deployment) -> None:
        self.write(
            "INSERT OR REPLACE INTO deployment (rollout, device, job, digest, model, state, desired_version,"
            ' created_ns, changed_ns, reason, "offset", bytes, swap_ms)'
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            msgspec.structs.astuple(deployment),
        )

    def deployments(self, *, rollout: int | None = None, device: str | None = None) -> list[Deployment]:
        # Only what is asked for is in the query: `?1 IS NULL OR ...` would keep SQLite from its indexes.
        wanted = {name: value for name, value in (("rollout", rollout), ("device", device)) if value is not None}
        where = "".join(f" {'AND' if n else 'WHERE'} {name} = ?" for n, name in enumerate(wanted))
        rows = self.rows(f"{_DEPLOYMENT}{where} ORDER BY rollout DESC, device", tuple(wanted.values()))
        return [_deployment(row) for row in rows]

    def desired(self, device: str) -> SignedDesired | None:
        row = self.row("SELECT device, version, envelope FROM desired WHERE device = ?", (device,))
        return None if row is None else SignedDesired(*row)

    def all_desired(self) -> list[SignedDesired]:
        return [SignedDesired(*row) for row in self.rows("SELECT device, version, envelope FROM desired")]

    def save_desired(self, desired: SignedDesired) -> None:
        self.write(
            "INSERT OR REPLACE INTO desired VALUES (?, ?, ?)", (desired.device, desired.version, desired.envelope)
        )


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _package(row: Row) -> Package:
    digest, name, version, task, blob_sha256, blob_bytes, added_ns, labels, label_offset, variants, signed_by = row
    return Package(
        digest=digest,
        name=name,
        version=version,
        task=task,
        blob_sha256=blob_sha256,
        blob_bytes=blob_bytes,
        added_ns=added_ns,
        labels=tuple(msgspec.json.decode(labels)),
        label_offset=label_offset,
        variants=tuple(msgspec.json.decode(variants)),
        signed_by=signed_by,
    )


def _deployment(row: Row) -> Deployment:
    rollout, device, job, digest, model, state, desired_version, created_ns, changed_ns, *rest = row
    reason, offset, size, swap_ms = rest
    return Deployment(
        rollout=rollout,
        device=device,
        job=job,
        digest=digest,
        model=model,
        state=state,
        desired_version=desired_version,
        created_ns=created_ns,
        changed_ns=changed_ns,
        reason=reason,
        offset=offset,
        bytes=size,
        swap_ms=swap_ms,
    )
