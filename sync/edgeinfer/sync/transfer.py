"""Pulling a blob in ranges, as values: which ranges to ask for, and which of those that come to believe.

The ranges go over MQTT with QoS 0, so each may come late, twice, out of order, or not at all. A range is taken
only when it was asked for and has exactly the offset and length of the request; the blob's sha256 is checked by
`edgeinfer.sync.download` when all of it is there. Silence makes the window shrink to one request and the waits
grow, until an answer comes.
"""

import enum
from typing import Annotated

import msgspec

from edgeinfer.runtime.config import Section
from edgeinfer.sync.messages import MAX_RANGE_BYTES, BlobRange, BlobRequest

__all__ = ["BlobDownload", "DownloadConfig", "RangeVerdict"]

PositiveS = Annotated[float, msgspec.Meta(gt=0)]
_LONG_AGO = float("-inf")


class DownloadConfig(Section, frozen=True, kw_only=True):
    """How packages come down."""

    # 64 KiB with four or more in flight fills a link of 16 MB/s over loopback; one at a time 1.1 MB/s.
    range_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_RANGE_BYTES)] = 64 << 10
    window: Annotated[int, msgspec.Meta(ge=1, le=256)] = 8
    timeout_s: PositiveS = 5.0
    timeout_max_s: PositiveS = 60.0
    # How much may have to be fetched again after a power cut; each checkpoint is an fsync of file and database.
    checkpoint_bytes: Annotated[int, msgspec.Meta(ge=1)] = 1 << 20


class RangeVerdict(enum.Enum):
    """What a range turned out to be; only TAKEN is to be written."""

    TAKEN = "taken"
    FOREIGN = "foreign"  # of another blob
    UNASKED = "unasked"  # a duplicate, or an offset or length that was not asked for
    WRONG_SIZE = "wrong size"  # the console's blob is not as long as the assignment says
    MISSING = "missing"  # the console has no such blob


class BlobDownload:
    """The download of one blob of `size` bytes, from `offset` on (what is durably there already).

    All times are seconds of one monotonic clock.
    """

    def __init__(self, config: DownloadConfig, *, sha256: str, size: int, offset: int = 0) -> None:
        self.sha256 = sha256
        self.size = size
        self.offset = min(offset, size)  # everything below is there
        self._config = config
        self._range_bytes = min(config.range_bytes, MAX_RANGE_BYTES)
        self._next = self.offset
        self._asked: dict[int, float] = {}  # offset of the range: when it was asked for
        self._ahead: dict[int, int] = {}  # ranges that came before their turn: offset to length
        self._timeout_s = config.timeout_s
        self._silent = False

    @property
    def complete(self) -> bool:
        return self.offset >= self.size

    def requests(self, now_s: float) -> list[BlobRequest]:
        """What to ask for now: first again what stayed unanswered, then new ranges up to the window."""
        due = self._overdue(now_s)
        for offset in due:
            self._asked[offset] = now_s
        window = 1 if self._silent else self._config.window
        while self._next < self.size and len(self._asked) + len(self._ahead) < window:
            self._asked[self._next] = now_s
            due.append(self._next)
            self._next += self._length(self._next)
        return [BlobRequest(self.sha256, offset, self._length(offset)) for offset in due]

    def receive(self, answer: BlobRange) -> RangeVerdict:
        """Judge a range. After TAKEN write its data at its offset; `offset` has moved on when it could."""
        if answer.sha256 != self.sha256:
            return RangeVerdict.FOREIGN
        if answer.total_bytes == 0 and not answer.data:
            return RangeVerdict.MISSING
        if answer.total_bytes != self.size:
            return RangeVerdict.WRONG_SIZE
        if answer.offset not in self._asked or len(answer.data) != self._length(answer.offset):
            return RangeVerdict.UNASKED
        del self._asked[answer.offset]
        self._ahead[answer.offset] = len(answer.data)
        while self.offset in self._ahead:
            self.offset += self._ahead.pop(self.offset)
        if self._silent:
            self.forget_requests()
        self._timeout_s = self._config.timeout_s
        return RangeVerdict.TAKEN

    def forget_requests(self) -> None:
        """What was asked for is lost (a new connection, or the end of a silence): ask again, at once."""
        self._timeout_s = self._config.timeout_s
        self._silent = False
        self._asked = dict.fromkeys(self._asked, _LONG_AGO)

    def _overdue(self, now_s: float) -> list[int]:
        """Requests to repeat. Where nothing was answered at all, one is left to probe with and the wait doubles."""
        if not self._asked:
            return []
        newest_s = max(self._asked.values())
        if newest_s != _LONG_AGO and now_s - newest_s >= self._timeout_s:
            self._silent = True
            self._timeout_s = min(2 * self._timeout_s, self._config.timeout_max_s)
            return [min(self._asked)]
        if self._silent:
            return []
        return sorted(offset for offset, asked_s in self._asked.items() if now_s - asked_s >= self._timeout_s)

    def _length(self, offset: int) -> int:
        return min(self._range_bytes, self.size - offset)
