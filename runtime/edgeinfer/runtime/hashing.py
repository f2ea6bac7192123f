"""SHA-256 and random names without OpenSSL: its library would take 3.5 MB for as long as the daemon lives.

CPython carries an implementation of its own, for builds without OpenSSL; `hashlib` itself falls back to it. Where that
module has another name, `hashlib` is used. So it is in a process that has OpenSSL anyway, as the console's is: it is
five times as fast.
"""

import functools
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Protocol

__all__ = ["Hash", "random_hex", "sha256", "sha256_stream"]

_BLOCK = 1 << 20
_OWN_MODULES = ("_sha256", "_sha2")  # CPython 3.11; 3.12 and later
_OPENSSL = "_hashlib"


class Hash(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...
    def digest(self) -> bytes: ...
    def hexdigest(self) -> str: ...


def sha256(data: bytes = b"") -> Hash:
    """A running SHA-256 (FIPS 180-4)."""
    return _constructor()(data)


@functools.cache
def _constructor() -> Callable[[bytes], Hash]:
    for name in _OWN_MODULES if _OPENSSL not in sys.modules else ():
        try:
            found: Callable[[bytes], Hash] = importlib.import_module(name).sha256
        except (ImportError, AttributeError):
            continue
        return found
    import hashlib

    return hashlib.sha256


def sha256_stream(source: IO[bytes] | Path) -> str:
    """The hash of all that is left in an open file, or of the file at a path, in hex. Raises OSError."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            return sha256_stream(file)
    digest = sha256()
    while block := source.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def random_hex(count: int) -> str:
    """`count` random bytes of the system, in hex: for names that nobody else has chosen."""
    return os.urandom(count).hex()
