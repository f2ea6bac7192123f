"""A chunk of the buffer as it can go: whole, in parts where the broker would not take that, or as a tombstone."""

import logging
import zlib

from edgeinfer.runtime.chunk import LINK_BYTES, StoredChunk, tombstone
from edgeinfer.sync.loglimit import LogLimit
from edgeinfer.sync.mqtt import MqttLink
from edgeinfer.sync.sizing import SizeLimit
from edgeinfer.sync.splitting import parts

__all__ = ["Fitting"]

_log = logging.getLogger(__name__)

# What a chunk is longer by on the wire than its body, at most: see `messages.encode_chunk`.
_HEADER_BYTES = 28 + LINK_BYTES


class Fitting:
    """Knows sizes by what the broker said of itself (`link`) and by what became of messages (`sizes`). `topics` is what
    a pipeline's topic begins with."""

    def __init__(self, link: MqttLink, sizes: SizeLimit, *, topics: str) -> None:
        self._link = link
        self._sizes = sizes
        self._topics = topics
        self._limit = LogLimit()

    def parts(self, chunk: StoredChunk, now_s: float) -> list[StoredChunk]:
        """The chunk, in parts where the broker would not take the whole; a tombstone where it is damaged."""
        chunk = self._undamaged(chunk, now_s)
        name = self._topics + chunk.pipeline

        def forbidden(part: StoredChunk) -> bool:
            size = len(part.body) + _HEADER_BYTES
            return self._sizes.forbids(size, now_s) or not self._link.fits(name, size)

        def allowed(part: StoredChunk) -> bool:
            return self._sizes.allows(len(part.body) + _HEADER_BYTES, now_s) and not forbidden(part)

        if allowed(chunk):
            return [chunk]
        found = parts(chunk, allowed=allowed, forbidden=forbidden)
        for part in found:
            if part.pipeline != chunk.pipeline:
                self._say_given_up(part, "too large", now_s)
        return found

    def _undamaged(self, chunk: StoredChunk, now_s: float) -> StoredChunk:
        """The chunk as it was written, or a tombstone: the console refuses what has rotted, and what it lacks
        would keep back all that comes after."""
        if zlib.crc32(chunk.body) == chunk.crc:
            return chunk
        self._say_given_up(chunk, "damaged", now_s)
        return tombstone(chunk.first_seq, chunk.n, t0_ns=chunk.t0_ns, reason="damaged", link=chunk.link)

    def _say_given_up(self, chunk: StoredChunk, reason: str, now_s: float) -> None:
        if (held := self._limit.admit(reason, now_s)) is not None:
            _log.error(
                "event=chunk_given_up reason=%r first_seq=%d n=%d held_back=%d",
                reason, chunk.first_seq, chunk.n, held,
            )  # fmt: skip
