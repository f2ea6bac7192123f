"""The device's latest log lines: from the journal where it can be read, else the agent's own.

Reading the journal is left to `journalctl`, in a thread of its own: it may take seconds on a slow card, and the agent
has a watchdog to feed.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from edgeinfer.sync.log_ring import LogRing, without_secrets

__all__ = ["Gathered", "Gathering", "in_parts"]

_log = logging.getLogger(__name__)

UNITS = ("edgeinfer", "edgeinfer-sync")
_TIMEOUT_S = 20.0
_MAX_BYTES = 4 << 20
_PART_BYTES = 48 << 10
_NOTHING = "-- No entries --"


class Gathered(NamedTuple):
    """`origin` says where the lines come from: journal, or agent."""

    lines: tuple[str, ...]
    origin: str


class Gathering:
    """Begins at once; `result` is None until it is done."""

    def __init__(self, n: int, ring: LogRing) -> None:
        self.result: Gathered | None = None
        self._n = n
        self._ring = ring
        self._thread = threading.Thread(target=self._run, name="device-logs", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        found: Sequence[str] = ()
        try:
            found = _journal(self._n)
        except Exception as error:  # the top of this thread; nothing here is worth more than the agent's own lines
            _log.debug("event=journal_unreadable reason=%r", str(error))
        origin = "journal" if found else "agent"
        lines = found or self._ring.lines(self._n)
        self.result = Gathered(tuple(without_secrets(line) for line in lines), origin)


def in_parts(lines: Sequence[str]) -> list[tuple[str, ...]]:
    """Split so that each part takes at most 48 KiB as JSON; at least one part."""
    return list(_split(lines)) or [()]


def _split(lines: Sequence[str]) -> Iterator[tuple[str, ...]]:
    part: list[str] = []
    size = 0
    for line in lines:
        cost = len(msgspec.json.encode(line)) + 1
        if part and size + cost > _PART_BYTES:
            yield tuple(part)
            part, size = [], 0
        part.append(line)
        size += cost
    if part:
        yield tuple(part)


def _journal(n: int) -> list[str]:
    """Empty where there is no journal, or none of it may be read by this user. Raises OSError, SubprocessError."""
    import shutil
    import subprocess

    program = shutil.which("journalctl")
    if program is None:
        return []
    units = [argument for unit in UNITS for argument in ("-u", unit)]
    done = subprocess.run(
        [program, *units, "-n", str(n), "-o", "short-iso", "--no-pager", "--quiet"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    text = done.stdout[-_MAX_BYTES:].decode("utf-8", "replace")
    lines = [line for line in text.splitlines() if line and line != _NOTHING]
    return lines if done.returncode == 0 else []
