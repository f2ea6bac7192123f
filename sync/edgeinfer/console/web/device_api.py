"""The REST API of one device: its audit over any time, the files that it sent, its log, packages timed on it."""

import re
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from edgeinfer.console.audit import RangeAudit
from edgeinfer.console.benches import Found
from edgeinfer.console.repository.base import DeviceBlob
from edgeinfer.console.verdict import audit_document
from edgeinfer.console.web.site import ApiResponse, Site, not_found, number, query
from edgeinfer.console.web.upload import uploaded_package
from edgeinfer.runtime.errors import UsageError

__all__ = ["audit_of", "device_routes"]

_LOGS_S = 15.0
_LONGEST_BENCH_S = 3600
_MAX_S = 1 << 33
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# By their first bytes; anything else is only ever downloaded.
_IMAGES = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"))


def device_routes(site: Site, prefix: str) -> list[Route]:
    api = _DeviceApi(site)
    return [
        Route(f"{prefix}/devices/{{device}}/audit", api.audit),
        Route(f"{prefix}/devices/{{device}}/logs", api.logs, methods=["POST"]),
        Route(f"{prefix}/devices/{{device}}/bench", api.bench, methods=["POST"]),
        Route(f"{prefix}/commands/{{command}}", api.command, methods=["GET"]),
        Route(f"{prefix}/commands/{{command}}", api.cancel, methods=["DELETE"]),
        Route(f"{prefix}/devices/{{device}}/blobs", api.blobs),
        Route(f"{prefix}/devices/{{device}}/blobs/{{sha256}}", api.blob),
    ]


class _DeviceApi:
    """Plain functions run in a thread of the pool, so neither disk nor device holds up the event loop."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def audit(self, request: Request) -> Response:
        found = audit_of(self._site, request)
        if found is None:
            return not_found(f"no device {request.path_params['device'][:80]!r}")
        return ApiResponse(audit_document(found))

    def logs(self, request: Request) -> Response:
        lines = number(request, "lines", default=200, low=1, high=10_000)
        log = self._site.commander.logs(request.path_params["device"], lines=lines, timeout_s=_LOGS_S)
        return ApiResponse({"lines": log.lines, "complete": log.complete, "detail": log.detail})

    async def bench(self, request: Request) -> Response:
        """Has the device time the package in the body; what comes of it is asked for by the id."""
        device = request.path_params["device"]
        each_ms = number(request, "each_ms", default=2000, low=1, high=600_000)
        threads = number(request, "threads", default=1, low=1, high=256)
        timeout_s = number(request, "timeout_s", default=300, low=5, high=_LONGEST_BENCH_S)
        file = await uploaded_package(self._site, request)

        def begin() -> str:
            return self._site.benches.begin(device, file, each_ms=each_ms, threads=threads, timeout_s=timeout_s)

        begun = await run_in_threadpool(begin)
        if await request.is_disconnected():  # who asked does not know the id, and can end nothing
            await run_in_threadpool(self._site.benches.cancel, begun)
        return ApiResponse({"id": begun}, 202)

    def command(self, request: Request) -> Response:
        return _command_response(self._site.benches.found(request.path_params["command"]))

    def cancel(self, request: Request) -> Response:
        return _command_response(self._site.benches.cancel(request.path_params["command"]))

    def blobs(self, request: Request) -> Response:
        limit = number(request, "limit", default=100, low=1, high=1000)
        found = self._site.repository.device_blobs(request.path_params["device"], limit=limit)
        return ApiResponse({"blobs": [_blob_document(blob) for blob in found]})

    def blob(self, request: Request) -> Response:
        """The content, as something that no browser runs."""
        device, sha256 = request.path_params["device"], request.path_params["sha256"]
        blob = self._site.repository.device_blob(device, sha256) if _SHA256.fullmatch(sha256) else None
        if blob is None or not blob.done:
            return not_found("no such file of that device")
        path = self._site.incoming.path(blob)
        try:
            with path.open("rb") as file:
                head = file.read(16)
        except OSError:
            return not_found("the file is not there any more")
        type_ = next((name for magic, name in _IMAGES if head.startswith(magic)), "application/octet-stream")
        shown = "inline" if type_.startswith("image/") else "attachment"
        name = _UNSAFE.sub("_", blob.name).lstrip("._")[-100:] or sha256[:12]
        headers = {
            "content-disposition": f'{shown}; filename="{name}"',
            "content-security-policy": "default-src 'none'; sandbox",
            "cache-control": "private, max-age=86400, immutable",
        }
        return FileResponse(path, media_type=type_, headers=headers)


def audit_of(site: Site, request: Request) -> RangeAudit | None:
    """The audit that a request asks for: `since` and `until` in seconds since 1970. Raises UsageError."""
    return site.auditor.audit(
        request.path_params["device"], since_ns=_time_ns(request, "since"), until_ns=_time_ns(request, "until")
    )


def _command_response(found: Found | None) -> Response:
    return not_found("no such command, or no longer") if found is None else ApiResponse(found)


def _time_ns(request: Request, name: str) -> int | None:
    text = query(request, name)
    if text is None:
        return None
    try:
        whole, _, fraction = text[:40].partition(".")
        seconds = int(whole)
        nanoseconds = int(fraction[:9].ljust(9, "0")) if fraction else 0
    except ValueError:
        raise UsageError(f"expected {name} in seconds since 1970, found {text[:40]!r}") from None
    if not -_MAX_S < seconds < _MAX_S or not 0 <= nanoseconds < 10**9:
        raise UsageError(f"expected {name} in seconds since 1970, found {text[:40]!r}")
    return seconds * 10**9 + nanoseconds


def _blob_document(blob: DeviceBlob) -> dict[str, Any]:
    return {
        "sha256": blob.sha256,
        "kind": blob.kind,
        "name": blob.name,
        "pipeline": blob.pipeline,
        "t_s": blob.t_ns / 1e9,
        "bytes": blob.total_bytes,
        "received_s": blob.received_ns / 1e9,
        "path": f"/api/v1/devices/{blob.device}/blobs/{blob.sha256}",
    }
