"""Which version of a model runs, as a person at the device decides: list, activate, roll back, pin.

    activation = Activation(slots, store, running, db=db, gate=ask_gate)
    activation.activate("door", "2.0.0")

The daemon does this for the commands while it runs; otherwise they do it themselves, under the daemon's lock. A new
version passes the same checks as one that the console sends: the signature, where release keys are configured, and
the gate. Then it takes over between two frames. It is watched for a moment, and goes back when it fails; only after
that is it called active.
"""

import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from edgeinfer.runtime.choosing import chosen_variant, is_due, pass_gate
from edgeinfer.runtime.errors import EdgeInferError, GateError, PackageError, UsageError
from edgeinfer.runtime.handoff import RuntimeDb
from edgeinfer.runtime.package import PackageFile
from edgeinfer.runtime.settings import GateConfig
from edgeinfer.runtime.slots import ACTIVE, PINNED, PREVIOUS, Slots
from edgeinfer.runtime.store import InstalledPackage, Store
from edgeinfer.runtime.update import FINAL, State
from edgeinfer.runtime.verify import GateRequest, PackageRequest, ask

__all__ = ["Activation", "Engaged", "RunningModels"]

logger = logging.getLogger(__name__)

# The updater holds the right to change versions for a step at a time.
_PATIENCE_S = 5.0
_WATCH_S = 10.0  # no longer, whatever trial_s says: a person waits
_LOOK_S = 0.05
_MAX_FAILURES = 3
_LEAST_DIGEST = 6


class RunningModels(Protocol):
    """What an activation needs of the running pipelines of one model."""

    def runs(self, model: str) -> bool: ...
    def threads(self, model: str) -> int: ...
    def variant(self, model: str) -> str: ...
    def swap(self, model: str, digest: str) -> None: ...
    def has_swapped(self, model: str, digest: str) -> bool: ...
    def inferred(self, model: str) -> int: ...
    def idle(self, model: str) -> bool: ...
    def failures(self, model: str) -> int: ...
    def swap_ms(self, model: str) -> float: ...


class Engaged(msgspec.Struct, frozen=True, kw_only=True):
    """What an activation came to. `running`: whether a pipeline uses it now; `gate` is what the gate measured."""

    model: str
    version: str
    digest: str
    before: str = ""
    running: bool = False
    changed: bool = True
    swap_ms: float = 0.0
    gate: dict[str, Any] = {}


