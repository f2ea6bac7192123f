"""The pages, and the fragments of them that are fetched again when something changed.

A page is rendered whole on the server; its parts that change carry `data-refresh`, the address of a fragment
that renders the same template again. Everything a device says goes through Jinja's escaping, or through
`textContent` where the script writes it.
"""

import hmac
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from edgeinfer.console.verdict import audit_document
from edgeinfer.console.web import filters
from edgeinfer.console.web.device_api import audit_of
from edgeinfer.console.web.guard import COOKIE, cookie_value
from edgeinfer.console.web.site import Site, number, query
from edgeinfer.runtime.results import OF_A_FRAME, Kind

__all__ = ["Pages", "page_routes"]

_HERE = Path(__file__).parent
_LIVE_ROWS = 30
_FILES = 12
_MAX_FORM_BYTES = 4096
_RESULT_KINDS = OF_A_FRAME | {Kind.EVENT}


def page_routes(pages: "Pages") -> list[Route | Mount]:
    return [
        Route("/", pages.fleet),
        Route("/devices/{device}", pages.device),
        Route("/packages", pages.packages),
        Route("/rollouts", pages.rollouts),
        Route("/sign-in", pages.sign_in, methods=["GET"]),
        Route("/sign-in", pages.signed_in, methods=["POST"]),
        Route("/fragments/tiles", pages.tiles_fragment),
        Route("/fragments/devices", pages.devices_fragment),
        Route("/fragments/devices/{device}", pages.device_fragment),
        Route("/fragments/devices/{device}/audit", pages.audit_fragment),
        Route("/fragments/results", pages.results_fragment),
        Route("/fragments/packages", pages.packages_fragment),
        Route("/fragments/rollouts", pages.rollouts_fragment),
        Mount("/static", StaticFiles(directory=_HERE / "static")),
    ]


class Pages:
    """Renders; decides nothing."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._documents = site.documents
        self._templates = Jinja2Templates(directory=_HERE / "templates")
        self._templates.env.filters.update(filters.FILTERS)
        self._templates.env.globals["version"] = filters.installed_version()

    def fleet(self, request: Request) -> Response:
        return self._page(
            request,
            "fleet.html",
            devices=self._documents.devices(),
            results=self._newest(""),
            rollouts=self._documents.rollouts(3),
            **self._tiles(),
        )

    def device(self, request: Request) -> Response:
        name = request.path_params["device"]
        document = self._documents.device(name)
        if document is None:
            return self.not_found(request, "There is no such device.")
        files = self._site.sent_files.newest(name, _FILES)
        return self._page(request, "device.html", device=document, results=self._newest(name), files=files)

    def packages(self, request: Request) -> Response:
        return self._page(request, "packages.html", packages=self._documents.packages())

    def rollouts(self, request: Request) -> Response:
        return self._page(
            request,
            "rollouts.html",
            rollouts=self._documents.rollouts(),
            packages=self._documents.packages(),
            devices=self._documents.devices(),
            groups=self._documents.groups(),
        )

    def sign_in(self, request: Request, *, wrong: bool = False) -> Response:
        return self._page(request, "sign_in.html", status_code=401 if wrong else 200, wrong=wrong)

    async def signed_in(self, request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _MAX_FORM_BYTES:
                return self.sign_in(request, wrong=True)
        given = parse_qs(body.decode("utf-8", errors="replace")).get("token", [""])[0].strip()
        token = self._site.access().token
        if token is None or not hmac.compare_digest(given.encode("utf-8", errors="replace"), token.encode()):
            return self.sign_in(request, wrong=True)
        response = RedirectResponse("/", status_code=303)
        response.set_cookie(
            COOKIE, cookie_value(token), httponly=True, samesite="strict", secure=request.url.scheme == "https"
        )
        return response

    def tiles_fragment(self, request: Request) -> Response:
        return self._render(request, "_tiles.html", **self._tiles())

    def devices_fragment(self, request: Request) -> Response:
        return self._render(request, "_devices.html", devices=self._documents.devices(), status=self._site.status())

    def device_fragment(self, request: Request) -> Response:
        document = self._documents.device(request.path_params["device"])
        if document is None:
            return Response("", status_code=404)
        files = self._site.sent_files.newest(document["id"], _FILES)
        return self._render(request, "_device.html", device=document, status=self._site.status(), files=files)

    def audit_fragment(self, request: Request) -> Response:
        found = audit_of(self._site, request)
        if found is None:
            return Response("", status_code=404)
        return self._render(request, "_audit.html", audit=audit_document(found), now_s=time.time())

    def results_fragment(self, request: Request) -> Response:
        name = query(request, "device") or ""
        return self._render(request, "_results.html", results=self._newest(name), device=name)

    def packages_fragment(self, request: Request) -> Response:
        return self._render(request, "_packages.html", packages=self._documents.packages())

    def rollouts_fragment(self, request: Request) -> Response:
        limit = number(request, "limit", default=50, low=1, high=500)
        return self._render(request, "_rollouts.html", rollouts=self._documents.rollouts(limit))

    def not_found(self, request: Request, message: str) -> Response:
        return self._page(request, "error.html", status_code=404, message=message)

    def _newest(self, device: str) -> list[dict[str, Any]]:
        """The newest results of a device, or of all where it is empty; newest first."""
        if device:
            found = self._documents.results(self._site.repository.results(device, limit=_LIVE_ROWS), max_items=1)
        else:
            recent = self._site.feed.recent(_LIVE_ROWS)
            found = self._documents.results(recent, max_items=1)
            found = found or self._documents.newest_results(_LIVE_ROWS, max_items=1)
        return _shown(found)

    def _tiles(self) -> dict[str, Any]:
        return {
            "audit": self._documents.audit()["totals"],
            "counts": self._documents.device_counts(),
            "latest": self._documents.series(minutes=1),
        }

    def _page(self, request: Request, template: str, *, status_code: int = 200, **values: Any) -> Response:
        values.setdefault("status", self._site.status())
        values["path"] = request.url.path
        values["needs_sign_in"] = self._site.access().token is not None
        return self._render(request, template, status_code=status_code, **values)

    def _render(self, request: Request, template: str, *, status_code: int = 200, **values: Any) -> Response:
        return self._templates.TemplateResponse(
            request, template, values, status_code=status_code, headers={"cache-control": "no-store"}
        )


def _shown(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that say something of a frame: counts of frames are shown elsewhere."""
    kinds = {kind.name.lower() for kind in _RESULT_KINDS}
    return [result for result in results if result["kind"] in kinds]
