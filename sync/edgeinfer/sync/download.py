"""A blob on its way onto the disk: `{sha256}.part`, and `{sha256}.edgepkg` once all of it is there and right.

What `sync.db` calls the offset has been fsynced before it was stored, so a download goes on there after a power
cut. The hash is computed over the finished file, not over what passed by: it says what is on the disk. It is
computed in slices, because whoever calls has a watchdog to feed and a signal to obey. Nothing here trusts the
content; the daemon verifies the package before it touches it.
"""

import logging
import os
from pathlib import Path
from typing import Protocol

from edgeinfer.runtime.bench_order import BENCH_SUFFIX
from edgeinfer.runtime.durable import sync_folder
from edgeinfer.runtime.errors import EdgeInferError
from edgeinfer.runtime.rows import Download
from edgeinfer.sync.file_hash import SLICE_BYTES, FileHash
from edgeinfer.sync.messages import BlobRange, BlobRequest
from edgeinfer.sync.transfer import BlobDownload, DownloadConfig, RangeVerdict

__all__ = ["BlobFile"]

_log = logging.getLogger(__name__)

PACKAGE_SUFFIX = ".edgepkg"
# By the suffix of what they become.
_PART_SUFFIXES = {PACKAGE_SUFFIX: ".part", BENCH_SUFFIX: f"{BENCH_SUFFIX}part"}
_ATTEMPTS = 3
# What has to stay free for everything else on the device.
_SPARE_BYTES = 8 << 20


class Progress(Protocol):
    """Keeps how far downloads have come, as `sync.db` does."""

    def download(self, sha256: str) -> Download | None: ...

    def set_download(self, download: Download) -> None: ...

    def forget_downloads(self, *, keep: str = "") -> None: ...