class Activation:
    """Not more than one change at a time; every method may be called from any thread. `gate` and `trial_s` are asked
    anew each time, for a reload may change them. `stop` ends the watching of a new version."""

    def __init__(
        self,
        slots: Slots,
        store: Store,
        running: RunningModels,
        *,
        db: RuntimeDb,
        state_dir: Path,
        gate: Callable[[], GateConfig] = GateConfig,
        trial_s: Callable[[], float] = lambda: 0.0,
        stop: threading.Event | None = None,
    ) -> None:
        self._slots = slots
        self._store = store
        self._running = running
        self._db = db
        self._state_dir = state_dir
        self._gate = gate
        self._trial_s = trial_s
        self._stop = stop or threading.Event()

    def models(self) -> list[dict[str, Any]]:
        """One entry a package that is in a slot, as `edgeinfer models list --json` prints it."""
        return [
            self._described(model, digest, slots)
            for model in self._db.models()
            for slots in [self._slots.of(model)]
            for digest in dict.fromkeys(slots.values())
        ]

    def activate(self, model: str, what: str) -> Engaged:
        """The installed version `what` (a version, or the first digits of a digest) takes over. Raises UsageError for
        one that is not installed, RefusedError where the gate says no, EdgeInferError while an update is under way."""
        with self._changing():
            return self._engage(model, self._installed(model, what))

    def activate_file(self, model: str, file: int) -> Engaged:
        """The package in the open `file` is checked, installed and takes over."""
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise UsageError("expected a plain file, found something else")
        with self._changing():
            digest = self._install(model, file)
            try:
                return self._engage(model, digest)
            finally:
                self._slots.prune()  # refused: it is in no slot

    def rollback(self, model: str) -> Engaged:
        """The version before the active one takes over."""
        with self._changing():
            digest = self._known(model).get(PREVIOUS)
            if digest is None:
                raise UsageError(f"there is no version of model {model!r} before the active one")
            return self._engage(model, digest)

    def choose(self, model: str) -> Engaged:
        """Measure the variants of the active version anew, and use the best. Raises UsageError where there is nothing
        to choose from, RefusedError where none of them passes: what runs goes on then."""
        with self._changing():
            digest = self._known(model).get(ACTIVE, "")
            package = self._store.open(digest)
            self._refuse_no_choice(package)
            before, variant = self._db.choice(digest), chosen_variant(self._db, package)
            measured = self._pass_gate(package, anew=True)
            is_running, changed = self._running.runs(model), measured["variant"] != variant
            if is_running and changed:
                try:
                    self._running.swap(model, digest)
                    self._watch(model, package, "")
                except EdgeInferError:
                    self._db.set_choice(digest, before)
                    self._running.swap(model, digest)
                    raise
            return Engaged(
                model=model,
                version=package.manifest.version,
                digest=digest,
                before=digest,
                running=is_running,
                changed=changed,
                swap_ms=self._running.swap_ms(model) if is_running and changed else 0.0,
                gate=measured,
            )

    def due(self, models: Iterable[str]) -> list[str]:
        """Those of `models` whose active package asks to be measured, and was not, or under other conditions. Raises
        BufferStorageError, PackageError."""
        return [model for model in models if self._is_due(model, self._slots.of(model).get(ACTIVE, ""))]

    def _is_due(self, model: str, digest: str) -> bool:
        return bool(digest) and is_due(
            self._store.manifest(digest),
            self._db.choice(digest),
            wanted=self._running.variant(model),
            threads=self._running.threads(model),
        )

    def _refuse_no_choice(self, package: InstalledPackage) -> None:
        manifest, wanted = package.manifest, self._running.variant(package.manifest.name)
        if wanted:
            raise UsageError(f"the configuration names variant {wanted!r} of model {manifest.name!r}")
        if manifest.choose == "first":
            raise UsageError(
                f"{manifest.name} {manifest.version} does not ask to be measured: its first variant is used",
                hint="name another one in the pipeline: variant = ...",
            )

    def pin(self, model: str) -> dict[str, str]:
        """What the console assigns is refused from now on, until `unpin`. An update that is being checked ends so."""
        self._refuse_on_trial(model)
        with self._slots.lock:
            slots = self._known(model)
            digest = slots.get(ACTIVE)
            if digest is None:
                raise UsageError(f"no version of model {model!r} is active: there is nothing to pin")
            self._slots.replace(model, {**slots, PINNED: digest})
        logger.info("event=model_pinned model=%s digest=%s", model, digest)
        return {"model": model, "digest": digest}

    def unpin(self, model: str) -> dict[str, str]:
        with self._slots.lock:
            slots = self._known(model)
            digest = slots.pop(PINNED, "")
            self._slots.replace(model, slots)
        logger.info("event=model_unpinned model=%s", model)
        return {"model": model, "digest": digest}

    def _refuse_on_trial(self, model: str) -> None:
        row = self._db.update()
        if row.model == model and State(row.state) in {State.TRIAL, State.ROLLING_BACK}:
            raise EdgeInferError(
                f"version {row.version} of model {model!r} is on trial ({row.state})",
                hint="try again when it has ended",
            )

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """The right to bring another version in. Raises EdgeInferError while an update is under way."""
        self._refuse_during_update()
        if not self._slots.changing.acquire(timeout=_PATIENCE_S):
            raise EdgeInferError("another change is under way", hint="try again when it has ended")
        try:
            self._refuse_during_update()  # one may have begun while this waited
            yield
        finally:
            self._slots.changing.release()

    def _refuse_during_update(self) -> None:
        row = self._db.update()
        if State(row.state) not in (State.IDLE, *FINAL):
            raise EdgeInferError(
                f"an update is under way: {row.model} {row.version} is {row.state} (job {row.job})",
                hint="wait for its end, or refuse it with: edgeinfer models pin " + row.model,
            )

    def _known(self, model: str) -> dict[str, str]:
        slots = self._slots.of(model)
        if not slots:
            known = ", ".join(self._db.models()) or "none"
            raise UsageError(f"no package of model {model!r} is installed here", hint=f"installed: {known}")
        return slots

    def _installed(self, model: str, what: str) -> str:
        versions = {digest: self._version(digest) for digest in dict.fromkeys(self._known(model).values())}
        found = [digest for digest, version in versions.items() if version == what]
        if not found and len(what) >= _LEAST_DIGEST:
            found = [digest for digest in versions if digest.startswith(what.lower())]
        if len(found) == 1:
            return found[0]
        shown = ", ".join(f"{version} ({digest[:12]})" for digest, version in versions.items())
        if found:
            raise UsageError(f"{what!r} is more than one package of model {model!r}", hint=f"name a digest: {shown}")
        raise UsageError(
            f"model {model!r} has no installed version {what!r}", hint=f"installed: {shown}; or name an .edgepkg file"
        )

    def _version(self, digest: str) -> str:
        try:
            return self._store.manifest(digest).version
        except PackageError:
            return "damaged"

    def _install(self, model: str, file: int) -> str:
        """A copy is checked and installed: the file itself may change at any moment."""
        with os.fdopen(os.dup(file), "rb") as source, self._store.staged_file(source) as path:
            with PackageFile(path) as package:
                found, digest = package.manifest.name, package.digest
            if found != model:
                raise UsageError(f"expected a package of model {model!r}, found one of {found!r}")
            if self._slots.release_keys:
                ask(PackageRequest(str(path), digest, self._slots.release_keys))
            return self._store.install(path, digest=digest).digest

    def _engage(self, model: str, digest: str) -> Engaged:
        package = self._store.open(digest)
        version, before = package.manifest.version, self._slots.of(model).get(ACTIVE, "")
        is_running = self._running.runs(model)
        if digest == before and (not is_running or self._running.has_swapped(model, digest)):
            return Engaged(
                model=model, version=version, digest=digest, before=before, running=is_running, changed=False
            )
        measured = self._pass_gate(package)
        if is_running:
            self._running.swap(model, digest)
            self._watch(model, package, before)
        self._write(model, digest)
        if self._running.runs(model) and not self._running.has_swapped(model, digest):  # a reload came in between
            self._running.swap(model, digest)
        logger.info("event=model_activated model=%s version=%s digest=%s before=%s", model, version, digest, before)
        return Engaged(
            model=model,
            version=version,
            digest=digest,
            before=before,
            running=is_running,
            swap_ms=self._running.swap_ms(model) if is_running else 0.0,
            gate=measured,
        )

    def _pass_gate(self, package: InstalledPackage, *, anew: bool = False) -> dict[str, Any]:
        limits, model = self._gate(), package.manifest.name
        request = GateRequest(
            str(self._state_dir),
            package.digest,
            self._running.variant(model),
            self._running.threads(model),
            max_latency_us=round(limits.max_latency_ms * 1000),
            max_bytes=limits.max_memory_mb << 20,
        )
        return pass_gate(package.manifest, request, db=self._db, ask=ask, anew=anew)

    def _watch(self, model: str, package: InstalledPackage, before: str) -> None:
        """For `trial_s`, or until no frame can come any more. Raises GateError where the new version fails on live
        frames: the one before it runs again then."""
        deadline = time.monotonic() + min(self._trial_s(), _WATCH_S)
        while time.monotonic() < deadline and not self._running.idle(model) and not self._stop.wait(_LOOK_S):
            if self._running.failures(model) >= _MAX_FAILURES:
                break
        if self._stop.is_set():
            raise EdgeInferError("the daemon ends: the version before stays active")
        if self._running.failures(model) >= _MAX_FAILURES:
            if before:
                self._running.swap(model, before)
            raise GateError(
                f"{model} {package.manifest.version}: {_MAX_FAILURES} inferences in a row failed on live frames",
                hint="the version before it runs again" if before else "",
            )

    def _write(self, model: str, digest: str) -> None:
        with self._slots.lock:
            slots = self._slots.of(model)
            if slots.get(ACTIVE) != digest:
                slots = {**slots, ACTIVE: digest, PREVIOUS: slots.get(ACTIVE, "")}
            if PINNED in slots:
                slots[PINNED] = digest
            self._slots.replace(model, slots)
        self._slots.prune()

    def _described(self, model: str, digest: str, slots: dict[str, str]) -> dict[str, Any]:
        document: dict[str, Any] = {
            "model": model,
            "version": "",
            "digest": digest,
            "slots": [slot for slot, held in slots.items() if held == digest and slot != PINNED],
            "pinned": slots.get(PINNED) == digest,
            "variants": [],
            "file_bytes": 0,
            "choice": None,
            "error": "",
        }
        try:
            manifest, choice = self._store.manifest(digest), self._db.choice(digest)
        except EdgeInferError as error:
            return {**document, "error": str(error)}
        return {
            **document,
            "version": manifest.version,
            "variants": [variant.id for variant in manifest.variants],
            "file_bytes": sum(variant.bytes for variant in manifest.variants),
            "choice": msgspec.to_builtins(choice),
        }
