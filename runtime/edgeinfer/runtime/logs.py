"""Logs: one event a record, its fields as key=value in the format string of the call.

    logger.info("event=source_opened pipeline=%s kind=%s", name, kind)

Three forms, by `log_format`: `text`, a line on standard error; `json`, one object a line; and under systemd, with
`auto`, the journal's own protocol, so that `journalctl EDGEINFER_PIPELINE=door` finds what concerns a pipeline. A
field is taken from the format string and its arguments, never from the finished text: a value that looks like
another field stays a value. No form lets a value begin a new line, and passwords in addresses are masked.
"""

import functools
import logging
import os
import re
import sys
import time
from typing import Literal, TextIO

from edgeinfer.runtime.journal import Journal, open_journal

__all__ = ["LogFormat", "fields_of", "masked", "set_up_logging"]

LogFormat = Literal["auto", "text", "json"]

PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
# Where a key begins in a format string: at its start or behind a space. Its value reaches up to the next key.
_KEY = re.compile(r"(?:^|(?<= ))([a-z][a-z0-9_]*)=")
_PLACEHOLDER = re.compile(r"%(?:[-+ #0]*\d*(?:\.\d+)?[a-zA-Z]|%)")
# What stands before the @ of an address (RFC 3986, section 3.2.1), up to the last one: people write passwords with
# an @ or a slash in them.
_USERINFO = re.compile(r"(?<=://)[^\s'\"]*@")
# C0 and C1 controls, DEL, and what Unicode counts as a line break: in a terminal or a file they forge records.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_MAX_TEXT = 16_384


def masked(text: str) -> str:
    """`text` without the user and password of addresses in it: `rtsp://***@camera/1`."""
    return _USERINFO.sub("***@", text) if "@" in text else text


def fields_of(record: logging.LogRecord) -> dict[str, str]:
    """The key=value pairs of a record, in order. Empty for a message that has none."""
    template = record.msg
    if not isinstance(template, str) or isinstance(record.args, dict):
        return {}
    keys = list(_KEY.finditer(template))
    if not keys:
        return {}
    arguments = list(record.args or ())
    del arguments[: _placeholders(template[: keys[0].start()])]
    ends = [*(key.start() for key in keys[1:]), len(template)]
    found: dict[str, str] = {}
    for key, end in zip(keys, ends, strict=True):
        value = template[key.end() : end].rstrip(" ")
        own = tuple(arguments[: _placeholders(value)])
        del arguments[: len(own)]
        try:
            found[key[1]] = masked(value % own if own else value.replace("%%", "%"))
        except (TypeError, ValueError):
            return {}
    return found


def _placeholders(text: str) -> int:
    return sum(found != "%%" for found in _PLACEHOLDER.findall(text))


def _escaped(text: str) -> str:
    """One line, whatever is in it."""
    shown = _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)
    return shown if len(shown) <= _MAX_TEXT else shown[:_MAX_TEXT] + "..."


class _Text(logging.Formatter):
    """Lines for people. A traceback keeps its lines: they come from the program, not from a stranger."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        message = _escaped(masked(record.getMessage()))
        if self._journal:  # the journal has its own clock; the prefix is that of sd-daemon(3)
            line = f"<{PRIORITIES.get(record.levelno, 6)}>{record.levelname} {record.name} {message}"
        else:
            moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
            line = f"{moment},{int(record.msecs):03d} {record.levelname} {message}"
        return f"{line}\n{masked(self.formatException(record.exc_info))}" if record.exc_info else line


class _Json(logging.Formatter):
    """One object a line: `t` (UTC), `level`, `logger`, `thread`, the record's fields, and `message` where it has
    none; `exception` with its traceback. A field that has the name of one of these gets an underscore."""

    def __init__(self) -> None:
        super().__init__()
        import json  # not msgspec's: that one cannot escape what is beyond ASCII

        # A terminal shows such lines as they are, and no reader splits one in two.
        self._encode = functools.partial(json.dumps, ensure_ascii=True)

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        document = {
            "t": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "thread": record.threadName or "",
        }
        fields = fields_of(record)
        document |= {f"{key}_" if key in document else key: value[:_MAX_TEXT] for key, value in fields.items()}
        if not fields:
            document["message"] = masked(record.getMessage())[:_MAX_TEXT]
        if record.exc_info:
            document["exception"] = masked(self.formatException(record.exc_info))
        return self._encode(document)


class _JournalHandler(logging.Handler):
    """To the journal; what it does not take goes to standard error, as text."""

    def __init__(self, journal: Journal, fallback: logging.Handler) -> None:
        super().__init__()
        self._journal = journal
        self._fallback = fallback

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sent = self._journal.send(self._entry(record))
        except Exception:  # as logging's own handlers do: a record that cannot be written ends no program
            self.handleError(record)
            return
        if not sent:
            self._fallback.handle(record)

    def close(self) -> None:
        self._journal.close()
        super().close()

    def _entry(self, record: logging.LogRecord) -> dict[str, str]:
        message = _escaped(masked(record.getMessage()))
        if record.exc_info:
            message += "\n" + masked(logging.Formatter().formatException(record.exc_info))
        return {
            "MESSAGE": message,
            "PRIORITY": str(PRIORITIES.get(record.levelno, 6)),
            "SYSLOG_IDENTIFIER": "edgeinfer",
            "LOGGER": record.name,
            "THREAD_NAME": record.threadName or "",
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName or "",
            **{f"EDGEINFER_{key.upper()}": value for key, value in fields_of(record).items()},
        }


def set_up_logging(level: str = "INFO", log_format: LogFormat = "auto") -> None:
    """Send the program's own records to the journal or to standard error. Libraries are heard from WARNING on."""
    root = logging.getLogger()
    root.handlers[:] = [_handler(log_format, sys.stderr)]
    root.setLevel(logging.WARNING)
    logging.getLogger("edgeinfer").setLevel(level.upper())


def _handler(log_format: LogFormat, stream: TextIO) -> logging.Handler:
    lines = logging.StreamHandler(stream)
    if log_format == "json":
        lines.setFormatter(_Json())
        return lines
    is_journal = _is_journal(stream)
    lines.setFormatter(_Text(journal=is_journal))
    journal = open_journal() if is_journal and log_format == "auto" else None
    return lines if journal is None else _JournalHandler(journal, lines)


def _is_journal(stream: TextIO) -> bool:
    """Whether `stream` is connected to the journal: JOURNAL_STREAM names the device and inode of what the service
    manager has opened (systemd.exec(5)); a stream that was redirected since is another one."""
    try:
        device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
        found = os.fstat(stream.fileno())
        return (found.st_dev, found.st_ino) == (int(device), int(inode))
    except (OSError, ValueError):
        return False
