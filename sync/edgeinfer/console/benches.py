"""Packages timed on devices of the fleet, on a command of this console.

    begun = benches.begin("press-4", file, each_ms=2000, threads=1, timeout_s=300)
    benches.found(begun)        # again and again, until it has ended
    benches.cancel(begun)       # nobody waits for it any more

The package must be signed as a release is, but is none: devices can fetch it while they time it, and it is gone
afterwards. What came of it is kept in memory for some minutes.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgeinfer.console.blobs import BlobStore
from edgeinfer.console.commander import Commander
from edgeinfer.console.deliveries import BusyError
from edgeinfer.console.registry import Registry
from edgeinfer.runtime.bench_order import BENCH_KIND
from edgeinfer.sync.messages import CANCEL_KIND, Command, CommandResult

__all__ = ["Benches", "Found"]

_AT_ONCE = 4
# Beyond the time that the device was given: its answer is on the way.
_GRACE_S = 5.0
_KEPT_S = 600.0
# How long the device may take to hear that nobody waits any more.
_CANCEL_S = 30.0


class Found(msgspec.Struct, frozen=True):
    """`ok` is None while it goes on. `document` is the JSON that `edgeinfer bench` prints, as the device wrote it."""

    id: str
    device: str
    ok: bool | None = None
    detail: str = ""
    document: str = ""


class _Bench(msgspec.Struct):
    """`file` and `sha256` are what the device fetches, until it has ended; `until_s` is when it is given up, or
    forgotten."""

    found: Found
    file: Path
    sha256: str
    until_s: float


class Benches:
    """Safe from any thread; `heard` is called by ingest with what devices answer."""

    def __init__(
        self,
        commander: Commander,
        registry: Registry,
        blobs: BlobStore,
        *,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._commander = commander
        self._registry = registry
        self._blobs = blobs
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._benches: dict[str, _Bench] = {}
        self._issued_s = 0

    def begin(self, device: str, file: Path, *, each_ms: int, threads: int, timeout_s: float) -> str:
        """Have `device` time the package in `file`; the id of the command. `file` is this object's from here on, also
        where it raises: PackageError, SignatureError, UsageError (no such device), BusyError, ConsoleError (it is not
        online)."""
        try:
            sha256, size = self._registry.check(file)
            command = self._commander.make(
                device, BENCH_KIND, timeout_s=timeout_s,
                blob_sha256=sha256, blob_bytes=size, each_ms=each_ms, threads=threads,
            )  # fmt: skip
            command = self._later(command)
            self._add(_Bench(Found(command.id, device), file, sha256, self._clock_s() + timeout_s + _GRACE_S), size)
        except BaseException:
            file.unlink(missing_ok=True)
            raise
        self._send(command)
        return command.id

    def found(self, id_: str) -> Found | None:
        """What is known of a command; None where it is not known, or no longer."""
        with self._lock:
            self._forget_overdue()
            bench = self._benches.get(id_)
            return None if bench is None else bench.found

    def cancel(self, id_: str) -> Found | None:
        """Have the device end a command, which has ended here with that; one that had ended before stays as it is. None
        where it is not known. Raises ConsoleError where the device cannot be told: it goes on until its time is over.
        """
        with self._lock:
            self._forget_overdue()
            bench = self._benches.get(id_)
            if bench is None or bench.found.ok is not None:
                return None if bench is None else bench.found
            self._end(bench, ok=False, detail="it was called off")
        command = self._commander.make(bench.found.device, CANCEL_KIND, timeout_s=_CANCEL_S, ends=id_)
        self._commander.send(self._later(command))
        return bench.found

    def heard(self, device: str, message: CommandResult) -> None:
        """An answer of `device`; what nobody waits for is nothing."""
        with self._lock:
            bench = self._benches.get(message.id)
            if bench is not None and bench.found.device == device and bench.found.ok is None:
                self._end(bench, ok=message.ok, detail=message.detail, document=message.document)

    def _later(self, command: Command) -> Command:
        """Issued later than all before it: a device takes no other, so that nothing can be played to it again."""
        with self._lock:
            shift_s = max(0, self._issued_s + 1 - command.issued_s)
            self._issued_s = command.issued_s + shift_s
        return msgspec.structs.replace(
            command, issued_s=command.issued_s + shift_s, expires_s=command.expires_s + shift_s
        )

    def _add(self, bench: _Bench, size: int) -> None:
        with self._lock:
            self._forget_overdue()
            going = [one.found.device for one in self._benches.values() if one.found.ok is None]
            if bench.found.device in going:
                raise BusyError(f"{bench.found.device} is timing another package", hint="try again when it is done")
            if len(going) >= _AT_ONCE:
                raise BusyError(f"expected at most {_AT_ONCE} packages to be timed at once", hint="try again")
            self._benches[bench.found.id] = bench
            self._blobs.lend(bench.sha256, bench.file, size)

    def _send(self, command: Command) -> None:
        try:
            self._commander.send(command)
        except BaseException:
            with self._lock:
                bench = self._benches.pop(command.id, None)
                if bench is not None:
                    self._take_back(bench)
            raise

    def _forget_overdue(self) -> None:
        now_s = self._clock_s()
        for bench in [one for one in self._benches.values() if now_s >= one.until_s]:
            if bench.found.ok is None:
                self._end(bench, ok=False, detail="the device did not answer in time")
            else:
                del self._benches[bench.found.id]

    def _end(self, bench: _Bench, *, ok: bool, detail: str, document: str = "") -> None:
        bench.found = msgspec.structs.replace(bench.found, ok=ok, detail=detail, document=document)
        bench.until_s = self._clock_s() + _KEPT_S
        self._take_back(bench)

    def _take_back(self, bench: _Bench) -> None:
        """Another device may be timing the same file, as one of its own."""
        self._blobs.take_back(bench.sha256, bench.file)
        bench.file.unlink(missing_ok=True)
