"""Chunks of any codec, written and read.

`PACKED` (codec 3) is a table of modelled columns as bits; `COLUMNS` (codec 1) is what was written before it, and is
read for ever; `JSON` (codec 2) is zstd over a JSON array, to be read by hand. `TOMBSTONE` (codec 0) is no encoding of
results: its body is JSON that says why they are gone, and it is never decoded here.

Everything that a chunk claims is checked against a limit before memory is taken for it. Whatever the bytes, the only
error is CodecError.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.chunk import COLUMNS, JSON, PACKED
from edgeinfer.runtime.codec.columns import decode_columns, encode_columns
from edgeinfer.runtime.codec.limits import MAX_RAW_BYTES, MAX_RESULTS
from edgeinfer.runtime.codec.packing import pack_table
from edgeinfer.runtime.codec.standard import results_of, table_of
from edgeinfer.runtime.codec.summary import summary_columns
from edgeinfer.runtime.codec.table import Table
from edgeinfer.runtime.codec.unpacking import unpack_table
from edgeinfer.runtime.codec.zstd import Zstd
from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import CodecError
from edgeinfer.runtime.results import Result

__all__ = ["Summary", "decode", "decode_table", "encode", "encode_table", "split", "summarize"]

Integers = npt.NDArray[np.int64]

_ZSTD_LEVEL = 3
_CODECS = f"codec {COLUMNS}, {JSON} or {PACKED}"
_SUMMARIZED = ("kind", "t", "latency")

_zstd = Zstd(_ZSTD_LEVEL)
_json_decoder = msgspec.json.Decoder(list[Result])


class Summary(msgspec.Struct, frozen=True, eq=False):
    """What a console indexes results by: each an int64 array of one number a result."""

    kind: Integers
    t_ns: Integers
    latency_us: Integers


def encode(results: Sequence[Result], codec: int = PACKED) -> bytes:
    """Encode 1 to MAX_RESULTS results. Raises CodecError for another number, an unknown codec, and what
    `decode` would refuse as too large."""
    _check_count(len(results))
    if codec == PACKED:
        return pack_table(table_of(results))
    if codec == COLUMNS:
        return _compressed(encode_columns(results))
    if codec == JSON:
        return _compressed(msgspec.json.encode(results))
    raise CodecError(f"expected {_CODECS}, found {codec}")


def decode(codec: int, body: bytes, *, n: int) -> list[Result]:
    """The `n` results of a chunk. Raises CodecError for anything that is not exactly that."""
    _check_count(n)
    if codec == PACKED:
        return results_of(unpack_table(body, n=n))
    if codec == COLUMNS:
        results = decode_columns(_decompressed(body))
    elif codec == JSON:
        results = _decode_json(_decompressed(body))
    else:
        raise CodecError(f"expected {_CODECS}, found {codec}")
    if len(results) != n:
        raise CodecError(f"expected {n} results in the chunk, found {len(results)}")
    return results


def summarize(codec: int, body: bytes, *, n: int) -> Summary:
    """Kind, time and latency of the `n` results of a chunk, without making them. Raises CodecError for whatever
    `decode` refuses, and for JSON with numbers of more than 64 bits."""
    if codec == PACKED:
        _check_count(n)
        return Summary(*summary_columns(body, n=n))
    table = table_of(decode(codec, body, n=n))
    return Summary(*(table.column(name).values for name in _SUMMARIZED))


def decode_table(codec: int, body: bytes, *, n: int) -> Table:
    """The chunk as columns, also those that are not known here. Raises CodecError like `decode`, but takes any columns
    and any kinds."""
    _check_count(n)
    if codec == PACKED:
        return unpack_table(body, n=n)
    return table_of(decode(codec, body, n=n))


def encode_table(table: Table) -> bytes:
    """A table as a body of codec PACKED. Raises CodecError for what `decode_table` would refuse."""
    table.check()
    return pack_table(table)


def split(codec: int, body: bytes, *, n: int, at: int) -> tuple[bytes, bytes]:
    """The first `at` of a chunk's `n` results and the rest, as two bodies of the same codec. Columns that are not known
    here are in both, each with its part. Raises CodecError."""
    if not 1 <= at < n:
        raise CodecError(f"expected to split {n} results in two, found a cut at {at}")
    if codec == PACKED:
        first, rest = decode_table(codec, body, n=n).split(at)
        return encode_table(first), encode_table(rest)
    results = decode(codec, body, n=n)
    return encode(results[:at], codec), encode(results[at:], codec)


def _check_count(n: int) -> None:
    if not 1 <= n <= MAX_RESULTS:
        raise CodecError(f"expected 1 to {MAX_RESULTS} results, found {n}")


def _compressed(raw: bytes) -> bytes:
    if len(raw) > MAX_RAW_BYTES:
        raise CodecError(f"expected at most {MAX_RAW_BYTES} bytes of results, found {len(raw)}")
    return _zstd.compress(raw)


def _decompressed(body: bytes) -> bytes:
    return _zstd.decompress(body, max_bytes=MAX_RAW_BYTES)


def _decode_json(raw: bytes) -> list[Result]:
    try:
        return _json_decoder.decode(raw)
    except MALFORMED as error:
        raise CodecError(f"the chunk cannot be decoded: {error}") from error
