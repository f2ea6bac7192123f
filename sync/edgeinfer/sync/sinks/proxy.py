"""Which proxy the environment names for an address (`https_proxy`, `http_proxy`, `no_proxy`). Values only."""

import base64
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

import msgspec

__all__ = ["Proxy", "proxy_for"]


class Proxy(msgspec.Struct, frozen=True):
    """An HTTP proxy. `authorization` is what it wants to be shown, or empty."""

    host: str
    port: int
    authorization: str = ""

    def __repr__(self) -> str:
        return f"Proxy({self.host}:{self.port})"

    @property
    def headers(self) -> dict[str, str]:
        return {"Proxy-Authorization": self.authorization} if self.authorization else {}


def proxy_for(url: str, environment: Mapping[str, str]) -> Proxy | None:
    """None where none is named, or `no_proxy` spares the host. HTTP_PROXY in capitals is not looked at: in a CGI's
    environment a stranger sets it."""
    target = urlsplit(url)
    named = environment.get(f"{target.scheme}_proxy", "")
    if not named and target.scheme == "https":
        named = environment.get("HTTPS_PROXY", "")
    if not named or _is_spared(target.hostname or "", environment.get("no_proxy", environment.get("NO_PROXY", ""))):
        return None
    parts = urlsplit(named if "://" in named else f"http://{named}")
    if parts.scheme != "http" or not parts.hostname:
        return None
    return Proxy(parts.hostname, parts.port or 80, _authorization(parts.username, parts.password))


def _is_spared(host: str, spared: str) -> bool:
    """`no_proxy`: names and the ends of names, by commas; `*` is all."""
    names = [name.strip().lower().lstrip(".") for name in spared.split(",") if name.strip()]
    return any(name == "*" or host == name or host.endswith(f".{name}") for name in names)


def _authorization(user: str | None, password: str | None) -> str:
    """Basic (RFC 7617)."""
    if user is None:
        return ""
    secret = f"{unquote(user)}:{unquote(password or '')}".encode()
    return f"Basic {base64.b64encode(secret).decode('ascii')}"
