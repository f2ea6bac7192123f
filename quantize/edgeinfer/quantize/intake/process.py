"""The process that a model file is looked at in: short-lived, limited in time and memory, asked once."""

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from edgeinfer.quantize.intake.exchange import Found, Job
from edgeinfer.runtime.errors import DependencyError, EdgeInferError, ModelError, StorageError, UsageError

__all__ = ["Limits", "ask"]

_GIGABYTE = 1 << 30
# Time to read, write, load and run a file of this size on a slow disk.
_BYTES_PER_S = 4 << 20
_KINDS: dict[str, type[EdgeInferError]] = {
    "model": ModelError,
    "usage": UsageError,
    "missing": DependencyError,
    "storage": StorageError,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """`timeout_s` is for a small file; each 4 MB add a second. Memory is address space: libraries take over one
    gigabyte of it. 0: three quarters of what the machine has, at least 4 GB."""

    timeout_s: float = 120.0
    memory_bytes: int = 0


def ask(job: Job, *, limits: Limits) -> Found:
    """Have a process of its own do the job. Raises ModelError, also where that process crashes or hangs, UsageError,
    StorageError, DependencyError."""
    memory = limits.memory_bytes or max(4 * _GIGABYTE, psutil.virtual_memory().total * 3 // 4)
    question = msgspec.json.encode(msgspec.structs.replace(job, max_memory_bytes=memory))
    timeout_s = limits.timeout_s + Path(job.source).stat().st_size / _BYTES_PER_S
    try:
        done = subprocess.run(
            # -P: modules in the folder where the user stands are not ours.
            [sys.executable, "-P", "-m", "edgeinfer.quantize.intake.worker"],
            input=question,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"{job.source}: was not loaded and run once within {timeout_s:.0f} s",
            hint="a loop in the model that does not end, or a damaged file",
        ) from error
    except OSError as error:
        raise ModelError(f"{job.source}: no process can be started for it: {error.strerror}") from error
    if done.returncode != 0 or not done.stdout:
        raise ModelError(
            f"{job.source}: the process that looked at it ended {_how(done.returncode)}{_last_words(done.stderr)}",
            hint="the file is damaged, or needs more memory than there is: get or export it again",
        )
    found = msgspec.json.decode(done.stdout, type=Found)
    if found.error:
        raise _KINDS[found.kind](found.error, hint=found.hint)
    return found


def _how(status: int) -> str:
    if status >= 0:
        return f"with status {status}"
    try:
        return f"by {signal.Signals(-status).name}"
    except ValueError:
        return f"by signal {-status}"


def _last_words(stderr: bytes) -> str:
    lines = stderr.decode(errors="replace").strip().splitlines()
    return f": {lines[-1][:200]}" if lines else ""
