"""The local page and the metrics: HTTP for this device alone.

    /                    the page
    /status.json         the status document
    /metrics             for Prometheus
    /live/{pipeline}.jpg, .mjpg, .json    the newest frame, a stream of them, and one for the page to draw

Nothing here changes anything, and nobody is asked who they are: it listens on a loopback address or a unix socket
only. A page of another site that a browser on this device shows must not read it either: the Host header has to name
this device (else a name that was made to point here, DNS rebinding, would get in), and nothing allows other origins.

It must cost the pipelines nothing: a bounded number of threads, requests a second, bytes and seconds; and it is never
waited for when the daemon ends.
"""

import contextlib
import http.server
import logging
import socket
import socketserver
import stat
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from edgeinfer.runtime.errors import DependencyError, EdgeInferError
from edgeinfer.runtime.local.live import LiveBoard
from edgeinfer.runtime.local.page import CONTENT_SECURITY_POLICY, PAGE
from edgeinfer.runtime.local.settings import Address, LocalConfig, parse_listen
from edgeinfer.runtime.local.shots import Shots

__all__ = ["LocalServer", "host_is_this_device"]

logger = logging.getLogger(__name__)

_MAX_CONNECTIONS = 16
_MAX_STREAMS = 4
_MAX_HEAD_BYTES = 16 << 10
_PATIENCE_S = 5.0
_ACCEPT_INTERVAL_S = 0.004
_STATUS_AGE_S = 0.25
_STREAM_INTERVAL_S = 0.1
_BOUNDARY = "edgeinfer-frame"

Document = dict[str, Any]
Body = tuple[HTTPStatus, str, bytes]


