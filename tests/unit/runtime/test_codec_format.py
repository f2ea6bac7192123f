"""The layout of chunks, held against docs/chunk-format.md: its example, and the reader that was written from it."""

import hashlib
import json
import math
import re
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chunk_reader
from chunk_strategies import assert_close, results
from edgeinfer.runtime import chain
from edgeinfer.runtime.chunk import StoredChunk
from edgeinfer.runtime.codec import COLUMNS, JSON, PACKED, decode, decode_table, encode, encode_table
from edgeinfer.runtime.codec.dictionary import DICTIONARIES, NEWEST
from edgeinfer.runtime.codec.head import STANDARD_ID, schema_text
from edgeinfer.runtime.codec.limits import MAX_COLUMNS, MAX_ITEMS, MAX_LISTED, MAX_NUMBERS, MAX_RESULTS
from edgeinfer.runtime.codec.table import STANDARD, Axis, Column, Field, Table, Type
from edgeinfer.runtime.results import Item, Kind, Result
from edgeinfer.sync.messages import ChunkMessage, encode_chunk

DOCUMENT = Path(__file__).parents[3] / "docs" / "chunk-format.md"
# Written by the first releases, and by this one: to be read for ever.
COLUMNS_BODY = bytes.fromhex(
    "28b52ffd20f24d0600c24b2b31706bd2185da6aaea1fe9321a091fbf36cafa0a8d844ffb41a44a34d5a4110b3521bbe9ff45ad54567796997f"
    "1ef7a5942923fe1653d63ff1c9644bb444b243c311811ff889a778902f30b81239e139f215322c3bf4e9b83295d6b9cd54930643464064c807"
    "ab5c0b58e7e591c7497075a4bd369729161080aedb6038d45e1a8573346b4d9e3d68174fcf314cb556a3329e861057d35cc6f3347af8405000"
    "5ad9d3c4a56a42c078158a121b7f0b000504c65d037b012108d61214dceb692798e7125179953d"
)
T_NS = 1_700_000_000_000_000_000
RELEASED = [
    Result(Kind.DETECTION, T_NS, 7, 5000, 8000, (Item(0, 0.75, (0.25, 0.5, 0.5, 0.75)),)),
    Result(
        Kind.DETECTION, T_NS + 33_000_000, 8, 5001, 7999, (Item(0, 0.625, (0.25, 0.5, 0.5, 0.75)), Item(3, 1.5, None))
    ),
    Result(Kind.FRAMES, T_NS + 70_000_000, extra={"inferred": 3, "x": -1.5, "y": "z"}),
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


def test_the_example_is_decoded_to_its_results() -> None:
    body = bytes.fromhex("".join(blocks("text")[-1].split()))
    wanted = msgspec.json.decode(blocks("json")[-1], type=list[Result])
    assert decode(PACKED, body, n=len(wanted)) == wanted
    assert_read_alike(PACKED, body, len(wanted))


def test_the_document_says_what_the_code_does() -> None:
    text = DOCUMENT.read_text()
    digest = hashlib.sha256(schema_text(STANDARD).encode()).digest()
    assert int.from_bytes(digest[:2], "big") == STANDARD_ID
    assert f"`{STANDARD_ID:#06x}`" in text
    for number, dictionary in DICTIONARIES.items():
        assert len(dictionary) <= 4096
        assert f"| {number} | `{hashlib.sha256(dictionary).hexdigest()}` |" in text
    assert max(DICTIONARIES) == NEWEST
    for limit in (MAX_RESULTS, MAX_ITEMS, MAX_COLUMNS, MAX_NUMBERS, MAX_LISTED):
        assert f"| {limit:,} |" in text


def test_what_was_released_is_read() -> None:
    assert_close(decode(COLUMNS, COLUMNS_BODY, n=3), RELEASED)
    assert_read_alike(COLUMNS, COLUMNS_BODY, 3)


@settings(max_examples=200)
@given(results(most=25), st.sampled_from([COLUMNS, PACKED]))
def test_the_other_reader_reads_the_same(given_: list[Result], codec: int) -> None:
    assert_read_alike(codec, encode(given_, codec), len(given_))


@given(results(st.floats(0, 1), most=5))
def test_the_other_reader_reads_the_same_json(given_: list[Result]) -> None:
    plain = [msgspec.structs.replace(result, extra=None) for result in given_]
    assert_read_alike(JSON, encode(plain, JSON), len(plain))


def assert_read_alike(codec: int, body: bytes, n: int) -> None:
    ours, theirs = decode(codec, body, n=n), chunk_reader.read_results(codec, body, DICTIONARIES)
    found = [msgspec.convert(json_of_floats(one), Result) for one in theirs]
    assert_close(ours, found)


def json_of_floats(one: dict[str, Any]) -> dict[str, Any]:
    """Scores and boxes as floats: what is a whole number in JSON is read as an integer."""
    items = [[label, float(score), box and [float(value) for value in box]] for label, score, box in one["items"]]
    return {**one, "items": items}


def test_the_other_reader_keeps_columns_that_it_does_not_know() -> None:
    table = decode_table(PACKED, encode(RELEASED[:2]), n=2)
    site = Column(Field("site", Axis.CHUNK, Type.OBJECT), objects=[(0, msgspec.Raw(msgspec.msgpack.encode(["a", 1])))])
    speed = Column(Field("speed", Axis.ITEM, Type.INTEGER), table.column("label").values * -7)
    body = encode_table(Table(table.lengths, (site, *table.columns, speed)))
    columns = chunk_reader.read_columns(body, DICTIONARIES)
    assert (columns["site"], columns["speed"]) == ([["a", 1]], [0, 0, -21])
    assert math.isclose(columns["score"][2], 1.5)


@pytest.mark.parametrize("link", [b"", bytes(range(16))])
def test_a_message_as_the_document_lays_it_out(link: bytes) -> None:
    body = encode(RELEASED)
    raw = encode_chunk(ChunkMessage(PACKED, 7, 41, 3, zlib.crc32(body), body, link))
    assert len(raw) == (44 if link else 28) + len(body)
    assert chunk_reader.read_message(raw) == (PACKED, 7, 41, 3, link, body)


def test_the_chain_as_the_document_lays_it_out() -> None:
    before = chain.genesis(7)
    assert before == chunk_reader.genesis(7)
    for first_seq in (1, 4):
        chunk = StoredChunk(first_seq, 3, T_NS, "türe", PACKED, 0, encode(RELEASED))
        message = chunk_reader.Message(PACKED, 7, first_seq, 3, b"", chunk.body)
        link = chain.link_after(before, chunk)
        assert link == chunk_reader.next_link(before, message, "türe")
        before = link


def test_json_is_read_by_hand() -> None:
    import zstandard

    (first, *_) = json.loads(zstandard.ZstdDecompressor().decompress(encode(RELEASED, JSON)))
    assert first == {
        "kind": 2, "t_ns": T_NS, "frame": 7, "latency_us": 5000, "age_us": 8000,
        "items": [[0, 0.75, [0.25, 0.5, 0.5, 0.75]]],
    }  # fmt: skip
