"""A TCP proxy that does to a connection what bad networks and bad brokers do.

with FaultProxy(broker.port) as proxy:        # clients connect to proxy.port
    proxy.up.stalled = True                   # half-open: nothing closes, nothing arrives
    proxy.down.delay_s = 1.5
    proxy.up.cut_after = 100                  # each connection ends after so many bytes of that way
    proxy.drop()                              # all connections, now
    proxy.refuse()                            # nobody listens any more
    proxy.answer = CONNACK_NOT_AUTHORIZED     # says this to whoever connects, and closes
"""

import asyncio
import socket
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Self
from weakref import WeakSet

from brokers import free_port

__all__ = ["FaultProxy", "Way"]

_BLOCK = 16 << 10
_POLL_S = 0.02
_QUEUE = 64


class Way:
    """One direction. Everything may be changed while connections are open.

    `delay_s` between arrival and forwarding; `bytes_per_s`, 0 for no limit; `stalled`: nothing is read or forwarded;
    `cut_after`: a connection is closed once so many bytes have gone, -1 for never; `inject`: bytes to put between two
    blocks once; `bytes` counts what was forwarded.
    """

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.bytes_per_s = 0
        self.stalled = False
        self.cut_after = -1
        self.inject = b""
        self.bytes = 0

    def heal(self) -> None:
        self.delay_s, self.bytes_per_s, self.stalled, self.cut_after, self.inject = 0.0, 0, False, -1, b""


class FaultProxy:
    """Forwards to `target_port` of this machine, in a thread of its own. `up` is what clients say, `down` what they
    are told. `connections` counts those that were accepted, `cuts` those that `cut_after` has ended."""

    def __init__(self, target_port: int) -> None:
        self.up = Way()
        self.down = Way()
        self.answer = b""
        self.connections = 0
        self.cuts = 0
        self._target_port = target_port
        self.port = free_port()
        self._listener = _listen(self.port)
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._ways: set[asyncio.Task[None]] = set()
        self._made: WeakSet[asyncio.WriteTransport] = WeakSet()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._serve())
        return self

    def __exit__(self, *exc: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def heal(self) -> None:
        """From now on nothing is wrong; connections that suffered stay as they are."""
        self.answer = b""
        self.up.heal()
        self.down.heal()
        self.accept()

    def refuse(self) -> None:
        """Close the port: connecting is refused. Connections that are open stay."""
        self._do(self._close_server())

    def accept(self) -> None:
        if self._server is None:
            self._listener = _listen(self.port)
            self._do(self._serve())

    def drop(self) -> None:
        """Reset every connection."""
        self._do(self._drop())

    @property
    def open_connections(self) -> int:
        return len(self._open) // 2

    # -- in the loop's thread -----------------------------------------------------------------------------------

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _serve(self) -> None:
        self._server = await asyncio.start_server(self._accepted, sock=self._listener)

    async def _close_server(self) -> None:
        if self._server is not None:
            # asyncio forgets a socket that was accepted just before its server is closed: let it be served first.
            self._loop.remove_reader(self._listener)
            await asyncio.sleep(0)
            self._server.close()
            self._server = None

    async def _drop(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _end(self) -> None:
        """Whoever was accepted a moment ago is on the way yet: nothing may be left in a loop that is closed."""
        await self._close_server()
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for way in self._ways:
                way.cancel()
            self._abort_all()
            await asyncio.wait(tasks, timeout=_POLL_S)
        self._abort_all()

    def _abort_all(self) -> None:
        for transport in list(self._made):
            transport.abort()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._made.add(writer.transport)
        if self.answer:
            await self._say(reader, writer)
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        self._made.add(far_writer.transport)
        with suppress(OSError):  # dropped meanwhile
            for end in (writer, far_writer):
                end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open |= {writer, far_writer}
        ways = [
            asyncio.ensure_future(self._pump(reader, far_writer, self.up)),
            asyncio.ensure_future(self._pump(far_reader, writer, self.down)),
        ]
        self._ways.update(ways)
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._ways.difference_update(ways)
            for end in (writer, far_writer):
                self._open.discard(end)
                end.close()

    async def _say(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.read(_BLOCK)
            writer.write(self.answer)
            await writer.drain()
        writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        """Until either end is gone, or the way is cut."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUE)
        forwarding = asyncio.ensure_future(self._forward(queue, writer, way))
        try:
            while not forwarding.done():
                await _while_stalled(way)
                data = await _read(reader)
                await queue.put((asyncio.get_running_loop().time() + way.delay_s, data))
                if not data:
                    break
            await forwarding
        except OSError:
            return
        finally:
            forwarding.cancel()

    async def _forward(self, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, way: Way) -> None:
        sent = 0
        while True:
            due, data = await queue.get()
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
            if not data:
                return
            if way.inject:
                data, way.inject = way.inject + data, b""
            for piece in _pieces(data, way.bytes_per_s):
                await _while_stalled(way)
                left = len(piece) if way.cut_after < 0 else max(0, way.cut_after - sent)
                writer.write(piece[:left])
                await writer.drain()
                sent += len(piece[:left])
                way.bytes += len(piece[:left])
                if left < len(piece) or sent == way.cut_after:
                    self.cuts += 1
                    return
                if way.bytes_per_s:
                    await asyncio.sleep(len(piece) / way.bytes_per_s)


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(_BLOCK)
    except OSError:
        return b""


async def _while_stalled(way: Way) -> None:
    while way.stalled:  # noqa: ASYNC110 - another thread says when it ends
        await asyncio.sleep(_POLL_S)


def _pieces(data: bytes, bytes_per_s: int) -> list[bytes]:
    size = max(1, bytes_per_s // 20) if bytes_per_s else len(data)
    return [data[at : at + size] for at in range(0, len(data), size)]


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    return listener
