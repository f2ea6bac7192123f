"""Who may ask for what: a middleware in front of every route.

- The Host header has to name this console, so that a foreign site cannot reach a loopback console through a
  name of its own that resolves to 127.0.0.1 (DNS rebinding).
- A request that changes something has to come from the console's own pages or from a program, never from
  another site (Origin and Sec-Fetch-Site, as browsers send them).
- Where a token is configured, changes need it (`Authorization: Bearer`, or the cookie that the sign-in page
  sets), and reading too when it is asked for.
"""

import hashlib
import hmac
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["COOKIE", "Access", "Guard", "cookie_value"]

COOKIE = "edgeinfer_session"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
# The last one takes devices' own tokens, too, and asks for them itself.
_OPEN_PATHS = ("/static/", "/healthz", "/sign-in", "/api/v1/ingest/")
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


class Access:
    """The rules, readable at any time and changed by a reload.

    Args:
        token: the secret, or None where none is needed.
        for_reading: whether reading needs it too.
        hosts: names this console goes by; empty where any will do (a token guards it then).
    """

    def __init__(self, *, token: str | None, for_reading: bool, hosts: Sequence[str]) -> None:
        self.token = token
        self.for_reading = for_reading and token is not None
        self.hosts = frozenset(host.lower() for host in hosts)

    def __repr__(self) -> str:
        return f"Access(token={'set' if self.token else 'none'}, for_reading={self.for_reading})"

    def knows_host(self, host: str) -> bool:
        name = urlsplit(f"//{host}").hostname or ""
        return not self.hosts or name.lower() in self.hosts

    def admits(self, headers: Headers, cookie: str) -> bool:
        """Whether the request carries the token."""
        if self.token is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        by_header = scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.token.encode())
        return by_header or hmac.compare_digest(cookie.encode(), cookie_value(self.token).encode())


def cookie_value(token: str) -> str:
    """What the browser keeps instead of the token."""
    return hmac.new(token.encode(), b"edgeinfer console session", hashlib.sha256).hexdigest()


class Guard:
    """ASGI middleware. `access` is asked for each request."""

    def __init__(self, app: ASGIApp, access: Callable[[], Access]) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, _with_headers(send))
            return
        await self._app(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope) -> Response | None:
        access, headers, path = self._access(), Headers(scope=scope), scope["path"]
        reading = scope["method"] in _SAFE
        if not access.knows_host(headers.get("host", "")):
            return _refuse(421, "this console does not go by that name", "add it to web.allowed_hosts")
        if not reading and not _is_same_site(headers):
            return _refuse(403, "a change was asked for by another site", "use the console's own pages or the API")
        if path.startswith(_OPEN_PATHS) or (reading and not access.for_reading):
            return None
        if access.admits(headers, _cookie(headers)):
            return None
        if reading and "text/html" in headers.get("accept", ""):
            return RedirectResponse("/sign-in", status_code=303)
        refusal = _refuse(401, "this needs the console's token", "Authorization: Bearer TOKEN, or sign in on the page")
        refusal.headers["www-authenticate"] = "Bearer"
        return refusal


def _is_same_site(headers: Headers) -> bool:
    if headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}:
        return False
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower()


def _cookie(headers: Headers) -> str:
    for part in headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value
    return ""


def _refuse(status: int, message: str, hint: str) -> JSONResponse:
    return JSONResponse({"error": message, "hint": hint, "kind": "AccessError"}, status_code=status)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *_HEADERS]
        await send(message)

    return sending
