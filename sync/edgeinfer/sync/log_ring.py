"""The agent's own latest log records, in memory: what a console may ask for where there is no journal to read."""

import logging
import re
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from edgeinfer.runtime.logs import masked

__all__ = ["LogRing", "listening", "without_secrets"]

_RECORDS = 500
_MAX_LINE = 2000
# A key that names a secret, in `key=value`, `key: value` and JSON; its value up to where the next thing begins.
_SECRET = re.compile(
    r"""(?ix) (
    \b [\w.-]{0,40} (?: passwd | password | secret | token | api[_-]?key | private[_-]?key | credential ) [\w.-]{0,40}
    ["']? \s{0,4} [=:] \s{0,4} ) (?: "[^"]*" | '[^']*' | [^\s,;&"'}]+ )"""
)
_BEARER = re.compile(r"(?i)\b(authorization\s{0,4}[=:]\s{0,4}\S+|bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")
_HIDDEN = "***"


def without_secrets(line: str) -> str:
    """A line that may leave the device: at most 2000 characters; passwords in addresses and the values of what is
    called a password, a secret, a token or a key are gone."""
    line = _SECRET.sub(lambda found: found[1] + _HIDDEN, masked(line[: 2 * _MAX_LINE]))
    return _BEARER.sub(lambda found: f"{found[1]} {_HIDDEN}", line)[:_MAX_LINE]


class LogRing(logging.Handler):
    """Keeps the last 500 records as lines of text."""

    def __init__(self) -> None:
        super().__init__()
        self._records: deque[tuple[float, str]] = deque(maxlen=_RECORDS)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = f"{record.levelname} {record.getMessage()}"
        except Exception:  # as logging's own handlers do
            self.handleError(record)
            return
        if record.exc_info is not None and record.exc_info[1] is not None:
            text += f" [{record.exc_info[1]!r}]"
        self._records.append((record.created, text[:_MAX_LINE]))

    def lines(self, n: int) -> list[str]:
        """The last `n`, the oldest first."""
        latest = list(self._records)[-n:] if n > 0 else []
        return [
            f"{time.strftime('%Y-%m-%dT%H:%M:%S%z', time.localtime(created))} {' '.join(text.splitlines())}"
            for created, text in latest
        ]


@contextmanager
def listening() -> Iterator[LogRing]:
    """A ring that hears all records of edgeinfer while the block runs."""
    ring, logger = LogRing(), logging.getLogger("edgeinfer")
    logger.addHandler(ring)
    try:
        yield ring
    finally:
        logger.removeHandler(ring)
