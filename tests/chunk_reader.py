"""A second reader of chunks, written from docs/chunk-format.md alone: nothing of our own codec is in it.

for name, payload in read_topic(topic, payload):       # several, where it is a bundle
    message = read_message(payload)
    results = read_results(message.codec, message.body, dictionaries)
"""

import hashlib
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
import zstandard

__all__ = ["Message", "genesis", "next_link", "read_columns", "read_message", "read_results", "read_topic"]

MAGIC = b"\x28\xb5\x2f\xfd"
SCHEMAS: dict[int, list[list[Any]]] = {
    0x5C75: [
        *([name, 1, 0] for name in ("kind", "t", "frame", "latency", "age", "items")),
        ["boxed", 2, 0], ["label", 2, 0], ["score", 2, 1],
        *([name, 3, 1] for name in ("x1", "y1", "x2", "y2")),
        ["extra", 1, 2],
    ]
}  # fmt: skip
Columns = dict[str, list[Any]]


class Message(NamedTuple):
    codec: int
    epoch: int
    first_seq: int
    n: int
    link: bytes
    body: bytes


def read_topic(topic: str, raw: bytes) -> list[tuple[str, bytes]]:
    """The chunk messages in what came on `topic`, each with the topic of its own."""
    above, _, name = topic.rpartition("/")
    if name != "_bundle":
        return [(topic, raw)]
    assert len(raw) <= 1 << 20
    found, at = [], 0
    while at < len(raw):
        size, name_size = struct.unpack_from(">IB", raw, at)
        start = at + 5 + name_size
        inner, at = raw[at + 5 : start].decode("ascii"), start + size
        prefix, _, pipeline = inner.rpartition("/")
        assert prefix == "up/res"
        assert pipeline != "_bundle"
        assert size
        assert at <= len(raw)
        found.append((f"{above}/{pipeline}", raw[start:at]))
    assert 1 <= len(found) <= 64
    return found


def read_message(raw: bytes) -> Message:
    magic, version, codec, epoch, first_seq, n = struct.unpack_from(">2sBBQQI", raw)
    assert (magic, version) in {(b"EI", 1), (b"EI", 2)}
    start = 24 if version == 1 else 40
    (check,) = struct.unpack_from(">I", raw, start)
    body = raw[start + 4 :]
    assert check == zlib.crc32(raw[:start]) ^ zlib.crc32(body)
    return Message(codec, epoch, first_seq, n, raw[24:start], body)


def genesis(epoch: int) -> bytes:
    return hashlib.sha256(b"edgeinfer chain 1" + struct.pack(">Q", epoch)).digest()[:16]


def next_link(before: bytes, message: Message, pipeline: str) -> bytes:
    name = pipeline.encode()
    numbers = struct.pack(">QIBB", message.first_seq, message.n, message.codec, len(name))
    return hashlib.sha256(before + numbers + name + message.body).digest()[:16]


def read_results(codec: int, body: bytes, dictionaries: Mapping[int, bytes]) -> list[dict[str, Any]]:
    """Each result with all its keys; real numbers as they are, not shortened."""
    if codec == 2:
        return [whole(one) for one in json.loads(decompressed(body))]
    if codec == 1:
        return list(results_of(older_columns(body)))
    if codec == 3:
        return list(results_of(read_columns(body, dictionaries)))
    raise AssertionError(codec)


def whole(one: dict[str, Any]) -> dict[str, Any]:
    empty = {"frame": 0, "latency_us": 0, "age_us": 0, "items": [], "extra": None}
    items = [[*item, None][:3] for item in one.get("items", [])]
    return {**empty, **one, "items": items}


def decompressed(frame: bytes, dictionary: bytes = b"") -> bytes:
    context = zstandard.ZstdDecompressor(dict_data=zstandard.ZstdCompressionDict(dictionary) if dictionary else None)
    return context.decompress(frame, max_output_size=8 << 20)


def results_of(columns: Columns) -> Iterator[dict[str, Any]]:
    boxes = zip(*(columns.get(name, []) for name in ("x1", "y1", "x2", "y2")), strict=True)
    items = iter(
        [label, score, list(next(boxes)) if boxed else None]
        for label, score, boxed in zip(
            columns.get("label", []), columns.get("score", []), columns.get("boxed", []), strict=True
        )
    )
    for place, count in enumerate(columns["items"]):
        kind, t, frame, latency, age = (columns[name][place] for name in ("kind", "t", "frame", "latency", "age"))
        yield {
            "kind": kind, "t_ns": t, "frame": frame, "latency_us": latency, "age_us": age,
            "items": [next(items) for _ in range(count)], "extra": columns["extra"][place],
        }  # fmt: skip


# Codec 3


class Placed(NamedTuple):
    """A column of numbers, and what the head says of it."""

    name: str
    axis: int
    how: int
    base: int
    numbers: Any
    start: int
    minus: int
    factor: int


