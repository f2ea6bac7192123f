"""Files from devices: snapshots of events and hard examples, taken part by part, kept within quotas.

A file lies at `{folder}/{device}/{sha256}`, and with `.part` behind it while it is coming; what the device calls it is
text in the database and never a path. What has come is answered with the offset up to which it is on the disk, once
nothing more waits; a part that does not begin there is not taken, and its sender goes on from the answer. The content
is held against its hash at the end.

Over its quota a device loses its oldest files; when all devices together have too many, the one that has most does.
All this happens in a thread of its own: results must not wait for pictures.
"""

import logging
import os
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edgeinfer.console.repository import Repository
from edgeinfer.console.repository.base import DeviceBlob
from edgeinfer.console.settings import LimitsConfig
from edgeinfer.runtime.durable import sync_folder
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.hashing import sha256_stream
from edgeinfer.sync.messages import BlobPart, BlobStored

__all__ = ["Incoming"]

_log = logging.getLogger(__name__)

_WAITING_BYTES = 8 << 20
# What is left to the database, which matters more.
_MIN_FREE_BYTES = 256 << 20
_PART = ".part"
_MAX_TRIES = 2
_TRIES_REMEMBERED = 1000

Answer = Callable[[str, BlobStored], object]
Place = tuple[str, str]


class _RefusedError(Exception):
    """The file will never be taken; says why."""


