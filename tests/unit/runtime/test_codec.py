"""The chunk codec: what goes in comes out, and nothing that comes in can do harm."""

import contextlib
import math
import struct
import subprocess
import sys
import threading
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from chunk_strategies import UNIT, assert_close, results
from edgeinfer.runtime.codec import (
    COLUMNS,
    JSON,
    MAX_RESULTS,
    PACKED,
    TOMBSTONE,
    decode,
    encode,
    split,
    summarize,
)
from edgeinfer.runtime.errors import CodecError
from edgeinfer.runtime.results import Item, Kind, Result

CODECS = (COLUMNS, JSON, PACKED)
SAMPLE = [
    Result(Kind.DETECTION, 10**18 + i, i, 7, 9, (Item(i, 0.5, (0.0, 0.1, 0.2, 0.3)), Item(2, 3.5)), {"a": i, "b": "x"})
    for i in range(5)
]
MOVING = [
    Result(
        Kind.DETECTION, 10**18 + i * 33_366_700 + i * i % 1000, i, 5000 + i * i % 77, 9000 + i * i % 99,
        (Item(0, 0.5 + i % 7 / 256, (i / 512, 0.2, i / 512 + 0.25, 0.4)), Item(3, 0.25, (0.5, 0.5, 0.75, 0.75))),
    )
    for i in range(100)
]  # fmt: skip


@pytest.mark.parametrize("codec", [COLUMNS, PACKED])
@given(given_=results())
@example(given_=MOVING)
def test_everything_but_the_last_bits_of_reals_is_kept(codec: int, given_: list[Result]) -> None:
    assert_close(decode(codec, encode(given_, codec), n=len(given_)), given_)


@given(results(st.floats(allow_nan=False, allow_infinity=False)))
def test_json_keeps_everything(given_: list[Result]) -> None:
    # JSON has no infinity; the daemon stores columns, which keep it.
    assume(all(value not in {math.inf, -math.inf} for row in given_ for value in (row.extra or {}).values()))
    assert decode(JSON, encode(given_, JSON), n=len(given_)) == given_


@given(results(UNIT))
def test_what_was_decoded_is_encoded_without_further_loss(given_: list[Result]) -> None:
    once = decode(PACKED, encode(given_), n=len(given_))
    assert decode(PACKED, encode(once), n=len(once)) == once


@pytest.mark.parametrize("codec", CODECS)
@given(given_=results(UNIT))
def test_a_summary_says_what_the_results_say(codec: int, given_: list[Result]) -> None:
    assume(codec != JSON or not any(math.inf in (row.extra or {}).values() for row in given_))
    assume(codec != JSON or not any(-math.inf in (row.extra or {}).values() for row in given_))
    body = encode(given_, codec)
    summary = summarize(codec, body, n=len(given_))
    assert summary.kind.tolist() == [result.kind for result in given_]
    assert summary.t_ns.tolist() == [result.t_ns for result in given_]
    assert summary.latency_us.tolist() == [result.latency_us for result in given_]
    assert {summary.kind.dtype, summary.t_ns.dtype, summary.latency_us.dtype} == {np.dtype(np.int64)}


@pytest.mark.parametrize("codec", CODECS)
def test_two_parts_make_a_whole_wherever_it_is_split(codec: int) -> None:
    whole = SAMPLE + MOVING[:7] + [Result(Kind.FRAMES, 5, extra={"inferred": 1})]
    body = encode(whole, codec)
    wanted = decode(codec, body, n=len(whole))
    for at in range(1, len(whole)):
        first, rest = split(codec, body, n=len(whole), at=at)
        found = decode(codec, first, n=at) + decode(codec, rest, n=len(whole) - at)
        assert_close(found, wanted)
    for at in (-1, 0, len(whole), len(whole) + 1):
        with pytest.raises(CodecError, match="a cut at"):
            split(codec, body, n=len(whole), at=at)


@pytest.mark.parametrize("codec", [COLUMNS, PACKED])
@pytest.mark.parametrize("kind", [Kind.ANOMALY, Kind.RAW])
def test_what_is_no_number_is_kept(codec: int, kind: Kind) -> None:
    scores = [math.nan, math.inf, -math.inf, 1e300, -1e300, 0.0]
    given_ = [Result(kind, 5, items=(Item(1, score),)) for score in scores]
    found = [result.items[0].score for result in decode(codec, encode(given_, codec), n=6)]
    assert math.isnan(found[0])
    assert found[1:] == [math.inf, -math.inf, math.inf, -math.inf, 0.0]


