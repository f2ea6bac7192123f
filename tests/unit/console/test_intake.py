"""Whatever arrives is a value or a refusal, never anything else."""

import json
import zlib

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.console.intake import Evicted, Inbound, Results, Undecodable, read_message, unbundled
from edgeinfer.runtime.chunk import COLUMNS, JSON, StoredChunk
from edgeinfer.runtime.codec import decode, encode
from edgeinfer.runtime.errors import MessageError
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.sync import messages

_RESTS = [
    "up/state",
    "up/birth",
    "up/reported",
    "up/tel",
    "up/get",
    "up/res/door",
    "up/res/_evicted",
    "up/res/_bundle",
    "up/job/j",
    "up/blob",
    "up/log",
    "up/cmdres",
    "x",
]
_TOPICS = st.one_of(
    st.text(max_size=80), st.sampled_from([messages.topic("default", "dev-1", rest) for rest in _RESTS])
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
_FIELDS = [
    "online",
    "session",
    "agent_version",
    "epochs",
    "profile",
    "groups",
    "version",
    "models",
    "t_ns",
    "job",
    "state",
]
_DOCUMENTS = st.dictionaries(st.sampled_from(_FIELDS), _JSON).map(lambda d: json.dumps(d).encode())


def _read(topic: str, payload: bytes) -> Inbound | None:
    try:
        return read_message(topic, payload, tenant="default")
    except MessageError:
        return None


@given(_TOPICS, st.binary(max_size=300))
def test_a_bundle_never_speaks_for_another_device_or_of_anything_but_results(topic: str, payload: bytes) -> None:
    for name, part in unbundled(topic, payload):
        if (name, part) != (topic, payload):
            assert messages.parse_topic(name).device == "dev-1"
            assert messages.parse_topic(name).rest in {"up/res/door", "up/res/_evicted"}


@given(_TOPICS, st.binary(max_size=300) | _DOCUMENTS)
def test_any_bytes_on_any_topic(topic: str, payload: bytes) -> None:
    message = _read(topic, payload)
    if message is not None and not isinstance(message.body, Results):
        msgspec.json.encode(message.body)


@given(
    st.integers(0, 255), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.binary()
)
def test_any_chunk_with_a_right_crc(codec: int, epoch: int, first_seq: int, n: int, body: bytes) -> None:
    raw = messages.encode_chunk(messages.ChunkMessage(codec, epoch, first_seq, n, zlib.crc32(body), body))
    message = _read(messages.topic("default", "dev-1", "up/res/door"), raw)
    if message is not None:
        assert isinstance(message.body, Results | Evicted | Undecodable)
        assert 1 <= message.body.chunk.first_seq <= message.body.chunk.last_seq < 2**63


@given(st.lists(st.dictionaries(st.sampled_from(["kind", "t_ns", "frame", "items", "extra"]), _JSON), max_size=3))
def test_any_json_in_a_chunk(documents: list[dict[str, object]]) -> None:
    body = zstandard.compress(json.dumps(documents).encode())
    raw = messages.encode_chunk(messages.ChunkMessage(JSON, 1, 1, max(1, len(documents)), zlib.crc32(body), body))
    message = _read(messages.topic("default", "dev-1", "up/res/door"), raw)
    assert message is not None
    if isinstance(message.body, Undecodable):
        assert (message.body.chunk.first_seq, message.body.chunk.n) == (1, max(1, len(documents)))
    else:
        # What is taken can be read, by whoever looks at it later.
        assert isinstance(message.body, Results)
        results = decode(JSON, body, n=len(documents))
        assert message.body.summary.t_ns.tolist() == [result.t_ns for result in results]


def _send(rest: str, payload: bytes, *, tenant: str = "default") -> Inbound:
    return read_message(messages.topic(tenant, "dev-1", rest), payload, tenant="default")


def _chunk(codec: int, body: bytes, *, link: bytes = b"", n: int = 3) -> bytes:
    return messages.encode_chunk(messages.ChunkMessage(codec, 7, 11, n, zlib.crc32(body), body, link))


def test_an_honest_chunk_is_kept_as_it_came_with_what_it_is_indexed_by() -> None:
    body = encode([Result(Kind.ANOMALY, 5, latency_us=3), Result(Kind.EVENT, 6, extra={"a": 1})], COLUMNS)
    found = _send("up/res/door", _chunk(COLUMNS, body, link=b"k" * 16, n=2))
    assert isinstance(found.body, Results)
    assert (found.device, found.body.epoch) == ("dev-1", 7)
    assert found.body.chunk == StoredChunk(11, 2, 0, "door", COLUMNS, zlib.crc32(body), body, b"k" * 16)
    summary = found.body.summary
    assert [summary.kind.tolist(), summary.t_ns.tolist(), summary.latency_us.tolist()] == [[3, 5], [5, 6], [3, 0]]


@pytest.mark.parametrize(
    ("body", "reason", "t0_ns"),
    [
        (b'{"reason": "full", "n": 3, "t0_ns": 17}', "full", 17),
        (b'{"reason": ["a"], "t0_ns": 1e300}', "['a']", 0),
        (b'{"t0_ns": 99999999999999999999}', "", 0),
        (b"[]", "", 0),
    ],
)
def test_a_tombstone_says_why_and_since_when(body: bytes, reason: str, t0_ns: int) -> None:
    found = _send("up/res/_evicted", _chunk(0, body, link=b"k" * 16))
    chunk = StoredChunk(11, 3, t0_ns, "_evicted", 0, zlib.crc32(body), body, b"k" * 16)
    assert found == Inbound("dev-1", Evicted(7, chunk, reason))


@pytest.mark.parametrize("codec", [0, 1, 2, 9, 255])
def test_a_whole_chunk_of_an_unknown_kind_is_undecodable_and_no_refusal(codec: int) -> None:
    body = b"of a later version"
    raw = _chunk(codec, body)
    message = _send("up/res/door", raw)
    assert isinstance(message.body, Undecodable)
    assert (message.body.epoch, message.body.chunk.first_seq, message.body.chunk.n) == (7, 11, 3)
    with pytest.raises(MessageError, match="crc32"):
        _send("up/res/door", raw[:-1] + b"?")


@pytest.mark.parametrize(
    ("rest", "payload", "message"),
    [
        ("up/job/a", b'{"job":"b","desired_version":1,"state":"GATE"}', "job of its topic"),
        ("up/birth", b'{"session":"s","agent_version":"1","epochs":{"x":1}}', "epochs as numbers"),
        ("up/birth", b'{"session":"s","agent_version":"1","groups":["a b"]}', "groups"),
        ("up/birth", b'{"session":"s","agent_version":"1","profile":' + b'{"a":' * 40 + b"1" + b"}" * 41, "nested"),
        ("up/tel", b'{"t_ns":1,"pipelines":{"p":{"a":' + b"[" * 40 + b"]" * 40 + b"}}}", "nested"),
        ("up/what", b"{}", "known topic"),
        ("up/state", b"{" * 70_000, "at most"),
    ],
)
def test_what_is_refused_says_why(rest: str, payload: bytes, message: str) -> None:
    with pytest.raises(MessageError, match=message):
        _send(rest, payload)


def test_another_tenant_is_refused() -> None:
    with pytest.raises(MessageError, match="tenant"):
        _send("up/state", b'{"online":true,"session":"s"}', tenant="other")


def test_files_logs_and_answers_are_read() -> None:
    label = messages.BlobLabel("snapshot", "1-door.jpg", "door", 5)
    part = messages.BlobPart("a" * 64, 4, 8, label, b"data")
    said: list[tuple[str, bytes, msgspec.Struct]] = [
        ("up/blob", messages.encode_blob_part(part), part),
        ("up/log", messages.encode(lines := messages.LogLines("c1", ("a", "b"))), lines),
        ("up/cmdres", messages.encode(result := messages.CommandResult("c1", ok=True)), result),
    ]
    for rest, payload, expected in said:
        assert _send(rest, payload) == Inbound("dev-1", expected)  # type: ignore[arg-type]  # each is a Body
        with pytest.raises(MessageError):
            _send(rest, payload[:-1])
