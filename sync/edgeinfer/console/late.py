"""What of a chunk is to be stored: the numbers that nothing is known of yet, and those that were settled without their
results.

Results can come after they were given up: from a stick that was written before the buffer was full, from a copy of a
message after the console was put back to an older backup, from a newer console's second look at what it could not read.
A number is then what it is: stored, and no longer absent.
"""

from collections.abc import Iterable

import msgspec

from edgeinfer.console.ledger import Ledger, Range
from edgeinfer.console.repository import Repository
from edgeinfer.console.repository.base import Absent
from edgeinfer.runtime.chunk import StoredChunk

__all__ = ["Wanted", "settle", "wanted"]


class Wanted(msgspec.Struct, frozen=True):
    """`ranges` are to be stored; of them, those of `late` were settled as absent."""

    ranges: tuple[Range, ...]
    late: tuple[Absent, ...] = ()


def wanted(
    repository: Repository, device: str, epoch: int, chunk: StoredChunk, ledger: Ledger, *, has_come: bool = False
) -> Wanted:
    """Changes nothing. `ledger` is that of the epoch, before the chunk; it `has_come` where it is what settled its
    numbers, and could not be read."""
    new = ledger.unsettled(chunk.first_seq, chunk.last_seq)
    # Of two devices with one buffer nobody can tell whose these are, where what lay around them is not known.
    is_doubtful = ledger.conflicts and not has_come
    if not ledger.absent or is_doubtful or new == ((chunk.first_seq, chunk.last_seq),):
        return Wanted(new)
    late = tuple(repository.absent_in(device, epoch, chunk.first_seq, chunk.last_seq))
    if any(_count(late, cause) > getattr(ledger, cause) for cause in {absent.cause for absent in late}):
        return Wanted(new)  # the epoch was retired once, and what was settled before that is counted elsewhere
    return Wanted(_joined([*new, *((absent.first, absent.last) for absent in late)]), late)


def settle(
    repository: Repository, device: str, epoch: int, chunk: StoredChunk, ledger: Ledger, late: Iterable[Absent]
) -> None:
    """The chunk is stored as far as it was wanted: put the books right. Inside a transaction."""
    ledger.store(chunk.first_seq, chunk.n)
    for absent in late:
        ledger.recover(absent.cause, absent.last - absent.first + 1)
        repository.forget_absent(device, epoch, absent.first, absent.last)


def _count(absents: Iterable[Absent], cause: str) -> int:
    return sum(absent.last - absent.first + 1 for absent in absents if absent.cause == cause)


def _joined(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same numbers in sorted ranges that do not touch."""
    found: list[Range] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return tuple(found)
