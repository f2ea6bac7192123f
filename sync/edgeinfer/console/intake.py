"""Turns what arrives from the broker into values, or refuses it. Anyone may send anything: no I/O in here, and
every size is bounded before it is worked on."""

from typing import Any

import msgspec

from edgeinfer.runtime.chunk import JSON, TOMBSTONE, StoredChunk
from edgeinfer.runtime.codec import MAX_RESULTS, Summary, summarize
from edgeinfer.runtime.codec import decode as decode_results
from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import CodecError, MessageError
from edgeinfer.runtime.results import Result
from edgeinfer.sync.bundle import BUNDLE, decode_bundle
from edgeinfer.sync.messages import (
    Birth,
    BlobPart,
    BlobRequest,
    CommandResult,
    JobStatus,
    LogLines,
    ReportedState,
    StateMessage,
    Telemetry,
    decode,
    decode_blob_part,
    decode_chunk,
    is_name,
    parse_topic,
    valid_pipeline,
)

__all__ = ["Body", "Evicted", "Inbound", "Results", "Undecodable", "read_message", "unbundled"]

_INT64 = 1 << 63
_MAX_REASON = 200
_MAX_GROUPS = 64
_MAX_DEPTH = 16


class Results(msgspec.Struct, frozen=True):
    """A chunk that can be read, as it came, and what it is indexed by."""

    epoch: int
    chunk: StoredChunk
    summary: Summary


class Evicted(msgspec.Struct, frozen=True):
    """A tombstone: results are gone from the device, and why. Their time is `chunk.t0_ns`, 0 where it is not said."""

    epoch: int
    chunk: StoredChunk
    reason: str


class Undecodable(msgspec.Struct, frozen=True):
    """A chunk that came as it was sent, and still cannot be read: of a newer kind, or packed wrongly. Sending it
    again would not help, so it must not hold up what follows."""

    epoch: int
    chunk: StoredChunk
    reason: str


Body = (
    StateMessage
    | Birth
    | ReportedState
    | Telemetry
    | JobStatus
    | BlobRequest
    | BlobPart
    | CommandResult
    | LogLines
    | Results
    | Evicted
    | Undecodable
)


class Inbound(msgspec.Struct, frozen=True):
    device: str
    body: Body


_CONTROL: dict[str, type[StateMessage | Birth | ReportedState | Telemetry | BlobRequest | CommandResult | LogLines]] = {
    "up/state": StateMessage,
    "up/birth": Birth,
    "up/reported": ReportedState,
    "up/tel": Telemetry,
    "up/get": BlobRequest,
    "up/cmdres": CommandResult,
    "up/log": LogLines,
}


def read_message(topic: str, payload: bytes, *, tenant: str) -> Inbound:
    """Raises MessageError for whatever is not what its topic promises."""
    name = parse_topic(topic)
    if name.tenant != tenant:
        raise MessageError(f"expected tenant {tenant}, found {name.tenant!r}")
    if name.rest in _CONTROL:
        return Inbound(name.device, _checked(decode(payload, _CONTROL[name.rest])))
    if name.rest == BUNDLE:
        decode_bundle(payload)
        raise MessageError("expected a bundle from the broker, and not within another way")
    if name.rest.startswith("up/res/"):
        return Inbound(name.device, _read_chunk(name.rest, payload))
    if name.rest.startswith("up/job/"):
        return Inbound(name.device, _read_job(name.rest, payload))
    if name.rest == "up/blob":
        return Inbound(name.device, decode_blob_part(payload))
    raise MessageError(f"expected a known topic, found {name.rest[:80]!r}")


def unbundled(topic: str, payload: bytes) -> list[tuple[str, bytes]]:
    """The messages in a bundle, each with the topic that it would have alone; any other message, and a bundle that
    cannot be taken apart, as it is."""
    device_topics = topic.removesuffix(BUNDLE)
    if device_topics == topic:
        return [(topic, payload)]
    try:
        return [(device_topics + frame.name, frame.payload) for frame in decode_bundle(payload)]
    except MessageError:  # `read_message` says why
        return [(topic, payload)]


