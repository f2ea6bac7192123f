"""The journal's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): a datagram of fields. No library needed."""

import socket
import struct
from collections.abc import Mapping

__all__ = ["Journal", "encode_entry", "open_journal"]

_SOCKET = "/run/systemd/journal/socket"
# A journal that takes nothing must not hold up who logs.
_PATIENCE_S = 0.2
# Below the kernel's usual limit of a datagram (net.core.wmem_default, 208 KiB), with room to spare.
_MAX_VALUE_BYTES = 48_000


class Journal:
    """A connected socket. Safe from any thread: each entry is one datagram."""

    def __init__(self, connected: socket.socket, path: str) -> None:
        self._socket = connected
        self._path = path

    def send(self, entry: Mapping[str, str]) -> bool:
        """False where the journal did not take it: it was restarted, is stuck, or the entry is too large."""
        try:
            self._socket.send(encode_entry(entry))
        except OSError:
            self._reconnect()
            return False
        return True

    def close(self) -> None:
        self._socket.close()

    def _reconnect(self) -> None:
        """A journal that was restarted has another socket under the same name."""
        try:
            self._socket.connect(self._path)
        except OSError:
            return


def open_journal(path: str = _SOCKET) -> Journal | None:
    """None where there is no journal."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    made.settimeout(_PATIENCE_S)
    try:
        made.connect(path)
    except OSError:
        made.close()
        return None
    return Journal(made, path)


def encode_entry(entry: Mapping[str, str]) -> bytes:
    """`NAME=value` a line; a value with a line break is sent with its length instead. Names are upper case
    letters, digits and underscores, 64 at most; a value is cut where it is too long."""
    parts: list[bytes] = []
    for name, text in entry.items():
        value = text.encode("utf-8", "replace")[:_MAX_VALUE_BYTES]
        key = name[:64].encode("ascii", "replace")
        if b"\n" in value:
            parts += [key, b"\n", struct.pack("<Q", len(value)), value, b"\n"]
        else:
            parts += [key, b"=", value, b"\n"]
    return b"".join(parts)
