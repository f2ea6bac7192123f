"""Sends pictures and windows up: the files of `blob_files`, one after the other, by the decisions of `blob_upload`.

Which file the console has is kept in `sync.db`, so that none is sent again; how far it has come with one, the console
knows itself. A file that vanishes on the way (the device's quota removes the oldest) is given up.
"""

import logging
import os
from pathlib import Path
from typing import BinaryIO

from edgeinfer.runtime.handoff import SyncDb, Upload
from edgeinfer.sync.allowance import Allowance, Priority
from edgeinfer.sync.blob_files import BlobFolder, LocalFile, changed, pending
from edgeinfer.sync.blob_upload import BlobUpload, Part
from edgeinfer.sync.file_hash import SLICE_BYTES, FileHash
from edgeinfer.sync.loglimit import LogLimit
from edgeinfer.sync.messages import BlobPart, BlobStored, decode, encode_blob_part, topic
from edgeinfer.sync.mqtt import MqttLink
from edgeinfer.sync.pace import Pace
from edgeinfer.sync.settings import SyncConfig

__all__ = ["BlobSender"]

_log = logging.getLogger(__name__)

# Folders with thousands of files are listed at this pace, and only when something changed in them.
_LOOK_S = 5.0
_MAX_WAITING = 256
_DONE = "done"


class _Gone(Exception):  # noqa: N818 - not an error: the quota did what it is there for
    """The file is not there any more."""


class _Sending:
    """The file that is on its way: hashed first, then sent. Raises OSError where it cannot be opened."""

    def __init__(self, root: Path, file: LocalFile, sha256: str) -> None:
        self.file = file
        self.sha256 = sha256
        self.upload: BlobUpload | None = None
        path = root / file.path
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._opened: BinaryIO = os.fdopen(descriptor, "rb")
        except OSError:  # a folder
            os.close(descriptor)
            raise
        self.hash = FileHash(path, self._opened)

    def read(self, part: Part) -> bytes:
        """Raises _Gone: the file was removed, or is not what it was."""
        descriptor = self._opened.fileno()
        stat = os.fstat(descriptor)
        data = os.pread(descriptor, part.length, part.offset)
        if stat.st_nlink == 0 or stat.st_size != self.file.bytes or len(data) != part.length:
            raise _Gone
        return data

    def close(self) -> None:
        self.hash.close()