def read_columns(body: bytes, dictionaries: Mapping[int, bytes]) -> Columns:
    kept, head, unary, low = msgspec.msgpack.decode(body)
    if kept:
        head = decompressed(MAGIC + head, dictionaries[kept])
    schema, n, items, boxes, heads, *more = msgspec.msgpack.decode(head)
    fields: list[list[Any]] = SCHEMAS[schema] if isinstance(schema, int) else schema
    lengths = [1, n, items, boxes]
    placed = list(placed_columns(fields, lengths, heads))
    numbers = read_numbers(placed, lengths, bits(unary), bits(low))
    values = finished(placed, numbers)
    columns: Columns = {name: [] for name, _, _ in fields}
    for column in placed:
        columns[column.name] = [meaning(value, column.how >> 3 & 3) for value in values[column.name]]
    objects = iter(more[0] if more else [])
    for name, axis, type_ in fields:
        if type_ == 2:
            columns[name] = [None] * lengths[axis]
            for place, value in next(objects, []):
                columns[name][place] = value
    return columns


def placed_columns(fields: list[list[Any]], lengths: list[int], heads: list[list[Any]]) -> Iterator[Placed]:
    numeric = [(name, axis) for name, axis, type_ in fields if type_ != 2 and lengths[axis]]
    if lengths[2]:
        numeric.insert(0, ("", 2))
    numeric.sort(key=lambda column: column[1])
    defaults = [None, 0, b"", 0, 0, 1]
    assert len(heads) == len(numeric)
    for (name, axis), head in zip(numeric, heads, strict=True):
        yield Placed(name, axis, *head, *defaults[len(head) :])


def bits(raw: bytes) -> Iterator[int]:
    return (byte >> shift & 1 for byte in raw for shift in range(7, -1, -1))


def read_numbers(
    placed: list[Placed], lengths: list[int], unary: Iterator[int], low: Iterator[int]
) -> dict[str, list[int]]:
    numbers: dict[str, list[int]] = {}
    for column in placed:
        found = numbers[column.name] = [0] * lengths[column.axis]
        if isinstance(column.numbers, list):
            for place, number in zip(column.numbers[::2], column.numbers[1::2], strict=True):
                found[place] = number
    streamed = [column for column in placed if isinstance(column.numbers, bytes) and column.numbers]
    ranks = {column.name: [read_rank(unary) for _ in numbers[column.name]] for column in streamed}
    for column in streamed:
        fold = column.how >> 5
        ranks[column.name] = [rank << fold | read_bits(fold, low) for rank in ranks[column.name]]
    for column in streamed:
        classes = by_rank(column.numbers)
        numbers[column.name] = [read_number(classes[rank], low) for rank in ranks[column.name]]
    for rest in (list(unary), list(low)):
        assert not any(rest)
        assert len(rest) < 8
    return numbers


def by_rank(table: bytes) -> list[int]:
    if len(table) > 1:
        return list(table)
    return sorted(range(65), key=lambda other: (abs(other - table[0]), other))


def read_rank(unary: Iterator[int]) -> int:
    rank = 0
    while not next(unary):
        rank += 1
    return rank


def read_bits(count: int, low: Iterator[int]) -> int:
    value = 0
    for _ in range(count):
        value = value << 1 | next(low)
    return value


def read_number(class_: int, low: Iterator[int]) -> int:
    return 1 << (class_ - 1) | read_bits(class_ - 1, low) if class_ else 0


def finished(placed: list[Placed], numbers: dict[str, list[int]]) -> dict[str, list[int]]:
    values: dict[str, list[int]] = {}
    for column in placed:
        found: list[int] = []
        for place, number in enumerate(numbers[column.name]):
            left = (-(number + 1) // 2 if number % 2 else number // 2) if column.how & 4 else number
            value = left * column.factor + column.base
            if column.how & 3 == 1:
                value += found[-1] if found else column.start
            elif column.how & 3 == 2:
                back = values[""][place]
                value += found[place - back] if back else column.start
            found.append(value)
        if column.minus:
            other = values[placed[column.minus - 1].name]
            found = [one + two for one, two in zip(found, other, strict=True)]
        values[column.name] = [signed(value) for value in found]
    return values


def signed(value: int) -> int:
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def meaning(value: int, form: int) -> float:
    if form == 1:
        return value / 65536
    if form in {2, 3}:
        code, integer, kept = ("<f", "<I", 31) if form == 2 else ("<d", "<Q", 63)
        (magnitude,) = struct.unpack(code, struct.pack(integer, abs(value) % (1 << kept)))
        return float(-magnitude if value < 0 else magnitude)
    return value


# Codec 1


def older_columns(body: bytes) -> Columns:
    raw = decompressed(body)
    header_bytes = int.from_bytes(raw[:4], "big")
    layout, n, heads, extras = msgspec.msgpack.decode(raw[4 : 4 + header_bytes])
    assert layout == 1
    columns: Columns = {"extra": [None] * n}
    at = 4 + header_bytes
    for name, transform, width, base, count in heads:
        data, at = raw[at : at + width * count], at + width * count
        values = [
            signed(base + int.from_bytes(bytes(data[plane * count + place] for plane in range(width)), "little"))
            for place in range(count)
        ]
        columns[name] = [*older_meaning(values, transform)]
    for index, extra in extras:
        columns["extra"][index] = extra
    return columns


def older_meaning(values: list[int], transform: int) -> Iterator[float]:
    total = 0
    for value in values:
        total = signed(total + value)
        match transform:
            case 0:
                yield value
            case 1:
                yield total
            case 2:
                yield value / 65535
            case _:
                yield struct.unpack("<f", struct.pack("<I", value))[0]
