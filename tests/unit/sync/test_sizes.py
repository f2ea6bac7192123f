"""Windows, sizes and parts: how much goes at once, how large, and what a chunk looks like in pieces."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.runtime.chunk import JSON, NO_LINK, PACKED, TOMBSTONE, StoredChunk, tombstone
from edgeinfer.runtime.codec import decode, encode
from edgeinfer.runtime.results import Item, Kind, Result
from edgeinfer.sync.sizing import SizeLimit
from edgeinfer.sync.splitting import parts
from edgeinfer.sync.window import Window

LINK = bytes(range(16))


# -- the window ---------------------------------------------------------------------------------------------------


def test_a_window_doubles_until_it_is_full() -> None:
    window = Window()
    window.opened(limit=20)
    sizes = []
    for now_s in range(4):
        sizes.append(window.size)
        window.acknowledged(window.size, sent_s=now_s, now_s=now_s + 0.1)
    assert sizes == [4, 8, 16, 20]


def test_after_a_shrink_it_grows_by_one_a_window() -> None:
    window = Window()
    window.opened(limit=20)
    window.acknowledged(4, sent_s=0.0, now_s=0.1)
    window.shrink(1.0)
    sizes = []
    for now_s in range(2, 6):
        sizes.append(window.size)
        window.acknowledged(window.size, sent_s=now_s, now_s=now_s + 0.1)
    assert sizes == [4, 5, 6, 7]


def test_a_queue_shrinks_it_once_for_all_that_was_in_it() -> None:
    window = Window()
    window.opened(limit=16)
    for _ in range(3):
        window.acknowledged(8, sent_s=0.0, now_s=0.1)
    window.acknowledged(1, sent_s=1.0, now_s=6.0)
    window.acknowledged(1, sent_s=1.1, now_s=6.1)
    assert window.size == 8


def test_a_long_way_is_no_queue() -> None:
    window = Window()
    window.opened(limit=16)
    for now_s in range(4):
        window.acknowledged(4, sent_s=now_s, now_s=now_s + 5.0)
    assert window.size == 16


def test_a_window_never_closes() -> None:
    window = Window()
    window.opened(limit=0)
    window.shrink(0.0)
    assert window.size == 1


def opened_wide(*, chunks: int = 4) -> Window:
    window = Window()
    window.opened(limit=16)
    window.widen(chunks)
    return window


def test_messages_hold_more_as_the_window_grows_beyond_their_number() -> None:
    window = opened_wide()
    found = []
    for now_s in range(6):
        found.append((window.size, window.bundle))
        window.acknowledged(window.size, sent_s=now_s, now_s=now_s + 0.1)
    assert found == [(4, 1), (8, 1), (16, 1), (32, 2), (64, 4), (64, 4)]


def test_where_single_chunks_fill_the_line_it_grows_no_further() -> None:
    window = opened_wide()
    window.acknowledged(4, sent_s=0.0, now_s=0.1)
    window.acknowledged(8, sent_s=1.0, now_s=1.3)
    assert window.size == 16
    for now_s in range(2, 9):
        window.acknowledged(16, sent_s=now_s, now_s=now_s + 0.5)
    assert (window.size, window.bundle) == (16, 1)


def test_half_a_second_of_queue_narrows_what_is_wide_and_nothing_else() -> None:
    window = opened_wide()
    for now_s in range(5):
        window.acknowledged(window.size, sent_s=now_s, now_s=now_s + 0.1)
    for sent_s, size in ((10.0, 32), (20.0, 16), (30.0, 16)):
        window.acknowledged(1, sent_s=sent_s, now_s=sent_s + 0.7)
        assert window.size == size


def test_single_chunks_from_now_on_narrow_it_at_once() -> None:
    window = opened_wide()
    for now_s in range(5):
        window.acknowledged(window.size, sent_s=now_s, now_s=now_s + 0.1)
    window.widen(1)
    assert (window.size, window.bundle) == (16, 1)


# -- sizes --------------------------------------------------------------------------------------------------------


def test_the_protocols_limit_always_holds() -> None:
    limit = SizeLimit(100_000)
    assert limit.allows(100_000, 0.0)
    assert not limit.allows(100_001, 0.0)
    assert limit.forbids(100_001, 0.0)


def test_what_the_broker_calls_too_large_is_forbidden_for_an_hour() -> None:
    limit = SizeLimit(100_000)
    assert limit.refused(50_000, 0.0)
    assert limit.refused(70_000, 1.0)
    assert not limit.allows(50_000, 10.0)
    assert limit.forbids(50_000, 10.0)
    assert limit.allows(49_999, 10.0)
    assert limit.allows(50_000, 3602.0)


def test_a_broker_that_calls_everything_too_large_is_not_believed() -> None:
    limit = SizeLimit(100_000)
    assert not limit.refused(4096, 0.0)
    assert limit.allows(4096, 0.0)


def test_trouble_three_times_in_a_row_makes_messages_smaller() -> None:
    limit = SizeLimit(100_000)
    assert [limit.trouble(64_000) for _ in range(6)] == [False, False, True, False, False, True]
    assert limit.allows(25_000, 0.0)
    assert not limit.allows(25_001, 0.0)
    assert not limit.forbids(25_001, 0.0), "nobody said so: a single result may still go"


def test_what_gets_through_makes_them_larger_again() -> None:
    limit = SizeLimit(100_000)
    for _ in range(3):
        limit.trouble(64_000)
    for _ in range(4):
        limit.progress()
    assert limit.allows(100_000, 0.0)


def test_trouble_in_between_successes_is_none() -> None:
    limit = SizeLimit(100_000)
    for _ in range(10):
        assert not limit.trouble(64_000)
        assert not limit.trouble(64_000)
        limit.progress()


def test_small_messages_are_not_made_smaller() -> None:
    limit = SizeLimit(100_000)
    assert not any(limit.trouble(4096) for _ in range(9))
    for _ in range(30):
        limit.trouble(100_000)
    assert limit.allows(4096, 0.0)


# -- parts --------------------------------------------------------------------------------------------------------


def chunk(n: int, *, codec: int = PACKED, ballast: int = 0) -> StoredChunk:
    results = [
        Result(Kind.CLASSIFICATION, 1000 + i, i, 1, 2, (Item(i % 10, 0.5),), {"x": chr(97 + i % 26) * ballast})
        for i in range(n)
    ]
    body = encode(results, codec)
    return StoredChunk(11, n, 1000, "door", codec, zlib.crc32(body), body, LINK)


def halved_to(found: StoredChunk, most: int, *, forbidden: bool = True) -> list[StoredChunk]:
    return parts(
        found, allowed=lambda part: len(part.body) <= most, forbidden=lambda part: forbidden and len(part.body) > most
    )


def test_a_chunk_that_fits_is_left_as_it_is() -> None:
    whole = chunk(10)
    assert halved_to(whole, len(whole.body)) == [whole]


@pytest.mark.parametrize("codec", [PACKED, JSON])
@given(n=st.integers(2, 60), share=st.floats(0.2, 0.99))
def test_parts_hold_the_same_results_under_the_same_numbers(codec: int, n: int, share: float) -> None:
    whole = chunk(n, codec=codec)
    found = halved_to(whole, int(len(whole.body) * share), forbidden=False)
    assert [part.first_seq for part in found] == [11 + sum(p.n for p in found[:i]) for i in range(len(found))]
    assert sum(part.n for part in found) == n
    assert all(zlib.crc32(part.body) == part.crc for part in found)
    assert {(part.pipeline, part.codec) for part in found} == {("door", codec)}
    results = [result for part in found for result in decode(part.codec, part.body, n=part.n)]
    assert results == decode(whole.codec, whole.body, n=n)


def test_the_last_part_carries_the_link_and_the_others_none() -> None:
    found = halved_to(chunk(8), 1, forbidden=False)
    assert [part.n for part in found] == [1] * 8
    assert [part.link for part in found] == [NO_LINK] * 7 + [LINK]


def test_a_single_result_that_never_fits_becomes_a_tombstone() -> None:
    large = chunk(1, ballast=4000, codec=JSON)
    (found,) = halved_to(large, 10)
    assert (found.codec, found.first_seq, found.n, found.link) == (TOMBSTONE, 11, 1, LINK)
    assert b"too large" in found.body


def test_a_single_result_that_is_only_suspected_stays() -> None:
    large = chunk(1)
    assert halved_to(large, 1, forbidden=False) == [large]


def test_a_tombstone_is_never_split() -> None:
    gone = tombstone(1, 1000, t0_ns=0, reason="full")
    assert halved_to(gone, 1) == [gone]


def test_what_cannot_be_decoded_cannot_be_split() -> None:
    odd = StoredChunk(1, 5, 0, "door", 77, 0, b"what is this" * 10, LINK)
    assert halved_to(odd, 10, forbidden=False) == [odd]
    (gone,) = halved_to(odd, 10)
    assert (gone.codec, gone.n) == (TOMBSTONE, 5)