class BlobFile:
    """Downloads one blob into `folder`, as `{sha256}{suffix}`, keeping its progress in `db`. Closed when `done` or
    `error` is set. There is one for each suffix at a time: parts of others are removed.

    Construction resumes what an earlier process left. While `verifying`, call `verify` until it no longer is.
    Raises BufferStorageError when `db` cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        db: Progress,
        config: DownloadConfig,
        *,
        sha256: str,
        size: int,
        suffix: str = PACKAGE_SUFFIX,
    ) -> None:
        self.sha256 = sha256
        self.size = size
        self.done = False
        self.error = ""
        self._config = config
        self._db = db
        self._part = folder / f"{sha256}{_PART_SUFFIXES[suffix]}"
        self._final = folder / f"{sha256}{suffix}"
        self._attempts = 0
        self._file = -1
        self._hashing: FileHash | None = None
        self._transfer = BlobDownload(config, sha256=sha256, size=size)
        self._checkpoint = 0
        try:
            self._resume()
        except EdgeInferError:
            self._close_file()
            raise
        except OSError as error:
            self._fail(f"{self._part}: cannot be written: {error.strerror or error}")

    @property
    def offset(self) -> int:
        return self.size if self.done else self._transfer.offset

    @property
    def verifying(self) -> bool:
        """Whether all bytes are there and their hash is being computed."""
        return self._hashing is not None

    @property
    def verified_bytes(self) -> int:
        """How far the hash has come."""
        return 0 if self._hashing is None else self._hashing.hashed

    @property
    def ended(self) -> bool:
        return self.done or bool(self.error)

    def requests(self, now_s: float, *, room: int = 1 << 62) -> list[BlobRequest]:
        return [] if self.ended or self.verifying else self._transfer.requests(now_s, room=room)

    def forget_requests(self) -> None:
        """The connection was lost: what was asked for has to be asked for again."""
        self._transfer.forget_requests()

    def receive(self, answer: BlobRange, now_s: float) -> RangeVerdict:
        """Take a range from the console; writes it, and finishes the file with the last one."""
        verdict = RangeVerdict.UNASKED if self.ended or self.verifying else self._transfer.receive(answer, now_s)
        try:
            if verdict is RangeVerdict.TAKEN:
                self._write(answer)
            elif verdict is RangeVerdict.MISSING:
                self._fail("console has no such blob")
            elif verdict is RangeVerdict.WRONG_SIZE:
                self._fail(f"expected a blob of {self.size} bytes, the console's has {answer.total_bytes}")
        except OSError as error:
            self._fail(f"{self._part}: cannot be written: {error.strerror or error}")
        return verdict

    def verify(self, n_bytes: int = SLICE_BYTES) -> None:
        """Hash the next slice; at the end of the file it becomes the package, or is fetched again."""
        hashing = self._hashing
        if hashing is None:
            return
        try:
            found = hashing.step(n_bytes)
            if found:
                self._stop_hashing()
                self._verified(hashing.path, found)
        except OSError as error:
            self._fail(f"{hashing.path}: cannot be read: {error.strerror or error}")

    def close(self) -> None:
        """Keep what is there for another time."""
        self._stop_hashing()
        if self._file < 0:
            return
        try:
            self._save()
        except (OSError, EdgeInferError) as error:
            _log.warning("event=download_not_saved sha256=%s reason=%r", self.sha256[:12], str(error))
        finally:
            self._close_file()

    def _resume(self) -> None:
        self._part.parent.mkdir(parents=True, exist_ok=True)
        self._remove_others()
        if self._final.is_file() and self._final.stat().st_size == self.size:
            self._hashing = FileHash(self._final)
        else:
            self._resume_part()

    def _resume_part(self) -> None:
        self._require_room()
        known = self._db.download(self.sha256)
        self._file = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        durable = min(known.offset, os.fstat(self._file).st_size) if known is not None and not known.error else 0
        self._begin(durable)
        if self._transfer.complete:
            self._begin_hashing()

    def _begin(self, offset: int) -> None:
        self._transfer = BlobDownload(self._config, sha256=self.sha256, size=self.size, offset=offset)
        self._checkpoint = offset
        self._db.set_download(Download(self.sha256, self.size, offset, done=False))

    def _write(self, answer: BlobRange) -> None:
        view = memoryview(answer.data)
        position = answer.offset
        while view:
            written = os.pwrite(self._file, view, position)
            view, position = view[written:], position + written
        if self._transfer.complete:
            self._begin_hashing()
        elif self._transfer.offset - self._checkpoint >= self._config.checkpoint_bytes:
            self._save()

    def _save(self) -> None:
        os.fsync(self._file)
        self._checkpoint = self._transfer.offset
        self._db.set_download(Download(self.sha256, self.size, self._checkpoint, done=False))

    def _begin_hashing(self) -> None:
        """All bytes are there."""
        self._save()
        self._hashing = FileHash(self._part)

    def _verified(self, path: Path, found: str) -> None:
        if found == self.sha256:
            if path != self._final:
                path.rename(self._final)
            self._finish()
        elif path == self._final:  # left by an earlier process, and damaged since
            self._resume_part()
        else:
            self._begin_again(found)

    def _begin_again(self, found: str) -> None:
        self._attempts += 1
        _log.warning(
            "event=download_wrong_hash expected=%s found=%s attempt=%d", self.sha256[:12], found[:12], self._attempts
        )
        os.ftruncate(self._file, 0)
        if self._attempts >= _ATTEMPTS:
            self._fail(f"expected a blob with sha256 {self.sha256}, found {found} in {_ATTEMPTS} attempts")
        else:
            self._begin(0)

    def _finish(self) -> None:
        sync_folder(self._final.parent)
        self._close_file()
        self._db.set_download(Download(self.sha256, self.size, self.size, done=True))
        self.done = True

    def _fail(self, reason: str) -> None:
        _log.error("event=download_failed sha256=%s reason=%r", self.sha256[:12], reason)
        self._stop_hashing()
        self.error = reason
        self._close_file()
        self._part.unlink(missing_ok=True)
        self._db.set_download(Download(self.sha256, self.size, 0, done=False, error=reason))

    def _stop_hashing(self) -> None:
        if self._hashing is not None:
            self._hashing.close()
            self._hashing = None

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _remove_others(self) -> None:
        """Parts of blobs that nobody wants any more would fill the disk over the years."""
        for other in self._part.parent.glob(f"*{self._part.suffix}"):
            if other != self._part:
                other.unlink(missing_ok=True)
        self._db.forget_downloads(keep=self.sha256)

    def _require_room(self) -> None:
        stat = os.statvfs(self._part.parent)
        there = self._part.stat().st_size if self._part.exists() else 0
        if stat.f_bavail * stat.f_frsize + there < self.size + _SPARE_BYTES:
            raise OSError(28, f"no room for {self.size} bytes")
