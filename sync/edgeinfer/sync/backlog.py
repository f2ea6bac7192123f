"""Reads the buffer ahead of what is sent, so that one look at the database serves many chunks.

A look costs some fifteen queries, whatever it brings. What was read may have been evicted meanwhile: then the console
gets the results, and not their tombstone.
"""

from collections import deque
from itertools import islice

from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.chunk import StoredChunk

__all__ = ["Backlog"]

_MOST = 64
_MOST_BYTES = 1 << 20
# How long what is known of the buffer's end may be old while there is something to send.
_FRESH_S = 0.1


class Backlog:
    """What a buffer holds beyond what was asked for, in both lanes. `reader` may be exchanged: a buffer that is opened
    anew is the same one as long as its epoch is. Raises BufferStorageError."""

    def __init__(self, reader: BufferReader) -> None:
        self.reader = reader
        self.epoch = 0
        self.settled_seq = 0
        self._looked_s = float("-inf")
        self._ahead: deque[StoredChunk] = deque()
        self._largest = _MOST_BYTES // 4  # of a chunk; nothing is known yet

    def look(self, now_s: float, *, cursor: int) -> None:
        """See what the buffer has: at once where `cursor` is at the end of what is known of it, else now and then."""
        if cursor < self.settled_seq and now_s - self._looked_s < _FRESH_S:
            return
        self._looked_s = now_s
        epoch = self.reader.epoch
        if epoch != self.epoch:
            self._ahead.clear()
            self.epoch = epoch
        self.settled_seq = self.reader.settled_seq()

    def chunks(self, after_seq: int, *, limit: int) -> list[StoredChunk]:
        """Up to `limit` chunks in order, the first being the one that holds the first number beyond `after_seq`. Fewer
        do not mean that there are no more; none does."""
        ahead = self._ahead
        while ahead and ahead[0].last_seq <= after_seq:
            ahead.popleft()
        if not ahead or ahead[0].first_seq > after_seq + 1:
            self._read(after_seq)
        return list(islice(self._ahead, limit))

    def events(self, after_seq: int, *, limit: int) -> list[StoredChunk]:
        """The same of chunks of events alone; fewer do mean that there are no more."""
        return self._of_this_epoch(self.reader.events(after_seq, limit=limit))

    def _read(self, after_seq: int) -> None:
        most = min(_MOST, max(1, _MOST_BYTES // self._largest))
        self._ahead = deque(self._of_this_epoch(self.reader.chunks(after_seq, limit=most)))
        self._largest = max((len(chunk.body) for chunk in self._ahead), default=self._largest) or 1

    def _of_this_epoch(self, found: list[StoredChunk]) -> list[StoredChunk]:
        """Nothing, where the writer began to count anew in between: those numbers mean something else."""
        return found if found and self.reader.epoch == self.epoch else []
