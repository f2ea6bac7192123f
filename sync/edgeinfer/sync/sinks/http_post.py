"""HTTP(S): a POST for each batch, answered by a console with a list of acknowledgements, or by a webhook with a status.

The connection is kept. Every wait has an end: one deadline covers connecting, sending and the whole answer, however
slowly it comes. Redirects are refused: a moved address is for a person to write down, not for a server to decide.
"""

import http.client
import io
import os
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.sync.messages import Ack
from edgeinfer.sync.sinks.base import Batch, BatchTooLargeError, SinkBusyError, SinkError, SinkRefusedError
from edgeinfer.sync.sinks.framing import ACKS_TYPE, CONTENT_TYPE, encode_frames
from edgeinfer.sync.sinks.proxy import proxy_for
from edgeinfer.sync.sinks.settings import HttpSinkConfig

__all__ = ["HttpSink"]

_MAX_ANSWER_BYTES = 256 << 10
_MAX_REASON = 200
_MAX_TOKEN_BYTES = 4096
_BLOCK = 64 << 10
_MAX_RETRY_AFTER_S = 3600.0
# What says "not now" (RFC 9110): a request that timed out, too early, too many, and a server in trouble.
_NOT_NOW = {408, 425, 429, 500, 502, 503, 504}
_TOO_LARGE = 413
_UNKNOWN_US = {401, 403, 407}


