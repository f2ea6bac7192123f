"""Files that carry packages, by the sha256 of their content: `{folder}/{sha256}`."""

import logging
import os
from pathlib import Path

from edgeinfer.console.repository import Repository
from edgeinfer.runtime.durable import sync_folder
from edgeinfer.sync.messages import BlobRange, BlobRequest

__all__ = ["BlobStore"]

_log = logging.getLogger(__name__)


class BlobStore:
    """Keeps blobs and answers requests for ranges of them. Only what the repository knows is handed out."""

    def __init__(self, folder: Path, repository: Repository) -> None:
        self._folder = folder
        self._repository = repository
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        return self._folder / sha256

    def adopt(self, file: Path, sha256: str) -> None:
        """Move `file`, whose content is already synced to disk, to its place. Nothing changes if it is there."""
        file.replace(self.path(sha256))
        sync_folder(self._folder)

    def read(self, request: BlobRequest) -> BlobRange | None:
        """The bytes asked for; `total_bytes` 0 says that there is no such blob. None where the disk fails right
        now: the device asks again, where it would give up on a blob that is not there."""
        total = self._repository.blob_bytes(request.sha256)
        nothing = BlobRange(request.sha256, request.offset, 0, b"")
        if total == 0:
            return nothing
        try:
            with self.path(request.sha256).open("rb") as file:
                data = os.pread(file.fileno(), request.length, min(request.offset, total))
        except FileNotFoundError:
            return nothing
        except OSError as error:
            _log.warning("event=blob_unreadable sha256=%s reason=%r", request.sha256[:12], error.strerror or str(error))
            return None
        return BlobRange(request.sha256, request.offset, total, data)
