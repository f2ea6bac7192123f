"""The REST API under /api. Reading is open unless the configuration says otherwise; changes are guarded."""

from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgeinfer.console.documents import package_document
from edgeinfer.console.web.device_api import device_routes
from edgeinfer.console.web.site import ApiResponse, Site, not_found, number, query
from edgeinfer.console.web.upload import uploaded_package
from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import UsageError
from edgeinfer.runtime.trust import key_id

__all__ = ["api_routes"]

_MAX_BODY_BYTES = 64 << 10


class RolloutRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`package`: a digest or `name:version`; `to`: `all`, `device:ID` or `group:NAME`."""

    package: str
    to: str


def api_routes(site: Site) -> list[Route]:
    """Under /api/v1, and under /api, where they were before they had a version."""
    api = _Api(site)
    routes = [Route("/healthz", api.health)]
    for prefix in ("/api/v1", "/api"):
        routes += [
            Route(f"{prefix}/status", api.status),
            Route(f"{prefix}/devices", api.devices),
            Route(f"{prefix}/devices/{{device}}", api.device),
            *device_routes(site, prefix),
            Route(f"{prefix}/results", api.results),
            Route(f"{prefix}/audit", api.audit),
            Route(f"{prefix}/series", api.series),
            Route(f"{prefix}/keys", api.keys),
            Route(f"{prefix}/packages", api.packages, methods=["GET"]),
            Route(f"{prefix}/packages", api.add_package, methods=["POST"]),
            Route(f"{prefix}/rollouts", api.rollouts, methods=["GET"]),
            Route(f"{prefix}/rollouts", api.add_rollout, methods=["POST"]),
            Route(f"{prefix}/rollouts/{{rollout:int}}", api.rollout),
        ]
    return routes


class _Api:
    """Plain functions run in a thread of the pool, so the database never holds up the event loop."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._documents = site.documents

    def health(self, request: Request) -> Response:
        del request
        status = self._site.status()
        well = not status["storage_error"]
        return ApiResponse({"ok": well, "broker": status["broker"]["connected"]}, 200 if well else 503)

    def status(self, request: Request) -> Response:
        del request
        return ApiResponse(self._site.status())

    def devices(self, request: Request) -> Response:
        del request
        return ApiResponse({"devices": self._documents.devices()})

    def device(self, request: Request) -> Response:
        name = request.path_params["device"]
        document = self._documents.device(name)
        return not_found(f"no device {name[:80]!r}") if document is None else ApiResponse(document)

    def results(self, request: Request) -> Response:
        limit = number(request, "limit", default=100, low=1, high=1000)
        device = query(request, "device")
        if device is None:
            return ApiResponse({"results": self._documents.newest_results(limit), "next": None})
        found = self._site.repository.results(
            device, pipeline=query(request, "pipeline"), after=_after(request), limit=limit
        )
        next_after = f"{found[-1].epoch}:{found[-1].seq}" if found and query(request, "after") is not None else None
        return ApiResponse({"results": self._documents.results(found), "next": next_after})

    def audit(self, request: Request) -> Response:
        return ApiResponse(self._documents.audit(query(request, "device")))

    def series(self, request: Request) -> Response:
        minutes = number(request, "minutes", default=5, low=1, high=7 * 24 * 60)
        return ApiResponse(self._documents.series(minutes=minutes, device=query(request, "device")))

    def keys(self, request: Request) -> Response:
        del request
        public = self._site.deployer.public_key
        return ApiResponse({"console": {"public": public.hex(), "keyid": key_id(public)}})

    def packages(self, request: Request) -> Response:
        del request
        return ApiResponse({"packages": self._documents.packages()})

    async def add_package(self, request: Request) -> Response:
        file = await uploaded_package(self._site, request)
        try:
            package, new = await run_in_threadpool(self._site.registry.add, file)
        finally:
            await run_in_threadpool(file.unlink, missing_ok=True)
        return ApiResponse({**package_document(package), "new": new}, 201 if new else 200)

    def rollouts(self, request: Request) -> Response:
        limit = number(request, "limit", default=50, low=1, high=500)
        return ApiResponse({"rollouts": self._documents.rollouts(limit)})

    def rollout(self, request: Request) -> Response:
        document = self._documents.rollout(request.path_params["rollout"])
        return not_found("no such rollout") if document is None else ApiResponse(document)

    async def add_rollout(self, request: Request) -> Response:
        wanted = _parse(await _small_body(request), RolloutRequest)
        rollout = await run_in_threadpool(self._site.deployer.create, wanted.package, wanted.to)
        return ApiResponse(await run_in_threadpool(self._documents.rollout, rollout.id), 201)


def _after(request: Request) -> tuple[int, int] | None:
    """`EPOCH:SEQ`, or 0 for everything from the start."""
    text = query(request, "after")
    if text is None:
        return None
    epoch, _, seq = text.rpartition(":")
    try:
        place = (int(epoch or 0), int(seq))
    except ValueError:
        raise UsageError(f"expected after=EPOCH:SEQ, found {text[:80]!r}") from None
    if not all(0 <= value < 1 << 63 for value in place):
        raise UsageError(f"expected after=EPOCH:SEQ in range, found {text[:80]!r}")
    return place


def _parse(raw: bytes, type_: type[Any]) -> Any:
    try:
        return msgspec.json.decode(raw, type=type_)
    except MALFORMED as error:
        raise UsageError(f"the request is not what was expected: {error}") from error


async def _small_body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MAX_BODY_BYTES:
            raise UsageError(f"expected at most {_MAX_BODY_BYTES} bytes")
    return body
