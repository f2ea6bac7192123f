"""Results on a stick: what is written, what is believed of it, and that nothing counts before a receipt."""

import hashlib
import random
import struct
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import append, fill
from carried import DEVICE, carrier, receipt_for, stick_at
from edgeinfer.runtime.buffer import Buffer
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.chain import genesis, next_link
from edgeinfer.runtime.chunk import COLUMNS, NO_LINK, TOMBSTONE
from edgeinfer.runtime.errors import (
    BufferStorageError,
    MessageError,
    SignatureError,
    StorageError,
    UsageError,
)
from edgeinfer.runtime.handoff import SyncDb
from edgeinfer.runtime.locking import lock, unlock
from edgeinfer.runtime.trust import SigningKey, seal
from edgeinfer.sync.export.continuity import Continuity
from edgeinfer.sync.export.exporting import ExportReport, export, take_receipt
from edgeinfer.sync.export.layout import Manifest, manifest_name, receipt_name
from edgeinfer.sync.export.reading import check_file, found_files, frames_of
from edgeinfer.sync.export.receipts import CarriedReceipts
from edgeinfer.sync.export.writing import ExportSink
from edgeinfer.sync.messages import ChunkMessage, DesiredState, decode_chunk, encode_chunk
from edgeinfer.sync.sinks.base import Batch, Chunk


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "runtime").mkdir()
    return tmp_path


@pytest.fixture
def buffer(folder: Path) -> Iterator[Buffer]:
    made = fill(folder, 2000)
    yield made
    made.close()


@pytest.fixture
def stick(folder: Path) -> Path:
    return stick_at(folder)


def numbers(stick: Path) -> list[int]:
    """All numbers on the stick, in the order of its files' numbers."""
    chunks = [
        decode_chunk(frame.payload)
        for path in found_files(stick)
        for frame in frames_of(path)
        if frame.name != "up/birth"
    ]
    return [
        n
        for chunk in sorted(chunks, key=lambda c: c.first_seq)
        for n in range(chunk.first_seq, chunk.first_seq + chunk.n)
    ]


def acknowledged(folder: Path, epoch: int) -> int:
    if not (folder / "sync" / "sync.db").exists():
        return 0
    with SyncDb(folder / "sync" / "sync.db", read_only=True) as db:
        return db.acknowledged(epoch)


def test_all_that_is_not_acknowledged_lies_on_the_stick(folder: Path, buffer: Buffer, stick: Path) -> None:
    report = export(carrier(folder), stick, max_file_bytes=3000)
    assert (report.first_seq, report.last_seq, report.complete, report.evicted) == (1, 2000, True, 0)
    assert len(report.files) == report.written > 1
    assert numbers(stick) == list(range(1, 2001))
    with BufferReader(folder / "runtime" / "buffer.db") as reader:
        held = {chunk.first_seq: chunk.body for chunk in reader.chunks(0, limit=1000)}
    frames = [frame for path in found_files(stick) for frame in frames_of(path) if frame.name == "up/res/door"]
    assert {chunk.first_seq: chunk.body for chunk in (decode_chunk(frame.payload) for frame in frames)} == held
    assert acknowledged(folder, buffer.epoch) == 0  # an export alone counts for nothing
    assert not (folder / "sync").exists()


def test_the_manifest_names_every_file_as_sha256sum_would(folder: Path, buffer: Buffer, stick: Path) -> None:
    export(carrier(folder), stick, max_file_bytes=3000)
    manifest = msgspec.json.decode((stick / manifest_name(DEVICE, buffer.epoch)).read_bytes(), type=Manifest)
    assert {file.name: file.sha256 for file in manifest.files} == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found_files(stick)
    }
    assert all(file.bytes == (stick / file.name).stat().st_size for file in manifest.files)
    assert (manifest.first_seq, manifest.last_seq, manifest.complete) == (1, 2000, True)
    assert manifest.link_before == genesis(buffer.epoch).hex()