def test_the_largest_score_stays_finite() -> None:
    largest = float(np.finfo(np.float32).max)
    (found,) = decode(PACKED, encode([Result(Kind.ANOMALY, 0, items=(Item(1, largest),))]), n=1)
    assert found.items[0].score == pytest.approx(largest, rel=2e-5)


def test_a_small_score_of_an_anomaly_keeps_its_digits() -> None:
    """Steps of 1/65536 would be a tenth of it."""
    given_ = [Result(Kind.ANOMALY, 0, items=(Item(0, 1.2345e-4 * (i + 1)),)) for i in range(50)]
    for one, other in zip(decode(PACKED, encode(given_), n=50), given_, strict=True):
        assert one.items[0].score == pytest.approx(other.items[0].score, rel=2e-5)


@pytest.mark.parametrize("kind", [Kind.EMBEDDING, Kind.REGRESSION, Kind.RAW])
def test_measured_values_are_float32(kind: Kind) -> None:
    values = [float(np.float32(value)) for value in np.random.default_rng(1).normal(size=100) * 1000]
    given_ = [Result(kind, 0, items=tuple(Item(0, value) for value in values))]
    (found,) = decode(PACKED, encode(given_), n=1)
    assert [item.score for item in found.items] == [float(f"{value:.6g}") for value in values]


def test_an_eight_bit_model_is_kept_exactly() -> None:
    items = tuple(Item(0, q / 256, (q / 256, 0.0, 1.0, 0.5)) for q in range(257))
    (found,) = decode(PACKED, encode([Result(Kind.DETECTION, 0, items=items)]), n=1)
    assert [item.score for item in found.items] == [round(item.score, 6) for item in items]
    assert [item.box for item in found.items] == [(round(item.score, 6), 0.0, 1.0, 0.5) for item in items]


def test_a_clock_that_jumps_keeps_its_times() -> None:
    times = [1_700_000_000_000_000_000, 0, -5, 1_700_000_000_033_000_000, -(1 << 63), (1 << 63) - 1]
    given_ = [Result(Kind.CLASSIFICATION, t, frame=i) for i, t in enumerate(times)]
    for codec in CODECS:
        assert decode(codec, encode(given_, codec), n=len(times)) == given_


def test_a_hundred_detections_are_small() -> None:
    box = (0.1, 0.2, 0.3, 0.4)
    given_ = [
        Result(Kind.DETECTION, 10**18 + i * 33_366_700, i, 5000 + i % 7, 9000, (Item(0, 0.9, box),) * 2)
        for i in range(100)
    ]
    assert len(encode(given_)) < 3 * 100
    assert len(encode(MOVING)) < 8 * 100 < len(encode(MOVING, COLUMNS)) < len(encode(MOVING, JSON))


def test_a_single_result_is_small() -> None:
    """What an event costs, which is flushed at once."""
    extra: dict[str, int | float | str] = {"rule": "person", "state": "begin", "count": 1}
    event = Result(
        Kind.EVENT, 1_700_000_000_123_456_789, 4711, items=(Item(0, 0.75, (0.1, 0.2, 0.3, 0.4)),), extra=extra
    )
    assert len(encode([event])) < 100 < len(encode([event], COLUMNS))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("count", [0, MAX_RESULTS + 1])
def test_a_chunk_of_no_or_too_many_results_is_refused(codec: int, count: int) -> None:
    with pytest.raises(CodecError, match="expected 1 to"):
        encode([Result(Kind.EVENT, 0)] * count, codec)


def test_the_largest_chunks_can_be_read_again() -> None:
    many = [Result(Kind.CLASSIFICATION, i * 7, i, items=(Item(i % 9, i / 65_536),) * 4) for i in range(MAX_RESULTS)]
    assert len(decode(PACKED, encode(many), n=MAX_RESULTS)) == MAX_RESULTS
    with pytest.raises(CodecError, match="items"):
        encode([msgspec.structs.replace(many[0], items=(Item(0, 0.5),) * 5)] * MAX_RESULTS)


