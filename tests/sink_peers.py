"""The other side of a sink, for tests: a small console or webhook over HTTP, a Kafka cluster, a folder; and sockets
that behave badly. Each tells what it durably has, as chunk messages."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import msgspec
import pytest

from brokers import free_port
from edgeinfer.runtime.errors import MessageError
from edgeinfer.sync.export.reading import check_file, found_files, frames_of
from edgeinfer.sync.export.writing import ExportSink
from edgeinfer.sync.messages import Ack, decode_chunk
from edgeinfer.sync.sinks.base import Sink
from edgeinfer.sync.sinks.framing import ACKS_TYPE, Frame, Frames
from edgeinfer.sync.sinks.http_post import HttpSink
from edgeinfer.sync.sinks.settings import HttpSinkConfig, KafkaSinkConfig

if TYPE_CHECKING:
    from confluent_kafka import Producer

__all__ = ["DEVICE", "EPOCH", "BadServer", "FolderPeer", "HttpPeer", "KafkaPeer", "Peer", "contiguous", "mute"]

DEVICE, EPOCH = "dev-1", 7


def contiguous(stored: Iterable[bytes]) -> int:
    """Up to which number chunk messages have every number."""
    reached = 0
    for first, n in sorted((found.first_seq, found.n) for found in map(decode_chunk, stored)):
        if first > reached + 1:
            break
        reached = max(reached, first + n - 1)
    return reached


class Peer(Protocol):
    def sink(self, *, timeout_s: float = 60.0) -> Sink: ...

    def settle(self, sink: Sink) -> None:
        """Have what the sink holds itself handed over."""

    def stored(self) -> list[bytes]:
        """The chunk messages that are there for good, in the order in which they came."""

    def die(self) -> None: ...

    def live(self) -> None: ...

    def close(self) -> None: ...


class HttpPeer:
    """`receiver` as in HttpSinkConfig. `answer` replaces the answer to a request: status, headers, body. `take`
    chooses which frames of a request are stored. What is stored survives `die`."""

    def __init__(self, receiver: str = "console", *, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.receiver = receiver
        self.frames: list[Frame] = []
        self.answer: Callable[[], tuple[int, dict[str, str], bytes] | None] = lambda: None
        self.take: Callable[[list[Frame]], list[Frame]] = lambda frames: frames
        self.requests: list[dict[str, str]] = []
        self._server: ThreadingHTTPServer | None = None
        self._port = free_port()
        self.live()

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self._port}/in"

    def sink(self, *, timeout_s: float = 60.0) -> HttpSink:
        return HttpSink(
            msgspec.convert(
                {"kind": "http", "url": self.url, "receiver": self.receiver, "timeout_s": timeout_s}, HttpSinkConfig
            )
        )

    def settle(self, sink: Sink) -> None:
        pass

    def stored(self) -> list[bytes]:
        return [frame.payload for frame in self.frames if frame.name.startswith("up/res/")]

    def die(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def live(self) -> None:
        peer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                peer.handle(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            allow_reuse_address = True
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Server(("127.0.0.1", self._port), Handler)
        if self._tls is not None:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), name="http-peer", daemon=True).start()

    def close(self) -> None:
        self.die()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["content-length"]))
        self.requests.append(dict(request.headers.items()))
        if self._server is None:
            request.close_connection = True
            return
        status, headers, answer = self.answer() or self._taken(body)
        request.send_response(status)
        for name, value in {"Content-Length": str(len(answer)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(answer)

    def acknowledged(self) -> int:
        return contiguous(self.stored())

    def _taken(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        parser = Frames()
        frames = list(parser.feed(body))
        parser.finish()
        self.frames += self.take(frames)
        if self.receiver == "webhook":
            return 200, {"Content-Type": "text/plain"}, b"thanks"
        epoch = next((decode_chunk(raw).epoch for raw in self.stored()), EPOCH)
        return 200, {"Content-Type": ACKS_TYPE}, msgspec.json.encode([Ack(epoch, self.acknowledged())])


class KafkaPeer:
    """librdkafka's mock cluster: a real implementation of the protocol, on real sockets."""

    def __init__(self) -> None:
        kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
        self._cluster: Producer = kafka.Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "x", "log_level": 0})
        brokers = self._cluster.list_topics(timeout=60).brokers.values()
        self.address = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
        self._stand_in = ""

    def config(self, *, timeout_s: float = 60.0) -> KafkaSinkConfig:
        return KafkaSinkConfig(brokers=(self._stand_in or self.address,), topic="results", timeout_s=timeout_s)

    def sink(self, *, timeout_s: float = 60.0) -> Sink:
        from edgeinfer.sync.sinks.kafka import KafkaSink

        return KafkaSink(self.config(timeout_s=timeout_s))

    def settle(self, sink: Sink) -> None:
        pass

    def records(self) -> list[tuple[str, dict[str, bytes], bytes]]:
        """Key, headers and value of each record, in order: read by a consumer of its own."""
        from confluent_kafka import Consumer, TopicPartition

        settings = {"bootstrap.servers": self.address, "group.id": "t", "enable.partition.eof": True, "log_level": 0}
        consumer = Consumer(settings)
        found: list[tuple[str, dict[str, bytes], bytes]] = []
        try:
            topics = consumer.list_topics("results", timeout=60).topics["results"].partitions
            consumer.assign([TopicPartition("results", number, 0) for number in topics])
            ends = 0
            while ends < len(topics):
                message = consumer.poll(60.0)
                assert message is not None, "the mock cluster does not answer"
                if message.error() is not None:
                    ends += 1
                    continue
                key, value = message.key() or b"", message.value() or b""
                headers: Any = message.headers() or []  # pairs of a name and bytes, which their types do not say
                found.append((key.decode(), dict(headers), value))
        finally:
            consumer.close()
        return found

    def stored(self) -> list[bytes]:
        return [value for _, _, value in self.records()]

    def die(self) -> None:
        """For sinks that are made from here on: a cluster cannot be killed alone."""
        self._stand_in = f"127.0.0.1:{free_port()}"

    def live(self) -> None:
        self._stand_in = ""

    def close(self) -> None:
        self._cluster.flush(0)


