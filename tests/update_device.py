"""A device's update side with real store, databases and packages, and pipelines that only say they run.

    device = UpdateDevice(folder)
    device.wish(device.package("2.0.0"), number=1)
    device.run_until("COMMITTED")

As a program it runs the update of a folder to its end, and kills itself when the row says the given state:

    python update_device.py FOLDER [STATE]
"""

import hashlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from edgeinfer.runtime import updater as updater_module
from edgeinfer.runtime import verify
from edgeinfer.runtime.assignment import AssignedPackage, AssignmentDocument
from edgeinfer.runtime.errors import EdgeInferError, PackageError, RefusedError
from edgeinfer.runtime.handoff import Desired, RuntimeDb, SyncDb, UpdateRow
from edgeinfer.runtime.package import PackageFile
from edgeinfer.runtime.settings import RuntimeConfig, TrustConfig
from edgeinfer.runtime.slots import Slots
from edgeinfer.runtime.store import Store
from edgeinfer.runtime.trust import SigningKey, seal
from edgeinfer.runtime.updater import Updater
from packages import linear_model, make_package

__all__ = ["CONSOLE", "RELEASE", "Running", "UpdateDevice", "answer_here"]

RELEASE = SigningKey(b"r" * 32)
CONSOLE = SigningKey(b"c" * 32)
MODEL = "m"


def answer_here(request: Any, **_: object) -> bytes:
    """What `verify.ask` does, in this process: the checks are the same, only quicker to ask for."""
    try:
        match request:
            case verify.AssignmentRequest():
                return verify._assignment(request)
            case verify.PackageRequest():
                return verify._package(request)
            case _:
                return msgspec.json.encode(verify._gate(request))
    except EdgeInferError as error:
        raise RefusedError(str(error)) from error


class Running:
    """Stands for the pipelines: it infers whenever it is looked at, unless it is told to fail."""

    def __init__(self) -> None:
        self.digest = ""
        self.swaps: list[str] = []
        self.failing = 0
        self.refuses: EdgeInferError | None = None
        self.ended = False
        self.gone = False
        self.unusable: set[str] = set()
        self.shadowed = ""
        self.shadows: list[str] = []
        self.shadow_refuses: EdgeInferError | None = None
        self.agreement: float | None = 1.0
        self.shadow_failed = ""
        self._inferred = 0

    def threads(self, model: str) -> int:
        return 1 if model == MODEL else 0

    def variant(self, model: str) -> str:
        return "" if model == MODEL else "none"

    def begin_shadow(self, model: str, digest: str) -> None:
        assert model == MODEL
        if self.shadow_refuses is not None:
            raise self.shadow_refuses
        self.shadowed = digest
        self.shadows.append(digest)

    def in_shadow(self, model: str, digest: str) -> bool:
        return model == MODEL and self.shadowed == digest

    def shadow_agreement(self, model: str) -> float | None:
        assert model == MODEL
        return self.agreement

    def shadow_failure(self, model: str) -> str:
        assert model == MODEL
        return self.shadow_failed

    def end_shadow(self, model: str) -> None:
        assert model == MODEL
        self.shadowed = ""

    def runs(self, model: str) -> bool:
        return model == MODEL and not self.gone

    def swap(self, model: str, digest: str) -> None:
        assert model == MODEL
        if self.refuses is not None and digest != self.swaps[0]:
            raise self.refuses
        if digest in self.unusable:
            raise PackageError(f"package {digest} was changed on disk")
        self._inferred = 0
        self.swaps.append(digest)
        self.digest = digest

    def inferred(self, model: str) -> int:
        self._inferred += model == MODEL and not self.failing and not self.ended
        return self._inferred

    def idle(self, model: str) -> bool:
        return model == MODEL and self.ended

    def has_swapped(self, model: str, digest: str) -> bool:
        return model == MODEL and self.digest == digest

    def failures(self, model: str) -> int:
        return self.failing if model == MODEL and len(self.swaps) > 1 else 0

    def swap_ms(self, model: str) -> float:
        return 12.5 if model == MODEL else 0.0


