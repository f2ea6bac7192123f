"""What every way for results tells of the buffer that it empties."""

import logging

from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.watched import Watched

__all__ = ["audit_counts", "durable_seq"]

_log = logging.getLogger(__name__)


def audit_counts(buffer: Watched[BufferReader], *, epoch: int, sent: int, acknowledged: int) -> dict[str, int]:
    """What the device itself counts: epoch, made, durable, evicted, sent, acknowledged, bytes, backlog. Nothing while
    there is no buffer, or it cannot be read."""
    reader = buffer.current()
    if reader is None:
        return {}
    try:
        counts, held_bytes = reader.audit_counts(), reader.bytes()
    except (BufferStorageError, OSError) as error:
        _log.debug("event=audit_unreadable reason=%r", str(error))
        return {}
    return counts | {
        "epoch": epoch,
        "sent": sent,
        "acknowledged": acknowledged,
        "bytes": held_bytes,
        "backlog": max(0, counts["durable"] - acknowledged),
    }


def durable_seq(buffer: Watched[BufferReader]) -> int | None:
    """The highest sequence number in the buffer; None while there is no buffer."""
    reader = buffer.current()
    try:
        return None if reader is None else reader.durable_seq()
    except BufferStorageError as error:
        buffer.failed(error)
        return None
