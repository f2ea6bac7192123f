"""Results that wait for the writer become chunks: of one lane of one pipeline each, and no larger than may be."""

import logging
from collections.abc import Iterator, Sequence

import msgspec

from edgeinfer.runtime.buffer_file.file import NewChunk
from edgeinfer.runtime.chunk import EVENTS, PACKED, RESULTS
from edgeinfer.runtime.codec import encode
from edgeinfer.runtime.errors import CodecError
from edgeinfer.runtime.frame import FrameState
from edgeinfer.runtime.results import OF_A_FRAME, Kind, Result

__all__ = ["Packed", "groups", "lane_of", "pack", "weight"]

logger = logging.getLogger(__name__)


class Packed(msgspec.Struct, frozen=True):
    """`n` pending results; without a chunk, they are lost."""

    n: int
    weight: int
    chunk: NewChunk | None


def lane_of(result: Result) -> int:
    """Events are kept and sent before everything else."""
    return EVENTS if result.kind is Kind.EVENT else RESULTS


def weight(result: Result) -> int:
    """What a pending result counts for in memory: itself and its items."""
    return 1 + len(result.items)


def pack(pipeline: str, lane: int, rows: list[Result], max_bytes: int) -> list[Packed]:
    """One chunk; more where one would be too large. A result that no chunk can hold is given up."""
    heavy = sum(map(weight, rows))
    try:
        body = encode(rows, PACKED)
        if len(body) > max_bytes:
            raise CodecError(f"expected a chunk of at most {max_bytes} bytes, found {len(body)}")  # noqa: TRY301 - split as others are
        chunk = NewChunk(pipeline, len(rows), rows[0].t_ns, body, _frames(rows), lane, PACKED)
        return [Packed(len(rows), heavy, chunk)]
    except CodecError as error:
        if len(rows) == 1:
            logger.error("event=result_lost pipeline=%s error=%s", pipeline, error)  # noqa: TRY400 - said in full
            return [Packed(1, heavy, None)]
    middle = len(rows) // 2
    return pack(pipeline, lane, rows[:middle], max_bytes) + pack(pipeline, lane, rows[middle:], max_bytes)


def groups(packed: Sequence[Packed], max_bytes: int) -> Iterator[list[Packed]]:
    """What is committed at once. One commit for all might be more than the whole file may hold."""
    group: list[Packed] = []
    room = max_bytes
    for part in packed:
        size = 0 if part.chunk is None else len(part.chunk.body)
        if group and size > room:
            yield group
            group, room = [], max_bytes
        group.append(part)
        room -= size
    if group:
        yield group


def _frames(rows: list[Result]) -> dict[str, int]:
    """What these results say of frames by state. Each result of an inference is a frame that was inferred, counted
    in the very commit that makes it durable; the other states come in counts of their own."""
    frames = {FrameState.INFERRED.value: sum(1 for row in rows if row.kind in OF_A_FRAME)}
    for row in rows:
        if row.kind is Kind.FRAMES and row.extra:
            for state, count in row.extra.items():
                if state != FrameState.INFERRED:
                    frames[state] = frames.get(state, 0) + int(count)
    return {state: count for state, count in frames.items() if count}
