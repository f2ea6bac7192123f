"""Bundles on the wire, when they are made, and what the uploader makes of a broker or a console that takes none."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.runtime.chunk import PACKED, RESULTS, StoredChunk
from edgeinfer.runtime.errors import MessageError
from edgeinfer.sync.bundle import (
    BUNDLE,
    MAX_BUNDLE_BYTES,
    MAX_BUNDLE_CHUNKS,
    Bundling,
    Parcel,
    decode_bundle,
    encode_bundle,
)
from edgeinfer.sync.sinks.framing import END, Frame

NAMES = st.sampled_from(["up/res/door", "up/res/_evicted", "up/res/a.b-c_9"])
FRAMES = st.lists(st.builds(Frame, NAMES, st.binary(min_size=1, max_size=300)), min_size=1, max_size=MAX_BUNDLE_CHUNKS)


def chunk(first_seq: int, pipeline: str = "door") -> StoredChunk:
    return StoredChunk(first_seq, 1, 0, pipeline, PACKED, zlib.crc32(b"body"), b"body")


# -- the wire -----------------------------------------------------------------------------------------------------


@given(FRAMES)
def test_a_bundle_holds_its_messages_in_their_order(frames: list[Frame]) -> None:
    assert decode_bundle(encode_bundle(frames)) == frames


@given(FRAMES, st.data())
def test_one_that_is_cut_off_is_refused_as_a_whole(frames: list[Frame], data: st.DataObject) -> None:
    raw = encode_bundle(frames)
    ends = {len(encode_bundle(frames[:number])) for number in range(1, len(frames))}
    at = data.draw(st.integers(0, len(raw) - 1))
    if at in ends:
        assert decode_bundle(raw[:at]) == frames[: len(decode_bundle(raw[:at]))]  # nothing tells, and nothing is wrong
    else:
        with pytest.raises(MessageError):
            decode_bundle(raw[:at])


@given(st.binary(max_size=2000))
def test_any_bytes_are_chunks_or_refused(raw: bytes) -> None:
    try:
        found = decode_bundle(raw)
    except MessageError:
        return
    assert 1 <= len(found) <= MAX_BUNDLE_CHUNKS


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        END,
        encode_bundle([Frame("up/res/door", b"x")]) + END,
        encode_bundle([Frame("up/res/door", b"x")]) + END + b"more",
        encode_bundle([Frame(BUNDLE, encode_bundle([Frame("up/res/door", b"x")]))]),
        encode_bundle([Frame("up/birth", b"{}")]),
        encode_bundle([Frame("up/res/a/b", b"x")]),
        encode_bundle([Frame("../dev-2/up/res/door", b"x")]),
        encode_bundle([Frame("up/res/door", b"x")] * (MAX_BUNDLE_CHUNKS + 1)),
        encode_bundle([Frame("up/res/door", bytes(MAX_BUNDLE_BYTES))]),
        b"\xff\xff\xff\xff\x0bup/res/door" + b"x",
    ],
    ids=["nothing", "an end", "ended", "beyond", "nested", "control", "name", "device", "many", "large", "claim"],
)
def test_anything_but_a_few_chunks_is_refused(raw: bytes) -> None:
    with pytest.raises(MessageError):
        decode_bundle(raw)


# -- what is sent -------------------------------------------------------------------------------------------------


def test_a_single_chunk_goes_as_ever() -> None:
    parcel = Parcel(RESULTS)
    parcel.add(chunk(1), b"EI one")
    assert parcel.message() == ("up/res/door", b"EI one")


def test_chunks_of_several_pipelines_go_together_and_their_size_is_known_before() -> None:
    parcel = Parcel(RESULTS)
    for number, pipeline in enumerate(["door", "yard", "_evicted"], 1):
        parcel.add(chunk(number, pipeline), b"EI %d" % number)
    rest, raw = parcel.message()
    assert (rest, len(raw)) == (BUNDLE, parcel.size)
    assert decode_bundle(raw) == [
        Frame("up/res/door", b"EI 1"), Frame("up/res/yard", b"EI 2"), Frame("up/res/_evicted", b"EI 3")
    ]  # fmt: skip


# -- when ---------------------------------------------------------------------------------------------------------


def test_none_is_made_before_the_console_says_on_this_connection_that_it_takes_them() -> None:
    bundling = Bundling(16)
    assert bundling.chunks(0.0) == 1
    bundling.told(64)
    assert bundling.chunks(0.0) == 16
    bundling.told(4)
    assert bundling.chunks(0.0) == 4
    bundling.connected()
    assert bundling.chunks(0.0) == 1


def test_configured_as_one_a_chunk_goes_alone() -> None:
    bundling = Bundling(1)
    bundling.told(64)
    assert bundling.chunks(0.0) == 1


def test_after_trouble_they_rest_for_longer_and_longer_and_less_long_once_they_have_worked() -> None:
    bundling = Bundling(16)
    bundling.told(64)
    now_s, rests = 0.0, []
    for _ in range(8):
        bundling.rest(now_s)
        began_s = now_s
        while bundling.chunks(now_s) == 1:
            now_s += 30.0
        rests.append(now_s - began_s)
    assert rests == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    now_s += 4000.0
    bundling.rest(now_s)
    assert bundling.chunks(now_s + 60.0) == 16


def test_all_that_were_on_their_way_are_one_trouble() -> None:
    bundling = Bundling(16)
    bundling.told(64)
    assert [bundling.rest(number / 10) for number in range(16)] == [True] + [False] * 15
    assert bundling.chunks(59.0) == 1
    assert bundling.chunks(60.0) == 16
    assert bundling.rest(70.0)
    assert not bundling.rest(71.0, long=True)
    assert bundling.chunks(3670.0) == 1


def test_one_that_is_refused_is_not_tried_again_for_an_hour() -> None:
    bundling = Bundling(16)
    bundling.told(64)
    bundling.rest(0.0, long=True)
    assert bundling.chunks(3599.0) == 1
    assert bundling.chunks(3600.0) == 16
