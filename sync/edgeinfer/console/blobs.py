"""Files that carry packages, by the sha256 of their content: `{folder}/{sha256}`."""

import logging
import os
import threading
from pathlib import Path

from edgeinfer.console.repository import Repository
from edgeinfer.runtime.durable import sync_folder
from edgeinfer.sync.messages import BlobRange, BlobRequest

__all__ = ["BlobStore"]

_log = logging.getLogger(__name__)


class BlobStore:
    """Keeps blobs and answers requests for ranges of them. Only what the repository knows is handed out, and what is
    lent for a while. Safe from any thread."""

    def __init__(self, folder: Path, repository: Repository) -> None:
        self._folder = folder
        self._repository = repository
        self._lent: dict[str, list[tuple[Path, int]]] = {}
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        return self._folder / sha256

    def adopt(self, file: Path, sha256: str) -> None:
        """Move `file`, whose content is already synced to disk, to its place. Nothing changes if it is there."""
        file.replace(self.path(sha256))
        sync_folder(self._folder)

    def lend(self, sha256: str, file: Path, size: int) -> None:
        """Hand out `file`, which is no release and stays where it is, until it is taken back."""
        with self._lock:
            self._lent.setdefault(sha256, []).append((file, size))

    def take_back(self, sha256: str, file: Path) -> None:
        with self._lock:
            left = [one for one in self._lent.pop(sha256, []) if one[0] != file]
            if left:
                self._lent[sha256] = left

    def read(self, request: BlobRequest) -> BlobRange | None:
        """The bytes asked for; `total_bytes` 0 says that there is no such blob. None where the disk fails right
        now: the device asks again, where it would give up on a blob that is not there."""
        path, total = self._place(request.sha256)
        nothing = BlobRange(request.sha256, request.offset, 0, b"")
        if total == 0:
            return nothing
        try:
            with path.open("rb") as file:
                data = os.pread(file.fileno(), request.length, min(request.offset, total))
        except FileNotFoundError:
            return nothing
        except OSError as error:
            _log.warning("event=blob_unreadable sha256=%s reason=%r", request.sha256[:12], error.strerror or str(error))
            return None
        return BlobRange(request.sha256, request.offset, total, data)

    def _place(self, sha256: str) -> tuple[Path, int]:
        """Where a blob is, and its bytes; 0 where it may not be had."""
        with self._lock:
            lent = self._lent.get(sha256)
            if lent:
                return lent[0]
        return self.path(sha256), self._repository.blob_bytes(sha256)