class UpdateDevice:
    """`folder` holds the daemon's state; version 1.0.0 is active."""

    def __init__(self, folder: Path, *, trial_s: float = 0.0) -> None:
        self.folder = folder
        self.config = RuntimeConfig(
            device="dev-1",
            state_dir=str(folder / "state"),
            trial_s=trial_s,
            trust=TrustConfig(release_keys=(RELEASE.public.hex(),), console_keys=(CONSOLE.public.hex(),)),
        )
        self.store = Store(folder / "state")
        self.db = RuntimeDb(folder / "state" / "runtime.db")
        self.slots = Slots(self.db, self.store)
        self.sync = SyncDb(folder / "sync" / "sync.db")
        self.running = Running()
        if not (folder / "model.onnx").exists():
            linear_model(folder / "model.onnx")
        self.first = self.package("1.0.0")
        active = self.slots.from_config(self.first)  # as the daemon does at its start
        self.running.swap(MODEL, active.digest)
        self.updater = self.restart()

    def restart(self) -> Updater:
        self.updater = Updater(
            self.config, store=self.store, db=self.db, slots=self.slots, running=self.running, sync=lambda: self.sync
        )
        return self.updater

    def close(self) -> None:
        self.db.close()
        self.sync.close()

    def package(self, version: str, **options: Any) -> Path:
        path = self.folder / f"{version}.edgepkg"
        if not path.exists():
            options = {"key": RELEASE, "golden": 2, "name": MODEL, **options}
            make_package(path, self.folder / "model.onnx", version=version, **options)
        return path

    def digest(self, path: Path) -> str:
        with PackageFile(path) as package:
            return package.digest

    def wish(self, path: Path, *, number: int, deliver: bool = True, key: SigningKey = CONSOLE, **changes: Any) -> str:
        """Have the console want `path`; `changes` falsify the assignment. The job's name."""
        content = path.read_bytes()
        with PackageFile(path) as package:
            manifest, digest = package.manifest, package.digest
        assigned = AssignedPackage(
            job=f"job-{number}",
            model=manifest.name,
            version=manifest.version,
            digest=digest,
            blob_sha256=hashlib.sha256(content).hexdigest(),
            blob_bytes=len(content),
        )
        device = changes.pop("device", "dev-1")
        assigned = msgspec.structs.replace(assigned, **changes)
        document = AssignmentDocument(number, device, (assigned,))
        self.sync.set_desired(Desired(number, seal(msgspec.json.encode(document), key)))
        if deliver:
            (self.store.incoming / f"{assigned.blob_sha256}.edgepkg").write_bytes(content)
        return assigned.job

    def run_until(self, *states: str, ticks: int = 200) -> UpdateRow:
        for _ in range(ticks):
            self.updater.tick()
            if self.updater.row.state in states:
                return self.updater.row
        raise AssertionError(f"expected {states}, the machine stays in {self.updater.row}")

    def active(self) -> str:
        return self.slots.of(MODEL).get("active", "")


def main(folder: Path, kill_at: str) -> None:
    vars(updater_module)["ask"] = answer_here
    device = UpdateDevice(folder)
    save, commit = device.db.set_update, device.db.commit

    def die_after(row: UpdateRow) -> None:
        if row.state == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def save_and_die(row: UpdateRow) -> None:
        save(row)
        die_after(row)

    def commit_and_die(row: UpdateRow, model: str, slots: dict[str, str]) -> None:
        commit(row, model, slots)
        die_after(row)

    device.db.set_update = save_and_die  # type: ignore[method-assign]  # the moment after the row is durable
    device.db.commit = commit_and_die  # type: ignore[method-assign]  # likewise
    deadline = time.monotonic() + 240
    while not device.updater.row.finished and time.monotonic() < deadline:
        device.updater.tick()
    sys.stdout.write(f"{device.updater.row.state} {device.active()} {device.running.digest}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
