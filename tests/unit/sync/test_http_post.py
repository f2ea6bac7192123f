"""What HttpSink makes of statuses, headers, tokens and proxies."""

import contextlib
import email.utils
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from certificates import Authority
from edgeinfer.sync.messages import Ack
from edgeinfer.sync.sinks.base import Batch, BatchTooLargeError, Chunk, SinkBusyError, SinkError, SinkRefusedError
from edgeinfer.sync.sinks.framing import ACKS_TYPE, CONTENT_TYPE
from edgeinfer.sync.sinks.http_post import HttpSink
from edgeinfer.sync.sinks.proxy import proxy_for
from edgeinfer.sync.sinks.settings import HttpSinkConfig
from sink_peers import DEVICE, EPOCH, BadServer, HttpPeer

BATCH = Batch(DEVICE, EPOCH, (Chunk("door", 1, 1, 10, b"x" * 300_000), Chunk("door", 1, 11, 5, b"y")))


@pytest.fixture
def peer() -> Iterator[HttpPeer]:
    made = HttpPeer("webhook")
    yield made
    made.close()


def answer(peer: HttpPeer, status: int, body: bytes = b"", **headers: str) -> None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    peer.answer = lambda: (status, named, body)


@pytest.mark.parametrize(
    ("status", "error", "recoverable"),
    [
        (301, SinkRefusedError, False),
        (307, SinkRefusedError, False),
        (400, SinkRefusedError, False),
        (401, SinkRefusedError, False),
        (403, SinkRefusedError, False),
        (404, SinkRefusedError, False),
        (408, SinkBusyError, True),
        (413, BatchTooLargeError, True),
        (429, SinkBusyError, True),
        (500, SinkBusyError, True),
        (503, SinkBusyError, True),
        (599, SinkBusyError, True),
    ],
)
def test_statuses(peer: HttpPeer, status: int, error: type[SinkError], *, recoverable: bool) -> None:
    answer(peer, status, b'{"error": "because"}', location="http://elsewhere/")
    sink = peer.sink()
    with pytest.raises(error, match=f"status {status}: because") as caught:
        sink.deliver(BATCH)
    assert type(caught.value) is error
    assert caught.value.recoverable is recoverable
    sink.close()


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("7", 7, 7),
        ("99999999", 3600, 3600),
        ("soon", 0, 0),
        ("-3", 0, 0),
        ("", 0, 0),
        ("in ten minutes", 500, 600),
        (email.utils.formatdate(0, usegmt=True), 0, 0),
        ("Mon, 99 Foo 99999 99:99:99 GMT", 0, 0),
    ],
)
def test_retry_after(peer: HttpPeer, text: str, least: float, most: float) -> None:
    if text == "in ten minutes":
        text = email.utils.formatdate(time.time() + 600, usegmt=True)
    answer(peer, 503, retry_after=text)
    sink = peer.sink()
    with pytest.raises(SinkBusyError) as caught:
        sink.deliver(BATCH)
    assert least <= caught.value.retry_after_s <= most
    sink.close()


def test_a_webhook_takes_all_with_a_status(peer: HttpPeer) -> None:
    for status in (200, 201, 202, 204):
        answer(peer, status)
        sink = peer.sink()
        assert sink.deliver(BATCH) == Ack(EPOCH, 15)
        sink.close()


def test_a_console_has_to_acknowledge(peer: HttpPeer) -> None:
    """A sign-in page of the hotel's Wi-Fi answers 200, too."""
    peer.receiver = "console"
    sink = peer.sink()
    answer(peer, 200, b"<html>Welcome", Content_Type="text/html")
    with pytest.raises(SinkError, match="text/html"):
        sink.deliver(BATCH)
    for body in (b"", b"{}", b"[1]", b"[" * 100_000, b"\xff", msgspec.json.encode([Ack(EPOCH + 1, 15)]), b"[]"):
        answer(peer, 200, body, Content_Type=ACKS_TYPE)
        with pytest.raises(SinkError):
            sink.deliver(BATCH)
    answer(peer, 200, msgspec.json.encode([Ack(EPOCH + 1, 9), Ack(EPOCH, 10)]), Content_Type=ACKS_TYPE)
    assert sink.deliver(BATCH) == Ack(EPOCH, 10)
    sink.close()


def test_an_answer_without_end_is_cut(peer: HttpPeer) -> None:
    answer(peer, 200, b"x" * 1_000_000)
    sink = peer.sink()
    with pytest.raises(SinkError, match="at most"):
        sink.deliver(BATCH)
    sink.close()


