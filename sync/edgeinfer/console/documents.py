"""What the REST API answers and the pages show, built from the repository. Times are seconds since 1970."""

import time
from collections.abc import Iterable, Sequence
from typing import Any

from edgeinfer.console import rollout as decisions
from edgeinfer.console import series
from edgeinfer.console.labels import Labels
from edgeinfer.console.ledger import Ledger
from edgeinfer.console.repository import Repository
from edgeinfer.console.repository.base import (
    Conflict,
    Deployment,
    Device,
    Package,
    PipelineCount,
    Refusal,
    Rollout,
    StoredResult,
)
from edgeinfer.runtime.results import Kind

__all__ = ["Documents"]

Document = dict[str, Any]

_GAPS_SHOWN = 20
_SETTLE_S = 2
_PIPELINE_TEXTS = ("model", "package", "variant", "source", "error")
_PIPELINE_NUMBERS = ("captured", "results", "events", "fps")
_KINDS = {kind.value: kind.name.lower() for kind in Kind}


class Documents:
    """Reads only."""

    def __init__(self, repository: Repository, labels: Labels) -> None:
        self._repository = repository
        self._labels = labels

    def devices(self) -> list[Document]:
        ledgers, retired = self._repository.all_ledgers(), self._repository.retired()
        counts = _by_device(self._repository.pipelines())
        return [
            self._device(
                device, _audit(device, ledgers.get(device.name), retired.get(device.name)), counts.get(device.name, [])
            )
            for device in self._repository.devices()
        ]

    def device(self, name: str) -> Document | None:
        """One device with what only its own page shows: absent ranges, conflicts, refusals, deployments."""
        device = self._repository.device(name)
        if device is None:
            return None
        audit = _audit(device, self._repository.ledgers(name), self._repository.retired().get(name))
        document = self._device(device, audit, self._repository.pipelines(name))
        document["absent"] = [
            {"epoch": a.epoch, "first": a.first, "last": a.last, "cause": a.cause, "reason": a.reason}
            for a in self._repository.absent(name, limit=50)
        ]
        document["conflicts"] = [_conflict(c) for c in self._repository.conflicts(name, limit=20)]
        document["refusals"] = [refusal_document(r) for r in self._repository.refusals(limit=20, device=name)]
        document["deployments"] = self._deployments(self._repository.deployments(device=name)[:20])
        return document

    def device_counts(self) -> Document:
        devices = self._repository.devices()
        return {"devices": len(devices), "online": sum(device.online for device in devices)}

    def audit(self, device: str | None = None) -> Document:
        """What is stored and what is not, for each device (or one of them) and in all."""
        ledgers, retired = self._repository.all_ledgers(), self._repository.retired()
        devices = [
            {"device": known.name, **_audit(known, ledgers.get(known.name), retired.get(known.name))}
            for known in self._repository.devices()
            if device is None or known.name == device
        ]
        totals: Document = {
            key: sum(row[key] for row in devices)
            for key in ("stored", "duplicates", "gaps", "evicted", "missing", "undecodable", "conflicts", "refused")
        }
        if device is None:  # strangers' messages count too
            totals["refused"] = self._repository.refused_count()
        totals["complete"] = all(row["complete"] for row in devices)
        return {"devices": devices, "totals": totals}

    def results(self, found: Iterable[StoredResult], *, max_items: int | None = None) -> list[Document]:
        """With `max_items` no more items of each: an embedding has hundreds, and a page shows one."""
        return [self._result(result, max_items) for result in found]

    def newest_results(self, limit: int, *, max_items: int | None = None) -> list[Document]:
        """Of all devices, the newest first by when they were made."""
        newest: dict[str, int] = {}
        for count in self._repository.pipelines():
            newest[count.device] = max(newest.get(count.device, count.last_t_ns), count.last_t_ns)
        found: list[StoredResult] = []
        # Device by device, for as long as one may have a result that is newer than the oldest of those found.
        for device, last_t_ns in sorted(newest.items(), key=lambda pair: pair[1], reverse=True):
            if len(found) == limit and found[-1].t_ns >= last_t_ns:
                break
            found += self._repository.results(device, limit=limit)
            found = sorted(found, key=lambda result: result.t_ns, reverse=True)[:limit]
        return self.results(found, max_items=max_items)

    def series(self, *, minutes: int, device: str | None = None, now_s: float | None = None) -> Document:
        """Results a second and latencies over the last `minutes`, one series a pipeline, and over all of them."""
        resolution_s, step_s = series.resolution_for(minutes)
        # The newest seconds are still filling, on the device and on the way: leave them out.
        until_s = int((now_s if now_s is not None else time.time()) - _SETTLE_S) // step_s * step_s
        since_s = until_s - minutes * 60 // step_s * step_s
        buckets = self._repository.buckets(resolution_s=resolution_s, since_s=since_s, until_s=until_s, device=device)
        return {
            "since_s": since_s,
            "until_s": until_s,
            "step_s": step_s,
            "series": series.points(buckets, since_s=since_s, until_s=until_s, step_s=step_s),
            "total": series.totals(buckets),
        }

    def packages(self) -> list[Document]:
        running = self._running_digests()
        return [package_document(package, running.get(package.digest, [])) for package in self._repository.packages()]

    def rollouts(self, limit: int = 50) -> list[Document]:
        return [self._rollout(rollout) for rollout in self._repository.rollouts(limit=limit)]

    def rollout(self, rollout_id: int) -> Document | None:
        rollout = self._repository.rollout(rollout_id)
        return None if rollout is None else self._rollout(rollout)

    def deployment(self, deployment: Deployment) -> Document:
        return self._deployments([deployment])[0]

    def refusals(self, limit: int) -> list[Document]:
        return [refusal_document(refusal) for refusal in self._repository.refusals(limit=limit)]

    def groups(self) -> list[str]:
        return sorted({group for device in self._repository.devices() for group in device.groups})

    def _running_digests(self) -> dict[str, list[str]]:
        """Digest to the devices that report to run it."""
        found: dict[str, list[str]] = {}
        for device in self._repository.devices():
            for model in device.reported.get("models", {}).values():
                found.setdefault(model.get("digest", ""), []).append(device.name)
        return found

    def _device(self, device: Device, audit: Document, counts: Sequence[PipelineCount]) -> Document:
        reported = device.reported
        return {
            "id": device.name,
            "online": device.online,
            "session": device.session,
            "agent_version": device.agent_version,
            "groups": list(device.groups),
            "first_seen_s": device.first_seen_ns / 1e9,
            "last_seen_s": device.last_seen_ns / 1e9,
            "profile": device.profile,
            "engines": device.engines,
            "models": reported.get("models", {}),
            "pipelines": _pipelines(reported.get("pipelines", {}), device.telemetry.get("pipelines", {}), counts),
            "reported_version": reported.get("version", 0),
            "reported_audit": reported.get("audit", {}),
            "telemetry": device.telemetry,
            "backlog": device.telemetry.get("backlog", 0),
            "audit": audit,
        }

    def _result(self, result: StoredResult, max_items: int | None) -> Document:
        return {
            "device": result.device,
            "pipeline": result.pipeline,
            "epoch": result.epoch,
            "seq": result.seq,
            "kind": _KINDS.get(result.kind, str(result.kind)),
            "t_s": result.t_ns / 1e9,
            "frame": result.frame,
            "latency_us": result.latency_us,
            "age_us": result.age_us,
            "items": [
                {
                    "label": item.label,
                    "name": self._labels.name(result.device, result.pipeline, kind=result.kind, label=item.label),
                    "score": item.score,
                    "box": item.box,
                }
                for item in result.items[:max_items]
            ],
            "item_count": len(result.items),
            "extra": result.extra,
        }

    def _rollout(self, rollout: Rollout) -> Document:
        deployments = self._repository.deployments(rollout=rollout.id)
        package = self._repository.package(rollout.digest)
        return {
            "id": rollout.id,
            "package": _reference(package),
            "digest": rollout.digest,
            "to": rollout.target,
            "state": rollout.state,
            "created_s": rollout.created_ns / 1e9,
            "finished_s": rollout.finished_ns / 1e9 or None,
            **decisions.outcome(deployments),
            "deployments": self._deployments(deployments),
        }

    def _deployments(self, deployments: Sequence[Deployment]) -> list[Document]:
        versions = {package.digest: package.version for package in self._repository.packages()}
        return [
            {
                "rollout": d.rollout,
                "device": d.device,
                "job": d.job,
                "model": d.model,
                "version": versions.get(d.digest, ""),
                "digest": d.digest,
                "state": d.state,
                "outcome": _outcome(d.state),
                "reason": d.reason,
                "progress": min(1.0, d.offset / d.bytes) if d.bytes else 0.0,
                "swap_ms": d.swap_ms,
                "desired_version": d.desired_version,
                "changed_s": d.changed_ns / 1e9,
            }
            for d in deployments
        ]


