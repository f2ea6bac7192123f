"""Results over HTTP: a device (or whoever carried its files) posts framed messages, and is told what is stored.

    POST /api/v1/ingest/DEVICE      frames (`edgeinfer.sync.sinks.framing`); 200: a list of acknowledgements, after
                                    COMMIT; 400 no frames, 401 or 403 not this device, 413 too large, 503 not now
    GET  /api/v1/ingest/DEVICE      what is stored of each epoch
    POST /api/v1/receipts/DEVICE?epoch=N    a signed receipt (needs the console's token)

A device's own token speaks for that device only; the console's token speaks for any.
"""

import asyncio
from collections.abc import Callable

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from edgeinfer.console.device_tokens import DeviceTokens
from edgeinfer.console.reception import Reception
from edgeinfer.console.web.guard import COOKIE, Access
from edgeinfer.console.web.site import ApiResponse, query
from edgeinfer.runtime.errors import BufferStorageError, ConsoleError, MessageError, UsageError
from edgeinfer.sync.messages import Ack, is_name
from edgeinfer.sync.sinks.framing import ACKS_TYPE, CONTENT_TYPE, Frame, Frames

__all__ = ["MAX_BODY_BYTES", "MAX_MESSAGES", "receive_routes"]

# A batch of the agent is at most 4 MiB, or one chunk of that size.
MAX_BODY_BYTES = 8 << 20
# Many times what the agent or an import sends at once: a million tiny ones would be hundreds of megabytes of memory.
MAX_MESSAGES = 4096
# Bodies in memory at a time; more are asked to come again.
_AT_ONCE = 4
_READ_S = 60.0
_STORE_S = 20.0
_RETRY_AFTER_S = 2


def receive_routes(reception: Reception, *, access: Callable[[], Access], tokens: DeviceTokens) -> list[Route]:
    receiver = _Receiver(reception, access, tokens)
    return [
        Route("/api/v1/ingest/{device}", receiver.receive, methods=["POST"]),
        Route("/api/v1/ingest/{device}", receiver.books, methods=["GET"]),
        Route("/api/v1/receipts/{device}", receiver.receipt, methods=["POST"]),
    ]


class _Refusal(Exception):  # noqa: N818 - an answer on its way out, not an error of this program
    def __init__(self, status: int, message: str, hint: str = "", *, retry_after_s: int = 0) -> None:
        super().__init__(message)
        self.response = ApiResponse({"error": message, "hint": hint, "kind": "HttpError"}, status)
        if retry_after_s:
            self.response.headers["retry-after"] = str(retry_after_s)
        if status == 401:
            self.response.headers["www-authenticate"] = "Bearer"


class _Receiver:
    def __init__(self, reception: Reception, access: Callable[[], Access], tokens: DeviceTokens) -> None:
        self._reception = reception
        self._access = access
        self._tokens = tokens
        self._receiving = 0  # only touched by the event loop

    async def receive(self, request: Request) -> Response:
        try:
            device = await run_in_threadpool(self._admitted, request)
            _check_head(request.headers)
            if self._receiving >= _AT_ONCE:
                raise _not_now("too many others are handing in results")
            self._receiving += 1
            try:
                frames = await _read(request)
                acks = await run_in_threadpool(self._hand_in, device, frames)
            finally:
                self._receiving -= 1
        except _Refusal as refusal:
            return refusal.response
        return Response(msgspec.json.encode(acks), headers={"content-type": ACKS_TYPE, "cache-control": "no-store"})

    def books(self, request: Request) -> Response:
        try:
            device = self._admitted(request)
        except _Refusal as refusal:
            return refusal.response
        return ApiResponse(
            {"tenant": self._reception.tenant, "device": device, "epochs": self._reception.books(device)}
        )

    def receipt(self, request: Request) -> Response:
        """The guard has asked for the console's token already."""
        epoch = query(request, "epoch") or ""
        if not (epoch.isdecimal() and len(epoch) < 20):
            raise UsageError(f"expected epoch=NUMBER, found {epoch[:40]!r}")
        sealed = self._reception.receipt(_device(request), int(epoch))
        return Response(sealed, media_type="application/json", headers={"cache-control": "no-store"})

    def _admitted(self, request: Request) -> str:
        """The device that the request may speak for. Raises _Refusal."""
        device = _device(request)
        access, headers = self._access(), request.headers
        if access.token is not None and access.admits(headers, request.cookies.get(COOKIE, "")):
            return device
        if access.token is None and not self._tokens.required:
            return device
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise _Refusal(401, "this needs a token", "Authorization: Bearer TOKEN, the device's or the console's")
        if not self._tokens.admits(device, given.strip()):
            raise _Refusal(403, f"this token does not speak for {device}", "DATA_DIR/devices/NAME.token")
        return device

    def _hand_in(self, device: str, frames: list[Frame]) -> tuple[Ack, ...]:
        try:
            return self._reception.hand_in(device, frames, timeout_s=_STORE_S)
        except MessageError as error:
            raise _Refusal(400, error.message) from error
        except (ConsoleError, BufferStorageError) as error:
            raise _not_now(error.message) from error


def _device(request: Request) -> str:
    device: str = request.path_params["device"]
    if not is_name(device):
        raise UsageError(f"expected the name of a device, found {device[:80]!r}")
    return device


def _check_head(headers: Headers) -> None:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != CONTENT_TYPE:
        raise _Refusal(415, f"expected {CONTENT_TYPE}, found {kind[:80]!r}")
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > MAX_BODY_BYTES:
        raise _too_large()


async def _read(request: Request) -> list[Frame]:
    """The body's messages, taken apart as they come. Raises _Refusal."""
    frames: list[Frame] = []
    parser, size = Frames(), 0
    try:
        async with asyncio.timeout(_READ_S):
            async for piece in request.stream():
                size += len(piece)
                if size > MAX_BODY_BYTES:
                    raise _too_large()
                for frame in parser.feed(piece):
                    frames.append(frame)
                    if len(frames) > MAX_MESSAGES:
                        raise _Refusal(413, f"expected at most {MAX_MESSAGES} messages", "send smaller batches")
        parser.finish()
    except TimeoutError as error:
        raise _Refusal(408, f"expected the whole body within {_READ_S:.0f} s") from error
    except ClientDisconnect as error:
        raise _Refusal(400, "the sender hung up") from error
    except MessageError as error:
        raise _Refusal(400, error.message) from error
    if parser.ended:
        raise _Refusal(400, "expected messages only, found an end")
    return frames


def _too_large() -> _Refusal:
    return _Refusal(413, f"expected at most {MAX_BODY_BYTES} bytes", "send smaller batches")


def _not_now(message: str) -> _Refusal:
    return _Refusal(503, message, "send it again", retry_after_s=_RETRY_AFTER_S)
