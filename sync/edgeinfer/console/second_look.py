"""A second look at what an older console could not read: it was kept as it came, and acknowledged as undecodable."""

import logging
from collections.abc import Callable

from edgeinfer.console.batch import Batch
from edgeinfer.console.intake import Results, read_message
from edgeinfer.console.repository import Repository
from edgeinfer.console.repository.base import Unread
from edgeinfer.runtime.errors import MessageError
from edgeinfer.sync.messages import ChunkMessage, encode_chunk, topic

__all__ = ["SecondLook"]

_log = logging.getLogger(__name__)

# Each that can be read is a commit, and between two of them whoever sends something now waits.
_AT_ONCE = 8


class SecondLook:
    """Stores what can be read by now, a few chunks at a time; `read` counts them. By the thread of ingest alone."""

    def __init__(self, repository: Repository, batch: Callable[[], Batch], *, tenant: str) -> None:
        self._repository = repository
        self._batch = batch
        self._tenant = tenant
        self._last = 0
        self.read = 0

    def go_on(self) -> bool:
        """Look at the next few; False once there are no more. Whatever is raised, the chunk that it was about stays as
        it is, and the next call goes on behind it."""
        for _ in range(_AT_ONCE):
            unread = self._repository.next_unread(self._last)
            if unread is None:
                if self._last:
                    _log.info("event=second_look read=%d", self.read)
                return False
            self._last = unread.id
            body = self._read(unread)
            # The books of an epoch that was retired are closed.
            if body is not None and unread.epoch in self._repository.ledgers(unread.device):
                self._store(unread, body)
        return True

    def _read(self, unread: Unread) -> Results | None:
        """The chunk as if the device had sent it now; None where it still cannot be read."""
        chunk = unread.chunk
        message = ChunkMessage(chunk.codec, unread.epoch, chunk.first_seq, chunk.n, chunk.crc, chunk.body, chunk.link)
        name = topic(self._tenant, unread.device, f"up/res/{chunk.pipeline}")
        try:
            body = read_message(name, encode_chunk(message), tenant=self._tenant).body
        except MessageError:
            return None
        return body if isinstance(body, Results) else None

    def _store(self, unread: Unread, body: Results) -> None:
        """What is not stored of it is not dropped either."""
        with self._repository.transaction():
            batch = self._batch()
            if batch.add_again(unread.device, body):
                batch.write()
                self._repository.drop_unread(unread.id)
                self.read += 1
