"""What every sink promises, held against each implementation with a real other side.

Whatever happens, an answer never claims what the other side does not have: `checked` asserts it after each delivery.
"""

import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from certificates import Authority
from edgeinfer.runtime.chunk import COLUMNS, TOMBSTONE, tombstone
from edgeinfer.sync.messages import Ack, ChunkMessage, encode_chunk
from edgeinfer.sync.sinks.base import Batch, BatchTooLargeError, Chunk, Sink, SinkError
from edgeinfer.sync.sinks.http_post import HttpSink
from edgeinfer.sync.sinks.settings import HttpSinkConfig, KafkaSinkConfig
from sink_peers import DEVICE, EPOCH, BadServer, FolderPeer, HttpPeer, KafkaPeer, Peer, contiguous, mute
from waiting import wait_until

Bad = Callable[[int], Sink]


def chunk(first_seq: int, n: int = 10, *, size: int = 200) -> Chunk:
    body = bytes(first_seq % 251 for _ in range(size))
    message = encode_chunk(ChunkMessage(COLUMNS, EPOCH, first_seq, n, zlib.crc32(body), body))
    return Chunk("door", COLUMNS, first_seq, n, message)


def batch(first_seq: int, chunks: int, *, birth: bytes = b"") -> Batch:
    return Batch(DEVICE, EPOCH, tuple(chunk(first_seq + 10 * index) for index in range(chunks)), birth)


def messages(*batches: Batch) -> list[bytes]:
    return [one.message for whole in batches for one in whole.chunks]


def checked(peer: Peer, ack: Ack) -> int:
    """The answer, once it is known that it claims nothing too much."""
    assert ack.epoch == EPOCH
    assert ack.seq <= contiguous(peer.stored())
    return ack.seq


def deliver_and_settle(peer: Peer, sink: Sink, whole: Batch) -> None:
    sink.deliver(whole)
    peer.settle(sink)


@pytest.fixture(params=["console", "webhook", "kafka", "folder"])
def peer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Peer]:
    made: Peer
    if request.param == "kafka":
        made = KafkaPeer()
    elif request.param == "folder":
        made = FolderPeer(tmp_path)
    else:
        made = HttpPeer(request.param)
    yield made
    made.close()


@pytest.fixture(params=["http", "kafka"])
def towards(request: pytest.FixtureRequest) -> Bad:
    """Makes a sink towards a port of this machine, that gives up after a second."""
    if request.param == "http":
        return lambda port: HttpSink(HttpSinkConfig(url=f"http://127.0.0.1:{port}/", timeout_s=1.0))
    pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    from edgeinfer.sync.sinks.kafka import KafkaSink

    return lambda port: KafkaSink(KafkaSinkConfig(brokers=(f"127.0.0.1:{port}",), topic="t", timeout_s=1.0))


def test_what_is_delivered_is_there_byte_for_byte_and_in_order(peer: Peer) -> None:
    sink = peer.sink()
    batches = [batch(1, 5), batch(51, 1), batch(61, 20)]
    for one in batches:
        checked(peer, sink.deliver(one))
    peer.settle(sink)
    assert peer.stored() == messages(*batches)
    sink.close()


def test_the_answer_reaches_the_end(peer: Peer) -> None:
    sink = peer.sink()
    ack = sink.deliver(batch(1, 3))
    peer.settle(sink)
    assert contiguous(peer.stored()) == 30
    if not isinstance(peer, FolderPeer):  # which answers for whole files only
        assert ack == Ack(EPOCH, 30)
    sink.close()


def test_tombstones_pass_unchanged(peer: Peer) -> None:
    gone = tombstone(11, 5_000_000_000, t0_ns=1, reason="full", link=bytes(range(16)))
    message = encode_chunk(ChunkMessage(TOMBSTONE, EPOCH, 11, 4_000_000_000, gone.crc, gone.body, gone.link))
    whole = Batch(DEVICE, EPOCH, (chunk(1), Chunk(gone.pipeline, TOMBSTONE, 11, 4_000_000_000, message)))
    sink = peer.sink()
    checked(peer, sink.deliver(whole))
    peer.settle(sink)
    assert peer.stored() == messages(whole)
    sink.close()


