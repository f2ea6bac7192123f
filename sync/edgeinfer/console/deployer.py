"""Starts rollouts and tells the devices: signed, retained, with a version that only grows.

What a device was told is stored before it is published and published again, byte for byte, after every
reconnect: a broker may have lost what it retained.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from edgeinfer.console import rollout as decisions
from edgeinfer.console.registry import Registry
from edgeinfer.console.repository import Repository
from edgeinfer.console.repository.base import Deployment, Package, Rollout, SignedDesired
from edgeinfer.runtime.trust import SigningKey, seal
from edgeinfer.sync.messages import JobStatus, encode, topic

__all__ = ["Deployer", "Publisher"]

_log = logging.getLogger(__name__)


class Publisher(Protocol):
    """The part of MqttLink that is needed to say something."""

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> bool: ...


class Deployer:
    """Safe from any thread. `changed` is called with each deployment that came or changed."""

    def __init__(
        self,
        repository: Repository,
        registry: Registry,
        publisher: Publisher,
        *,
        key: SigningKey,
        tenant: str,
        changed: Callable[[Deployment], None] = lambda _: None,
    ) -> None:
        self._repository = repository
        self._registry = registry
        self._publisher = publisher
        self._key = key
        self._tenant = tenant
        self._changed = changed
        self._creating = threading.Lock()
        self._publishing = threading.Lock()
        self._unpublished: dict[str, None] = {}

    @property
    def public_key(self) -> bytes:
        return self._key.public

    def create(self, reference: str, target: str) -> Rollout:
        """Deploy a package of the registry to `target`. Raises UsageError: unknown package, no such device."""
        package = self._registry.find(reference)
        t_ns = time.time_ns()
        with self._creating, self._repository.transaction():
            names = decisions.choose_devices(target, self._repository.devices())
            rollout = self._repository.add_rollout(
                digest=package.digest, target=target, state=decisions.RUNNING, t_ns=t_ns
            )
            packages = {known.digest: known for known in self._repository.packages()}
            left: set[int] = set()
            deployed = []
            for number, name in enumerate(names, start=1):
                left |= self._supersede(name, model=package.name)
                deployed.append(
                    self._assign(
                        package, rollout, name, job=decisions.job_name(rollout.id, number), packages=packages, t_ns=t_ns
                    )
                )
            for old in left:
                self._close_rollout(old, t_ns)
        _log.info(
            "event=rollout_created rollout=%d package=%s:%s devices=%d",
            rollout.id, package.name, package.version, len(deployed),
        )  # fmt: skip
        for deployment in deployed:
            self._changed(deployment)
        self._queue([deployment.device for deployment in deployed])
        self.publish_pending()
        return rollout

    def reported(self, device: str, status: JobStatus, *, t_ns: int) -> Deployment | None:
        """A device spoke of a job. Returns the deployment where that changed it; part of the caller's transaction."""
        known = [d for d in self._repository.deployments(device=device) if d.job == status.job]
        changed = decisions.after_report(known[0], status, t_ns=t_ns) if known else None
        if changed is None:
            return None
        self._repository.save_deployment(changed)
        if changed.state in decisions.FINAL:
            self._close_rollout(changed.rollout, t_ns)
        return changed

    def publish_all(self) -> None:
        """After a reconnect: say everything again."""
        self._queue([desired.device for desired in self._repository.all_desired()])

    def publish_pending(self) -> None:
        """Publish what waits, as far as the link takes it."""
        with self._publishing:
            for device in list(self._unpublished):
                desired = self._repository.desired(device)
                if desired is not None and not self._publisher.publish(
                    topic(self._tenant, device, "down/desired"), desired.envelope, qos=1, retain=True
                ):
                    return
                self._unpublished.pop(device, None)

    def _queue(self, devices: list[str]) -> None:
        with self._publishing:
            self._unpublished.update(dict.fromkeys(devices))

    def _supersede(self, device: str, *, model: str) -> set[int]:
        """End what `device` has not finished of `model`; returns the rollouts that it was part of."""
        ended = decisions.superseded(self._repository.deployments(device=device), model=model)
        for old in ended:
            self._repository.save_deployment(old)
        return {old.rollout for old in ended}

    def _assign(
        self,
        package: Package,
        rollout: Rollout,
        device: str,
        *,
        job: str,
        packages: Mapping[str, Package],
        t_ns: int,
    ) -> Deployment:
        before = self._repository.desired(device)
        version = before.version + 1 if before is not None else 1
        deployment = Deployment(
            rollout=rollout.id,
            device=device,
            job=job,
            digest=package.digest,
            model=package.name,
            state=decisions.PENDING,
            desired_version=version,
            created_ns=t_ns,
            changed_ns=t_ns,
            bytes=package.blob_bytes,
        )
        self._repository.save_deployment(deployment)
        state = decisions.desired_state(
            device,
            self._repository.deployments(device=device),
            packages,
            version=version,
            issued_s=t_ns // 1_000_000_000,
        )
        self._repository.save_desired(SignedDesired(device, version, seal(encode(state), self._key)))
        return deployment

    def _close_rollout(self, rollout_id: int, t_ns: int) -> None:
        """Once every device is in a final state."""
        if not self._repository.is_unfinished(rollout_id, final=decisions.FINAL):
            self._repository.set_rollout_state(rollout_id, decisions.FINISHED, t_ns=t_ns)