class Incoming:
    """`offer` from any thread; `answer` and `changed` are called by the one in here.

    Args:
        answer: publishes a BlobStored to a device.
        changed: called with a device of which a file has come whole.
    """

    def __init__(
        self,
        folder: Path,
        repository: Repository,
        limits: LimitsConfig,
        *,
        answer: Answer,
        changed: Callable[[str], object] = lambda _: None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._folder = folder
        self._repository = repository
        self._limits = limits
        self._answer = answer
        self._changed = changed
        self._clock_ns = clock_ns
        self._waiting: list[tuple[str, BlobPart]] = []
        self._waiting_bytes = 0
        self._news = threading.Condition()
        self._stopping = False
        self._tries: OrderedDict[Place, int] = OrderedDict()
        self._complaint = ""
        self._thread = threading.Thread(target=self._run, name="incoming", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 1.0) -> None:
        with self._news:
            self._stopping = True
            self._news.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def offer(self, device: str, part: BlobPart) -> None:
        """Have a part taken when it is its turn. Where too many wait it is dropped: its sender will ask."""
        with self._news:
            if self._waiting_bytes + len(part.data) > _WAITING_BYTES or self._stopping:
                return
            self._waiting.append((device, part))
            self._waiting_bytes += len(part.data)
            self._news.notify()

    def path(self, blob: DeviceBlob) -> Path:
        """Where the content lies of a file that has come whole."""
        return self._folder / blob.device / blob.sha256

    def turn(self, timeout_s: float) -> int:
        """Take all that waits, then answer; returns how many parts it was."""
        with self._news:
            if not self._waiting and not self._stopping:
                self._news.wait(timeout_s)
            parts, self._waiting, self._waiting_bytes = self._waiting, [], 0
        by_place: dict[Place, list[BlobPart]] = {}
        for device, part in parts:
            by_place.setdefault((device, part.sha256), []).append(part)
        for (device, sha256), found in by_place.items():
            try:
                self._answer(device, self._take(device, found))
                self._complaint = ""
            except _RefusedError as error:
                self._answer(device, BlobStored(sha256, 0, refused=str(error)))
            except (OSError, BufferStorageError) as error:  # no answer: the device asks again
                self._complain(str(error))
        return len(parts)

    def _run(self) -> None:
        while not self._stopping:
            try:
                self.turn(60.0)
            except Exception:  # the top of this thread
                _log.exception("event=incoming_bug")

    def _take(self, device: str, parts: list[BlobPart]) -> BlobStored:
        """Raises _RefusedError, OSError and BufferStorageError."""
        sha256 = parts[0].sha256
        blob = self._repository.device_blob(device, sha256) or self._begin(device, parts[0])
        if blob.done:
            return BlobStored(sha256, blob.total_bytes, done=True)
        if any(part.total_bytes != blob.total_bytes for part in parts):
            raise _RefusedError(f"expected a file of {blob.total_bytes} bytes, as was said first")
        path = self.path(blob).with_suffix(_PART)
        if self.path(blob).exists():  # it was moved there, and the power went
            return self._finished(blob)
        offset = _append(path, parts)
        if offset < blob.total_bytes:
            return BlobStored(sha256, offset)
        return self._finish(blob, path)

    def _begin(self, device: str, part: BlobPart) -> DeviceBlob:
        if part.total_bytes > self._limits.max_blob_bytes:
            raise _RefusedError(f"expected at most {self._limits.max_blob_bytes} bytes, found {part.total_bytes}")
        folder = self._folder / device
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        self._make_room(device, part.total_bytes)
        blob = DeviceBlob(
            device=device,
            sha256=part.sha256,
            kind=part.label.kind,
            name=part.label.name,
            pipeline=part.label.pipeline,
            t_ns=part.label.t_ns,
            total_bytes=part.total_bytes,
            received_ns=self._clock_ns(),
            done=False,
        )
        (folder / part.sha256).with_suffix(_PART).unlink(missing_ok=True)  # of a row that is no more
        self._repository.save_device_blob(blob)
        return blob

    def _finish(self, blob: DeviceBlob, path: Path) -> BlobStored:
        if sha256_stream(path) != blob.sha256:
            path.unlink()
            self._count_try((blob.device, blob.sha256))
            return BlobStored(blob.sha256, 0)
        path.replace(self.path(blob))
        sync_folder(path.parent)
        return self._finished(blob)

    def _finished(self, blob: DeviceBlob) -> BlobStored:
        self._repository.save_device_blob(msgspec.structs.replace(blob, done=True, received_ns=self._clock_ns()))
        self._tries.pop((blob.device, blob.sha256), None)
        self._changed(blob.device)
        return BlobStored(blob.sha256, blob.total_bytes, done=True)

    def _count_try(self, place: Place) -> None:
        """What was damaged on a disk or on the way comes again; what never fits its hash does not for ever."""
        self._tries[place] = self._tries.get(place, 0) + 1
        while len(self._tries) > _TRIES_REMEMBERED:
            self._tries.popitem(last=False)
        if self._tries[place] >= _MAX_TRIES:
            self._repository.drop_device_blob(*place)
            raise _RefusedError("the content does not have the hash that it is sent under")

    def _make_room(self, device: str, size: int) -> None:
        """Drop what is too much. Raises OSError where the disk itself has no room."""
        held = self._repository.device_blob_bytes()
        while held.get(device, 0) + size > self._limits.max_device_blob_bytes and held.get(device):
            self._drop_oldest(device, held)
        while sum(held.values()) + size > self._limits.max_all_blob_bytes and any(held.values()):
            self._drop_oldest(max(held, key=lambda name: held[name]), held)
        if shutil.disk_usage(self._folder).free < _MIN_FREE_BYTES + size:
            raise OSError(28, "no room on the disk for files of devices")

    def _drop_oldest(self, device: str, held: dict[str, int]) -> None:
        blob = self._repository.oldest_device_blob(device)
        if blob is not None:
            self._repository.drop_device_blob(device, blob.sha256)
            for path in (self.path(blob), self.path(blob).with_suffix(_PART)):
                path.unlink(missing_ok=True)
            _log.info("event=device_file_dropped device=%s name=%r", device, blob.name[:80])
        held[device] = self._repository.device_blob_bytes().get(device, 0)

    def _complain(self, reason: str) -> None:
        if reason != self._complaint:
            self._complaint = reason
            _log.warning("event=device_file_not_stored reason=%r", reason)


def _append(path: Path, parts: list[BlobPart]) -> int:
    """Write those that begin where the file ends, in turn; returns up to where it is on the disk."""
    with _opened(path) as descriptor:
        size = written = os.fstat(descriptor).st_size
        for part in sorted(parts, key=lambda part: part.offset):
            if part.offset <= size < part.offset + len(part.data):
                size += os.pwrite(descriptor, part.data[size - part.offset :], size)
        if size > written:
            os.fsync(descriptor)
    return size


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