class HttpSink:
    """Posts to `config.url`. See `Sink`."""

    def __init__(self, config: HttpSinkConfig) -> None:
        self._config = config
        self._target = urlsplit(config.url)
        self._proxy = proxy_for(config.url, os.environ)
        self._connection: http.client.HTTPConnection | None = None
        self._aborted = False
        self.local_address = ""

    def deliver(self, batch: Batch) -> Ack:
        deadline_s = time.monotonic() + self._config.timeout_s
        try:
            status, headers, body = self._exchange(batch, deadline_s)
        except (OSError, http.client.HTTPException, ValueError) as error:
            # ValueError: http.client's word for some answers that make no sense.
            self._drop()
            raise SinkError(f"{self._config.url}: no answer: {_reason(error)}") from error
        except SinkError:
            self._drop()
            raise
        if status // 100 != 2:
            self._drop()
            raise _refusal(self._config.url, status, headers, body)
        return self._ack(batch, headers, body)

    def abort(self) -> None:
        self._aborted = True
        connection = self._connection
        sock = None if connection is None else connection.sock
        if sock is not None:
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # under TLS too: nobody waits for a farewell

    def close(self) -> None:
        self._drop()

    def _exchange(self, batch: Batch, deadline_s: float) -> tuple[int, http.client.HTTPMessage, bytes]:
        """One request and its answer. A kept connection that the server has closed meanwhile is replaced once."""
        kept = self._connection is not None
        try:
            return self._request(batch, deadline_s)
        except ConnectionError:  # http.client's RemoteDisconnected is one
            if not kept or self._aborted:
                raise
            self._drop()
            return self._request(batch, deadline_s)

    def _request(self, batch: Batch, deadline_s: float) -> tuple[int, http.client.HTTPMessage, bytes]:
        headers = self._headers(batch)
        connection = self._connected(deadline_s)
        connection.putrequest("POST", self._path(), skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        response = self._send_body(connection, batch, deadline_s) or connection.getresponse()
        body = response.read(_MAX_ANSWER_BYTES + 1)
        if len(body) > _MAX_ANSWER_BYTES:
            raise SinkError(f"{self._config.url}: expected an answer of at most {_MAX_ANSWER_BYTES} bytes")
        if response.will_close or not response.isclosed():
            self._drop()
        return response.status, response.headers, body

    def _send_body(
        self, connection: http.client.HTTPConnection, batch: Batch, deadline_s: float
    ) -> http.client.HTTPResponse | None:
        """A server that will not have it may answer before it has read it all, and hang up: that answer."""
        try:
            for block in _blocks(batch):
                _limit(connection, deadline_s)
                connection.send(block)
        except ConnectionError:
            with suppress(ConnectionError, http.client.HTTPException):
                return connection.getresponse()
            raise
        return None

    def _connected(self, deadline_s: float) -> http.client.HTTPConnection:
        if self._aborted:
            raise SinkError("delivery was ended")
        if self._connection is None:
            connection = self._connection = self._open(_left(deadline_s))
            connection.response_class = _responses_until(deadline_s)
            connection.connect()
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.local_address = str(connection.sock.getsockname()[0])
            if self._aborted:  # while there was no socket yet that could have been closed
                raise SinkError("delivery was ended")
        self._connection.response_class = _responses_until(deadline_s)
        return self._connection

    def _open(self, timeout_s: float) -> http.client.HTTPConnection:
        target, proxy = self._target, self._proxy
        host, port = (target.hostname or "", target.port) if proxy is None else (proxy.host, proxy.port)
        if target.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=timeout_s)
        connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=_tls_context(self._config))
        if proxy is not None:
            connection.set_tunnel(target.hostname or "", target.port or 443, headers=proxy.headers)
        return connection

    def _path(self) -> str:
        path = (self._target.path or "/") + (f"?{self._target.query}" if self._target.query else "")
        through_proxy = self._proxy is not None and self._target.scheme == "http"
        return f"http://{self._target.netloc}{path}" if through_proxy else path

    def _headers(self, batch: Batch) -> dict[str, str]:
        headers = {
            "Content-Type": CONTENT_TYPE,
            "Content-Length": str(sum(len(piece) for piece in encode_frames(batch.frames))),
            "Accept": ACKS_TYPE,
            "User-Agent": "edgeinfer",
            "EdgeInfer-Device": batch.device,
            "EdgeInfer-Epoch": str(batch.epoch),
        }
        if self._config.token_file:
            headers["Authorization"] = f"Bearer {_token(self._config.token_file)}"
        if self._proxy is not None and self._target.scheme == "http":
            headers |= self._proxy.headers
        return headers

    def _ack(self, batch: Batch, headers: http.client.HTTPMessage, body: bytes) -> Ack:
        if headers.get_content_type() != ACKS_TYPE:
            if self._config.receiver == "webhook":
                return Ack(batch.epoch, batch.last_seq)
            raise SinkError(
                f"{self._config.url}: expected a console's acknowledgements, found {headers.get_content_type()}",
                hint='is something in between (a sign-in page)? If it is no console: receiver = "webhook"',
            )
        try:
            acks = msgspec.json.decode(body, type=list[Ack])
        except MALFORMED as error:
            raise SinkError(f"{self._config.url}: expected a list of acknowledgements: {error}") from error
        found = next((ack for ack in acks if ack.epoch == batch.epoch), None)
        if found is None:
            raise SinkError(
                f"{self._config.url}: the console took the batch and acknowledged nothing of epoch {batch.epoch}",
                hint="its page names the messages that it refused, and why",
            )
        return found

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self.local_address = ""
        if connection is not None:
            with suppress(OSError):
                connection.close()


class _UntilDeadline(io.RawIOBase):
    """Reads a socket until a moment: a timeout of the socket alone would begin anew with each byte."""

    def __init__(self, sock: socket.socket, deadline_s: float, *, keeps_open: io.BufferedIOBase) -> None:
        self._sock = sock
        self._deadline_s = deadline_s
        self._keeps_open = keeps_open

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(_left(self._deadline_s))
        return self._sock.recv_into(buffer)

    def close(self) -> None:
        super().close()
        self._keeps_open.close()


