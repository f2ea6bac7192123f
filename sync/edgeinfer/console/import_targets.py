"""The two consoles that can be imported into: one that runs, over its REST API, and one that is stopped, directly."""

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn, TypeVar
from urllib.parse import urlsplit

import msgspec

from edgeinfer.console.reception import Books, Reception
from edgeinfer.console.settings import ConsoleConfig
from edgeinfer.runtime import errors
from edgeinfer.runtime.backoff import Backoff
from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import ConsoleError, EdgeInferError, UsageError
from edgeinfer.sync.sinks.framing import CONTENT_TYPE, Frame, encode_frames

__all__ = ["RunningConsole", "stopped_console"]

_REQUEST_S = 60.0
_MAX_ANSWER_BYTES = 16 << 20
_NOT_NOW = {429, 503}
# How long a console that says "not now" is asked again.
_PATIENCE_S = 120.0
_STORE_S = 60.0

T = TypeVar("T")


class RunningConsole:
    """A `Target` at `url`. Raises UsageError for an address that is none."""

    def __init__(self, url: str, token: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise UsageError(f"expected the console's address as http://HOST:PORT, found {url!r}")
        self._url = url.rstrip("/")
        self._token = token
        self._tenant = ""

    @property
    def tenant(self) -> str:
        if not self._tenant:
            self._tenant = self._decoded(self._ask("GET", "/api/status"), _Status).tenant
        return self._tenant

    def books(self, device: str) -> dict[int, Books]:
        found = self._decoded(self._ask("GET", f"/api/v1/ingest/{device}"), _AllBooks)
        return {books.epoch: books for books in found.epochs}

    def hand_in(self, device: str, frames: list[Frame]) -> None:
        body = b"".join(encode_frames(frames))
        waits, until_s = Backoff(first_s=1.0, cap_s=10.0), time.monotonic() + _PATIENCE_S
        while not self._post(f"/api/v1/ingest/{device}", body, give_up=time.monotonic() > until_s):
            time.sleep(waits.next())

    def receipt(self, device: str, epoch: int) -> bytes:
        return self._ask("POST", f"/api/v1/receipts/{device}?epoch={epoch}")

    def _post(self, path: str, body: bytes, *, give_up: bool) -> bool:
        """False: not now. Raises what the console answered otherwise."""
        try:
            self._ask("POST", path, body)
        except _NotNowError as error:
            if give_up:
                raise ConsoleError(error.message, hint=error.hint) from error
            return False
        return True

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(self._url + path, data=body, method=method)  # noqa: S310 - the scheme was checked
        request.add_header("Content-Type", CONTENT_TYPE)
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with urllib.request.urlopen(request, timeout=_REQUEST_S) as response:  # noqa: S310 - the scheme was checked
                answer: bytes = response.read(_MAX_ANSWER_BYTES)
        except urllib.error.HTTPError as error:
            with error:
                self._raise(error.code, error.read(_MAX_ANSWER_BYTES))
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise ConsoleError(
                f"{self._url}: the console does not answer: {reason}",
                hint="is `edgeinfer console` running there? For one that is stopped: --config console.toml",
            ) from error
        return answer

    def _raise(self, status: int, raw: bytes) -> NoReturn:
        """Raise what the console said as the error that it was there."""
        try:
            said = msgspec.json.decode(raw, type=_Error)
        except MALFORMED:
            said = _Error(f"{self._url}: the console answered with status {status}")
        if status in _NOT_NOW:
            raise _NotNowError(said.error, hint=said.hint)
        known = getattr(errors, said.kind, None)
        type_ = known if isinstance(known, type) and issubclass(known, EdgeInferError) else ConsoleError
        raise type_(said.error, hint=said.hint)

    def _decoded(self, raw: bytes, type_: type[T]) -> T:
        try:
            return msgspec.json.decode(raw, type=type_)
        except MALFORMED as error:
            raise ConsoleError(f"{self._url}: expected a console's answer, found something else: {error}") from error


class _NotNowError(ConsoleError):
    recoverable = True


class _Error(msgspec.Struct, frozen=True):
    error: str
    hint: str = ""
    kind: str = ""


class _Status(msgspec.Struct, frozen=True):
    tenant: str


class _AllBooks(msgspec.Struct, frozen=True):
    epochs: tuple[Books, ...]


class _StoppedConsole:
    """A `Target` in this process."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception
        self.tenant = reception.tenant

    def books(self, device: str) -> dict[int, Books]:
        return {books.epoch: books for books in self._reception.books(device)}

    def hand_in(self, device: str, frames: list[Frame]) -> None:
        self._reception.hand_in(device, frames, timeout_s=_STORE_S)

    def receipt(self, device: str, epoch: int) -> bytes:
        return self._reception.receipt(device, epoch)


@contextmanager
def stopped_console(config: ConsoleConfig) -> Iterator[_StoppedConsole]:
    """The console of `config` without its page and its broker. Raises BufferStorageError where it runs."""
    from edgeinfer.console.console import Console

    console = Console(config)
    console.start(connect=False)
    try:
        yield _StoppedConsole(console.reception)
    finally:
        console.stop()
