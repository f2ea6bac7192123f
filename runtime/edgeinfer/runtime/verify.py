"""Checks of an update, run in a short-lived process of their own.

    python -m edgeinfer.runtime.verify < request

A request is one of: an assignment (is it signed by the console?), a package (hashes and signature), a gate
(does it load here, and do its golden vectors agree?), a bench (a package as above: how fast is it here?).

The daemon stays small (the cryptography library costs it nothing), and a model that crashes its engine
crashes this process, not the daemon. A request and the answer are JSON; exit status 0: the answer is on
standard output; 3: refused, with the reason on standard error; 75: it could not be told now.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import EdgeInferError, GateError, RefusedError, StorageError

__all__ = ["AssignmentRequest", "BenchRequest", "GateAnswer", "GateRequest", "PackageRequest", "ask", "main"]

_TIMEOUT_S = 120.0
_LOOK_S = 0.5
_NICE = 10
# Half of all memory, as proc(5) counts.
_FIRST_TO_GO = "500"
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


class BenchRequest(msgspec.Struct, frozen=True, tag="bench"):
    """The package at `path`, which must be signed by one of `keys`, is timed: each variant for `seconds`, at a low
    priority. It is unpacked beside `path`."""

    path: str
    keys: tuple[str, ...]
    seconds: float
    threads: int


class GateRequest(msgspec.Struct, frozen=True, tag="gate"):
    """The installed package in `state_dir` under `digest` must do here what it did when it was made. With `bench_s` it
    is timed for so long, at a low priority: to be compared with others."""

    state_dir: str
    digest: str
    variant: str
    threads: int
    max_latency_us: int = 0
    max_bytes: int = 0
    bench_s: float = 0.0


class GateAnswer(msgspec.Struct, frozen=True):
    """What the gate measured: the worst distance from the golden outputs, the median latency, and what the model adds
    to the memory of a process, in bytes."""

    variant: str
    max_abs: float
    latency_us: int
    bytes: int


Request = AssignmentRequest | PackageRequest | BenchRequest | GateRequest


def ask(request: Request, *, timeout_s: float = _TIMEOUT_S, is_over: Callable[[], bool] = lambda: False) -> bytes:
    """Have `request` checked by a process of its own; its answer. The process is ended where `is_over`, which is asked
    now and then, says that nobody waits any more. Raises RefusedError with the reason, StorageError where no process
    can be started now."""
    command = [sys.executable, "-m", "edgeinfer.runtime.verify"]
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
    except OSError as error:
        raise StorageError(f"the check cannot be started: {error.strerror or error}") from error
    with process:
        try:
            answer, said = _converse(process, msgspec.json.encode(request), timeout_s=timeout_s, is_over=is_over)
        finally:
            process.kill()
    if process.returncode == 0:
        return answer
    lines = said.decode(errors="replace").strip().splitlines()
    if process.returncode == RefusedError.exit_code and lines:
        raise RefusedError(lines[-1])
    if process.returncode == _TRY_LATER and lines:
        raise StorageError(lines[-1])
    last = lines[-1] if lines else "it said nothing"
    raise GateError(f"the check ended with status {process.returncode}: {last[:300]}")


def _converse(
    process: "subprocess.Popen[bytes]", request: bytes, *, timeout_s: float, is_over: Callable[[], bool]
) -> tuple[bytes, bytes]:
    """What it says on standard output and error. Raises GateError where it takes too long, or nobody waits for it."""
    deadline_s = time.monotonic() + timeout_s
    rest: bytes | None = request
    while True:
        try:
            return process.communicate(rest, timeout=max(0.0, min(_LOOK_S, deadline_s - time.monotonic())))
        except subprocess.TimeoutExpired:
            rest = None  # what could not be written yet is kept there
            if time.monotonic() >= deadline_s:
                raise GateError(f"the check took longer than {timeout_s:.0f} s") from None
            if is_over():
                raise GateError("the check was called off") from None


def main(raw: bytes) -> int:
    """Answer one request. Returns the exit status."""
    try:
        request = msgspec.json.decode(raw, type=Request)
        match request:
            case AssignmentRequest():
                answer = _assignment(request)
            case PackageRequest():
                answer = _package(request)
            case BenchRequest():
                _step_back()
                answer = _bench(request)
            case GateRequest():
                if request.bench_s:
                    _step_back()
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


def _bench(request: BenchRequest) -> bytes:
    from edgeinfer.runtime.bench import bench_package
    from edgeinfer.runtime.package import PackageFile
    from edgeinfer.runtime.trust import parse_public_key, verify

    path = Path(request.path)
    with PackageFile(path) as package:
        verify(package.manifest_bytes, package.signatures, [parse_public_key(key) for key in request.keys])
    found = bench_package(path, seconds=request.seconds, threads=(request.threads,), scratch=path.parent)
    return msgspec.json.encode(found)


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
        bench_s=request.bench_s,
    )


def _step_back() -> None:
    """What runs goes first, for the processor and where memory ends. A sandbox may forbid even this."""
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO, encoding="ascii")


if __name__ == "__main__":
    sys.exit(main(sys.stdin.buffer.read()))
