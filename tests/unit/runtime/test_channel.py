"""The channel between two threads: nothing is lost, doubled or out of order, whenever it closes."""

import random
import threading

import numpy as np
import pytest

from edgeinfer.runtime.channel import Channel
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.model import Prepared
from edgeinfer.runtime.preprocess import Region

NOTHING = np.zeros(0)


def prepared(number: int) -> Prepared:
    frame = Frame(NOTHING, 0, 0, number)
    return Prepared(frame, None, NOTHING, Region(0, 0, 1, 1))  # type: ignore[arg-type]  # the channel looks at none of it


def exchange(channel: Channel, count: int, *, seed: int, close_after: int | None = None) -> tuple[list[int], list[int]]:
    """Put `count` frames from one thread and get them in another: what came through, what was handed back."""
    got: list[int] = []
    lost: list[int] = []
    done = threading.Event()
    pause = random.Random(seed)

    def get() -> None:
        while True:
            found = channel.get(0.05)
            if found is not None:
                got.append(found.frame.index)
            elif done.is_set() and not len(channel):
                return
            if pause.random() < 0.1:
                threading.Event().wait(0.0002)

    getter = threading.Thread(target=get)
    getter.start()
    for number in range(count):
        if number == close_after:
            closer = threading.Thread(target=lambda: lost.extend(one.frame.index for one in channel.close()))
            closer.start()
        back = channel.put(prepared(number))
        if back is not None:
            lost.append(back.frame.index)
    channel.finish()
    if close_after is not None:
        closer.join()
    done.set()
    getter.join(60)
    assert not getter.is_alive()
    return got, lost


@pytest.mark.parametrize("seed", range(5))
def test_recorded_frames_all_come_through_in_order(seed: int) -> None:
    got, lost = exchange(Channel(latest_wins=False), 3000, seed=seed)
    assert got == list(range(3000))
    assert not lost


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_live_frames_come_through_or_are_handed_back(depth: int, seed: int) -> None:
    got, lost = exchange(Channel(latest_wins=True, depth=depth), 5000, seed=seed)
    assert sorted(got + lost) == list(range(5000))
    assert got == sorted(got)
    assert got[-1] == 4999, "the latest wins"


@pytest.mark.parametrize("latest_wins", [True, False])
@pytest.mark.parametrize("seed", range(10))
def test_closing_at_any_moment_accounts_for_every_frame(latest_wins: bool, seed: int) -> None:
    close_after = random.Random(seed).randrange(500)
    got, lost = exchange(Channel(latest_wins=latest_wins), 500, seed=seed, close_after=close_after)
    assert sorted(got + lost) == list(range(500))


def test_a_closed_channel_gives_the_frame_back() -> None:
    channel = Channel(latest_wins=False)
    assert channel.put(prepared(0)) is None
    assert [one.frame.index for one in channel.close()] == [0]
    back = channel.put(prepared(1))
    assert back is not None
    assert back.frame.index == 1


def test_the_end_wakes_who_waits() -> None:
    channel = Channel(latest_wins=False)
    threading.Timer(0.05, channel.finish).start()
    assert channel.get(30) is None