def package_document(package: Package, running_on: Sequence[str] = ()) -> Document:
    return {
        "digest": package.digest,
        "name": package.name,
        "version": package.version,
        "task": package.task,
        "bytes": package.blob_bytes,
        "sha256": package.blob_sha256,
        "added_s": package.added_ns / 1e9,
        "labels": len(package.labels),
        "variants": list(package.variants),
        "signed_by": package.signed_by,
        "running_on": list(running_on),
    }


def refusal_document(refusal: Refusal) -> Document:
    return {
        "t_s": refusal.t_ns / 1e9,
        "device": refusal.device,
        "topic": refusal.topic,
        "reason": refusal.reason,
        "bytes": refusal.bytes,
    }


def _conflict(conflict: Conflict) -> Document:
    return {
        "epoch": conflict.epoch,
        "first": conflict.first_seq,
        "last": conflict.first_seq + conflict.n - 1,
        "reason": conflict.reason,
        "times": conflict.times,
        "first_s": conflict.first_ns / 1e9,
        "last_s": conflict.last_ns / 1e9,
    }


def _reference(package: Package | None) -> str:
    return f"{package.name} {package.version}" if package is not None else "unknown package"


def _outcome(state: str) -> str:
    if state in decisions.SUCCESSES:
        return "succeeded"
    if state in decisions.FAILURES:
        return "failed"
    return "dropped" if state in decisions.FINAL else "running"


