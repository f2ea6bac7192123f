"""Results over HTTP at the console: who may hand in what, and what is answered."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from edgeinfer.console.deliveries import BusyError
from edgeinfer.console.device_tokens import DeviceTokens
from edgeinfer.console.ledger import Ledger
from edgeinfer.console.reception import Books, Reception
from edgeinfer.console.web.guard import Access, Guard
from edgeinfer.console.web.receive import MAX_BODY_BYTES, MAX_MESSAGES, receive_routes
from edgeinfer.console.web.site import error_response
from edgeinfer.runtime.errors import BufferStorageError, EdgeInferError
from edgeinfer.runtime.trust import SigningKey, open_envelope
from edgeinfer.sync.export.receipts import Receipt
from edgeinfer.sync.messages import Ack
from edgeinfer.sync.sinks.framing import ACKS_TYPE, CONTENT_TYPE, END, Frame, encode_frames

CONSOLE_TOKEN = "the-console-token-1234"
DEVICE_TOKEN = "the-device-token-12345"
BODY = b"".join(encode_frames([Frame("up/res/door", b"first"), Frame("up/res/door", b"second")]))


class Memory:
    """What the reception needs of ingest and repository."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.error: EdgeInferError | None = None
        self.ledger = Ledger()

    def deliver(self, messages: Sequence[tuple[str, bytes]], _timeout_s: float) -> dict[str, tuple[Ack, ...]]:
        if self.error is not None:
            raise self.error
        self.messages += messages
        return {"dev-1": (Ack(7, 20),), "dev-2": (Ack(8, 99),)}

    def ledgers(self, device: str) -> dict[int, Ledger]:
        return {7: self.ledger} if device == "dev-1" else {}

    def link_at(self, _device: str, _epoch: int, seq: int) -> bytes:
        return bytes([seq]) * 16


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def key() -> SigningKey:
    return SigningKey.generate()


class Client:
    """Asks the application without a socket."""

    def __init__(self, app: Starlette) -> None:
        self._app = app

    def get(self, path: str) -> httpx.Response:
        return self.ask("GET", path)

    def post(
        self, path: str, content: bytes | AsyncIterator[bytes] = b"", headers: dict[str, str] | None = None
    ) -> httpx.Response:
        return self.ask("POST", path, content, headers)

    def ask(
        self, method: str, path: str, content: bytes | AsyncIterator[bytes] = b"", headers: dict[str, str] | None = None
    ) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, path, content=content, headers=headers)

        return asyncio.run(ask())


def client_of(memory: Memory, key: SigningKey, tokens: Path, *, token: str | None = None) -> Client:
    reception = Reception(memory.deliver, memory, key=key, tenant="default")  # type: ignore[arg-type]  # the part that it needs
    access = Access(token=token, for_reading=False, hosts=())

    def failed(_request: Request, error: Exception) -> Response:
        assert isinstance(error, EdgeInferError)
        return error_response(error)

    app = Starlette(
        routes=receive_routes(reception, access=lambda: access, tokens=DeviceTokens(tokens)),
        middleware=[Middleware(Guard, access=lambda: access)],
        exception_handlers={EdgeInferError: failed},
    )
    return Client(app)


@pytest.fixture
def client(memory: Memory, key: SigningKey, tmp_path: Path) -> Client:
    return client_of(memory, key, tmp_path / "devices")


def post(
    client: Client, device: str = "dev-1", body: bytes = BODY, *, token: str = "", kind: str = CONTENT_TYPE
) -> tuple[int, bytes]:
    headers = {"content-type": kind} | ({"authorization": f"Bearer {token}"} if token else {})
    answer = client.post(f"/api/v1/ingest/{device}", content=body, headers=headers)
    return answer.status_code, answer.content


def test_messages_go_to_ingest_and_its_acknowledgements_come_back(client: Client, memory: Memory) -> None:
    answer = client.post("/api/v1/ingest/dev-1", content=BODY, headers={"content-type": f"{CONTENT_TYPE}; v=1"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, ACKS_TYPE)
    assert msgspec.json.decode(answer.content, type=list[Ack]) == [Ack(7, 20)]
    assert memory.messages == [
        ("ei/v1/default/d/dev-1/up/res/door", b"first"),
        ("ei/v1/default/d/dev-1/up/res/door", b"second"),
    ]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (BODY[:-1], 400),
        (BODY + END, 400),
        (b"\0\0\0\1", 400),
        (b"\xff" * 100, 400),
        (b"".join(encode_frames([Frame("up/get", b"x")])), 400),
        (b"".join(encode_frames([Frame("down/ack", b"x")])), 400),
        (b"".join(encode_frames([Frame("up/res/\xe9", b"x")])), 400),
        (b"x" * (MAX_BODY_BYTES + 1), 413),
        (b"".join(encode_frames([Frame("up/tel", b"x")])) * (MAX_MESSAGES + 1), 413),
        (b"", 200),
    ],
)
def test_what_is_no_row_of_messages_is_refused_whole(client: Client, memory: Memory, body: bytes, status: int) -> None:
    assert post(client, body=body)[0] == status
    assert memory.messages == []


