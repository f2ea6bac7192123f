"""The hash chain: computed where chunks are numbered, kept over restarts, begun anew with an epoch, and audited."""

import sqlite3
from pathlib import Path

import pytest

from buffer_files import assert_chained, assert_contiguous, evict_oldest, new, read, rotate, sizes
from edgeinfer.cli import main
from edgeinfer.runtime.audit import audit, check_chain
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.buffer_store import BufferStore
from edgeinfer.runtime.chain import genesis
from edgeinfer.runtime.chunk import EVENTS, NO_LINK, RESULTS


def filled(path: Path, count: int = 12) -> int:
    """Chunks of 10 in two lanes of two pipelines; the epoch."""
    store = BufferStore(path, max_bytes=1 << 22)
    for number in range(count):
        lane = EVENTS if number % 3 == 0 else RESULTS
        store.write([new(b"%d" % number, pipeline="ab"[number % 2], lane=lane)])
        if number == 5:
            rotate(store)
    epoch = store.epoch
    store.close()
    return epoch


def tampered(path: Path, change: str) -> None:
    """A change that no checksum tells."""
    with sqlite3.connect(path) as db:
        for (table,) in db.execute("SELECT 'seg_' || id FROM segment").fetchall():
            db.execute(change.format(table=table))
    db.close()


def test_every_chunk_has_the_link_that_follows(tmp_path: Path) -> None:
    path = tmp_path / "buffer.db"
    epoch = filled(path)
    filled(path)  # another run goes on
    chunks = read(path)
    assert len(chunks) == assert_chained(chunks, epoch) == 24
    with BufferReader(path) as reader:
        assert reader.link_before(1) == genesis(epoch)
        assert reader.link_before(241) == reader.state().link == chunks[-1].link
        assert reader.link_before(51) == chunks[4].link
        assert reader.link_before(55) == NO_LINK


@pytest.mark.parametrize("acknowledged", [0, 10, 35, 60])
def test_a_new_epoch_has_a_chain_of_its_own(tmp_path: Path, acknowledged: int) -> None:
    path = tmp_path / "buffer.db"
    epoch = filled(path)
    store = BufferStore(path, max_bytes=1 << 22)
    bodies = [chunk.body for chunk in read(path) if chunk.last_seq > acknowledged]
    store.acknowledged = acknowledged
    store.begin_epoch()
    assert store.epoch != epoch
    store.write([new(b"after")])
    store.close()
    chunks = read(path)
    assert [chunk.body for chunk in chunks] == [*bodies, b"after"]
    assert assert_chained(chunks, store.epoch) == len(chunks)
    assert assert_contiguous(chunks) == 10 * len(chunks)
    again = BufferStore(path, max_bytes=1 << 22)
    again.write([new(b"once more")])
    again.close()
    assert assert_chained(read(path), store.epoch) == len(chunks) + 1


class TestAudit:
    def test_unbroken(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        filled(tmp_path / "buffer.db")
        found = audit(tmp_path, None)
        assert (found.chain.verified, found.chain.unlinked, found.chain.breaks_at, found.ok) == (12, 0, None, True)
        assert main(["audit", "--state-dir", str(tmp_path)]) == 0
        assert "chain         unbroken over 12 chunks\n" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("change", "at"),
        [
            ("UPDATE {table} SET t0_ns = 7, body = '5x', crc = 1 WHERE first_seq = 51", 51),
            ("UPDATE {table} SET pipeline = 'c' WHERE first_seq = 41", 41),
            ("UPDATE {table} SET codec = 2 WHERE first_seq = 111", 111),
            ("UPDATE {table} SET link = x'00112233445566778899aabbccddeeff' WHERE first_seq = 1", 1),
        ],
    )
    def test_what_was_changed_is_named(
        self, tmp_path: Path, change: str, at: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        filled(tmp_path / "buffer.db")
        tampered(tmp_path / "buffer.db", change.replace("'5x'", "x'3578'"))
        found = audit(tmp_path, None)
        assert (found.chain.breaks_at, found.ok) == (at, False)
        assert main(["audit", "--state-dir", str(tmp_path)]) == 1
        assert f"chain         BROKEN at number {at}\n" in capsys.readouterr().out

    def test_behind_a_tombstone_it_goes_on(self, tmp_path: Path) -> None:
        path = tmp_path / "buffer.db"
        epoch = filled(path)
        store = BufferStore(path, max_bytes=1 << 22)
        evict_oldest(store)
        store.close()
        assert any(count < 0 for _, count in sizes(read(path)))
        chain = check_chain(read(path), epoch=epoch)
        assert (chain.unlinked, chain.breaks_at) == (0, None)

    def test_an_epoch_of_another_buffer_does_not_fit(self, tmp_path: Path) -> None:
        epoch = filled(tmp_path / "buffer.db")
        assert check_chain(read(tmp_path / "buffer.db"), epoch=epoch + 1).breaks_at == 1
