"""Server-sent events: what happened since the last look, four times a second, to every page that is open.

A page is rendered before its stream opens, and a stream breaks now and then: what comes in between is in no event. So a
stream begins with `missed`, upon which the page fetches what it shows; it comes again where events had to be left out.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from edgeinfer.console.documents import Documents
from edgeinfer.console.live import LiveFeed
from edgeinfer.runtime.errors import EdgeInferError

__all__ = ["EventHub"]

_log = logging.getLogger(__name__)

_INTERVAL_S = 0.25
_KEEPALIVE_S = 10.0
_MAX_WATCHERS = 64
_QUEUE = 8


class EventHub:
    """One task reads the feed; each watcher has a short queue, and one that does not keep up is told what it missed."""

    def __init__(self, feed: LiveFeed, documents: Documents, status: Any) -> None:
        self._feed = feed
        self._documents = documents
        self._status = status
        self._watchers: set[asyncio.Queue[bytes | None]] = set()
        self._complaint = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._pump(), name="events")

    async def stop(self) -> None:
        """Ends every open stream."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.end_streams()

    def end_streams(self) -> None:
        for queue in self._watchers:
            _put(queue, None)

    async def endpoint(self, request: Request) -> Response:
        del request
        if len(self._watchers) >= _MAX_WATCHERS:
            return JSONResponse({"error": f"{_MAX_WATCHERS} pages are open already", "hint": ""}, status_code=503)
        return StreamingResponse(self.stream(), media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """What one page receives."""
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(_QUEUE)
        self._watchers.add(queue)  # before the page is told to look: what comes from now on is in an event
        try:
            yield b"retry: 2000\n\n" + _MISSED + _event("status", await run_in_threadpool(self._status))
            while True:
                try:
                    event = await asyncio.wait_for(queue.get(), _KEEPALIVE_S)
                except TimeoutError:
                    event = b": still here\n\n"
                if event is None:
                    return
                yield event
        finally:
            self._watchers.discard(queue)

    async def _pump(self) -> None:
        last_status, missed = b"", False
        while True:
            await asyncio.sleep(_INTERVAL_S)
            if not self._watchers:
                self._feed.take(watched=False)
                continue
            try:
                events = await run_in_threadpool(self._events)
                status = _event("status", await run_in_threadpool(self._status))
            except EdgeInferError as error:
                self._complain(error.message)
                missed = True
                continue
            self._complaint = ""
            if missed:
                events.insert(0, _MISSED)
                missed = False
            if status != last_status:
                events.append(status)
                last_status = status
            for queue in list(self._watchers):
                for event in events:
                    _put(queue, event)

    def _complain(self, reason: str) -> None:
        """Once for each reason in a row: this is asked four times a second."""
        if reason != self._complaint:
            self._complaint = reason
            _log.warning("event=page_events_failed reason=%r", reason)

    def _events(self) -> list[bytes]:
        happened = self._feed.take()
        events = []
        if happened.counts:
            counts = [{"device": d, "pipeline": p, "n": n} for (d, p), n in happened.counts.items()]
            results = self._documents.results(happened.results, max_items=1)
            events.append(_event("results", {"results": results, "counts": counts}))
        if happened.devices:
            events.append(_event("devices", {"devices": sorted(happened.devices)}))
        if happened.deployments:
            documents = [self._documents.deployment(d) for d in happened.deployments]
            events.append(_event("deployments", {"deployments": documents}))
        return events


def _put(queue: "asyncio.Queue[bytes | None]", event: bytes | None) -> None:
    if queue.full():
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(_MISSED)
    queue.put_nowait(event)


def _event(name: str, document: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(document) + b"\n\n"


_MISSED = _event("missed", {})
