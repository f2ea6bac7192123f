"""Whether what a search writes has a place, looked at before the minutes that it takes: a place that can be written to,
and that holds nothing of the user's."""

import errno
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgeinfer.runtime.errors import StorageError, UsageError

__all__ = ["check_destinations"]

# An earlier package or page is replaced, and an empty file, as `mktemp` makes one; nothing else is.
_PACKAGE, _PAGE = b"PK\x03\x04", b"<!doctype html"
# An .npz archive is a ZIP file, too: packages begin with their manifest.
_FIRST_MEMBER = b"manifest.json"
_HEAD_BYTES = 512


def check_destinations(output: Path, page: Path | None, *, inputs: Sequence[Path]) -> None:
    """`output` is where the package goes, `page` the report. `inputs` are files that the user gave.

    Raises UsageError where a file of the user's would be overwritten or a folder does not exist, StorageError where a
    folder cannot be written to.
    """
    for path, what in ((output, "package"), *(((page, "report"),) if page is not None else ())):
        if not path.parent.is_dir():
            raise UsageError(f"{path}: expected an existing folder to write the {what} to")
        if path.is_dir():
            raise UsageError(f"{path}: expected a file to write the {what} to, found a folder")
        _check_free(path, what, inputs)
        _check_writable(path.parent)
    if page is not None and _same(page, output):
        raise UsageError(f"{page}: expected another file for the report than for the package, found the same")


def _check_free(path: Path, what: str, inputs: Sequence[Path]) -> None:
    hint = "choose another name with --output" if what == "package" else "choose another name with --report"
    if any(_same(path, given) for given in inputs):
        raise UsageError(f"{path}: expected a file of its own for the {what}, found one that is read", hint=hint)
    if path.exists() and not _replaceable(path, what):
        raise UsageError(f"{path}: expected to write a {what}, found a file that is none: it stays as it is", hint=hint)


def _same(one: Path, other: Path) -> bool:
    if one.exists() and other.exists():
        return one.samefile(other)
    return one.resolve() == other.resolve()


def _replaceable(path: Path, what: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if what == "report":
        return not head or head.lstrip().lower().startswith(_PAGE)
    return not head or (head.startswith(_PACKAGE) and _FIRST_MEMBER in head)


def _check_writable(folder: Path) -> None:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".edgeinfer-") as probe:
            os.fsync(probe.fileno())
    except OSError as error:
        hint = "" if error.errno != errno.ENOSPC else "make room on the disk"
        raise StorageError(f"{folder}: cannot be written to: {error.strerror or error}", hint=hint) from error
