"""Devices of the fleet, as `edgeinfer quantize --target device:ID` needs them, over a console's REST API."""

import logging
import time
from pathlib import Path
from urllib.parse import quote, urlencode

import msgspec

from edgeinfer.console.api_client import ApiClient
from edgeinfer.runtime.errors import EdgeInferError, RemoteError

__all__ = ["ConsoleFleet"]

_log = logging.getLogger(__name__)

_POLL_S = 0.5
# The console gives up a little after the device should have: then it says why.
_MARGIN_S = 10.0
# Whoever has pressed Ctrl-C does not wait for long.
_CANCEL_S = 5.0


class _Device(msgspec.Struct, frozen=True):
    online: bool = False
    engines: dict[str, str] = {}
    profile: dict[str, object] = {}


class _Begun(msgspec.Struct, frozen=True):
    id: str


class _Found(msgspec.Struct, frozen=True):
    ok: bool | None = None
    detail: str = ""
    document: str = ""


class ConsoleFleet:
    """The console at `url`. The methods raise what `edgeinfer.console.api_client.ApiClient` does."""

    def __init__(self, url: str, token: str | None) -> None:
        self._api = ApiClient(url, token)

    def describe(self, device: str) -> tuple[dict[str, object], tuple[str, ...]]:
        """What `edgeinfer probe` said on the device, and the names of its engines. Raises RemoteError where it is not
        online."""
        found = self._api.decoded(self._api.ask("GET", f"/api/v1/devices/{quote(device, safe='')}"), _Device)
        if not found.online:
            raise RemoteError(f"{device} is not online", hint="nothing can be timed there now: see `edgeinfer fleet`")
        return found.profile, tuple(found.engines)

    def bench(self, device: str, package: Path, *, seconds: float, threads: int, timeout_s: float) -> bytes:
        """The JSON of `edgeinfer bench` for the signed `package`, run on the device. Raises RemoteError where it
        refuses, or gives no answer in `timeout_s` from the end of the upload on. Ctrl-C ends it there too."""
        asked = urlencode({"each_ms": max(1, round(seconds * 1000)), "threads": threads, "timeout_s": round(timeout_s)})
        path = f"/api/v1/devices/{quote(device, safe='')}/bench?{asked}"
        with package.open("rb") as file:
            answer = self._api.ask("POST", path, file, body_bytes=package.stat().st_size)
        begun = self._api.decoded(answer, _Begun)
        try:
            return self._answer(device, begun.id, timeout_s)
        except (KeyboardInterrupt, SystemExit):
            self._cancel(device, begun.id)
            raise

    def _answer(self, device: str, id_: str, timeout_s: float) -> bytes:
        deadline_s = time.monotonic() + timeout_s + _MARGIN_S
        while time.monotonic() < deadline_s:
            found = self._api.decoded(self._api.ask("GET", _path(id_)), _Found)
            if found.ok:
                return found.document.encode()
            if found.ok is not None:
                raise RemoteError(f"{device}: {found.detail}")
            time.sleep(_POLL_S)
        raise RemoteError(f"{device}: no answer in {timeout_s:.0f} s", hint="is it still online?")

    def _cancel(self, device: str, id_: str) -> None:
        try:
            self._api.ask("DELETE", _path(id_), timeout_s=_CANCEL_S)
        except EdgeInferError as error:
            _log.warning("%s may go on for as long as it was given: it cannot be told to end: %s", device, error)


def _path(id_: str) -> str:
    return f"/api/v1/commands/{quote(id_, safe='')}"
