"""Logs: one line an event on standard error, fields as key=value; under systemd with the journal's priority."""

import logging
import os
import sys

__all__ = ["set_up_logging"]

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class _Formatter(logging.Formatter):
    """A line break inside of a message would end the record early, or forge one: it is written as a space."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__("%(levelname)s %(name)s %(message)s" if journal else "%(asctime)s %(levelname)s %(message)s")
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.exc_info is None:
            text = text.replace("\n", " ")
        return f"<{_PRIORITIES.get(record.levelno, 6)}>{text}" if self._journal else text


def set_up_logging(level: str = "INFO") -> None:
    """Send the program's own records to standard error. Libraries are heard from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(journal="JOURNAL_STREAM" in os.environ))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("edgeinfer").setLevel(level.upper())