@pytest.mark.parametrize(
    "values",
    [
        (1, 0.5, (0.1, 0.2, 0.3)),
        (1, 0.5, ("a", 0, 0, 0)),
        (1, 0.5, 0.1),
        (1, "a"),
        (1, 10**400),
        (0.5, 0.5),
        (np.zeros(4), 0.5),
    ],
    ids=["three", "text", "no box", "score", "large", "label", "labels"],
)
def test_an_item_that_is_none_is_refused_with_the_one_error(values: tuple[Any, ...]) -> None:
    """The buffer gives up a result that cannot be encoded; any other error would end its writer."""
    with pytest.raises(CodecError):
        encode([*SAMPLE, Result(Kind.DETECTION, 1, items=(Item(*values),))], PACKED)


def test_boxes_that_have_four_numbers_each_only_on_average_are_refused() -> None:
    boxes: tuple[Any, Any] = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6, 0.7, 0.8))
    with pytest.raises(CodecError, match="boxes of 4 numbers"):
        encode([Result(Kind.DETECTION, 1, items=tuple(Item(1, 0.5, box) for box in boxes))])


@pytest.mark.parametrize("value", [True, None, b"a", [1], {"a": 1}])
def test_an_extra_that_could_not_be_read_takes_no_others_along(value: Any) -> None:
    with pytest.raises(CodecError, match="extra"):
        encode([*SAMPLE, Result(Kind.EVENT, 1, extra={"n": value})])


def test_a_kind_that_could_not_be_read_takes_no_others_along() -> None:
    kind: Any = 99
    with pytest.raises(CodecError, match="kind"):
        encode([*SAMPLE, Result(kind, 1)])


@pytest.mark.parametrize("codec", [COLUMNS, PACKED])
def test_a_score_that_signals_is_kept_as_no_number(codec: int) -> None:
    """Without a warning, too: some processors say so when they convert it."""
    (signalling,) = struct.unpack("<d", struct.pack("<Q", 0x7FF0_0000_0000_0001))
    (found,) = decode(codec, encode([Result(Kind.RAW, 1, items=(Item(1, signalling),))], codec), n=1)
    assert math.isnan(found.items[0].score)


@pytest.mark.parametrize("codec", [COLUMNS, PACKED])
def test_numbers_beyond_64_bits_are_refused(codec: int) -> None:
    with pytest.raises(CodecError, match="64 bits"):
        encode([Result(Kind.EVENT, 1 << 63)], codec)
    with pytest.raises(CodecError, match="64 bits"):
        encode([Result(Kind.EVENT, 0, items=(Item(1 << 63, 0.5),))], codec)
    with pytest.raises(CodecError, match="extra"):
        encode([Result(Kind.EVENT, 0, extra={"n": 1 << 64})], codec)


@pytest.mark.parametrize("codec", [TOMBSTONE, 4, -1])
def test_an_unknown_codec_is_refused(codec: int) -> None:
    for reads in (decode, summarize):
        with pytest.raises(CodecError, match="expected codec"):
            reads(codec, b"", n=1)
    with pytest.raises(CodecError, match="expected codec"):
        encode([Result(Kind.EVENT, 0)], codec)


@pytest.mark.parametrize("codec", CODECS)
def test_every_truncation_and_every_wrong_count_is_refused(codec: int) -> None:
    body = encode(SAMPLE, codec)
    for reads in (decode, summarize):
        for length in range(len(body)):
            with pytest.raises(CodecError):
                reads(codec, body[:length], n=5)
        for n in (1, 4, 6, 0, -1, 1 << 40):
            with pytest.raises(CodecError):
                reads(codec, body, n=n)
        with pytest.raises(CodecError):
            reads(codec, body + b"x", n=5)