class BlobSender:
    """`step` at each turn. `sent_bytes` counts since this object was made."""

    def __init__(self, config: SyncConfig, db: SyncDb, link: MqttLink, allowance: Allowance) -> None:
        self._config = config.blobs
        self._root = Path(config.runtime_dir)
        self._db = db
        self._link = link
        self._allowance = allowance
        self._topic = topic(config.tenant, config.device, "up/blob")
        self._folders: tuple[BlobFolder, ...] = ()
        self._looked_s = float("-inf")
        self._waiting: list[LocalFile] = []
        self._pace = Pace(most_bytes=config.blobs.part_bytes, window=config.blobs.window)
        self._set_aside: set[str] = set()
        self._now: _Sending | None = None
        self._held = False
        self._limit = LogLimit()
        self.sent_bytes = 0

    @property
    def enabled(self) -> bool:
        return self._config.snapshots or self._config.examples

    @property
    def hashing(self) -> bool:
        """Whether there is work to do without any message."""
        return self._now is not None and self._now.upload is None

    @property
    def idle(self) -> bool:
        """Whether nothing is left to send, nobody takes it, or there is no room for it now."""
        if not self.enabled or self._held:
            return True
        has_looked = self._looked_s > float("-inf")
        return self._is_silent() or (has_looked and self._now is None and not self._waiting)

    def connected(self) -> None:
        self._pace.connected()
        if self._now is not None and self._now.upload is not None:
            self._now.upload.connected()

    def close(self) -> None:
        if self._now is not None:
            self._now.close()
        self._now = None

    def take(self, raw: bytes, now_s: float) -> None:
        """Take the payload of `down/blob`. Raises MessageError and BufferStorageError."""
        answer = decode(raw, BlobStored)
        now = self._now
        if now is None or now.upload is None or not now.upload.take(answer, now_s):
            return
        if now.upload.done:
            self._end(now, _DONE)
        elif now.upload.refused:
            _log.warning("event=blob_refused file=%s reason=%r", now.file.path, now.upload.refused)
            self._end(now, f"refused: {now.upload.refused[:200]}")
        elif now.upload.given_up:
            self._drop(now, now.upload.given_up)

    def step(self, now_s: float, *, others_wait: bool = False) -> None:
        """Send what there is room for, nothing while `others_wait` for the line; to be called while the link is up.
        Raises BufferStorageError."""
        if not self.enabled:
            return
        now = self._now
        try:
            if now is None:
                self._begin(now_s)
            elif now.upload is None:
                self._hash(now)
            elif not others_wait:
                self._send(now, now.upload, now_s)
        except _Gone:
            if now is not None:
                self._drop(now, "vanished")
        except OSError as error:
            if now is not None:
                self._drop(now, error.strerror or str(error))

    def _begin(self, now_s: float) -> None:
        if not self._has_room(now_s):
            return
        self._look(now_s)
        if not self._waiting:
            return
        file = self._waiting.pop(0)
        known = self._db.upload(file.path)
        is_same = known is not None and (known.bytes, known.mtime_ns) == (file.bytes, file.mtime_ns)
        try:
            self._now = _Sending(self._root, file, known.sha256 if known is not None and is_same else "")
        except FileNotFoundError:
            return  # the quota was faster
        except OSError as error:
            if (held := self._limit.admit("open", now_s)) is not None:
                _log.warning("event=blob_unreadable file=%s reason=%r held_back=%d", file.path, error.strerror, held)
            return
        if self._now.sha256:
            self._hashed(self._now, self._now.sha256)

    def _look(self, now_s: float) -> None:
        if now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        folders = changed(self._root, snapshots=self._config.snapshots, examples=self._config.examples)
        if folders == self._folders:
            return
        known = self._db.uploads()
        files, there = pending(self._root, folders, known)
        if gone := known.keys() - there:
            self._db.forget_uploads(gone)
        self._folders = folders
        self._set_aside &= there
        self._waiting = [file for file in files if file.path not in self._set_aside][:_MAX_WAITING]
        if len(files) > _MAX_WAITING:
            self._folders = ()  # look again once these are through

    def _hash(self, now: _Sending) -> None:
        found = now.hash.step(SLICE_BYTES)
        if found:
            file = now.file
            self._db.set_upload(Upload(file.path, file.bytes, file.mtime_ns, found))
            self._hashed(now, found)

    def _hashed(self, now: _Sending, sha256: str) -> None:
        now.sha256 = sha256
        now.upload = BlobUpload(self._config, sha256=sha256, size=now.file.bytes, pace=self._pace)

    def _send(self, now: _Sending, upload: BlobUpload, now_s: float) -> None:
        while (part := upload.next_part(now_s)) is not None:
            if not self._has_room(now_s):
                return
            message = BlobPart(now.sha256, part.offset, now.file.bytes, now.file.label, now.read(part))
            raw = encode_blob_part(message)
            if not self._link.publish(self._topic, raw, qos=1):
                return
            upload.sent(part, now_s)
            self._allowance.spent(Priority.BLOBS, len(raw), now_s)
            self.sent_bytes += part.length

    def _has_room(self, now_s: float) -> bool:
        self._held = self._allowance.room(Priority.BLOBS, now_s) <= 0
        return not self._held

    def _end(self, now: _Sending, how: str) -> None:
        file = now.file
        self._db.set_upload(Upload(file.path, file.bytes, file.mtime_ns, now.sha256, how))
        _log.info("event=blob_ended file=%s bytes=%d how=%r", file.path, file.bytes, how)
        self.close()

    def _drop(self, now: _Sending, reason: str) -> None:
        """Not now: it is not there any more, or the console makes no progress with it."""
        _log.info("event=blob_given_up file=%s reason=%r", now.file.path, reason)
        self._set_aside.add(now.file.path)
        self.close()

    def _is_silent(self) -> bool:
        return self._now is not None and self._now.upload is not None and self._now.upload.silent
