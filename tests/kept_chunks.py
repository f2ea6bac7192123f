"""Chunks as a console keeps them, made of results without a wire."""

import zlib
from collections.abc import Sequence

from edgeinfer.console.kept import kept
from edgeinfer.console.repository.base import KeptChunk, PipelineCount
from edgeinfer.runtime.chunk import COLUMNS, NO_LINK, StoredChunk
from edgeinfer.runtime.codec import encode, summarize
from edgeinfer.runtime.results import Kind, Result

__all__ = ["chunk_of", "count_of"]


def chunk_of(
    results: Sequence[Result],
    *,
    first_seq: int = 1,
    device: str = "dev-1",
    epoch: int = 1,
    pipeline: str = "door",
    link: bytes = NO_LINK,
) -> KeptChunk:
    body = encode(results, COLUMNS)
    chunk = StoredChunk(first_seq, len(results), 0, pipeline, COLUMNS, zlib.crc32(body), body, link)
    return kept(device, epoch, chunk, summarize(COLUMNS, body, n=len(results)))


def count_of(results: Sequence[Result], *, device: str = "dev-1", pipeline: str = "door") -> PipelineCount:
    events = sum(result.kind == Kind.EVENT for result in results)
    return PipelineCount(device, pipeline, len(results), events, max(result.t_ns for result in results))