class LocalServer:
    """`start` never raises: a daemon without a page infers all the same, and says in its log why there is none."""

    def __init__(self, config: LocalConfig, board: LiveBoard, status: Callable[[], Document]) -> None:
        self.config = config
        self.shots = Shots(board, config)
        self.stopping = threading.Event()
        self.streams = threading.BoundedSemaphore(_MAX_STREAMS)
        self.address = parse_listen(config.listen)
        self.url = ""  # where it listens, once it does: the port may be left to the system
        self._status = status
        self._status_lock = threading.Lock()
        self._made: tuple[float, Document] = (float("-inf"), {})
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        try:
            self._server = _Server(self)
        except OSError as error:
            logger.warning("event=local_page_unavailable listen=%s error=%s", self.config.listen, error)
            return
        self.url = _url(self._server.socket.getsockname())
        logger.info("event=local_page listen=%s", self.url)
        self._thread = threading.Thread(target=self._run, args=(self._server,), name="local", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Waits for nobody: the threads end with the process."""
        self.stopping.set()
        if self._server is not None and self._thread is not None:
            with contextlib.suppress(OSError):
                self._server.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            self._thread.join(0.2)
            if self.address.path:
                Path(self.address.path).unlink(missing_ok=True)

    def status(self) -> Document:
        """The status document, not older than a quarter of a second, however many ask."""
        with self._status_lock:
            made_s, document = self._made
            if time.monotonic() - made_s >= _STATUS_AGE_S:
                document = self._status()
                self._made = (time.monotonic(), document)
            return document

    def _run(self, server: "_Server") -> None:
        with server:
            while not self.stopping.is_set():
                try:
                    server.handle_request()
                except Exception:
                    logger.exception("event=local_page_crashed")
                    self.stopping.wait(0.1)


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Not http.server's own: that one looks the address up in the DNS."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 16
    timeout = 1.0

    def __init__(self, local: LocalServer) -> None:
        self.local = local
        self._slots = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        self._accepted_s = 0.0
        where = local.address
        self.address_family = _family(where)
        if where.path:
            _remove_stale(Path(where.path))
        # mypy takes the path of a unix socket for no address; socketserver hands it to bind() as it is.
        super().__init__(where.path or (where.host, where.port), _Handler)  # type: ignore[arg-type]
        if where.path:
            Path(where.path).chmod(0o660)

    def process_request(self, request: Any, client_address: Any) -> None:
        now_s = time.monotonic()
        if now_s - self._accepted_s < _ACCEPT_INTERVAL_S:  # a flood must not take the interpreter from the pipelines
            time.sleep(_ACCEPT_INTERVAL_S)
        self._accepted_s = now_s
        if not self._slots.acquire(blocking=False):
            request.settimeout(0.0)
            with contextlib.suppress(OSError):
                request.send(b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n")
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started
            self._slots.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver's signature
        """Who left, or was too slow, is no news."""
        logger.debug("event=local_request_broken", exc_info=True)


class _Head:
    """The request's head: what a client says before it gets an answer, within a size and a time for all of it."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._deadline_s = time.monotonic() + _PATIENCE_S
        self._left = _MAX_HEAD_BYTES
        self._read = bytearray()

    def readline(self, limit: int = -1) -> bytes:
        """Raises TimeoutError for a client that says too much, or nothing, or that very slowly."""
        del limit
        while b"\n" not in self._read:
            wait_s = self._deadline_s - time.monotonic()
            if wait_s <= 0 or self._left <= 0:
                raise TimeoutError("the request's head is too long or too slow")
            self._socket.settimeout(wait_s)
            block = self._socket.recv(min(2048, self._left))
            if not block:
                break
            self._left -= len(block)
            self._read += block
        line, newline, rest = self._read.partition(b"\n")
        self._read = rest
        return bytes(line + newline)

    def close(self) -> None:
        """The connection is the handler's to close."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.0"  # a connection a request: none idles in a thread
    server_version, sys_version = "edgeinfer", ""

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = _Head(self.connection)  # type: ignore[assignment]  # all that is asked of it is readline and close

    def do_GET(self) -> None:
        self.connection.settimeout(_PATIENCE_S)
        local = self.server.local
        if not local.address.path and not host_is_this_device(self.headers.get("Host", "")):
            self._send(_text(HTTPStatus.MISDIRECTED_REQUEST, "this page answers to localhost only"))
            return
        path = urlsplit(self.path).path
        if path.startswith("/live/") and path.endswith(".mjpg") and local.config.page:
            self._stream(unquote(path.removeprefix("/live/").removesuffix(".mjpg")))
            return
        try:
            self._send(self._body(path))
        except DependencyError as error:
            self._send(_text(HTTPStatus.NOT_IMPLEMENTED, str(error)))
        except EdgeInferError as error:
            self._send(_text(HTTPStatus.SERVICE_UNAVAILABLE, str(error)))

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def _body(self, path: str) -> Body:
        local = self.server.local
        if path == "/metrics" and local.config.metrics:
            from edgeinfer.runtime.local import metrics

            return HTTPStatus.OK, metrics.CONTENT_TYPE, metrics.render(local.status())
        if path == "/status.json":
            return _json(local.status())
        if path == "/" and local.config.page:
            return HTTPStatus.OK, "text/html; charset=utf-8", PAGE
        if path.startswith("/live/") and local.config.page:
            pipeline, _, kind = unquote(path.removeprefix("/live/")).rpartition(".")
            return self._live(pipeline, kind)
        return _text(HTTPStatus.NOT_FOUND, "there is /, /status.json, /metrics and /live/PIPELINE.jpg")

    def _live(self, pipeline: str, kind: str) -> Body:
        shots = self.server.local.shots
        if urlsplit(self.path).query == f"after={shots.number(pipeline)}":
            return HTTPStatus.NO_CONTENT, "text/plain", b""
        if kind == "json":
            document = shots.document(pipeline)
            if document is not None:
                return _json(document)
        elif kind == "jpg":
            shot = shots.jpeg(pipeline, drawn=True)
            if shot is not None:
                return HTTPStatus.OK, "image/jpeg", shot[1]
        return _text(HTTPStatus.NOT_FOUND, "no such pipeline, or no picture of it yet")

    def _stream(self, pipeline: str) -> None:
        """Pictures for as long as they are taken, for a player that knows no other way."""
        local = self.server.local
        if not local.streams.acquire(blocking=False):
            self._send(_text(HTTPStatus.SERVICE_UNAVAILABLE, f"{_MAX_STREAMS} streams are all that there are"))
            return
        try:
            if local.shots.jpeg(pipeline, drawn=True) is None:
                self._send(_text(HTTPStatus.NOT_FOUND, "no such pipeline, or no picture of it yet"))
                return
            self._begin(HTTPStatus.OK, f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
            if self.command != "HEAD":
                self._send_frames(pipeline)
        finally:
            local.streams.release()

    def _send_frames(self, pipeline: str) -> None:
        local, sent = self.server.local, -1
        while not local.stopping.wait(_STREAM_INTERVAL_S):
            shot = local.shots.jpeg(pipeline, drawn=True)
            if shot is None:  # the pipeline has gone
                return
            number, picture = shot
            if number != sent:
                sent = number
                head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                self.wfile.write(head.encode("ascii") + picture + b"\r\n")

    def _send(self, body: Body) -> None:
        status, kind, content = body
        self._begin(status, kind, len(content))
        if self.command != "HEAD":
            self.wfile.write(content)

    def _begin(self, status: HTTPStatus, kind: str, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that the base class gives it
        """Nothing: requests can come by the thousand."""

    def address_string(self) -> str:
        return "local"


def host_is_this_device(host: str) -> bool:
    """Whether a Host header (RFC 9110, section 7.2) names this device as itself; any port will do, for it may have
    come through an ssh tunnel."""
    name, _, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    if not name:
        name, port = host, ""
    if port and not (port.isascii() and port.isdigit()):
        return False
    if name.lower() in {"localhost", "[::1]"}:
        return True
    try:
        return bool(parse_listen(f"{name}:0").host == name)
    except ValueError:
        return False


def _url(name: str | tuple[str, int]) -> str:
    """What `getsockname` gives, as one would write it."""
    if isinstance(name, str):
        return f"unix:{name}"
    host, port = name[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _json(document: Document) -> Body:
    return HTTPStatus.OK, "application/json", msgspec.json.encode(document)


def _text(status: HTTPStatus, text: str) -> Body:
    return status, "text/plain; charset=utf-8", f"{text}\n".encode()


def _family(where: Address) -> socket.AddressFamily:
    if where.path:
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in where.host else socket.AF_INET


def _remove_stale(path: Path) -> None:
    """A socket that a daemon before this one left behind. Raises OSError where somebody listens there, or where it is
    something else."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(f"{path}: something else is in its place")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(f"{path}: another process listens there")
