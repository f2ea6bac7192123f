"""How a program asks a running console: its REST API over HTTP, and its errors as the errors that they were there."""

import http.client
import urllib.error
import urllib.request
from typing import BinaryIO, NoReturn, TypeVar
from urllib.parse import urlsplit

import msgspec

from edgeinfer.runtime import errors
from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import ConsoleError, EdgeInferError, UsageError

__all__ = ["ApiClient", "NotNowError"]

_REQUEST_S = 60.0
_MAX_ANSWER_BYTES = 64 << 20
_NOT_NOW = {429, 503}

T = TypeVar("T")


class NotNowError(ConsoleError):
    """The console is there, and busy or without room."""

    recoverable = True


class ApiClient:
    """The console at `url`. Raises UsageError for an address that is none; the methods raise ConsoleError, NotNowError,
    and whatever error of ours the console names."""

    def __init__(self, url: str, token: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise UsageError(f"expected the console's address as http://HOST:PORT, found {url!r}")
        self._url = url.rstrip("/")
        self._token = token

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | BinaryIO | None = None,
        *,
        content_type: str = "application/octet-stream",
        body_bytes: int | None = None,
        timeout_s: float = _REQUEST_S,
    ) -> bytes:
        """The answer. `body_bytes` is the length of a body that is an open file; `timeout_s` how long the console may
        be silent."""
        request = urllib.request.Request(self._url + path, data=body, method=method)  # noqa: S310 - the scheme was checked
        request.add_header("Content-Type", content_type)
        if body_bytes is not None:
            request.add_header("Content-Length", str(body_bytes))
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as response:  # noqa: S310 - the scheme was checked
                answer: bytes = response.read(_MAX_ANSWER_BYTES)
        except urllib.error.HTTPError as error:
            with error:
                self._raise(error.code, error.read(_MAX_ANSWER_BYTES))
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise ConsoleError(
                f"{self._url}: the console does not answer: {reason}",
                hint="is `edgeinfer console` running there? give its address with --console",
            ) from error
        return answer

    def decoded(self, raw: bytes, type_: type[T]) -> T:
        """An answer in JSON. Raises ConsoleError for what is none."""
        try:
            return msgspec.json.decode(raw, type=type_)
        except MALFORMED as error:
            raise ConsoleError(f"{self._url}: expected a console's answer, found something else: {error}") from error

    def _raise(self, status: int, raw: bytes) -> NoReturn:
        """Raise what the console said as the error that it was there."""
        try:
            said = msgspec.json.decode(raw, type=_Said)
        except MALFORMED:
            said = _Said(f"{self._url}: the console answered with status {status}")
        if status in _NOT_NOW:
            raise NotNowError(said.error, hint=said.hint)
        known = getattr(errors, said.kind, None)
        type_ = known if isinstance(known, type) and issubclass(known, EdgeInferError) else ConsoleError
        raise type_(said.error, hint=said.hint)


class _Said(msgspec.Struct, frozen=True):
    error: str
    hint: str = ""
    kind: str = ""
