"""The chunk codec: a run of consecutive results of one pipeline as one blob, stored and sent as it is.

body = encode(results)                      # codec PACKED
results = decode(PACKED, body, n=len(results))

docs/chunk-format.md has every byte.
"""

from edgeinfer.runtime.chunk import COLUMNS, JSON, PACKED, TOMBSTONE
from edgeinfer.runtime.codec.chunks import (
    Summary,
    decode,
    decode_table,
    encode,
    encode_table,
    split,
    summarize,
)
from edgeinfer.runtime.codec.limits import MAX_RESULTS
from edgeinfer.runtime.codec.table import Axis, Column, Field, Table, Type

__all__ = [
    "COLUMNS",
    "JSON",
    "MAX_RESULTS",
    "PACKED",
    "TOMBSTONE",
    "Axis",
    "Column",
    "Field",
    "Summary",
    "Table",
    "Type",
    "decode",
    "decode_table",
    "encode",
    "encode_table",
    "split",
    "summarize",
]
