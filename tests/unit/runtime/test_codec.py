"""The chunk codec: what goes in comes out, and nothing that comes in can do harm."""

import contextlib
import math
import subprocess
import sys

import msgspec
import pytest
import zstandard
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgeinfer.runtime.codec import COLUMNS, JSON, TOMBSTONE, decode, encode
from edgeinfer.runtime.errors import CodecError
from edgeinfer.runtime.results import Item, Kind, Result

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
UNIT = st.floats(0.0, 1.0)
FLOAT32 = st.floats(width=32, allow_nan=False)
EXTRAS = st.dictionaries(
    st.text(max_size=8), st.one_of(INT64, st.floats(allow_nan=False), st.text(max_size=12)), max_size=4
)
# One unit step of fixed point, and six significant digits.
UNIT_TOLERANCE = 1 / 65535 + 1e-6


def results(reals: st.SearchStrategy[float], *, items: int = 4) -> st.SearchStrategy[list[Result]]:
    item = st.builds(Item, INT64, reals, st.one_of(st.none(), st.tuples(reals, reals, reals, reals)))
    return st.lists(
        st.builds(
            Result,
            st.sampled_from(Kind),
            INT64,
            INT64,
            INT64,
            INT64,
            st.lists(item, max_size=items).map(tuple),
            st.one_of(st.none(), EXTRAS),
        ),
        min_size=1,
        max_size=20,
    )


def assert_same(found: list[Result], wanted: list[Result], *, tolerance: float, relative: float) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert msgspec.structs.replace(one, items=()) == msgspec.structs.replace(other, items=())
        assert [item.label for item in one.items] == [item.label for item in other.items]
        for left, right in zip(one.items, other.items, strict=True):
            assert (left.box is None) == (right.box is None)
            for a, b in zip((left.score, *(left.box or ())), (right.score, *(right.box or ())), strict=True):
                assert a == b or math.isclose(a, b, abs_tol=tolerance, rel_tol=relative), (a, b)


@given(results(UNIT))
def test_columns_keep_everything_but_the_last_bits_of_unit_reals(given_: list[Result]) -> None:
    found = decode(COLUMNS, encode(given_), n=len(given_))
    assert_same(found, given_, tolerance=UNIT_TOLERANCE, relative=0.0)


@given(results(FLOAT32))
def test_columns_keep_other_reals_to_six_digits(given_: list[Result]) -> None:
    """A column that happens to lie in 0..1 is fixed point, so that is the absolute bound."""
    found = decode(COLUMNS, encode(given_), n=len(given_))
    assert_same(found, given_, tolerance=UNIT_TOLERANCE, relative=1e-5)


@given(results(st.floats(allow_nan=False, allow_infinity=False)))
def test_json_keeps_everything(given_: list[Result]) -> None:
    # JSON has no infinity; the daemon stores columns, which keep it.
    assume(all(value not in {math.inf, -math.inf} for row in given_ for value in (row.extra or {}).values()))
    assert decode(JSON, encode(given_, JSON), n=len(given_)) == given_


def test_columns_keep_what_is_no_number() -> None:
    scores = [math.nan, math.inf, -math.inf, 1e300]
    given_ = [Result(Kind.ANOMALY, 5, items=(Item(1, score),)) for score in scores]
    found = [result.items[0].score for result in decode(COLUMNS, encode(given_), n=4)]
    assert math.isnan(found[0])
    assert found[1:] == [math.inf, -math.inf, math.inf]


def test_a_clock_that_jumps_keeps_its_times() -> None:
    times = [1_700_000_000_000_000_000, 0, -5, 1_700_000_000_033_000_000, -(1 << 63), (1 << 63) - 1]
    given_ = [Result(Kind.CLASSIFICATION, t, frame=i) for i, t in enumerate(times)]
    assert decode(COLUMNS, encode(given_), n=len(times)) == given_


def test_a_hundred_detections_are_small() -> None:
    given_ = [
        Result(
            Kind.DETECTION, 10**18 + i * 33_366_700, i, 5000 + i % 7, 9000, (Item(0, 0.9, (0.1, 0.2, 0.3, 0.4)),) * 2
        )
        for i in range(100)
    ]
    assert len(encode(given_)) < 20 * 100


