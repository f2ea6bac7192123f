"""The agent beside the daemon in one process: an agent that fails is started again."""

import logging
import threading
from typing import cast

import pytest

from edgeinfer.cli import together
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.sync.agent import Agent


class FailingAgent:
    """Fails in two ways before it works."""

    def __init__(self) -> None:
        self.runs = 0

    def run(self, stop: threading.Event) -> None:
        self.runs += 1
        if self.runs == 1:
            raise BufferStorageError("sync.db: cannot be opened: disk I/O error")
        if self.runs == 2:
            raise ZeroDivisionError
        stop.set()


def test_an_agent_that_failed_is_started_again_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(together, "_FIRST_WAIT_S", 0.01)
    agent = FailingAgent()
    with caplog.at_level(logging.ERROR):
        together._keep_running(cast("Agent", agent), threading.Event())
    assert agent.runs == 3
    assert [record.getMessage().partition(" ")[0] for record in caplog.records] == [
        "event=agent_failed",
        "event=agent_bug",
    ]


def test_a_stop_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "_FIRST_WAIT_S", 1000.0)
    agent, stop = FailingAgent(), threading.Event()
    thread = threading.Thread(target=together._keep_running, args=(cast("Agent", agent), stop))
    thread.start()
    stop.set()
    thread.join(60)
    assert not thread.is_alive()
