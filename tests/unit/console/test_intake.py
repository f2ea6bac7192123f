"""Whatever arrives is a value or a refusal, never anything else."""

import json
import zlib

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.console.intake import Evicted, Inbound, Results, Undecodable, read_message
from edgeinfer.runtime.codec import JSON, encode
from edgeinfer.runtime.errors import MessageError
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.sync import messages

_RESTS = ["up/state", "up/birth", "up/reported", "up/tel", "up/get", "up/res/door", "up/res/_evicted", "up/job/j", "x"]
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


@given(_TOPICS, st.binary(max_size=300) | _DOCUMENTS)
def test_any_bytes_on_any_topic(topic: str, payload: bytes) -> None:
    message = _read(topic, payload)
    if message is not None and isinstance(message.body, msgspec.Struct):
        msgspec.json.encode(message.body)


@given(
    st.integers(0, 255), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.binary()
)
def test_any_chunk_with_a_right_crc(codec: int, epoch: int, first_seq: int, n: int, body: bytes) -> None:
    raw = messages.encode_chunk(messages.ChunkMessage(codec, epoch, first_seq, n, zlib.crc32(body), body))
    message = _read(messages.topic("default", "dev-1", "up/res/door"), raw)
    if message is not None:
        assert isinstance(message.body, Results | Evicted | Undecodable)
        assert 1 <= message.body.first_seq < 2**63


@given(st.lists(st.dictionaries(st.sampled_from(["kind", "t_ns", "frame", "items", "extra"]), _JSON), max_size=3))
def test_any_json_in_a_chunk(documents: list[dict[str, object]]) -> None:
    body = zstandard.compress(json.dumps(documents).encode())
    raw = messages.encode_chunk(messages.ChunkMessage(JSON, 1, 1, max(1, len(documents)), zlib.crc32(body), body))
    message = _read(messages.topic("default", "dev-1", "up/res/door"), raw)
    assert message is not None
    if isinstance(message.body, Undecodable):
        assert (message.body.first_seq, message.body.n) == (1, max(1, len(documents)))
    else:
        assert isinstance(message.body, Results)
        assert all(-(2**63) <= result.t_ns < 2**63 for result in message.body.results)


def _send(rest: str, payload: bytes, *, tenant: str = "default") -> Inbound | None:
    return read_message(messages.topic(tenant, "dev-1", rest), payload, tenant="default")


def test_an_honest_chunk_is_decoded() -> None:
    results = [Result(Kind.ANOMALY, 5, frame=1), Result(Kind.EVENT, 6, extra={"a": 1})]
    body = encode(results)
    raw = messages.encode_chunk(messages.ChunkMessage(1, 7, 11, 2, zlib.crc32(body), body))
    assert _send("up/res/door", raw) == Inbound("dev-1", Results("door", 7, 11, results))


def test_a_tombstone_says_why() -> None:
    body = b'{"reason": "full", "n": 3}'
    raw = messages.encode_chunk(messages.ChunkMessage(0, 7, 11, 3, zlib.crc32(body), body))
    assert _send("up/res/_evicted", raw) == Inbound("dev-1", Evicted(7, 11, 3, "full"))


@pytest.mark.parametrize("codec", [0, 1, 2, 9, 255])
def test_a_whole_chunk_of_an_unknown_kind_is_undecodable_and_no_refusal(codec: int) -> None:
    body = b"of a later version"
    raw = messages.encode_chunk(messages.ChunkMessage(codec, 7, 11, 3, zlib.crc32(body), body))
    message = _send("up/res/door", raw)
    assert message is not None
    assert isinstance(message.body, Undecodable)
    assert (message.body.epoch, message.body.first_seq, message.body.n) == (7, 11, 3)
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


def test_logs_are_passed_over() -> None:
    assert _send("up/log", b"anything") is None
