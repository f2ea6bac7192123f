"""Decisions about rollouts: who is meant, what each device is to run, when it is over. Values only, no I/O.

A deployment is one device's part of a rollout. Its states are those that the device's update machine reports,
and three of the console's own: PENDING (the device has not spoken yet), SUPERSEDED (a later rollout of the same
model took its place) and, at the end of a rollout that is stopped, CANCELLED.

    PENDING -> (any state the device reports) -> COMMITTED -> REPORTED      success
                                              -> FAILED | ROLLED_BACK       failure, with the device's reason

Nothing counts as a success before COMMITTED.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from edgeinfer.console.repository.base import Deployment, Device, Package
from edgeinfer.runtime.errors import UsageError
from edgeinfer.sync.messages import Assignment, DesiredState, JobStatus, is_name

__all__ = [
    "CANCELLED",
    "FAILURES",
    "FINAL",
    "FINISHED",
    "PENDING",
    "PROGRESS",
    "RUNNING",
    "SUCCESSES",
    "SUPERSEDED",
    "after_report",
    "choose_devices",
    "desired_state",
    "job_name",
    "outcome",
    "superseded",
]

PENDING = "PENDING"
SUPERSEDED = "SUPERSEDED"
CANCELLED = "CANCELLED"
PROGRESS = (
    "ASSIGNED",
    "METADATA_OK",
    "DOWNLOADING",
    "DOWNLOADED",
    "STAGED",
    "GATE",
    "SHADOW",
    "TRIAL",
    "ROLLING_BACK",
)
SUCCESSES = frozenset({"COMMITTED", "REPORTED"})
FAILURES = frozenset({"FAILED", "ROLLED_BACK"})
FINAL = SUCCESSES | FAILURES | {SUPERSEDED, CANCELLED}
_REPORTABLE = frozenset(PROGRESS) | SUCCESSES | FAILURES

RUNNING, FINISHED = "RUNNING", "FINISHED"


def choose_devices(target: str, devices: Sequence[Device]) -> list[str]:
    """The devices that `target` means: `all`, `device:ID` or `group:G`. Raises UsageError when that is none.

    `all` leaves out names that only ever published something: a device is who has said what it is.
    """
    kind, _, name = target.partition(":")
    if target == "all":
        chosen = [device.name for device in devices if device.agent_version]
    elif kind == "device" and is_name(name):
        chosen = [device.name for device in devices if device.name == name]
    elif kind == "group" and name:
        chosen = [device.name for device in devices if name in device.groups]
    else:
        raise UsageError(f"expected a target all, device:ID or group:NAME, found {target[:80]!r}")
    if not chosen:
        known = ", ".join(device.name for device in devices[:10]) or "none has connected yet"
        raise UsageError(f"no device fits {target!r}", hint=f"known devices: {known}")
    return chosen


def job_name(rollout_id: int, number: int) -> str:
    """The name of a deployment on the wire: short, and valid in a topic whatever the device is called."""
    return f"r{rollout_id}-{number}"


def superseded(existing: Iterable[Deployment], *, model: str) -> list[Deployment]:
    """The unfinished deployments of `model` on one device that a new one takes the place of."""
    return [
        msgspec.structs.replace(deployment, state=SUPERSEDED, reason="a later rollout took its place")
        for deployment in existing
        if deployment.model == model and deployment.state not in FINAL
    ]


def desired_state(
    device: str, deployments: Sequence[Deployment], packages: Mapping[str, Package], *, version: int, issued_s: int
) -> DesiredState:
    """What `device` is to run: of each model the newest deployment that did not fail, the newest first.

    `deployments` are the device's, newest first; `packages` by digest.
    """
    chosen: dict[str, Assignment] = {}
    for deployment in deployments:
        package = packages.get(deployment.digest)
        unwanted = deployment.state in FAILURES or deployment.state in {SUPERSEDED, CANCELLED}
        if package is None or unwanted or deployment.model in chosen:
            continue
        chosen[deployment.model] = Assignment(
            job=deployment.job,
            model=package.name,
            version=package.version,
            digest=package.digest,
            blob_sha256=package.blob_sha256,
            blob_bytes=package.blob_bytes,
        )
    return DesiredState(version=version, device=device, issued_s=issued_s, assignments=tuple(chosen.values()))


def after_report(deployment: Deployment, status: JobStatus, *, t_ns: int) -> Deployment | None:
    """The deployment after the device reported `status`; None where the report changes nothing.

    Reports come again after every reconnect, so an older one never undoes a final state; a device may still
    roll back what it had committed.
    """
    if status.state not in _REPORTABLE or not _may_follow(deployment.state, status.state):
        return None
    changed = msgspec.structs.replace(
        deployment,
        state=status.state,
        reason=status.reason,
        offset=status.offset,
        bytes=status.bytes,
        swap_ms=status.swap_ms or deployment.swap_ms,
        changed_ns=t_ns,
    )
    unchanged = msgspec.structs.replace(changed, changed_ns=deployment.changed_ns) == deployment
    return None if unchanged else changed


def _may_follow(current: str, reported: str) -> bool:
    if current in {SUPERSEDED, CANCELLED} or current in FAILURES:
        return False
    if current in SUCCESSES:
        return reported in FAILURES or reported == "ROLLING_BACK" or (current, reported) == ("COMMITTED", "REPORTED")
    return True


def outcome(deployments: Sequence[Deployment]) -> dict[str, Any]:
    """How many devices are where: for a progress bar and for scripts."""
    states = Counter(deployment.state for deployment in deployments)
    succeeded = sum(states[state] for state in SUCCESSES)
    failed = sum(states[state] for state in FAILURES)
    dropped = states[SUPERSEDED] + states[CANCELLED]
    return {
        "devices": len(deployments),
        "succeeded": succeeded,
        "failed": failed,
        "superseded": dropped,
        "running": len(deployments) - succeeded - failed - dropped,
        "states": dict(states),
    }
