"""What a configuration may say of the local page and the metrics."""

from typing import Annotated

import msgspec

from edgeinfer.runtime.config import Section

__all__ = ["Address", "LocalConfig", "parse_listen"]

_UNIX = "unix:"
_MAX_PATH_BYTES = 107  # unix(7): sun_path, with a zero behind it


class Address(msgspec.Struct, frozen=True):
    """Where the page is: `path` of a unix socket, or else a loopback address."""

    host: str = ""
    port: int = 0
    path: str = ""


class LocalConfig(Section, frozen=True):
    """`listen`: a loopback address and port (`127.0.0.1:9464`, `[::1]:9464`), or `unix:PATH`. Nothing else is
    allowed, because there are no accounts: every program of this device that reaches the address sees what the cameras
    see. Where that is too many, take a unix socket, or `page = false`, which leaves the numbers alone.

    Each look at a live picture costs the encoding of a JPEG of `quality`, `max_width` pixels wide at most.
    """

    listen: str = "127.0.0.1:9464"
    page: bool = True
    metrics: bool = True
    quality: Annotated[int, msgspec.Meta(ge=1, le=100)] = 80
    max_width: Annotated[int, msgspec.Meta(ge=64, le=4096)] = 960

    def __post_init__(self) -> None:
        parse_listen(self.listen)


def parse_listen(text: str) -> Address:
    """Raises ValueError for what is neither a loopback address with a port nor `unix:` with an absolute path."""
    if text.startswith(_UNIX):
        path = text.removeprefix(_UNIX)
        if not path.startswith("/") or len(path.encode()) > _MAX_PATH_BYTES or "\0" in path:
            raise ValueError(
                f"listen: expected unix: and an absolute path of at most {_MAX_PATH_BYTES} bytes, found {text!r}"
            )
        return Address(path=path)
    host, _, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise ValueError(f"listen: expected an address and a port (127.0.0.1:9464) or unix:PATH, found {text!r}")
    if bare != "localhost" and not _is_loopback(bare):
        raise ValueError(
            f"listen: expected a loopback address, found {host!r}: there are no accounts, so the page is never open to "
            "other machines (ssh -L 9464:127.0.0.1:9464 brings it to yours)"
        )
    return Address(host="127.0.0.1" if bare == "localhost" else bare, port=int(port))


def _is_loopback(host: str) -> bool:
    """`::1`, or 127.0.0.0/8 in four numbers."""
    parts = host.split(".")
    numbers = [int(part) for part in parts if part.isascii() and part.isdigit() and len(part) <= 3]
    return host == "::1" or (len(parts) == len(numbers) == 4 and numbers[0] == 127 and max(numbers) <= 255)
