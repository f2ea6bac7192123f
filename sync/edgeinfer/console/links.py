"""Whether a chunk fits the hash chain of what is stored: see `edgeinfer.runtime.chain`.

A chunk carries the link after its last result. That link has to follow from the link after the result before it, and
what is stored behind it has to follow from its own. Where the neighbour is not there yet, this is looked at when it
comes; where a link is not known (older agents, results that were lost with their chain), it cannot be.
"""

from edgeinfer.console.ledger import Ledger
from edgeinfer.console.repository import Repository
from edgeinfer.runtime.chain import genesis, link_after
from edgeinfer.runtime.chunk import NO_LINK, TOMBSTONE, StoredChunk

__all__ = ["Links"]

# Of each epoch: results come mostly in order, and the link before a chunk is that of the one before.
_REMEMBERED = 8


class Links:
    """Used by the ingest thread. The last links of each epoch are remembered, the others are in the repository."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self.forget()

    def forget(self) -> None:
        self._recent: dict[tuple[str, int], dict[int, bytes]] = {}

    def remember(self, device: str, epoch: int, chunk: StoredChunk) -> None:
        """Of a chunk whose end is new: a repeat says nothing of what is stored."""
        recent = self._recent.setdefault((device, epoch), {})
        recent[chunk.last_seq] = chunk.link
        if len(recent) > _REMEMBERED:
            del recent[next(iter(recent))]

    def forget_epoch(self, device: str, epoch: int) -> None:
        self._recent.pop((device, epoch), None)

    def is_next(self, device: str, epoch: int, chunk: StoredChunk, ledger: Ledger) -> bool:
        """Whether `chunk` lies beyond all that is settled, right behind a link that is remembered: to judge it, nothing
        is looked up."""
        at = chunk.first_seq - 1
        return at == ledger.highest and at in self._recent.get((device, epoch), {})

    def objection(self, device: str, epoch: int, chunk: StoredChunk, ledger: Ledger) -> str:
        """Why `chunk` belies what is stored, or nothing. `ledger` is that of the epoch, before the chunk."""
        if chunk.link == NO_LINK:
            return ""
        known = self.after(device, epoch, chunk.last_seq, ledger)
        if known != NO_LINK:
            return "" if known == chunk.link else f"another chunk that ends with {chunk.last_seq} is stored"
        before = self.after(device, epoch, chunk.first_seq - 1, ledger)
        if link_after(before, chunk) not in {NO_LINK, chunk.link}:
            return f"it does not follow what is stored up to {chunk.first_seq - 1}"
        is_beyond_all = chunk.first_seq > ledger.highest  # then nothing lies in its place, or behind it
        if not is_beyond_all and not self._is_followed(device, epoch, chunk, ledger):
            return f"what is stored from {chunk.last_seq + 1} on does not follow it"
        if not is_beyond_all and self._is_cut_otherwise(device, epoch, chunk, ledger):
            return "what is stored there begins and ends elsewhere"
        # Where the link before it is lost for good, nothing will ever tell: refusing it would be refusing it for ever.
        if ledger.conflicts and not ledger.is_settled(chunk.first_seq - 1) and chunk.first_seq > 1:
            return "two devices have sent this epoch, and nothing tells whose it is"
        return ""

    def _is_cut_otherwise(self, device: str, epoch: int, chunk: StoredChunk, ledger: Ledger) -> bool:
        """A device never packs its results twice: a chunk that overlaps a stored one is that one, or another device's.
        Only a tombstone spans several, and what has no link of its own is a part of one."""
        new = ledger.unsettled(chunk.first_seq, chunk.last_seq)
        if chunk.codec == TOMBSTONE or new == ((chunk.first_seq, chunk.last_seq),):
            return False
        return any(
            stored.whole
            and stored.link != NO_LINK
            and stored.first_seq <= chunk.last_seq
            and chunk.first_seq <= stored.last_seq
            for stored in self._repository.neighbours(device, epoch, chunk.first_seq)
            if stored is not None
        )

    def after(self, device: str, epoch: int, seq: int, ledger: Ledger) -> bytes:
        """The link after result `seq`, as far as it is known."""
        if seq == 0:
            return genesis(epoch)
        if not ledger.is_settled(seq):
            return NO_LINK
        recent = self._recent.get((device, epoch), {}).get(seq)
        return self._repository.link_at(device, epoch, seq) if recent is None else recent

    def _is_followed(self, device: str, epoch: int, chunk: StoredChunk, ledger: Ledger) -> bool:
        if not ledger.is_settled(chunk.last_seq + 1):
            return True
        stored = self._repository.chunk_at(device, epoch, chunk.last_seq + 1)
        if stored is None or not stored.whole or stored.link == NO_LINK:
            return True
        behind = StoredChunk(
            stored.first_seq, stored.n, 0, stored.pipeline, stored.codec, stored.crc, stored.body, stored.link
        )
        return link_after(chunk.link, behind) == stored.link
