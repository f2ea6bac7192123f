"""The hash chain over what is stored, computed again: an altered, exchanged or removed chunk breaks it. Values only."""

import zlib
from collections.abc import Callable

import msgspec

from edgeinfer.console.repository.base import KeptChunk
from edgeinfer.runtime.chain import link_after
from edgeinfer.runtime.chunk import NO_LINK, StoredChunk

__all__ = ["BrokenChain", "ChainAudit", "ChainReport"]

_BREAKS_NAMED = 20


class BrokenChain(msgspec.Struct, frozen=True):
    """The chunk of results `first` to `last` of an epoch is not what the device sent."""

    epoch: int
    first: int
    last: int
    what: str


class ChainReport(msgspec.Struct, frozen=True):
    """Of `chunks`, `verified` were computed again from their bodies and the link before them. The others have no link
    of their own (`unlinked`: sent by an older agent), none before them (`unanchored`: something was lost there with
    its chain), or are what was new of a larger one (`parts`); of those, the checksum is right. `breaks` are wrong,
    and `broken` names the first of them."""

    chunks: int = 0
    verified: int = 0
    unlinked: int = 0
    unanchored: int = 0
    parts: int = 0
    breaks: int = 0
    broken: tuple[BrokenChain, ...] = ()


class ChainAudit:
    """`check` chunk after chunk, in the order of their numbers; `report` at any time."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(("chunks", "verified", "unlinked", "unanchored", "parts", "breaks"), 0)
        self._broken: list[BrokenChain] = []
        self._previous: KeptChunk | None = None

    def check(self, chunk: KeptChunk, link_at: Callable[[int], bytes]) -> None:
        """`link_at(seq)` is the link after result `seq` of the chunk's epoch, NO_LINK where it is not known."""
        self._counts["chunks"] += 1
        if zlib.crc32(chunk.body) != chunk.crc:
            self._break(chunk, "its content is not what came: the checksum is wrong")
        elif chunk.link == NO_LINK:
            self._counts["unlinked"] += 1
        elif not chunk.whole:
            self._counts["parts"] += 1
        else:
            self._check_link(chunk, self._before(chunk, link_at))
        self._previous = chunk

    def report(self) -> ChainReport:
        return ChainReport(**self._counts, broken=tuple(self._broken))

    def _before(self, chunk: KeptChunk, link_at: Callable[[int], bytes]) -> bytes:
        previous = self._previous
        if previous is not None and (previous.epoch, previous.last_seq) == (chunk.epoch, chunk.first_seq - 1):
            return previous.link
        return link_at(chunk.first_seq - 1)

    def _check_link(self, chunk: KeptChunk, before: bytes) -> None:
        stored = StoredChunk(
            chunk.first_seq, chunk.n, 0, chunk.pipeline, chunk.codec, chunk.crc, chunk.body, chunk.link
        )
        expected = link_after(before, stored)
        if expected == NO_LINK:
            self._counts["unanchored"] += 1
        elif expected == chunk.link:
            self._counts["verified"] += 1
        else:
            self._break(chunk, f"it does not follow from what is stored up to {chunk.first_seq - 1}")

    def _break(self, chunk: KeptChunk, what: str) -> None:
        self._counts["breaks"] += 1
        if len(self._broken) < _BREAKS_NAMED:
            self._broken.append(BrokenChain(chunk.epoch, chunk.first_seq, chunk.last_seq, what))
