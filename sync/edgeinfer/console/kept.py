"""Chunks as they are kept: what is asked of one when it comes, and its results when somebody looks."""

import zlib
from collections.abc import Iterator

import numpy as np

from edgeinfer.console.ledger import Range
from edgeinfer.console.repository.base import KeptChunk, StoredResult, kind_bit
from edgeinfer.runtime.chunk import NO_LINK, StoredChunk
from edgeinfer.runtime.codec import Summary, decode, split
from edgeinfer.runtime.results import Kind

__all__ = ["count_events", "kept", "kinds_of", "pieces", "results_of"]

# As numpy compares it at once: to an enumeration it would look for an array in it, each time.
_EVENT = np.int64(Kind.EVENT)


def kept(device: str, epoch: int, chunk: StoredChunk, summary: Summary, *, whole: bool = True) -> KeptChunk:
    return KeptChunk(
        device=device,
        epoch=epoch,
        first_seq=chunk.first_seq,
        n=chunk.n,
        pipeline=chunk.pipeline,
        codec=chunk.codec,
        t_min_ns=int(np.minimum.reduce(summary.t_ns)),
        t_max_ns=int(np.maximum.reduce(summary.t_ns)),
        kinds=kinds_of(summary),
        link=chunk.link,
        whole=whole,
        crc=chunk.crc,
        body=chunk.body,
    )


def kinds_of(summary: Summary) -> int:
    """The bits of the kinds that are in it."""
    lowest, highest = int(np.minimum.reduce(summary.kind)), int(np.maximum.reduce(summary.kind))
    if lowest == highest:
        return kind_bit(lowest)
    bits = 0
    for kind in np.unique(summary.kind).tolist():
        bits |= kind_bit(kind)
    return bits


def count_events(summary: Summary) -> int:
    return int(np.count_nonzero(summary.kind == _EVENT))


def pieces(chunk: StoredChunk, summary: Summary, new: tuple[Range, ...]) -> Iterator[tuple[StoredChunk, Summary]]:
    """What of a chunk lies in the ranges `new`, as chunks of their own. Only what reaches to its end keeps its link.

    Raises CodecError, after which none may be kept.
    """
    for first, last in new:
        low, high = first - chunk.first_seq, last - chunk.first_seq + 1
        body = chunk.body
        if high < chunk.n:
            body, _ = split(chunk.codec, body, n=chunk.n, at=high)
        if low:
            _, body = split(chunk.codec, body, n=high, at=low)
        link = chunk.link if high == chunk.n else NO_LINK
        part = Summary(summary.kind[low:high], summary.t_ns[low:high], summary.latency_us[low:high])
        yield StoredChunk(first, high - low, 0, chunk.pipeline, chunk.codec, zlib.crc32(body), body, link), part


def results_of(chunk: KeptChunk) -> list[StoredResult]:
    """Its results with their places, in order. Raises CodecError where it is not what it was when it came."""
    return [
        StoredResult(
            device=chunk.device,
            epoch=chunk.epoch,
            seq=seq,
            pipeline=chunk.pipeline,
            kind=result.kind,
            t_ns=result.t_ns,
            frame=result.frame,
            latency_us=result.latency_us,
            age_us=result.age_us,
            items=result.items,
            extra=result.extra,
        )
        for seq, result in enumerate(decode(chunk.codec, chunk.body, n=chunk.n), start=chunk.first_seq)
    ]
