"""Puts routes, guard and events together."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgeinfer.console.web.api import api_routes
from edgeinfer.console.web.events import EventHub
from edgeinfer.console.web.guard import Guard
from edgeinfer.console.web.pages import Pages, page_routes
from edgeinfer.console.web.site import ApiResponse, Site, error_response
from edgeinfer.runtime.errors import EdgeInferError

__all__ = ["Site", "make_app"]


def make_app(site: Site, more_routes: Sequence[Route] = ()) -> Starlette:
    """The application; `more_routes` are looked at first. `app.state.hub.end_streams()` ends the event streams, for a
    quick stop."""
    hub = EventHub(site.feed, site.documents, site.status)
    pages = Pages(site)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        del app
        hub.start()
        yield
        await hub.stop()

    def not_found(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        detail = error.detail if isinstance(error, HTTPException) else "internal error"
        if status == 404 and "text/html" in request.headers.get("accept", ""):
            return pages.not_found(request, "There is no such page.")
        return ApiResponse({"error": detail, "hint": "", "kind": "HttpError"}, status)

    def failed(request: Request, error: Exception) -> Response:
        del request
        assert isinstance(error, EdgeInferError)  # noqa: S101 -- registered for that type only
        return error_response(error)

    app = Starlette(
        routes=[*more_routes, *api_routes(site), Route("/api/events", hub.endpoint), *page_routes(pages)],
        middleware=[Middleware(Guard, access=site.access)],
        exception_handlers={HTTPException: not_found, EdgeInferError: failed},
        lifespan=lifespan,
    )
    app.state.hub = hub
    return app