def _by_device(counts: Iterable[PipelineCount]) -> dict[str, list[PipelineCount]]:
    found: dict[str, list[PipelineCount]] = {}
    for count in counts:
        found.setdefault(count.device, []).append(count)
    return found


def _audit(device: Device, ledgers: dict[int, Ledger] | None, retired: Ledger | None) -> Document:
    """Per epoch, the newest first, and in all, with what was counted of `retired` epochs.

    `gaps` counts the results that are missing below what has been stored beyond them.
    """
    ledgers = ledgers or {}
    counted = [*ledgers.values(), *([] if retired is None else [retired])]
    epochs = [
        {
            "epoch": epoch,
            "contiguous": ledger.contiguous,
            "highest": ledger.highest,
            **_counts(ledger),
            "gaps": ledger.gap_results,
            "gap_ranges": ledger.gaps(_GAPS_SHOWN),
        }
        for epoch, ledger in reversed(ledgers.items())
    ]
    totals = {
        "stored": sum(ledger.stored for ledger in counted),
        "duplicates": sum(ledger.duplicates for ledger in counted),
        "gaps": sum(ledger.gap_results for ledger in counted),
        "evicted": sum(ledger.evicted for ledger in counted),
        "missing": sum(ledger.missing for ledger in counted),
        "undecodable": sum(ledger.undecodable for ledger in counted),
        "conflicts": sum(ledger.conflicts for ledger in counted),
        "refused": device.refused,
    }
    complete = not any(totals[key] for key in ("gaps", "missing", "undecodable", "evicted", "conflicts"))
    return {**totals, "complete": complete, "epochs": epochs, "retired": None if retired is None else _counts(retired)}


def _counts(ledger: Ledger) -> Document:
    return {
        "stored": ledger.stored,
        "duplicates": ledger.duplicates,
        "evicted": ledger.evicted,
        "missing": ledger.missing,
        "undecodable": ledger.undecodable,
        "conflicts": ledger.conflicts,
    }


def _pipelines(reported: Document, telemetry: Document, counts: Sequence[PipelineCount]) -> dict[str, Document]:
    """By name: what the device says of a pipeline, the newer telemetry over it, and what is stored here."""
    found: dict[str, Document] = {}
    for source in (reported, telemetry):
        for name, described in source.items():
            found.setdefault(name, {}).update(_told(described))
    for count in counts:
        found.setdefault(count.pipeline, {}).update(
            stored=count.results, stored_events=count.events, last_result_s=count.last_t_ns / 1e9
        )
    nothing: Document = {"stored": 0, "stored_events": 0, "last_result_s": None, "frames": {}, "latency_us": {}}
    return {name: {**nothing, **described} for name, described in sorted(found.items())}


def _told(described: Document) -> Document:
    """What a device may say of a pipeline, each in the type that it should have; the rest is left out."""
    texts = {key: described[key] for key in _PIPELINE_TEXTS if isinstance(described.get(key), str)}
    numbers = {key: described[key] for key in _PIPELINE_NUMBERS if _is_number(described.get(key))}
    tables = {
        key: {name: value for name, value in described[key].items() if _is_number(value)}
        for key in ("frames", "latency_us")
        if isinstance(described.get(key), dict)
    }
    return {**texts, **numbers, **tables}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
