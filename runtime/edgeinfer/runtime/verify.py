"""Checks of an update, run in a short-lived process of their own.

    python -m edgeinfer.runtime.verify < request

A request is one of: an assignment (is it signed by the console?), a package (hashes and signature), a gate
(does it load here, and do its golden vectors agree?).

The daemon stays small (the cryptography library costs it nothing), and a model that crashes its engine
crashes this process, not the daemon. A request and the answer are JSON; exit status 0: the answer is on
standard output; 3: refused, with the reason on standard error; 75: it could not be told now.
"""

import subprocess
import sys
from pathlib import Path

import msgspec

from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import EdgeInferError, GateError, RefusedError, StorageError

__all__ = ["AssignmentRequest", "GateAnswer", "GateRequest", "PackageRequest", "ask", "main"]

_TIMEOUT_S = 120.0
_TRY_LATER = 75  # EX_TEMPFAIL of sysexits.h


class AssignmentRequest(msgspec.Struct, frozen=True, tag="assignment"):
    """`envelope` as it came over the wire; `keys` are public keys in hex or paths of `.pub` files."""

    envelope: bytes
    keys: tuple[str, ...]


class PackageRequest(msgspec.Struct, frozen=True, tag="package"):
    """The package at `path` must have `digest` and be signed by one of `keys`."""

    path: str
    digest: str
    keys: tuple[str, ...]


class GateRequest(msgspec.Struct, frozen=True, tag="gate"):
    """The installed package in `state_dir` under `digest` must do here what it did when it was made."""

    state_dir: str
    digest: str
    variant: str
    threads: int
    max_latency_us: int = 0
    max_bytes: int = 0


class GateAnswer(msgspec.Struct, frozen=True):
    """What the gate measured: the worst distance from the golden outputs, the median latency, and what the model adds
    to the memory of a process, in bytes."""

    variant: str
    max_abs: float
    latency_us: int
    bytes: int


Request = AssignmentRequest | PackageRequest | GateRequest


def ask(request: Request, *, timeout_s: float = _TIMEOUT_S) -> bytes:
    """Have `request` checked by a process of its own; its answer. Raises RefusedError with the reason,
    StorageError where no process can be started now."""
    command = [sys.executable, "-m", "edgeinfer.runtime.verify"]
    try:
        done = subprocess.run(
            command, input=msgspec.json.encode(request), capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise GateError(f"the check took longer than {timeout_s:.0f} s") from error
    except OSError as error:
        raise StorageError(f"the check cannot be started: {error.strerror or error}") from error
    if done.returncode == 0:
        return done.stdout
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    if done.returncode == RefusedError.exit_code and lines:
        raise RefusedError(lines[-1])
    if done.returncode == _TRY_LATER and lines:
        raise StorageError(lines[-1])
    last = lines[-1] if lines else "it said nothing"
    raise GateError(f"the check ended with status {done.returncode}: {last[:300]}")


def main(raw: bytes) -> int:
    """Answer one request. Returns the exit status."""
    try:
        request = msgspec.json.decode(raw, type=Request)
        match request:
            case AssignmentRequest():
                answer = _assignment(request)
            case PackageRequest():
                answer = _package(request)
            case GateRequest():
                answer = msgspec.json.encode(_gate(request))
    except (EdgeInferError, *MALFORMED) as error:
        sys.stderr.write(f"{error}\n")
        return _TRY_LATER if isinstance(error, StorageError) else RefusedError.exit_code
    sys.stdout.buffer.write(answer)
    return 0


def _assignment(request: AssignmentRequest) -> bytes:
    from edgeinfer.runtime.trust import open_envelope, parse_public_key

    return open_envelope(request.envelope, [parse_public_key(key) for key in request.keys])


def _package(request: PackageRequest) -> bytes:
    from edgeinfer.runtime.package import PackageFile
    from edgeinfer.runtime.trust import parse_public_key, verify

    with PackageFile(Path(request.path)) as package:
        if package.digest != request.digest:
            raise RefusedError(f"expected the assigned package {request.digest[:16]}, found {package.digest[:16]}")
        verify(package.manifest_bytes, package.signatures, [parse_public_key(key) for key in request.keys])
        package.verify_files()
    return b"{}"


def _gate(request: GateRequest) -> GateAnswer:
    from edgeinfer.runtime.gate import run_gate
    from edgeinfer.runtime.store import Store

    package = Store(Path(request.state_dir)).open(request.digest)
    return run_gate(
        package,
        variant=request.variant,
        threads=request.threads,
        max_latency_us=request.max_latency_us,
        max_bytes=request.max_bytes,
    )


if __name__ == "__main__":
    sys.exit(main(sys.stdin.buffer.read()))
