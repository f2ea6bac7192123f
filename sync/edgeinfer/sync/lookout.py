"""Looks whether a broker can be reached again, without disturbing the connection that stands."""

import socket
import threading
from collections.abc import Callable

__all__ = ["Lookout"]

_TIMEOUT_S = 5.0


class Lookout:
    """`look()` connects and hangs up, in a thread of its own because names and routes may hang; `found` is called
    from there where somebody listens. One look at a time."""

    def __init__(self, host: str, port: int, found: Callable[[], None]) -> None:
        self._address = (host, port)
        self._found = found
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._look, name="mqtt-lookout", daemon=True)
            self._thread.start()

    def _look(self) -> None:
        try:
            socket.create_connection(self._address, timeout=_TIMEOUT_S).close()
        except (OSError, ValueError):
            return
        self._found()
