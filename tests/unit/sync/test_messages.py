"""The wire: what is encoded comes back, and nothing else gets through."""

import contextlib
import zlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.runtime.errors import MessageError
from edgeinfer.sync import messages as m

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True)
SEQS = st.integers(0, (1 << 63) - 1)
CONTROL: tuple[type[Any], ...] = (
    m.StateMessage, m.Birth, m.ReportedState, m.Ack, m.DesiredState, m.JobStatus, m.BlobRequest, m.Telemetry,
)  # fmt: skip


@given(NAMES, NAMES, st.text(min_size=1, max_size=40))
def test_topics_come_back(tenant: str, device: str, rest: str) -> None:
    assert m.parse_topic(m.topic(tenant, device, rest)) == m.TopicName(tenant, device, rest)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ei",
        "ei/v1/t/d/dev",
        "ei/v2/t/d/dev/up/state",
        "ei/v1/t/x/dev/up/state",
        "ei/v1//d/dev/up",
        "ei/v1/t/d/../up",
    ],
)
def test_other_topics_are_refused(text: str) -> None:
    with pytest.raises(MessageError):
        m.parse_topic(text)


@pytest.mark.parametrize(("rest", "name"), [("up/res/door", "door"), ("up/res/_evicted", "_evicted")])
def test_pipelines_are_named_in_the_topic(rest: str, name: str) -> None:
    assert m.valid_pipeline(rest) == name


@pytest.mark.parametrize("rest", ["up/res/", "up/res/a/b", "up/res/_other", "up/tel", "up/res/" + "a" * 65])
def test_bad_pipelines_are_refused(rest: str) -> None:
    with pytest.raises(MessageError):
        m.valid_pipeline(rest)


@given(SEQS, SEQS, st.lists(st.tuples(SEQS, SEQS), max_size=5))
def test_acknowledgements_come_back(epoch: int, seq: int, gaps: list[tuple[int, int]]) -> None:
    ack = m.Ack(epoch, seq, tuple(gaps))
    assert m.decode(m.encode(ack), m.Ack) == ack


@pytest.mark.parametrize(
    "raw", [b'{"epoch":-1,"seq":1}', b'{"epoch":1,"seq":9223372036854775808}', b'{"epoch":1}', b'{"epoch":1.5,"seq":1}']
)
def test_numbers_out_of_range_are_refused(raw: bytes) -> None:
    with pytest.raises(MessageError):
        m.decode(raw, m.Ack)


def test_unknown_fields_are_ignored() -> None:
    assert m.decode(b'{"epoch":1,"seq":2,"later":{"a":[1]}}', m.Ack) == m.Ack(1, 2)


@given(
    codec=st.integers(0, 255),
    epoch=SEQS,
    first_seq=st.integers(0, 1 << 62),
    n=st.integers(1, (1 << 32) - 1),
    body=st.binary(max_size=300),
)
def test_chunks_come_back(codec: int, epoch: int, first_seq: int, n: int, body: bytes) -> None:
    chunk = m.ChunkMessage(codec, epoch, first_seq, n, zlib.crc32(body), body)
    assert m.decode_chunk(m.encode_chunk(chunk)) == chunk


@given(sha256=st.binary(min_size=32, max_size=32), offset=SEQS, total=SEQS, data=st.binary(max_size=300))
def test_ranges_come_back(sha256: bytes, offset: int, total: int, data: bytes) -> None:
    found = m.BlobRange(sha256.hex(), offset, total, data)
    assert m.decode_blob_range(m.encode_blob_range(found)) == found


@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_in_a_body_is_found(position: int, bit: int) -> None:
    body = bytes(range(200))
    raw = bytearray(m.encode_chunk(m.ChunkMessage(1, 1, 1, 3, zlib.crc32(body), body)))
    header = len(raw) - len(body)
    raw[header + position % len(body)] ^= 1 << bit
    with pytest.raises(MessageError, match="crc32"):
        m.decode_chunk(bytes(raw))


@pytest.mark.parametrize("cut", range(28))
def test_a_cut_chunk_is_refused(cut: int) -> None:
    raw = m.encode_chunk(m.ChunkMessage(1, 1, 1, 3, zlib.crc32(b"x"), b"x"))
    with pytest.raises(MessageError):
        m.decode_chunk(raw[:cut])


@given(st.binary(max_size=400))
def test_any_bytes_are_a_message_or_a_message_error(raw: bytes) -> None:
    for type_ in CONTROL:
        _survives(m.decode, raw, type_)
    for prefix in (b"", b"EI\x01", b"ER\x01"):
        _survives(m.decode_chunk, prefix + raw)
        _survives(m.decode_blob_range, prefix + raw)


@pytest.mark.parametrize("raw", [b"[" * 60_000, b'{"epoch":' * 5_000, b'"' + b"a" * 60_000 + b'"', b" " * 70_000])
def test_deep_and_large_documents_are_refused(raw: bytes) -> None:
    for type_ in CONTROL:
        with pytest.raises(MessageError):
            m.decode(raw, type_)


def test_what_is_too_large_is_refused() -> None:
    with pytest.raises(MessageError, match="at most"):
        m.decode_chunk(bytes(m.MAX_CHUNK_BYTES + 1))
    with pytest.raises(MessageError, match="at most"):
        m.decode_blob_range(bytes(m.MAX_RANGE_BYTES + 200))


@pytest.mark.parametrize(
    "message",
    [
        m.StateMessage(online=True, session="s"),
        m.Birth(session="s", agent_version="1.0", epochs={"7": 3}, profile={"cpu": [1]}, groups=("a",)),
        m.ReportedState(version=1, models={"digits": {"version": "1.0.0"}}, audit={"made": 3}),
        m.DesiredState(2, "dev-1", 1, (m.Assignment("j", "digits", "1.0.0", "a" * 64, "b" * 64, 10),)),
        m.JobStatus(job="j", desired_version=2, state="DOWNLOADING", offset=5, bytes=10),
        m.BlobRequest("a" * 64, 0, 65536),
        m.Telemetry(t_ns=1, temperature_c=41.5, backlog=3),
    ],
    ids=lambda message: type(message).__name__,
)
def test_control_messages_come_back(message: msgspec.Struct) -> None:
    assert m.decode(m.encode(message), type(message)) == message


def _survives(decode: Callable[..., object], *arguments: object) -> None:
    with contextlib.suppress(MessageError):
        decode(*arguments)
