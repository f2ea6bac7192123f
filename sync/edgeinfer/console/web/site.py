"""What the routes work on, and the few things that all of them share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from edgeinfer.console.audit import Auditor
from edgeinfer.console.benches import Benches
from edgeinfer.console.commander import Commander
from edgeinfer.console.deployer import Deployer
from edgeinfer.console.documents import Documents
from edgeinfer.console.incoming import Incoming
from edgeinfer.console.live import LiveFeed
from edgeinfer.console.registry import Registry
from edgeinfer.console.repository import Repository
from edgeinfer.console.sent_files import SentFiles
from edgeinfer.console.web.guard import Access
from edgeinfer.runtime.errors import EdgeInferError, PackageError, SignatureError, UsageError

__all__ = ["ApiResponse", "Site", "error_response", "not_found", "number", "query"]


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """`status` describes the console itself; `access` is asked at each request, so that it can be reloaded."""

    repository: Repository
    documents: Documents
    auditor: Auditor
    sent_files: SentFiles
    incoming: Incoming
    commander: Commander
    benches: Benches
    registry: Registry
    deployer: Deployer
    feed: LiveFeed
    status: Callable[[], dict[str, Any]]
    access: Callable[[], Access]
    uploads: Path
    max_package_bytes: int


class ApiResponse(Response):
    """JSON by msgspec: numbers that JSON lacks become null."""

    media_type = "application/json"

    def __init__(self, content: Any, status_code: int = 200) -> None:
        super().__init__(content, status_code, headers={"cache-control": "no-store"})

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


def error_response(error: EdgeInferError) -> ApiResponse:
    """The error as a document; `kind` lets a program raise it again as what it was."""
    status = 422 if isinstance(error, PackageError | SignatureError) else 400 if isinstance(error, UsageError) else 503
    return ApiResponse({"error": error.message, "hint": error.hint, "kind": type(error).__name__}, status)


def not_found(message: str) -> ApiResponse:
    return ApiResponse({"error": message, "hint": "", "kind": "NotFound"}, 404)


def query(request: Request, name: str) -> str | None:
    """A query parameter; None where it is absent or empty."""
    return request.query_params.get(name) or None


def number(request: Request, name: str, *, default: int, low: int, high: int) -> int:
    """An integer query parameter, brought into low..high. Raises UsageError for something else."""
    text = query(request, name)
    if text is None:
        return default
    try:
        value = int(text[:20])
    except ValueError:
        raise UsageError(f"expected a number as {name}, found {text[:40]!r}") from None
    return max(low, min(high, value))