def test_names_are_plain_enough_for_any_file_system(folder: Path, buffer: Buffer, stick: Path) -> None:
    append(buffer, 2000, 10)
    export(carrier(folder), stick)
    assert all(path.is_file() and not path.is_symlink() for path in stick.iterdir())
    assert all(not set('\\/:*?"<>| ') & set(path.name) and len(path.name) < 200 for path in stick.iterdir())
    assert not [path.name for path in stick.iterdir() if path.name.startswith(".") or path.name.endswith(".part")]


def test_a_second_reader_written_from_the_description_alone(folder: Path, buffer: Buffer, stick: Path) -> None:
    """Nothing of edgeinfer's own reading: struct, json, zlib and hashlib."""
    export(carrier(folder), stick)
    (path,) = found_files(stick)
    raw = path.read_bytes()
    magic, version, header_size = struct.unpack_from(">4sB3xI", raw)
    assert (magic, version) == (b"EIEX", 1)
    header = msgspec.json.decode(raw[12 : 12 + header_size])
    assert (header["device"], header["epoch"], header["first_seq"]) == (DEVICE, buffer.epoch, 1)
    at, expected = 12 + header_size, 1
    names = []
    while True:
        size, name_size = struct.unpack_from(">IB", raw, at)
        at += 5
        if not size:
            break
        name, payload = raw[at : at + name_size].decode(), raw[at + name_size : at + name_size + size]
        at += name_size + size
        names.append(name)
        if name == "up/birth":
            continue
        chunk_magic, chunk_version, _codec, epoch, first_seq, n = struct.unpack_from(">2sBBQQI", payload)
        head = 24 + (16 if chunk_version == 2 else 0)
        (check,) = struct.unpack_from(">I", payload, head)
        assert check == zlib.crc32(payload[:head]) ^ zlib.crc32(payload[head + 4 :])
        assert (chunk_magic, epoch, first_seq) == (b"EI", buffer.epoch, expected)
        expected += n
    last_seq, chunks, evicted, _link, digest = struct.unpack(">QIQ16s32s", raw[at:])
    assert (last_seq, chunks, evicted) == (expected - 1, len(names) - 1, 0)
    assert digest == hashlib.sha256(raw[:-32]).digest()
    assert names[0] == "up/birth"


