"""The contract of a sink: it takes chunks of one epoch in order, and says how far the other side durably has them.

What the answer claims lets the daemon delete, so a sink claims nothing that the other side has not said. It may be
given the same chunks again, from any earlier number on, and the other side has to tell by (device, epoch, number).

    SinkError             recoverable  nobody answers, or not now: the same again, later
    ├── SinkBusyError     recoverable  asked to wait `retry_after_s`
    ├── BatchTooLargeError recoverable the same in smaller batches
    └── SinkRefusedError  final        a person has to mend it: who we are, where we send, what we send
"""

from typing import Protocol

import msgspec

from edgeinfer.runtime.errors import EdgeInferError
from edgeinfer.sync.messages import Ack
from edgeinfer.sync.sinks.framing import Frame

__all__ = ["Batch", "BatchTooLargeError", "Chunk", "Sink", "SinkBusyError", "SinkError", "SinkRefusedError"]


class SinkError(EdgeInferError):
    """What takes the results cannot be reached, or answers with something that nobody can rely on."""

    recoverable = True


class SinkBusyError(SinkError):
    """The other side asks to be left alone for `retry_after_s` (0: it did not say how long)."""

    def __init__(self, message: str, *, retry_after_s: float = 0.0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class BatchTooLargeError(SinkError):
    """The other side takes batches, but smaller ones."""


class SinkRefusedError(SinkError):
    """The other side will go on refusing until somebody changes something."""

    recoverable = False


class Chunk(msgspec.Struct, frozen=True):
    """A chunk as it is sent: `message` is what `messages.encode_chunk` gives, and what the broker would carry."""

    pipeline: str
    codec: int
    first_seq: int
    n: int
    message: bytes

    @property
    def last_seq(self) -> int:
        return self.first_seq + self.n - 1

    @property
    def frame(self) -> Frame:
        return Frame(f"up/res/{self.pipeline}", self.message)


class Batch(msgspec.Struct, frozen=True):
    """Chunks of one epoch in order. `birth` is an encoded `messages.Birth` for a side that has not heard of this
    device yet (it names the lowest number that can still come), or empty."""

    device: str
    epoch: int
    chunks: tuple[Chunk, ...]
    birth: bytes = b""

    @property
    def first_seq(self) -> int:
        return self.chunks[0].first_seq

    @property
    def last_seq(self) -> int:
        return self.chunks[-1].last_seq

    @property
    def size(self) -> int:
        """Bytes of its messages."""
        return len(self.birth) + sum(len(chunk.message) for chunk in self.chunks)

    @property
    def frames(self) -> tuple[Frame, ...]:
        """All of it as messages: the birth goes first."""
        birth = (Frame("up/birth", self.birth),) if self.birth else ()
        return (*birth, *(chunk.frame for chunk in self.chunks))


class Sink(Protocol):
    """Used by one thread at a time; only `abort` may be called beside it. `tests/contract/test_sinks.py` says what an
    implementation must do."""

    def deliver(self, batch: Batch) -> Ack:
        """Hand over `batch`, and answer up to which number of its epoch the other side durably has everything: all of
        the batch, a part of it, or (where it keeps books of its own) more or less than that.

        Returns within the configured time. Raises SinkError and nothing else; what has become of the batch is then
        not known, and it is delivered again.
        """

    @property
    def local_address(self) -> str:
        """This side's address on the connection; empty where there is none."""

    def abort(self) -> None:
        """From any thread: a `deliver` that is under way, and each later one, ends soon with SinkError."""

    def close(self) -> None:
        """Let go of connections and files, within a second. Raises nothing."""
