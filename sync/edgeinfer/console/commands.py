"""What a terminal asks of a console, over its REST API."""

import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from edgeinfer.console.api_client import ApiClient
from edgeinfer.runtime.errors import ConsoleError, UsageError
from edgeinfer.runtime.package import PackageFile

__all__ = ["deploy", "device_audit", "device_log", "fleet_devices", "fleet_rollouts", "register"]

_POLL_S = 0.5

Document = dict[str, Any]


def deploy(
    package: Path, *, to: str, console_url: str, token: str | None = None, wait: bool = False, timeout_s: float = 300.0
) -> Document:
    """Release `package` to the console and start a rollout of it; returns the rollout as the API describes it.

    `to` is `all`, `device:ID` or `group:NAME`. With `wait`, returns when every device is in a final state (look at
    `failed`), or raises ConsoleError after `timeout_s`. Raises UsageError (no such file, no such device),
    PackageError, SignatureError, ConsoleError.
    """
    added = register(package, console_url=console_url, token=token)
    console = _Console(console_url, token)
    rollout = console.post("/api/rollouts", {"package": added["digest"], "to": to})
    return console.wait_for(rollout, timeout_s) if wait else rollout


def register(package: Path, *, console_url: str, token: str | None = None) -> Document:
    """Release `package` to the console without deploying it; the page then knows its labels. Raises as `deploy`."""
    if not package.is_file():
        raise UsageError(f"{package}: no such file")
    with PackageFile(package) as opened:
        opened.verify_files()
    return _Console(console_url, token).upload(package)


def fleet_devices(*, console_url: str, token: str | None = None) -> list[Document]:
    """The devices that the console knows."""
    devices: list[Document] = _Console(console_url, token).get("/api/devices")["devices"]
    return devices


def fleet_rollouts(*, console_url: str, token: str | None = None) -> list[Document]:
    """The rollouts, newest first."""
    rollouts: list[Document] = _Console(console_url, token).get("/api/rollouts")["rollouts"]
    return rollouts


def device_audit(
    device: str,
    *,
    since_s: float | None = None,
    until_s: float | None = None,
    console_url: str,
    token: str | None = None,
) -> Document:
    """What became of the results of `device` that were made in since_s <= t < until_s (seconds since 1970)."""
    times = {name: f"{time_s:.9f}" for name, time_s in (("since", since_s), ("until", until_s)) if time_s is not None}
    return _Console(console_url, token).get(f"/api/v1/devices/{quote(device, safe='')}/audit?{urlencode(times)}")


def device_log(device: str, *, lines: int, console_url: str, token: str | None = None) -> Document:
    """The latest lines of the log of `device`, which must be online."""
    return _Console(console_url, token).post(f"/api/v1/devices/{quote(device, safe='')}/logs?lines={lines}", {})


class _Console:
    """What the commands ask, as JSON documents."""

    def __init__(self, url: str, token: str | None) -> None:
        self._api = ApiClient(url, token)

    def get(self, path: str) -> Document:
        return self._api.decoded(self._api.ask("GET", path), Document)

    def post(self, path: str, document: Document) -> Document:
        return self._api.decoded(self._api.ask("POST", path, msgspec.json.encode(document)), Document)

    def upload(self, package: Path) -> Document:
        with package.open("rb") as file:
            answer = self._api.ask("POST", "/api/packages", file, body_bytes=package.stat().st_size)
        return self._api.decoded(answer, Document)

    def wait_for(self, rollout: Document, timeout_s: float) -> Document:
        """Poll until the rollout is finished."""
        deadline = time.monotonic() + timeout_s
        while rollout["state"] != "FINISHED":
            if time.monotonic() > deadline:
                states = ", ".join(f"{d['device']} {d['state']}" for d in rollout["deployments"][:5])
                raise ConsoleError(
                    f"rollout {rollout['id']} is not finished after {timeout_s:.0f} s: {states}",
                    hint="devices that are away get it when they return: see the console's page, or `fleet rollouts`",
                )
            time.sleep(_POLL_S)
            rollout = self.get(f"/api/rollouts/{rollout['id']}")
        return rollout
