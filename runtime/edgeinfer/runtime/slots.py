"""Slots: which installed package of a model is active, candidate, previous, and which one was configured."""

import logging
import threading
from pathlib import Path

from edgeinfer.runtime.errors import ConfigError, EdgeInferError, PackageError
from edgeinfer.runtime.handoff import RuntimeDb, UpdateRow
from edgeinfer.runtime.store import InstalledPackage, Store
from edgeinfer.runtime.verify import PackageRequest, ask

__all__ = ["ACTIVE", "CANDIDATE", "CONFIGURED", "PINNED", "PREVIOUS", "Slots"]

logger = logging.getLogger(__name__)

ACTIVE = "active"
CANDIDATE = "candidate"
PREVIOUS = "previous"
CONFIGURED = "configured"  # the package that the configuration named when it was last read
PINNED = "pinned"  # a person at the device wants this one: what the console assigns is refused


class Slots:
    """Used by the updater's thread and by the one that reads the configuration: `lock` is held by each of them
    from its reading of slots to its writing of them. `changing` is held by whoever brings another version in, through
    all of its checks: the updater for a tick, a person's command until its end. It is taken before `lock`."""

    def __init__(self, db: RuntimeDb, store: Store, *, release_keys: tuple[str, ...] = ()) -> None:
        self._db = db
        self._store = store
        self.release_keys = release_keys
        self.lock = threading.RLock()
        self.changing = threading.Lock()

    def of(self, model: str) -> dict[str, str]:
        """Slot to digest, for one model."""
        return self._db.slots(model)

    def put(self, model: str, slot: str, digest: str) -> None:
        self.replace(model, {**self.of(model), slot: digest})

    def replace(self, model: str, slots: dict[str, str], *, drop: str = "") -> None:
        """All slots of a model at once; empty ones and `drop` are left out."""
        self._db.set_slots(model, _filled(slots, drop))

    def commit(self, row: UpdateRow, slots: dict[str, str], *, drop: str = "") -> None:
        """As `replace`, for the row's model, with the update machine's row in the same transaction."""
        self._db.commit(row, row.model, _filled(slots, drop))

    def all_digests(self) -> set[str]:
        return {digest for model in self._db.models() for digest in self.of(model).values()}

    def prune(self) -> None:
        """Remove every installed package that is in no slot."""
        with self.lock:
            kept = self.all_digests()
            self._store.prune(kept)
            self._db.keep_choices(kept)

    def configured_model(self, path: Path) -> str:
        """The model that the package file at `path` held when it was last read; empty for one never seen."""
        return self._db.configured_model(str(path))

    def from_config(self, path: Path) -> InstalledPackage:
        """The package to run where the configuration names a file.

        A file that was not there before becomes active; once a newer version was deployed over it, that one
        stays active for as long as the configuration names the same file content. A file that is lost or
        damaged since is done without while a version of its model is active here. On a device that trusts
        release keys, one of them must have signed the file. Raises ConfigError, PackageError, RefusedError,
        StorageError.
        """
        with self.lock:
            if not path.is_file():
                return self._without_file(path, ConfigError(f"{path}: no such package"))
            try:
                package = self._store.install(path)
            except PackageError as error:
                return self._without_file(path, error)
            return self._take_configured(path, package)

    def _without_file(self, path: Path, reason: EdgeInferError) -> InstalledPackage:
        model = self.configured_model(path)
        try:
            package = self.active(model)
        except PackageError as error:
            raise reason from error
        logger.error("event=configured_package_unusable model=%s uses=%s error=%s", model, package.digest, reason)
        return package

    def _take_configured(self, path: Path, package: InstalledPackage) -> InstalledPackage:
        model = package.manifest.name
        if self.configured_model(path) != model:
            self._db.set_configured_model(str(path), model)
        slots = self.of(model)
        if slots.get(CONFIGURED) == package.digest and slots.get(ACTIVE):
            try:
                return self._store.open(slots[ACTIVE])
            except PackageError as error:
                # A device must go on inferring: the configured package has just been checked.
                logger.error("event=active_package_damaged model=%s error=%s", model, error)  # noqa: TRY400 - said in full
                slots.pop(ACTIVE)
        if self.release_keys:
            ask(PackageRequest(str(path), package.digest, self.release_keys))
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


def _filled(slots: dict[str, str], drop: str) -> dict[str, str]:
    return {slot: digest for slot, digest in slots.items() if digest and slot != drop}