@pytest.mark.parametrize("count", [0, 65_537])
def test_a_chunk_of_no_or_too_many_results_is_refused(count: int) -> None:
    with pytest.raises(CodecError, match="expected 1 to"):
        encode([Result(Kind.EVENT, 0)] * count)


def test_numbers_beyond_64_bits_are_refused() -> None:
    with pytest.raises(CodecError, match="64 bits"):
        encode([Result(Kind.EVENT, 1 << 63)])
    with pytest.raises(CodecError, match="extra"):
        encode([Result(Kind.EVENT, 0, extra={"n": 1 << 64})])


@pytest.mark.parametrize("codec", [TOMBSTONE, 3, -1])
def test_an_unknown_codec_is_refused(codec: int) -> None:
    with pytest.raises(CodecError, match="expected codec"):
        decode(codec, b"", n=1)
    with pytest.raises(CodecError, match="expected codec"):
        encode([Result(Kind.EVENT, 0)], codec)


SAMPLE = [
    Result(Kind.DETECTION, 10**18 + i, i, 7, 9, (Item(i, 0.5, (0.0, 0.1, 0.2, 0.3)), Item(2, 3.5)), {"a": i, "b": "x"})
    for i in range(5)
]


@pytest.mark.parametrize("codec", [COLUMNS, JSON])
def test_every_truncation_and_every_wrong_count_is_refused(codec: int) -> None:
    body = encode(SAMPLE, codec)
    for length in range(len(body)):
        with pytest.raises(CodecError):
            decode(codec, body[:length], n=5)
    for n in (1, 4, 6, 0, -1, 1 << 40):
        with pytest.raises(CodecError):
            decode(codec, body, n=n)
    with pytest.raises(CodecError):
        decode(codec, body + b"x", n=5)


@pytest.mark.parametrize("codec", [COLUMNS, JSON])
def test_every_bit_flip_is_decoded_or_refused(codec: int) -> None:
    """The chunk's CRC, not the codec, tells that bytes were changed: the codec must only stay sane."""
    raw = zstandard.ZstdDecompressor().decompress(encode(SAMPLE, codec))
    compressor = zstandard.ZstdCompressor(level=1)
    for position in range(len(raw)):
        for bit in range(8):
            changed = bytearray(raw)
            changed[position] ^= 1 << bit
            decode_or_refuse(codec, compressor.compress(bytes(changed)), n=5)


def decode_or_refuse(codec: int, body: bytes, *, n: int) -> None:
    with contextlib.suppress(CodecError):
        assert len(decode(codec, body, n=n)) == n


@settings(max_examples=300)
@given(st.sampled_from([COLUMNS, JSON]), st.binary(max_size=300), st.booleans(), st.integers(1, 6))
def test_any_bytes_are_refused_with_the_one_error(codec: int, body: bytes, compressed: bool, n: int) -> None:
    decode_or_refuse(codec, zstandard.compress(body) if compressed else body, n=n)


BOMBS = """
import resource, sys, msgspec, zstandard
from edgeinfer.runtime.codec import COLUMNS, JSON, decode
from edgeinfer.runtime.errors import CodecError
pack = msgspec.msgpack.encode
def columns(header, data=b""):
    encoded = header if isinstance(header, bytes) else pack(header)
    return zstandard.compress(len(encoded).to_bytes(4, "big") + encoded + data)
names = ["kind", "t", "frame", "latency", "age"]
many = [[name, 0, 0, 1, 65536] for name in names] + [["items", 0, 0, 16, 65536]]
many += [[name, 0, 0, 0, 1 << 20] for name in ("label", "score", "boxed")]
endless = zstandard.ZstdCompressor().compressobj()
bomb = b"".join(endless.compress(bytes(1 << 20)) for _ in range(1024)) + endless.flush()
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
]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for codec, body, n in bombs:
    assert len(body) < 4 << 20
    try:
        decode(codec, body, n=n)
    except CodecError:
        pass  # one is decoded: it is as large as a chunk may be
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def test_bombs_are_refused_in_bounded_memory() -> None:
    """In a process of its own, whose peak is then that of the decoder (the bombs themselves are counted too)."""
    done = subprocess.run([sys.executable, "-c", BOMBS], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 400, "MiB more than before"
