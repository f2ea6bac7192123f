"""Slots: which installed package of a model is active, candidate, previous, and which one was configured."""

import logging
from pathlib import Path

from edgeinfer.runtime.errors import PackageError
from edgeinfer.runtime.handoff import RuntimeDb
from edgeinfer.runtime.store import InstalledPackage, Store

__all__ = ["ACTIVE", "CANDIDATE", "CONFIGURED", "PREVIOUS", "Slots"]

logger = logging.getLogger(__name__)

ACTIVE = "active"
CANDIDATE = "candidate"
PREVIOUS = "previous"
CONFIGURED = "configured"  # the package that the configuration named when it was last read


class Slots:
    def __init__(self, db: RuntimeDb, store: Store) -> None:
        self._db = db
        self._store = store

    def of(self, model: str) -> dict[str, str]:
        """Slot to digest, for one model."""
        return self._db.slots(model)

    def put(self, model: str, slot: str, digest: str) -> None:
        self.replace(model, {**self.of(model), slot: digest})

    def replace(self, model: str, slots: dict[str, str], *, drop: str = "") -> None:
        """All slots of a model at once; empty ones and `drop` are left out."""
        self._db.set_slots(model, {slot: digest for slot, digest in slots.items() if digest and slot != drop})

    def all_digests(self) -> set[str]:
        return {digest for model in self._db.models() for digest in self.of(model).values()}

    def from_config(self, path: Path) -> InstalledPackage:
        """The package to run where the configuration names a file.

        A file that was not there before becomes active; once a newer version was deployed over it, that one
        stays active for as long as the configuration names the same file content. Raises PackageError.
        """
        package = self._store.install(path)
        model = package.manifest.name
        slots = self.of(model)
        if slots.get(CONFIGURED) == package.digest and slots.get(ACTIVE):
            try:
                return self._store.open(slots[ACTIVE])
            except PackageError as error:
                # A device must go on inferring: the configured package has just been checked.
                logger.error("event=active_package_damaged model=%s error=%s", model, error)  # noqa: TRY400 - said in full
                slots.pop(ACTIVE)
        previous = slots.get(ACTIVE, "")
        if previous == package.digest:
            previous = slots.get(PREVIOUS, "")
        self.replace(model, {**slots, CONFIGURED: package.digest, ACTIVE: package.digest, PREVIOUS: previous})
        return package

    def active(self, model: str) -> InstalledPackage:
        """Raises PackageError where no version of `model` is installed."""
        digest = self.of(model).get(ACTIVE)
        if digest is None:
            raise PackageError(
                f"no package of model {model!r} is installed", hint="name a package file in the pipeline, or deploy one"
            )
        return self._store.open(digest)