def compressed(raw: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(raw)


@pytest.mark.parametrize("codec", [COLUMNS, JSON])
def test_every_bit_flip_of_older_codecs_is_decoded_or_refused(codec: int) -> None:
    """The chunk's CRC, not the codec, tells that bytes were changed: the codec must only stay sane."""
    raw = zstandard.ZstdDecompressor().decompress(encode(SAMPLE, codec))
    for position in range(len(raw)):
        for bit in range(8):
            changed = bytearray(raw)
            changed[position] ^= 1 << bit
            decode_or_refuse(codec, compressed(bytes(changed)), n=5)


@pytest.mark.parametrize("sample", [SAMPLE, MOVING[:12]], ids=["mixed", "moving"])
def test_every_bit_flip_is_decoded_or_refused(sample: list[Result]) -> None:
    """Of the body as it is, and of its head before it was compressed."""
    body = encode(sample)
    bodies = [body, as_it_is(body)]
    for one in bodies:
        for position in range(len(one)):
            for bit in range(8):
                changed = bytearray(one)
                changed[position] ^= 1 << bit
                decode_or_refuse(PACKED, bytes(changed), n=len(sample))


def as_it_is(body: bytes) -> bytes:
    from edgeinfer.runtime.codec.body import parted

    return msgspec.msgpack.encode(parted(body))


def decode_or_refuse(codec: int, body: bytes, *, n: int) -> None:
    """A summary refuses what cannot be decoded, and nothing else (but JSON with numbers that no database takes)."""
    is_summarized = False
    with contextlib.suppress(CodecError):
        is_summarized = len(summarize(codec, body, n=n).t_ns) == n
    try:
        assert len(decode(codec, body, n=n)) == n
    except CodecError:
        assert not is_summarized
    else:
        assert is_summarized or codec == JSON


@settings(max_examples=300)
@given(st.sampled_from(CODECS), st.binary(max_size=300), st.booleans(), st.integers(1, 6))
def test_any_bytes_are_refused_with_the_one_error(codec: int, body: bytes, is_frame: bool, n: int) -> None:
    decode_or_refuse(codec, zstandard.compress(body) if is_frame else body, n=n)


NUMBER = st.one_of(st.integers(0, 70), st.integers(-(1 << 63), (1 << 64) - 1))
COLUMN = st.lists(st.one_of(NUMBER, st.binary(max_size=70), st.lists(NUMBER, max_size=6), st.none()), max_size=7)
HEAD = st.tuples(
    st.one_of(st.just(0x5C75), NUMBER), *[st.one_of(st.integers(0, 3), NUMBER)] * 3, st.lists(COLUMN, max_size=16)
)


@settings(max_examples=500)
@given(HEAD, st.binary(max_size=20), st.binary(max_size=20), st.integers(1, 3))
def test_any_head_is_refused_with_the_one_error(head: tuple[object, ...], unary: bytes, low: bytes, n: int) -> None:
    body = msgspec.msgpack.encode((0, msgspec.msgpack.encode(head), unary, low))
    decode_or_refuse(PACKED, body, n=n)


@settings(max_examples=500)
@given(st.lists(st.tuples(st.integers(0, 13), st.integers(0, 5), NUMBER), min_size=1, max_size=3))
def test_a_head_with_other_numbers_is_refused_or_decoded(changes: list[tuple[int, int, int]]) -> None:
    kept, head, unary, low = msgspec.msgpack.decode(as_it_is(encode(MOVING[:12])))
    schema, *counts, columns = msgspec.msgpack.decode(head)
    for column, entry, number in changes:
        whole = [*columns[column], 0, b"", 0, 0, 1][:6] if len(columns[column]) < 6 else columns[column]
        whole[entry] = number
        columns[column] = whole
    changed = msgspec.msgpack.encode((schema, *counts, columns))
    decode_or_refuse(PACKED, msgspec.msgpack.encode((kept, changed, unary, low)), n=12)


def test_threads_share_the_codec() -> None:
    wanted = {i: encode(SAMPLE[: i % 5 + 1] * 9) for i in range(20)}
    wrong: list[int] = []

    def work(offset: int) -> None:
        for i in range(200):
            n = (i + offset) % 20
            results_ = SAMPLE[: n % 5 + 1] * 9
            if encode(results_) != wanted[n] or len(decode(PACKED, wanted[n], n=len(results_))) != len(results_):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


BOMBS = """
import resource, sys, msgspec, zstandard
from edgeinfer.runtime.codec import COLUMNS, JSON, PACKED, decode, summarize
from edgeinfer.runtime.codec.dictionary import DICTIONARIES
from edgeinfer.runtime.errors import CodecError
pack = msgspec.msgpack.encode
def columns(header, data=b""):
    encoded = header if isinstance(header, bytes) else pack(header)
    return zstandard.compress(len(encoded).to_bytes(4, "big") + encoded + data)
def packed(results, items, boxes, heads, unary=b"", low=b"", schema=0x5c75, objects=None):
    head = [schema, results, items, boxes, heads] + ([objects] if objects else [])
    return pack([0, pack(head), unary, low])
names = ["kind", "t", "frame", "latency", "age"]
many = [[name, 0, 0, 1, 65536] for name in names] + [["items", 0, 0, 16, 65536]]
many += [[name, 0, 0, 0, 1 << 20] for name in ("label", "score", "boxed")]
endless = zstandard.ZstdCompressor().compressobj()
bomb = b"".join(endless.compress(bytes(1 << 20)) for _ in range(1024)) + endless.flush()
context = zstandard.ZstdCompressor(dict_data=zstandard.ZstdCompressionDict(DICTIONARIES[1])).compressobj()
head_bomb = b"".join(context.compress(bytes(1 << 20)) for _ in range(1024)) + context.flush()
flat = [[0, 1]] + [[0]] * 4 + [[0, 4]]
on_items = [[0]] * 4
huge = [["n" + str(i), 2, 0] for i in range(50)]
standard = [[name, 1, 0] for name in (*names, "items")] + [["boxed", 2, 0], ["label", 2, 0], ["score", 2, 1]]
standard += [[name, 3, 1] for name in ("x1", "y1", "x2", "y2")] + [["extra", 1, 2]]
bombs = [
    (COLUMNS, bomb, 1),
    (JSON, zstandard.compress(b"[" * (1 << 22)), 1),
    (JSON, zstandard.compress(b"[" + b'{"kind":1,"t_ns":1},' * 400000 + b'{"kind":1,"t_ns":1}]'), 1),
    (JSON, zstandard.compress(b'[{"kind":1,"t_ns":1,"items":[' + b"[1,1]," * 1300000 + b"[1,1]]}]"), 1),
    (COLUMNS, columns([1, 1, [["kind", 0, 0, 1, 1]] * 1000000, []]), 1),
    (COLUMNS, columns([1, 65536, many, []]), 65536),
    (COLUMNS, columns([1, 1, [["kind", 0, 8, 1, 1 << 60]], []]), 1),
    (COLUMNS, columns([1, 1, [], [[0, {str(i): i for i in range(200000)}]]]), 1),
    (COLUMNS, columns(b"\\xdd\\xff\\xff\\xff\\xff" * 10), 1),
    (PACKED, bomb, 1),
    (PACKED, pack([1, head_bomb[4:], b"", b""]), 1),
    (PACKED, packed(10**9, 0, 0, flat), 1),
    (PACKED, packed(65536, 10**9, 0, flat + on_items), 65536),
    (PACKED, packed(65536, 1 << 18, 0, flat + [[0]] * 3 + [[8]]), 65536),
    (PACKED, packed(65536, 1 << 18, 1 << 18, flat + [[0]] * 8), 65536),
    (PACKED, packed(65536, 1 << 18, 0, flat + [[0]] * 54, schema=standard + huge), 65536),
    (PACKED, packed(1, 0, 0, [[0, 1, [0, 1] * 1000000]] + flat[1:]), 1),
    (PACKED, packed(1, 0, 0, flat, objects=[[[0, 1]] * 600000]), 1),
    (PACKED, packed(65536, 0, 0, [[0, 1, b"\\x3f"]] + flat[1:], unary=b"\\xff" * 8192), 65536),
    (PACKED, packed(65536, 0, 0, flat[:5] + [[0]], unary=b"\\xff" * (4 << 20), low=bytes(1 << 20)), 65536),
    (PACKED, packed(1, 1 << 18, 0, [[0, 1], *flat[1:5], [0, 1 << 18], [0, 1], [1, 0, b"", 1], [0], [8]]), 1),
    (PACKED, pack([0, b"\\xdd\\xff\\xff\\xff\\xff" * 10, b"", b""]), 1),
    (PACKED, pack([0, b"\\x91" * 1000000, b"", b""]), 1),
]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
refused = 0
for codec, body, n in bombs:
    assert len(body) < 6 << 20
    for reads in (decode, summarize):
        try:
            reads(codec, body, n=n)
        except CodecError:
            refused += 1
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10, 2 * len(bombs) - refused)
"""


def test_bombs_are_refused_in_bounded_memory() -> None:
    """In a process of its own, whose peak is then that of the decoder (the bombs themselves are counted too)."""
    done = subprocess.run([sys.executable, "-c", BOMBS], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    mebibytes, taken = map(int, done.stdout.split())
    assert mebibytes < 400, "MiB more than before"
    assert taken <= 4, "as large as a chunk may be, and no larger"
