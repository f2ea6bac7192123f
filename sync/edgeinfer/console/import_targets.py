"""The two consoles that can be imported into: one that runs, over its REST API, and one that is stopped, directly."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from edgeinfer.console.api_client import ApiClient, NotNowError
from edgeinfer.console.reception import Books, Reception
from edgeinfer.console.settings import ConsoleConfig
from edgeinfer.runtime.backoff import Backoff
from edgeinfer.sync.sinks.framing import CONTENT_TYPE, Frame, encode_frames

__all__ = ["RunningConsole", "stopped_console"]

# How long a console that says "not now" is asked again.
_PATIENCE_S = 120.0
_STORE_S = 60.0


class RunningConsole:
    """A `Target` at `url`. Raises UsageError for an address that is none."""

    def __init__(self, url: str, token: str | None) -> None:
        self._api = ApiClient(url, token)
        self._tenant = ""

    @property
    def tenant(self) -> str:
        if not self._tenant:
            self._tenant = self._api.decoded(self._api.ask("GET", "/api/status"), _Status).tenant
        return self._tenant

    def books(self, device: str) -> dict[int, Books]:
        found = self._api.decoded(self._api.ask("GET", f"/api/v1/ingest/{device}"), _AllBooks)
        return {books.epoch: books for books in found.epochs}

    def hand_in(self, device: str, frames: list[Frame]) -> None:
        body = b"".join(encode_frames(frames))
        waits, until_s = Backoff(first_s=1.0, cap_s=10.0), time.monotonic() + _PATIENCE_S
        while not self._post(f"/api/v1/ingest/{device}", body, give_up=time.monotonic() > until_s):
            time.sleep(waits.next())

    def receipt(self, device: str, epoch: int) -> bytes:
        return self._api.ask("POST", f"/api/v1/receipts/{device}?epoch={epoch}")

    def _post(self, path: str, body: bytes, *, give_up: bool) -> bool:
        """False: not now. Raises what the console answered otherwise."""
        try:
            self._api.ask("POST", path, body, content_type=CONTENT_TYPE)
        except NotNowError:
            if give_up:
                raise
            return False
        return True


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