class FolderPeer:
    """A folder as a stick; dead, it is pulled out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "stick"
        self._away = folder / "away"
        self.folder.mkdir()
        self.max_bytes = 4096

    def sink(self, *, timeout_s: float = 60.0) -> ExportSink:
        del timeout_s
        return ExportSink(self.folder, device=DEVICE, tenant="default", epoch=EPOCH, max_bytes=self.max_bytes)

    def settle(self, sink: Sink) -> None:
        assert isinstance(sink, ExportSink)
        sink.finish()

    def stored(self) -> list[bytes]:
        folder = self.folder if self.folder.exists() else self._away
        checked = []
        for path in found_files(folder):
            try:
                checked.append(check_file(path))
            except MessageError:
                continue
        checked.sort(key=lambda one: one.file.first_seq)
        frames = [frame for one in checked for frame in frames_of(one.path)]
        return [frame.payload for frame in frames if frame.name != "up/birth"]

    def die(self) -> None:
        self.folder.rename(self._away)

    def live(self) -> None:
        self._away.rename(self.folder)

    def close(self) -> None:
        pass


class BadServer:
    """Accepts connections and does to each what `behave` does: never answers, answers nonsense, answers slowly."""

    def __init__(self, behave: Callable[[socket.socket], None]) -> None:
        self._behave = behave
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept, name="bad-server", daemon=True)
        self.connections = 0

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()  # what it took last is among the open ones
        self._listener.close()
        for connection in self._open:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            self._behave(connection)
        except OSError:
            pass
        finally:
            if self._behave is not mute:
                connection.close()


def mute(_connection: socket.socket) -> None:
    """Takes the connection and says nothing."""
