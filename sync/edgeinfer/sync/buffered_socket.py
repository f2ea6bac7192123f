"""A socket that reads and writes many small packets at once.

paho asks the kernel three times for each packet that comes and once for each that goes; each time another thread may
take its turn, and it is a while until ours comes again.
"""

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["BufferedSocket"]

_READ_BYTES = 64 << 10
# Packets are collected up to this before they go to the kernel.
_WRITE_BYTES = 256 << 10
# How long a last word may take.
_FAREWELL_S = 0.5


class _Socket(Protocol):
    def recv(self, size: int, /) -> bytes: ...
    def send(self, data: bytes | memoryview, /) -> int: ...
    def sendall(self, data: bytes, /) -> None: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...
    def setblocking(self, flag: bool, /) -> None: ...
    def settimeout(self, value: float | None, /) -> None: ...
    def getsockname(self) -> Any: ...
    def setsockopt(self, level: int, name: int, value: int, /) -> None: ...


class BufferedSocket:
    """What `send` takes is written by `flush`. Used by one thread. `unwritten` are the bytes that wait for that."""

    def __init__(self, sock: _Socket) -> None:
        self._sock = sock
        self._decrypted: Callable[[], int] = getattr(sock, "pending", lambda: 0)
        self._in = b""
        self._at = 0
        self._out: list[bytes] = []
        self._rest = memoryview(b"")
        self.unwritten = 0

    @property
    def readable(self) -> int:
        """Bytes that can be had without asking the kernel, which knows nothing of them."""
        return len(self._in) - self._at + self._decrypted()

    def recv(self, size: int) -> bytes:
        """Raises BlockingIOError (SSLWantReadError where it is TLS) while there is nothing."""
        if self._at >= len(self._in):
            self._in, self._at = b"", 0
            self._in = self._sock.recv(_READ_BYTES)
        part = self._in[self._at : self._at + size]
        self._at += len(part)
        return part

    def send(self, data: bytes) -> int:
        """Takes all of `data`, or raises BlockingIOError where much waits already."""
        if self.unwritten >= _WRITE_BYTES:
            raise BlockingIOError
        self._out.append(data)
        self.unwritten += len(data)
        return len(data)

    def flush(self) -> None:
        """Write what the kernel takes. Raises OSError for a connection that is gone."""
        while self.unwritten:
            if not self._rest:
                self._rest = memoryview(b"".join(self._out))
                self._out.clear()
            try:
                taken = self._sock.send(self._rest)
            except OSError as error:
                if _is_later(error):
                    return
                raise
            self._rest = self._rest[taken:]
            self.unwritten -= taken

    def close(self) -> None:
        """What was sent before is written, as far as that is a matter of a moment."""
        with contextlib.suppress(OSError):
            if self.unwritten:
                self._sock.settimeout(_FAREWELL_S)
                self._sock.sendall(bytes(self._rest) + b"".join(self._out))
        self._sock.close()

    def fileno(self) -> int:
        return self._sock.fileno()

    def setblocking(self, flag: bool) -> None:
        self._sock.setblocking(flag)

    def getsockname(self) -> Any:
        return self._sock.getsockname()

    def setsockopt(self, level: int, name: int, value: int) -> None:
        self._sock.setsockopt(level, name, value)


def _is_later(error: OSError) -> bool:
    """Whether a socket that does not block only asks for patience; TLS says so in its own way."""
    return isinstance(error, BlockingIOError) or type(error).__name__ in {"SSLWantReadError", "SSLWantWriteError"}