def _checked(body: Body) -> Body:
    """What the types of the messages do not say."""
    match body:
        case Birth():
            _check_birth(body)
            _check_document(body.profile)
        case ReportedState():
            _check_document(body.pipelines)
            _check_document(body.audit)
        case Telemetry():
            _check_document(body.pipelines)
    return body


def _check_birth(birth: Birth) -> None:
    for epoch in birth.epochs:
        if not (epoch.isascii() and epoch.isdigit() and len(epoch) < 20 and int(epoch) < _INT64):
            raise MessageError(f"expected epochs as numbers, found {epoch[:40]!r}")
    if len(birth.groups) > _MAX_GROUPS or not all(is_name(group) for group in birth.groups):
        raise MessageError(f"expected at most {_MAX_GROUPS} groups with valid names")


def _check_document(document: dict[str, Any]) -> None:
    """Nested no deeper than anyone needs: what is stored has to be readable from deeper stacks than this one."""
    level: list[Any] = [document]
    for _ in range(_MAX_DEPTH):
        nested = [value for value in level if isinstance(value, dict | list)]
        level = [entry for value in nested for entry in (value.values() if isinstance(value, dict) else value)]
        if not level:
            return
    raise MessageError(f"expected a document nested at most {_MAX_DEPTH} deep")


def _read_job(rest: str, payload: bytes) -> JobStatus:
    status = decode(payload, JobStatus)
    if status.job != rest.removeprefix("up/job/"):
        raise MessageError(f"expected a report on the job of its topic, found one on {status.job[:80]!r}")
    return status


def _read_chunk(rest: str, payload: bytes) -> Results | Evicted | Undecodable:
    message = decode_chunk(payload)
    if message.first_seq < 1:
        raise MessageError("expected sequence numbers from 1 on, found 0")
    pipeline = valid_pipeline(rest)
    if message.codec != TOMBSTONE and message.n > MAX_RESULTS:
        raise MessageError(f"expected at most {MAX_RESULTS} results in a chunk, found a claim of {message.n}")
    chunk = StoredChunk(
        message.first_seq, message.n, 0, pipeline, message.codec, message.crc, message.body, message.link
    )
    try:
        if chunk.codec == TOMBSTONE:
            return _read_tombstone(message.epoch, chunk)
        return Results(message.epoch, chunk, _summary(chunk))
    except (CodecError, MessageError) as error:  # the CRC is right: this is what the device holds
        return Undecodable(message.epoch, chunk, error.message[:_MAX_REASON])


def _summary(chunk: StoredChunk) -> Summary:
    """Raises CodecError and MessageError for a chunk that could not be read later."""
    if chunk.codec == JSON:
        for result in decode_results(chunk.codec, chunk.body, n=chunk.n):
            _check_numbers(result)
    return summarize(chunk.codec, chunk.body, n=chunk.n)


def _check_numbers(result: Result) -> None:
    """A chunk in JSON may hold integers of any size; the database has 64 bits."""
    numbers = (result.t_ns, result.frame, result.latency_us, result.age_us, *(item.label for item in result.items))
    more = [value for value in (result.extra or {}).values() if isinstance(value, int)]
    if not all(-_INT64 <= number < _INT64 for number in (*numbers, *more)):
        raise MessageError("expected numbers of at most 64 bits in a result")


def _read_tombstone(epoch: int, chunk: StoredChunk) -> Evicted:
    try:
        document = msgspec.json.decode(chunk.body)
    except MALFORMED as error:
        raise MessageError(f"expected a reason in a tombstone: {error}") from error
    if not isinstance(document, dict):
        document = {}
    t0_ns = document.get("t0_ns", 0)
    if not isinstance(t0_ns, int) or not -_INT64 <= t0_ns < _INT64:
        t0_ns = 0
    reason = str(document.get("reason", ""))[:_MAX_REASON]
    return Evicted(epoch, msgspec.structs.replace(chunk, t0_ns=t0_ns), reason)
