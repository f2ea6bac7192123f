"""The stream of events to the page survives a database that cannot be read for a moment."""

import asyncio
import logging
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgeinfer.console.documents import Documents
from edgeinfer.console.labels import Labels
from edgeinfer.console.live import LiveFeed
from edgeinfer.console.repository import SqliteRepository
from edgeinfer.console.repository.base import StorageError
from edgeinfer.console.web import events
from edgeinfer.console.web.events import EventHub

_DEADLINE_S = 30.0


async def _statuses(hub: EventHub, n: int) -> list[bytes]:
    """The first `n` status events that a page receives."""
    found: list[bytes] = []
    hub.start()
    stream = hub.stream()
    async with asyncio.timeout(_DEADLINE_S):
        async for event in stream:
            found += [event] if b"event: status" in event else []
            if len(found) == n:
                break
    await stream.aclose()
    await hub.stop()
    return found


def test_a_storage_error_ends_one_turn_and_not_the_stream(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    repository = SqliteRepository(tmp_path / "console.db")
    asked = 0

    def status() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        if asked in {2, 3}:
            raise StorageError("console.db: cannot be read: disk I/O error")
        return {"n": asked}

    hub = EventHub(LiveFeed(), Documents(repository, Labels(repository)), status)
    with caplog.at_level(logging.WARNING):
        found = asyncio.run(_statuses(hub, 3))
    repository.close()
    assert [event.rpartition(b"data: ")[2].strip() for event in found] == [b'{"n":1}', b'{"n":4}', b'{"n":5}']
    assert [record.getMessage().count("disk I/O error") for record in caplog.records] == [1]


def test_a_page_that_does_not_keep_up_is_told_that_it_missed_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_INTERVAL_S", 0.001)
    asked, enough = 0, threading.Event()

    def status() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        if asked == 30:  # far more events than a page's queue holds
            enough.set()
        return {"n": asked}

    async def slow_reader(hub: EventHub) -> list[bytes]:
        hub.start()
        stream = hub.stream()
        found = [await anext(stream)]
        await asyncio.to_thread(enough.wait, _DEADLINE_S)
        found += [await anext(stream)]
        await stream.aclose()
        await hub.stop()
        return found

    with closing(SqliteRepository(tmp_path / "console.db")) as repository:
        hub = EventHub(LiveFeed(), Documents(repository, Labels(repository)), status)
        first, after = asyncio.run(asyncio.wait_for(slow_reader(hub), 2 * _DEADLINE_S))
    assert first.index(b"event: missed") < first.index(b"event: status")
    assert after == b"event: missed\ndata: {}\n\n"