def test_a_dead_other_side_is_an_error_and_the_same_can_be_delivered_later(peer: Peer) -> None:
    first, second = batch(1, 3), batch(31, 30)
    sink = peer.sink()
    checked(peer, sink.deliver(first))
    peer.settle(sink)
    peer.die()
    if isinstance(peer, KafkaPeer):  # the cluster cannot be killed alone: the sink is pointed away from it
        sink.close()
        sink = peer.sink(timeout_s=1.0)
    with pytest.raises(SinkError) as caught:
        deliver_and_settle(peer, sink, second)
    assert caught.value.recoverable
    assert set(peer.stored()) <= set(messages(first, second))
    peer.live()
    sink.close()
    sink = peer.sink()
    checked(peer, sink.deliver(second))
    peer.settle(sink)
    assert set(peer.stored()) == set(messages(first, second))
    sink.close()


def test_the_same_again_does_no_harm(peer: Peer) -> None:
    """As after a crash: from an earlier number on, cut into other batches."""
    sink = peer.sink()
    checked(peer, sink.deliver(batch(1, 6)))
    peer.settle(sink)
    checked(peer, sink.deliver(batch(31, 6)))
    peer.settle(sink)
    assert set(peer.stored()) == set(messages(batch(1, 9)))
    assert contiguous(peer.stored()) == 90
    sink.close()


def test_who_this_device_is_goes_before_its_results(tmp_path: Path) -> None:
    with_birth = batch(1, 1, birth=b"{}")
    http, folder = HttpPeer(), FolderPeer(tmp_path)
    http_sink, folder_sink = http.sink(), folder.sink()
    http_sink.deliver(with_birth)
    folder_sink.deliver(with_birth)
    folder_sink.finish()
    assert [frame.name for frame in http.frames] == ["up/birth", "up/res/door"]
    assert folder.stored() == messages(with_birth)
    http_sink.close()
    http.close()


def test_an_other_side_that_never_answers_is_given_up_in_time(towards: Bad) -> None:
    with BadServer(mute) as server:
        sink = towards(server.port)
        with pytest.raises(SinkError) as caught:
            sink.deliver(batch(1, 3))
        assert caught.value.recoverable
        sink.close()


@pytest.mark.parametrize(
    "answer", [b"", b"\x00" * 64, b"HTTP/1.1 banana\r\n\r\n", b"\xff" * 5000, b"HTTP/9.9 200 OK\r\n"]
)
def test_nonsense_is_an_error_and_no_acknowledgement(towards: Bad, answer: bytes) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(answer)

    with BadServer(talk) as server:
        sink = towards(server.port)
        with pytest.raises(SinkError):
            sink.deliver(batch(1, 3))
        sink.close()


def test_a_delivery_can_be_ended_from_another_thread(towards: Bad) -> None:
    with BadServer(mute) as server:
        sink = HttpSink(HttpSinkConfig(url=f"http://127.0.0.1:{server.port}/", timeout_s=3600.0))
        if not isinstance(towards(server.port), HttpSink):
            from edgeinfer.sync.sinks.kafka import KafkaSink

            sink = KafkaSink(KafkaSinkConfig(brokers=(f"127.0.0.1:{server.port}",), topic="t", timeout_s=3600.0))  # type: ignore[assignment]  # either will do
        failed: list[SinkError] = []

        def deliver() -> None:
            try:
                sink.deliver(batch(1, 3))
            except SinkError as error:
                failed.append(error)

        thread = threading.Thread(target=deliver, daemon=True)
        thread.start()
        wait_until(lambda: server.connections > 0, what="the connection")
        sink.abort()
        thread.join(60)
        assert failed
        with pytest.raises(SinkError):
            sink.deliver(batch(1, 3))
        sink.close()


