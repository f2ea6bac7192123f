"""What wakes the buffer's writer: set as often as one likes, it wakes once; what is set before the wait is not lost."""

import threading

from edgeinfer.runtime.wake import Wake
from waiting import wait_until


def test_what_was_set_before_the_wait_is_taken_once() -> None:
    wake = Wake()
    assert not wake.wait(0.0)
    wake.set()
    wake.set()
    assert wake.wait(0.0)
    assert not wake.wait(0.0)


def test_many_setters_and_one_waiter_lose_nothing() -> None:
    wake, rounds = Wake(), 200
    asked = [0] * 4
    seen = [0] * 4

    def ask(which: int) -> None:
        for number in range(1, rounds + 1):
            asked[which] = number
            wake.set()

    def serve() -> None:
        while seen != [rounds] * 4:
            if not wake.wait(30.0):
                return
            seen[:] = asked

    threads = [threading.Thread(target=serve), *(threading.Thread(target=ask, args=(which,)) for which in range(4))]
    for thread in threads:
        thread.start()
    wait_until(lambda: seen == [rounds] * 4)
    for thread in threads:
        thread.join()