def _responses_until(deadline_s: float) -> type[http.client.HTTPResponse]:
    """The answers' type of one request: it reads until `deadline_s` and no longer."""

    class Response(http.client.HTTPResponse):
        def __init__(self, sock: socket.socket, *more: Any, **named: Any) -> None:
            super().__init__(sock, *more, **named)
            # What it has made counts as a user of the socket: it may be read after the connection was closed.
            self.fp = io.BufferedReader(_UntilDeadline(sock, deadline_s, keeps_open=self.fp))

    return Response


def _left(deadline_s: float) -> float:
    """Raises TimeoutError past the deadline."""
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("not within the time that it may take")
    return left_s


def _limit(connection: http.client.HTTPConnection, deadline_s: float) -> None:
    connection.sock.settimeout(_left(deadline_s))


def _blocks(batch: Batch) -> Iterator[memoryview | bytes]:
    """The body in pieces: small ones together, large ones cut, so that a slow peer cannot hold one `send` for ever."""
    small = bytearray()
    for piece in encode_frames(batch.frames):
        if len(piece) < _BLOCK:
            small += piece
            if len(small) >= _BLOCK:
                yield bytes(small)
                small.clear()
            continue
        yield bytes(small)
        small.clear()
        view = memoryview(piece)
        for start in range(0, len(piece), _BLOCK):
            yield view[start : start + _BLOCK]
    yield bytes(small)


def _refusal(url: str, status: int, headers: http.client.HTTPMessage, body: bytes) -> SinkError:
    """The error that an answer other than 2xx stands for."""
    said = _said(body)
    message = f"{url}: answered with status {status}{f': {said}' if said else ''}"
    if status == _TOO_LARGE:
        return BatchTooLargeError(message)
    if status in _NOT_NOW or status >= 500:
        return SinkBusyError(message, retry_after_s=_retry_after_s(headers.get("retry-after", ""), time.time()))
    if status in _UNKNOWN_US:
        return SinkRefusedError(message, hint="[sink] token_file, or the client certificate, is not what it expects")
    if 300 <= status < 400:
        where = headers.get("location", "")[:_MAX_REASON]
        return SinkRefusedError(
            f"{message} to {where!r}", hint="redirects are not followed: write the final address into [sink] url"
        )
    return SinkRefusedError(message, hint="is [sink] url the address that takes results?")


def _said(body: bytes) -> str:
    """What a server says for itself, on one line: a console's `error`, or the beginning of a text."""
    try:
        document = msgspec.json.decode(body)
    except MALFORMED:
        return " ".join(body[:_MAX_REASON].decode("utf-8", errors="replace").split())
    error = document.get("error", "") if isinstance(document, dict) else ""
    return str(error)[:_MAX_REASON]


def _retry_after_s(text: str, now_s: float) -> float:
    """Retry-After (RFC 9110, 10.2.3): seconds or a date, an hour at most; 0 where it says nothing."""
    if text.strip().isdecimal():
        return min(float(text[:12]), _MAX_RETRY_AFTER_S)
    try:
        moment_s = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return max(0.0, min(moment_s - now_s, _MAX_RETRY_AFTER_S))


def _token(path: str) -> str:
    """Raises SinkRefusedError: there is no usable secret in the file."""
    try:
        with Path(path).open("rb") as file:
            token = file.read(_MAX_TOKEN_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SinkRefusedError(f"{path}: the token cannot be read: {_reason(error)}") from error
    if not token or any(character <= " " for character in token):
        raise SinkRefusedError(f"{path}: expected one line with the token", hint="the console's, or this device's own")
    return token


def _tls_context(config: HttpSinkConfig) -> ssl.SSLContext:
    """Read anew for each connection, so that certificates can be renewed. Raises SinkRefusedError."""
    try:
        context = ssl.create_default_context(cafile=config.tls_ca or None)
        if config.tls_cert:
            context.load_cert_chain(config.tls_cert, config.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise SinkRefusedError(f"[sink] tls_ca, tls_cert or tls_key cannot be used: {_reason(error)}") from error
    return context


def _reason(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:_MAX_REASON]