def test_an_answer_that_drips_is_given_up_in_time() -> None:
    """A timeout of the socket alone would begin anew with each byte, for ever."""
    ended = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while not ended.wait(0.05):
            connection.sendall(b"X-A: b\r\n")

    with BadServer(drip) as server:
        sink = HttpSink(HttpSinkConfig(url=f"http://127.0.0.1:{server.port}/", timeout_s=1.0))
        began = time.monotonic()
        with pytest.raises(SinkError):
            sink.deliver(batch(1, 3))
        assert time.monotonic() - began < 60  # and not never
        ended.set()
        sink.close()


def test_a_console_that_takes_a_part_answers_for_that_part() -> None:
    peer = HttpPeer()
    peer.take = lambda frames: frames[:2]
    sink = peer.sink()
    assert checked(peer, sink.deliver(batch(1, 5))) == 20
    peer.take = lambda frames: frames[:1] + frames[2:]
    assert checked(peer, sink.deliver(batch(21, 4))) == 30
    peer.take = lambda frames: frames
    assert checked(peer, sink.deliver(batch(31, 3))) == 60
    sink.close()
    peer.close()


def test_a_cluster_that_confirms_a_part_is_believed_up_to_the_first_hole() -> None:
    kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    peer = KafkaPeer()
    sink = peer.sink()
    reports = {1: None, 11: None, 21: kafka.KafkaError(kafka.KafkaError._TIMED_OUT), 31: None}
    assert sink._outcome(batch(1, 4), reports).seq == 20  # type: ignore[attr-defined]  # what no cluster can be made to do here
    with pytest.raises(SinkError) as caught:
        sink._outcome(batch(21, 2), {21: reports[21], 31: None})  # type: ignore[attr-defined]  # as above
    assert caught.value.recoverable
    too_large = kafka.KafkaError(kafka.KafkaError.MSG_SIZE_TOO_LARGE)
    with pytest.raises(BatchTooLargeError, match=r"max\.message\.bytes"):
        sink._outcome(batch(21, 1), {21: too_large})  # type: ignore[attr-defined]  # as above
    sink.close()
    peer.close()


def test_records_carry_what_a_reader_needs() -> None:
    peer = KafkaPeer()
    sink = peer.sink()
    sink.deliver(batch(41, 2))
    key, headers, value = peer.records()[0]
    assert (key, value) == (DEVICE, chunk(41).message)
    assert {name: raw.decode() for name, raw in headers.items()} == {
        "content-type": "application/vnd.edgeinfer.chunk",
        "pipeline": "door",
        "epoch": str(EPOCH),
        "first_seq": "41",
        "n": "10",
        "codec": str(COLUMNS),
    }
    sink.close()
    peer.close()


def test_tls_holds_the_server_and_the_client_against_an_authority(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path, "authority"), Authority(tmp_path, "stranger")
    certificate, key = authority.issue("server", address="127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority.certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    peer = HttpPeer("webhook", tls=context)
    own, own_key = authority.issue("dev-1")
    foreign, foreign_key = stranger.issue("dev-2")

    def sink(ca: Path, cert: Path, cert_key: Path) -> HttpSink:
        return HttpSink(
            HttpSinkConfig(url=peer.url, receiver="webhook", tls_ca=str(ca), tls_cert=str(cert), tls_key=str(cert_key))
        )

    good = sink(authority.certificate, own, own_key)
    assert good.deliver(batch(1, 3)) == Ack(EPOCH, 30)
    assert good.deliver(batch(31, 300)) == Ack(EPOCH, 3030)
    assert good.local_address == "127.0.0.1"
    good.close()
    for bad in (sink(stranger.certificate, own, own_key), sink(authority.certificate, foreign, foreign_key)):
        with pytest.raises(SinkError):
            bad.deliver(batch(1, 3))
        bad.close()
    missing = sink(tmp_path / "nothing", own, own_key)
    with pytest.raises(SinkError, match="tls_ca") as caught:
        missing.deliver(batch(1, 3))
    assert not caught.value.recoverable
    assert peer.stored() == messages(batch(1, 3), batch(31, 300))
    peer.close()
