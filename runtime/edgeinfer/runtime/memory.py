"""How much memory a process takes, and how to give back what is free."""

import ctypes
import os
import resource
import sys
from pathlib import Path

__all__ = ["give_back_memory", "own_bytes", "peak_bytes", "resident_bytes"]

_PAGE_BYTES = resource.getpagesize()


def resident_bytes(pid: int | None = None) -> int:
    """The resident set of process `pid`, or of this one. Where it cannot be read, 0 for another process, which may have
    ended, and the peak for this one."""
    try:
        descriptor = os.open(f"/proc/{pid or 'self'}/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0 if pid else peak_bytes()
    try:
        return int(os.read(descriptor, 128).split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0
    finally:
        os.close(descriptor)


def own_bytes() -> int:
    """What of this process's resident set is in no file, so that only this process has it; the peak of the whole where
    it cannot be read."""
    try:
        _, resident, shared, *_ = Path("/proc/self/statm").read_bytes().split()
    except (OSError, ValueError):
        return peak_bytes()
    return (int(resident) - int(shared)) * _PAGE_BYTES


def peak_bytes() -> int:
    """The largest resident set that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def give_back_memory() -> None:
    """Have the allocator return its free pages to the kernel: what a closed model leaves. glibc only."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
