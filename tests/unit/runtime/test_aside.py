"""A thread for one job at a time: nobody waits for it."""

import threading

import pytest

from edgeinfer.runtime.learn.aside import Aside
from waiting import wait_until


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "aside-test"]


def test_one_job_at_a_time_and_its_answer_once() -> None:
    aside, go = Aside[int]("aside-test"), threading.Event()
    assert not threads(), "nothing was to be done yet"
    assert aside.busy_s() == 0.0
    assert aside.offer(lambda: int(go.wait(60)) + 41)
    assert not aside.offer(lambda: 7)
    assert aside.take() is None
    wait_until(lambda: aside.busy_s() > 0.0)
    go.set()
    assert aside.idle.wait(60)
    assert aside.busy_s() == 0.0
    assert [aside.take(), aside.take()] == [42, None]
    assert [thread.daemon for thread in threads()] == [True]
    aside.close()
    wait_until(lambda: not threads())


def test_close_waits_for_no_job() -> None:
    aside, go = Aside[int]("aside-test"), threading.Event()
    assert aside.offer(lambda: int(go.wait(60)))
    aside.close()
    aside.close()
    assert len(threads()) == 1
    go.set()
    wait_until(lambda: not threads())


def test_one_that_was_closed_before_it_began_leaves_no_thread() -> None:
    aside = Aside[int]("aside-test")
    aside.close()
    aside.offer(lambda: 1)
    wait_until(lambda: not threads())


def test_where_no_thread_can_be_started_the_caller_hears_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    aside = Aside[int]("aside-test")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="can't start"):
            aside.offer(lambda: 1)
    assert aside.idle.is_set()