def test_the_connection_is_kept_and_replaced_when_the_server_has_closed_it(peer: HttpPeer) -> None:
    answer(peer, 200, b"ok")
    sink = peer.sink()
    sink.deliver(BATCH)
    first = sink._connection
    sink.deliver(BATCH)
    assert sink._connection is first
    assert first is not None
    first.sock.shutdown(2)
    assert sink.deliver(BATCH) == Ack(EPOCH, 15)
    assert sink._connection is not first
    answer(peer, 200, b"ok", connection="close")
    sink.deliver(BATCH)
    assert sink._connection is None
    assert sink.local_address == ""
    sink.close()


def test_the_token_is_read_for_each_request_and_never_shown(peer: HttpPeer, tmp_path: Path) -> None:
    answer(peer, 200)
    file = tmp_path / "token"
    sink = HttpSink(HttpSinkConfig(url=peer.url, receiver="webhook", token_file=str(file)))
    with pytest.raises(SinkRefusedError, match="cannot be read"):
        sink.deliver(BATCH)
    for token in ("first-secret", "second-secret"):
        file.write_text(f"{token}\n")
        sink.deliver(BATCH)
        assert peer.requests[-1]["Authorization"] == f"Bearer {token}"
    assert peer.requests[-1]["Content-Type"] == CONTENT_TYPE
    for wrong in ("", "two words", "line\nbreak"):
        file.write_text(wrong)
        with pytest.raises(SinkRefusedError, match="one line") as caught:
            sink.deliver(BATCH)
        assert wrong == "" or wrong not in str(caught.value)
    sink.close()


@pytest.mark.parametrize(
    ("url", "environment", "expected"),
    [
        ("http://a.example/x", {}, None),
        ("http://a.example/x", {"http_proxy": "http://p:3128"}, ("p", 3128)),
        ("http://a.example/x", {"HTTP_PROXY": "http://p:3128"}, None),  # a CGI's stranger
        ("https://a.example/x", {"HTTPS_PROXY": "p:3128"}, ("p", 3128)),
        ("https://a.example/x", {"https_proxy": "http://p"}, ("p", 80)),
        ("https://a.example/x", {"https_proxy": "http://p", "no_proxy": "b, .example"}, None),
        ("https://a.example/x", {"https_proxy": "http://p", "no_proxy": "ample"}, ("p", 80)),
        ("https://a.example/x", {"https_proxy": "http://p", "no_proxy": "*"}, None),
        ("https://a.example/x", {"https_proxy": "socks5://p:1"}, None),
    ],
)
def test_proxies(url: str, environment: dict[str, str], expected: tuple[str, int] | None) -> None:
    found = proxy_for(url, environment)
    assert (None if found is None else (found.host, found.port)) == expected


def test_a_proxy_is_shown_who_we_are_and_its_password_to_nobody(
    peer: HttpPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(peer, 200)
    monkeypatch.setenv("http_proxy", peer.url.replace("http://", "http://us%65r:pass@"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    sink = HttpSink(HttpSinkConfig(url="http://far.example/in?a=b", receiver="webhook"))
    assert "pass" not in repr(sink._proxy)
    assert sink.deliver(BATCH) == Ack(EPOCH, 15)
    assert peer.requests[-1]["Proxy-Authorization"] == "Basic dXNlcjpwYXNz"
    assert peer.requests[-1]["Host"] == "far.example"
    sink.close()


def test_tls_goes_through_a_proxy_without_it_seeing_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path, "authority")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server", address="127.0.0.1"))
    peer, heard = HttpPeer("webhook", tls=context), bytearray()
    answer(peer, 200)

    def tunnel(client: socket.socket) -> None:
        head = client.recv(4096)
        heard.extend(head)
        host, _, port = head.split()[1].decode().rpartition(":")
        with socket.create_connection((host, int(port))) as server:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=pump, args=(server, client), daemon=True)
            back.start()
            pump(client, server, keep=heard)
            back.join(60)

    with BadServer(tunnel) as proxy:
        monkeypatch.setenv("https_proxy", f"http://u:p@127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "")
        (tmp_path / "token").write_text("the-secret")
        sink = HttpSink(
            HttpSinkConfig(
                url=peer.url,
                receiver="webhook",
                tls_ca=str(authority.certificate),
                token_file=str(tmp_path / "token"),
            )
        )
        assert sink.deliver(BATCH) == Ack(EPOCH, 15)
        sink.close()
    assert heard.startswith(b"CONNECT 127.0.0.1:")
    assert b"Proxy-Authorization: Basic dTpw" in heard
    assert b"the-secret" not in heard
    assert peer.requests[-1]["Authorization"] == "Bearer the-secret"
    assert "Proxy-Authorization" not in peer.requests[-1]
    peer.close()


def pump(source: socket.socket, target: socket.socket, *, keep: bytearray | None = None) -> None:
    try:
        while data := source.recv(1 << 16):
            if keep is not None:
                keep.extend(data)
            target.sendall(data)
    except OSError:
        pass
    finally:
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
