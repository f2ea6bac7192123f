"""Pulling a blob in ranges, as values: which ranges to ask for, and which of those that come to believe.

The ranges go over MQTT with QoS 0, so each may come late, twice, out of order, or not at all. A range is taken
only when it was asked for and has exactly the offset and length of the request; the blob's sha256 is checked by
`edgeinfer.sync.download` when all of it is there. How large ranges are and how many are asked for at once follows how
soon answers come: on a slow line a window of large ones would keep the broker's confirmations and the console's
acknowledgements waiting for minutes. Silence makes the window shrink to one request and the waits grow, until an
answer comes.
"""

import enum
from typing import Annotated

import msgspec

from edgeinfer.runtime.config import Section
from edgeinfer.sync.messages import MAX_RANGE_BYTES, BlobRange, BlobRequest
from edgeinfer.sync.pace import Pace

__all__ = ["BlobDownload", "DownloadConfig", "RangeVerdict"]

PositiveS = Annotated[float, msgspec.Meta(gt=0)]


class DownloadConfig(Section, frozen=True, kw_only=True):
    """How packages come down: `range_bytes` at once at most, `window` times; on a slow line less."""

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


class _Asked(msgspec.Struct):
    """A range that was asked for, and when last."""

    length: int
    since_s: float


class BlobDownload:
    """The download of one blob of `size` bytes, from `offset` on (what is durably there already).

    All times are seconds of one monotonic clock.
    """

    def __init__(self, config: DownloadConfig, *, sha256: str, size: int, offset: int = 0) -> None:
        self.sha256 = sha256
        self.size = size
        self.offset = min(offset, size)  # everything below is there
        self._config = config
        self._pace = Pace(most_bytes=min(config.range_bytes, MAX_RANGE_BYTES), window=config.window)
        self._next = self.offset
        self._asked: dict[int, _Asked] = {}  # by the offset of the range
        self._ahead: dict[int, int] = {}  # ranges that came before their turn: offset to length
        self._timeout_s = config.timeout_s
        self._silent = False

    @property
    def complete(self) -> bool:
        return self.offset >= self.size

    def requests(self, now_s: float, *, room: int = 1 << 62) -> list[BlobRequest]:
        """What to ask for now: first again what stayed unanswered, then new ranges up to the window.

        With `room` (bytes that may come in now) below what the window would bring, as many as fit, and one where there
        is room at all; without room none.
        """
        if room <= 0:
            return []
        due = self._overdue(now_s)
        for offset in due:
            self._asked[offset].since_s = now_s
        window = 1 if self._silent else self._pace.window
        while self._next < self.size and len(self._asked) + len(self._ahead) < window:
            length = min(self._pace.part_bytes, self.size - self._next)
            if self._asked and sum(asked.length for asked in self._asked.values()) + length > room:
                break
            self._asked[self._next] = _Asked(length, now_s)
            due.append(self._next)
            self._next += length
        return [BlobRequest(self.sha256, offset, self._asked[offset].length) for offset in due]

    def receive(self, answer: BlobRange, now_s: float) -> RangeVerdict:
        """Judge a range. After TAKEN write its data at its offset; `offset` has moved on when it could."""
        if answer.sha256 != self.sha256:
            return RangeVerdict.FOREIGN
        if answer.total_bytes == 0 and not answer.data:
            return RangeVerdict.MISSING
        if answer.total_bytes != self.size:
            return RangeVerdict.WRONG_SIZE
        asked = self._asked.get(answer.offset)
        if asked is None or len(answer.data) != asked.length:
            return RangeVerdict.UNASKED
        del self._asked[answer.offset]
        self._pace.answered(now_s - asked.since_s)
        self._ahead[answer.offset] = len(answer.data)
        while self.offset in self._ahead:
            self.offset += self._ahead.pop(self.offset)
        self._silent = False
        self._timeout_s = self._config.timeout_s
        return RangeVerdict.TAKEN

    def forget_requests(self) -> None:
        """A new connection: what was asked for is lost. Ask again, at once, and as at first."""
        self._timeout_s = self._config.timeout_s
        self._silent = False
        self._pace.connected()
        self._rewind()

    def _overdue(self, now_s: float) -> list[int]:
        """Requests to repeat. Where nothing was answered at all, the wait doubles, and one smaller range is asked for
        to probe with."""
        if not self._asked:
            return []
        if now_s - max(asked.since_s for asked in self._asked.values()) >= self._timeout_s:
            self._silent = True
            self._timeout_s = min(2 * self._timeout_s, self._config.timeout_max_s)
            self._pace.slower()
            self._rewind()
            return []
        if self._silent:
            return []
        return sorted(offset for offset, asked in self._asked.items() if now_s - asked.since_s >= self._timeout_s)

    def _rewind(self) -> None:
        """To where all is there: ranges of another length have to fit together."""
        self._asked.clear()
        self._ahead.clear()
        self._next = self.offset