def test_a_file_cut_at_any_byte_or_changed_at_any_byte_is_refused(folder: Path, buffer: Buffer, stick: Path) -> None:
    del buffer
    export(carrier(folder), stick, max_file_bytes=600)
    path = min(found_files(stick), key=lambda found: found.stat().st_size)
    whole = path.read_bytes()
    rng = random.Random(1)
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(MessageError):
            check_file(path)
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(MessageError):
            check_file(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(MessageError):
        check_file(path)
    path.write_bytes(whole)
    check_file(path)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_whatever_lies_on_a_stick_is_read_or_refused(tmp_path: Path, raw: bytes, begins_well: bool) -> None:
    path = tmp_path / "ei-x-1-1.chunks"
    path.write_bytes((b"EIEX\x01\0\0\0" if begins_well else b"") + raw)
    with pytest.raises(MessageError):
        check_file(path)


def test_what_lies_there_already_is_gone_on_from(folder: Path, buffer: Buffer, stick: Path) -> None:
    first = export(carrier(folder), stick)
    append(buffer, 2000, 300)
    second = export(carrier(folder), stick)
    assert set(first.files) < set(second.files)
    assert (second.written, second.first_seq, second.last_seq) == (1, 1, 2300)
    assert export(carrier(folder), stick).written == 0
    assert numbers(stick) == list(range(1, 2301))


def test_a_damaged_file_is_written_again(folder: Path, buffer: Buffer, stick: Path) -> None:
    del buffer
    report = export(carrier(folder), stick, max_file_bytes=3000)
    second = stick / report.files[1]
    second.write_bytes(second.read_bytes()[:-1] + b"?")
    again = export(carrier(folder), stick, max_file_bytes=3000)
    assert again.complete
    assert again.files[0] == report.files[0]
    assert set(numbers(stick)) == set(range(1, 2001))
    for path in found_files(stick):
        check_file(path)


def test_a_stick_pulled_out_at_any_moment_loses_nothing(
    folder: Path, buffer: Buffer, stick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write fails once; what is whole by then stays, and the next export completes it."""
    from edgeinfer.sync.export import writing

    honest, left = writing._Part._put, 0

    def failing(part: writing._Part, data: bytes) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(5, "Input/output error")
        honest(part, data)

    monkeypatch.setattr(writing._Part, "_put", failing)
    tries = 0
    while True:
        tries += 1
        left = tries
        try:
            report = export(carrier(folder), stick, max_file_bytes=3000)
        except StorageError:
            assert acknowledged(folder, buffer.epoch) == 0
            assert not list(stick.glob("*.part"))
            continue
        break
    assert tries > 5
    assert report.complete
    assert numbers(stick) == list(range(1, 2001))


def test_a_full_stick_keeps_what_fits_and_says_so(
    folder: Path, buffer: Buffer, stick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del buffer
    import shutil

    from edgeinfer.sync.export import exporting

    monkeypatch.setattr(exporting, "_BATCH_BYTES", 500)
    room = 2 << 20
    monkeypatch.setattr(
        shutil,
        "disk_usage",
        lambda path: shutil._ntuple_diskusage(0, 0, room + 3000 - _size(path)),
    )
    report = export(carrier(folder), stick, max_file_bytes=1500)
    assert not report.complete
    assert 0 < report.last_seq < 2000
    assert "full" in report.reason
    assert numbers(stick) == list(range(1, report.last_seq + 1))
    room *= 2
    assert export(carrier(folder), stick).complete
    assert numbers(stick) == list(range(1, 2001))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_a_receipt_lets_the_device_forget_and_frees_the_stick(folder: Path, buffer: Buffer, stick: Path) -> None:
    key = SigningKey.generate()
    first = export(carrier(folder, key), stick, max_file_bytes=3000)
    (stick / receipt_name(DEVICE, buffer.epoch)).write_bytes(receipt_for(buffer.epoch, 2000, key))
    append(buffer, 2000, 100)
    second = export(carrier(folder, key), stick)
    assert second.receipt is not None
    assert (second.receipt.seq, second.receipt.recorded) == (2000, True)
    assert acknowledged(folder, buffer.epoch) == 2000
    assert (second.first_seq, second.last_seq) == (2001, 2100)
    assert not any((stick / name).exists() for name in first.files)


def test_a_receipt_for_a_part_leaves_the_rest(folder: Path, buffer: Buffer, stick: Path) -> None:
    key = SigningKey.generate()
    export(carrier(folder, key), stick, max_file_bytes=3000)
    (stick / receipt_name(DEVICE, buffer.epoch)).write_bytes(receipt_for(buffer.epoch, 730, key))
    taken = take_receipt(carrier(folder, key), stick)
    assert taken is not None
    assert acknowledged(folder, buffer.epoch) == taken.seq == 730
    report = export(carrier(folder, key), stick)
    assert report.first_seq <= 731
    assert report.last_seq == 2000


def test_without_a_receipt_there_is_nothing_to_take(folder: Path, buffer: Buffer, stick: Path) -> None:
    del buffer
    assert take_receipt(carrier(folder), stick) is None


def bad_receipts(epoch: int, key: SigningKey) -> list[tuple[bytes, type[Exception]]]:
    desired = DesiredState(version=1, device=DEVICE, issued_s=1, assignments=())
    return [
        (receipt_for(epoch, 10, SigningKey.generate()), SignatureError),
        (receipt_for(epoch, 10, key).replace(b'"sig":"', b'"sig":"00'), SignatureError),
        (receipt_for(epoch, 10, key, device="dev-2"), MessageError),
        (receipt_for(epoch, 10, key, tenant="other"), MessageError),
        (receipt_for(epoch + 1, 10, key), MessageError),
        (receipt_for(epoch, 2001, key), MessageError),
        (receipt_for(epoch, 10, key, kind="something else"), MessageError),
        (seal(msgspec.json.encode(desired), key), MessageError),
        (seal(b"not json", key), MessageError),
        (b"", SignatureError),
        (b"[" * 10_000, SignatureError),
        (b" " * (1 << 20), MessageError),
    ]


@pytest.mark.parametrize("case", range(12))
def test_a_bad_receipt_is_refused_and_nothing_is_exported_over_it(
    folder: Path, buffer: Buffer, stick: Path, case: int
) -> None:
    key = SigningKey.generate()
    raw, error = bad_receipts(buffer.epoch, key)[case]
    (stick / receipt_name(DEVICE, buffer.epoch)).write_bytes(raw)
    with pytest.raises(error):
        export(carrier(folder, key), stick)
    assert acknowledged(folder, buffer.epoch) == 0


def test_a_device_that_trusts_no_console_says_so(folder: Path, buffer: Buffer, stick: Path) -> None:
    (stick / receipt_name(DEVICE, buffer.epoch)).write_bytes(receipt_for(buffer.epoch, 10, SigningKey.generate()))
    with pytest.raises(SignatureError, match="console_keys"):
        export(carrier(folder), stick)


def test_a_receipt_whose_chain_differs_is_refused(folder: Path, buffer: Buffer, stick: Path) -> None:
    key = SigningKey.generate()
    with BufferReader(folder / "runtime" / "buffer.db") as reader:
        chunk = reader.chunks(0, limit=1)[0]
    if chunk.link == NO_LINK:
        pytest.skip("this buffer keeps no chain")
    path = stick / receipt_name(DEVICE, buffer.epoch)
    path.write_bytes(receipt_for(buffer.epoch, chunk.last_seq, key, link="00" * 16))
    with pytest.raises(MessageError, match="two devices"):
        export(carrier(folder, key), stick)
    path.write_bytes(receipt_for(buffer.epoch, chunk.last_seq, key, link=chunk.link.hex()))
    assert export(carrier(folder, key), stick).receipt is not None


def test_a_receipt_that_ends_within_a_chunk_is_for_another_buffer(folder: Path, buffer: Buffer, stick: Path) -> None:
    """As one that was signed before this buffer was put back from a backup, and went on with the same numbers."""
    key = SigningKey.generate()
    path = stick / receipt_name(DEVICE, buffer.epoch)
    path.write_bytes(receipt_for(buffer.epoch, 50, key, link="ab" * 16))
    with pytest.raises(MessageError, match="two devices"):
        export(carrier(folder, key), stick)
    path.write_bytes(receipt_for(buffer.epoch, 50, key))  # the console has parts, and knows no link
    assert export(carrier(folder, key), stick).acknowledged == 50


def test_a_running_agent_is_handed_the_receipt(folder: Path, buffer: Buffer, stick: Path) -> None:
    key = SigningKey.generate()
    with SyncDb(folder / "sync" / "sync.db"):
        held = lock(folder / "sync" / "sync.db", hint="")
        (stick / receipt_name(DEVICE, buffer.epoch)).write_bytes(receipt_for(buffer.epoch, 500, key))
        report = export(carrier(folder, key), stick)
        assert report.receipt is not None
        assert not report.receipt.recorded
        assert report.first_seq <= 501
        assert acknowledged(folder, buffer.epoch) == 0
        carried = CarriedReceipts(folder / "sync")
        (receipt,) = carried.due(0.0)
        assert (receipt.epoch, receipt.seq) == (buffer.epoch, 500)
        assert carried.due(0.5) == []
        assert carried.due(2.0) == [receipt]
        carried.done(receipt)
        assert carried.due(4.0) == []
        unlock(held)


def test_what_is_no_receipt_in_the_agents_folder_is_removed(tmp_path: Path) -> None:
    (tmp_path / "receipts").mkdir()
    for name, raw in {"a.json": b"{}", "b.json": b"\xff", "c.txt": b"kept"}.items():
        (tmp_path / "receipts" / name).write_bytes(raw)
    assert CarriedReceipts(tmp_path).due(0.0) == []
    assert [path.name for path in (tmp_path / "receipts").iterdir()] == ["c.txt"]
    assert CarriedReceipts(tmp_path / "nothing").due(0.0) == []


def test_what_cannot_be_exported_is_said(folder: Path, stick: Path) -> None:
    with pytest.raises(BufferStorageError, match="no such database"):
        export(carrier(folder), stick)
    with pytest.raises(UsageError, match="mounted"):
        export(carrier(folder), folder / "nothing")


def test_everything_acknowledged_leaves_nothing_to_carry(folder: Path, buffer: Buffer, stick: Path) -> None:
    with SyncDb(folder / "sync" / "sync.db") as db:
        db.set_acknowledged(buffer.epoch, 2000)
    assert export(carrier(folder), stick) == ExportReport(
        device=DEVICE, epoch=buffer.epoch, acknowledged=2000, durable=2000
    )
    assert list(stick.iterdir()) == []


def chained(count: int, *, epoch: int = 7) -> list[Chunk]:
    """Chunks of ten numbers with a sound chain; each fourth is a tombstone."""
    link, made = genesis(epoch), []
    for number in range(count):
        first_seq, body = 1 + 10 * number, f"body {number}".encode()
        link = next_link(link, first_seq=first_seq, n=10, codec=COLUMNS, pipeline="door", body=body)
        gone = number % 4 == 3
        pipeline, codec, body = ("_evicted", TOMBSTONE, b"{}") if gone else ("door", COLUMNS, body)
        message = encode_chunk(ChunkMessage(codec, epoch, first_seq, 10, zlib.crc32(body), body, link))
        made.append(Chunk(pipeline, codec, first_seq, 10, message))
    return made


def test_the_chain_is_followed_over_tombstones_and_files(stick: Path) -> None:
    sink = ExportSink(stick, device=DEVICE, tenant="default", epoch=7, max_bytes=600, link_before=genesis(7))
    sink.deliver(Batch(DEVICE, 7, tuple(chained(40))))
    sink.finish()
    found = sorted((check_file(path) for path in found_files(stick)), key=lambda one: one.file.first_seq)
    assert len(found) > 2
    assert sum(one.linked for one in found) == 30
    assert sum(one.file.evicted for one in found) == 100
    assert all(a.file.link_after == b.file.link_before for a, b in pairwise(found))


def followed(chunks: list[tuple[str, ChunkMessage]]) -> Continuity:
    check = Continuity(first_seq=1, link=genesis(7))
    for pipeline, chunk in chunks:
        check.follow(pipeline, chunk)
    return check


def test_a_hole_in_the_numbers_ends_a_file(stick: Path) -> None:
    sink = ExportSink(stick, device=DEVICE, tenant="default", epoch=7, max_bytes=1 << 20, link_before=genesis(7))
    chunks = chained(6)
    sink.deliver(Batch(DEVICE, 7, (*chunks[:2], *chunks[4:])))
    sink.finish()
    assert [(file.first_seq, file.last_seq) for file in sink.files] == [(1, 20), (41, 60)]
    assert [check_file(path).linked for path in found_files(stick)] == [2, 1]


@pytest.mark.parametrize("change", ["body", "exchange", "take out", "number"])
def test_a_chain_that_was_tampered_with_is_refused(change: str) -> None:
    """With right CRCs and a right SHA-256: whoever changes something can make those anew."""
    chunks = [(one.pipeline, decode_chunk(one.message)) for one in chained(12)]
    if change == "body":
        chunks[4] = ("door", msgspec.structs.replace(chunks[4][1], body=b"another"))
    elif change == "exchange":
        chunks[4] = ("window", chunks[4][1])
    elif change == "take out":
        del chunks[4]
    else:
        chunks[4] = ("door", msgspec.structs.replace(chunks[4][1], n=11))
    with pytest.raises(MessageError):
        followed(chunks)


def test_where_the_chain_is_not_known_it_is_taken_up_again() -> None:
    chunks = [(one.pipeline, decode_chunk(one.message)) for one in chained(6)]
    chunks[1] = ("door", msgspec.structs.replace(chunks[1][1], link=NO_LINK))
    check = followed(chunks)
    assert (check.chunks, check.checked, check.evicted) == (6, 3, 10)
