"""Pages of SQLite files, read without SQLite: as SQLite wrote them, and never an error for what nobody wrote."""

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.runtime.buffer_file.pages import Value, cells, record
from edgeinfer.runtime.buffer_file.schema import BufferState, newest_state, pack_state, unpack_state

VALUES = [
    None,
    0,
    1,
    -1,
    127,
    128,
    40_000,
    1 << 23,
    1 << 31,
    1 << 40,
    (1 << 63) - 1,
    -(1 << 63),
    "",
    "text",
    b"",
    b"\0\xff",
]


def rows_in(path: Path, page_bytes: int) -> dict[int, list[Value]]:
    content = path.read_bytes()

    def page(number: int) -> bytes:
        return content[(number - 1) * page_bytes : number * page_bytes]

    found: dict[int, list[Value]] = {}
    for number in range(2, len(content) // page_bytes + 1):
        for _, cell in cells(page(number)):
            values = record(cell, page)
            if values is not None:
                found[cell.rowid] = values
    return found


@pytest.mark.parametrize("page_bytes", [512, 1024, 4096, 32_768])
def test_rows_are_read_as_sqlite_wrote_them(tmp_path: Path, page_bytes: int) -> None:
    rng = random.Random(page_bytes)
    path = tmp_path / "a.db"
    rows = {}
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA page_size={page_bytes}")
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b, c, body)")
        for number in range(300):
            size = rng.choice((0, 5, page_bytes // 2, page_bytes - 60, page_bytes, 5 * page_bytes))
            body = rng.randbytes(rng.randrange(max(1, size - 40), size + 40))
            rowid = number * rng.choice((1, 1 << 20)) + (number << 40)
            rows[rowid] = [None, *rng.choices(VALUES, k=3), body]
            db.execute("INSERT INTO t VALUES (?, ?, ?, ?, ?)", (rowid, *rows[rowid][1:]))
        db.commit()
    assert rows_in(path, page_bytes) == rows


@settings(max_examples=300)
@given(page=st.binary(max_size=1024), other=st.binary(max_size=1024), is_first=st.booleans())
def test_no_bytes_are_an_error(page: bytes, other: bytes, is_first: bool) -> None:
    for content in (page, b"\x0d\0\0\0\x03" + page):
        for _, cell in cells(content, is_first=is_first):
            record(cell, lambda _: other)


@settings(max_examples=200)
@given(st.data())
def test_flipped_bytes_are_no_error(data: st.DataObject) -> None:
    page = bytearray(_page())
    for _ in range(data.draw(st.integers(1, 6))):
        page[data.draw(st.integers(0, len(page) - 1))] = data.draw(st.integers(0, 255))
    for _, cell in cells(bytes(page)):
        record(cell, lambda _: bytes(page))


def test_a_chain_of_pages_that_never_ends_is_cut() -> None:
    """An overflow page that is its own successor: what is read is bounded by what the row claims."""
    looping = (7).to_bytes(4, "big") + bytes(1020)
    cell_bytes = b"\xff\xff\x7f" + b"\x01" + bytes(300)
    page = b"\x0d\0\0\0\x01\0\0\0" + (100).to_bytes(2, "big") + bytes(90) + cell_bytes
    page += (7).to_bytes(4, "big") * ((1024 - len(page)) // 4 + 1)
    for _, cell in cells(page[:1024]):
        assert record(cell, lambda _: looping) is None


def _page() -> bytes:
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("PRAGMA page_size=1024")
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)")
        db.executemany("INSERT INTO t VALUES (?, ?, ?)", [(n, "x" * n, bytes(n)) for n in range(20)])
        return db.serialize()[1024:2048]


@given(
    st.integers(0, (1 << 62) - 1), st.integers(1, (1 << 62) - 1), st.integers(0, (1 << 62) - 1),
    st.one_of(st.just(b""), st.binary(min_size=16, max_size=16)), st.binary(max_size=50), st.binary(max_size=50),
)  # fmt: skip
def test_a_state_is_found_among_anything(
    epoch: int, next_seq: int, clock_ns: int, link: bytes, before: bytes, after: bytes
) -> None:
    state = BufferState(epoch, next_seq, clock_ns, link)
    packed = pack_state(state)
    assert unpack_state(packed) == state
    older = pack_state(BufferState(epoch, 1, 0, link))
    assert newest_state(before + older + before + packed + after) in {
        state,
        unpack_state(older) if not clock_ns else state,
    }
    for at in range(0, len(packed), 7):
        flipped = bytearray(packed)
        flipped[at] ^= 0x10
        assert unpack_state(bytes(flipped)) is None
    assert newest_state(before + after) is None
