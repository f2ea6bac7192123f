"""How many results go out for the first time: what is sent again counts once. Values only."""

from edgeinfer.runtime.chunk import EVENTS, StoredChunk

__all__ = ["FirstSent"]


class FirstSent:
    """Of one epoch, of which everything up to `through` was counted before."""

    def __init__(self, through: int = 0) -> None:
        self._counted = through  # up to here every result was sent, or went ahead
        self._ahead: set[int] = set()  # first numbers of events that did, above it

    def count(self, chunk: StoredChunk, lane: int) -> int:
        """`chunk` is sent in `lane`: how many of its results are new. Events may have gone ahead of what lies before
        them."""
        if chunk.first_seq in self._ahead:
            return 0
        if lane == EVENTS and chunk.first_seq > self._counted:
            self._ahead.add(chunk.first_seq)
            return chunk.n
        new = chunk.last_seq - max(self._counted, chunk.first_seq - 1)
        self._counted = max(self._counted, chunk.last_seq)
        if self._ahead:
            self._ahead = {first_seq for first_seq in self._ahead if first_seq > self._counted}
        return max(0, new)