def test_a_body_that_does_not_say_how_long_it_is_is_bounded_too(client: Client, memory: Memory) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield b"".join(encode_frames([Frame("up/tel", bytes(60_000))]))

    answer = client.post("/api/v1/ingest/dev-1", content=pieces(), headers={"content-type": CONTENT_TYPE})
    assert answer.status_code == 413
    assert memory.messages == []


def test_another_kind_of_body_is_refused(client: Client) -> None:
    assert post(client, kind="application/json")[0] == 415


@pytest.mark.parametrize("device", ["..", "a b", "x" * 65, "-", "%2e%2e"])
def test_names_that_are_none(client: Client, device: str) -> None:
    assert post(client, device)[0] in {400, 404, 405}


@pytest.mark.parametrize("error", [BusyError("later"), BufferStorageError("disk full")])
def test_what_cannot_be_stored_now_is_asked_for_again(client: Client, memory: Memory, error: EdgeInferError) -> None:
    memory.error = error
    answer = client.post("/api/v1/ingest/dev-1", content=BODY, headers={"content-type": CONTENT_TYPE})
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    memory.error = None
    assert post(client)[0] == 200  # and the place that it took is free again


def test_a_device_speaks_for_itself_only(memory: Memory, key: SigningKey, tmp_path: Path) -> None:
    tokens = tmp_path / "devices"
    tokens.mkdir()
    (tokens / "dev-1.token").write_text(DEVICE_TOKEN + "\n")
    (tokens / "dev-3.token").write_text("short\n")
    for console_token in (CONSOLE_TOKEN, None):
        client = client_of(memory, key, tokens, token=console_token)
        assert post(client)[0] == 401
        assert post(client, token=DEVICE_TOKEN)[0] == 200
        assert post(client, "dev-2", token=DEVICE_TOKEN)[0] == 403
        assert post(client, "dev-3", token="short")[0] == 403
        assert post(client, token="wrong-wrong-wrong-wrong")[0] == 403
        assert post(client, "dev-2", token=CONSOLE_TOKEN)[0] == (200 if console_token else 403)
    (tokens / "dev-1.token").unlink()  # taken back, at once
    assert post(client_of(memory, key, tokens, token=CONSOLE_TOKEN), token=DEVICE_TOKEN)[0] == 403


def test_with_a_console_token_nobody_hands_in_without(memory: Memory, key: SigningKey, tmp_path: Path) -> None:
    client = client_of(memory, key, tmp_path / "devices", token=CONSOLE_TOKEN)
    assert post(client)[0] == 401
    assert client.get("/api/v1/ingest/dev-1").status_code == 401
    assert client.post("/api/v1/receipts/dev-1?epoch=7").status_code == 401
    assert post(client, token=CONSOLE_TOKEN)[0] == 200
    assert len(memory.messages) == 2


def test_another_site_cannot_have_a_browser_hand_in(client: Client, memory: Memory) -> None:
    answer = client.post(
        "/api/v1/ingest/dev-1",
        content=BODY,
        headers={"content-type": CONTENT_TYPE, "origin": "http://evil.example", "sec-fetch-site": "cross-site"},
    )
    assert answer.status_code == 403
    assert memory.messages == []


def test_the_books_of_a_device(client: Client, memory: Memory) -> None:
    memory.ledger.store(1, 10)
    memory.ledger.store(21, 5)
    memory.ledger.store(1, 3)
    document = client.get("/api/v1/ingest/dev-1").json()
    (books,) = msgspec.convert(document["epochs"], list[Books])
    assert (document["tenant"], document["device"]) == ("default", "dev-1")
    assert (books.epoch, books.acknowledged, books.highest, books.stored, books.duplicates) == (7, 10, 25, 15, 3)
    assert books.gaps == ((11, 20),)
    assert client.get("/api/v1/ingest/unknown").json()["epochs"] == []


def test_a_receipt_is_signed_for_what_is_stored(client: Client, memory: Memory, key: SigningKey) -> None:
    memory.ledger.store(1, 10)
    sealed = client.post("/api/v1/receipts/dev-1?epoch=7").content
    receipt = msgspec.json.decode(open_envelope(sealed, [key.public]), type=Receipt)
    assert (receipt.device, receipt.tenant, receipt.epoch, receipt.seq) == ("dev-1", "default", 7, 10)
    assert receipt.link == "0a" * 16
    for query in ("", "?epoch=", "?epoch=8", "?epoch=-7", "?epoch=x", "?epoch=" + "9" * 40):
        assert client.post(f"/api/v1/receipts/dev-1{query}").status_code == 400
