"""Signal handlers must not take a lock: the frame that they interrupted may hold it."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeinfer.sync.service import _Service
from edgeinfer.sync.settings import SyncConfig

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = [signal.getsignal(number) for number in _SIGNALS]
    yield
    for number, handler in zip(_SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", _SIGNALS)
def test_a_handler_that_interrupts_a_waiting_event_returns(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(_self: threading.Event) -> None:
        raise AssertionError("a handler has set an event")

    service = _Service(Path("sync.toml"), SyncConfig(device="dev-1"))
    service._signals.install()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Event, "set", locked)
        os.kill(os.getpid(), number)
    assert service._signals.reload_wanted is (number == signal.SIGHUP)
    assert service._signals.ending is (number != signal.SIGHUP)
