"""How much memory a process takes, and how to give back what is free."""

import ctypes
import os
import resource

__all__ = ["give_back_memory", "resident_bytes"]

_PAGE_BYTES = resource.getpagesize()


def resident_bytes(pid: int | None = None) -> int:
    """The resident set of process `pid`, or of this one. 0 where it cannot be read, for instance because it ended."""
    try:
        descriptor = os.open(f"/proc/{pid or 'self'}/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return int(os.read(descriptor, 128).split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0
    finally:
        os.close(descriptor)


def give_back_memory() -> None:
    """Have the allocator return its free pages to the kernel: what a closed model leaves. glibc only."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
