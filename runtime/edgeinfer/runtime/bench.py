"""Measures each variant of a package on this device, one after the other, each in a process of its own.

A process of its own, so that the memory of one engine is not counted for the next, and an engine that crashes
on this processor takes nothing with it. The child is this module: `python -m edgeinfer.runtime.bench`.
"""

import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgeinfer.runtime.engines.base import Array, available_engines, load_engine, quantize_input
from edgeinfer.runtime.errors import EdgeInferError, ModelError, UsageError
from edgeinfer.runtime.manifest import TensorSpec, Variant
from edgeinfer.runtime.package import PackageFile

__all__ = ["Figures", "bench_package", "main"]

_WARM_UP_CALLS = 20
_GRACE_S = 60.0


class Figures(msgspec.Struct, frozen=True):
    """What one variant does here: latency of the engine's call, CPU time of the process a call, its memory.

    `ratio` is the median latency over that of the package's float reference (ONNX Runtime where there is one).
    `error` says why there are no figures; they are 0 then.
    """

    variant: str
    engine: str
    precision: str
    bytes: int
    p50_us: float = 0.0
    p99_us: float = 0.0
    cpu_us: float = 0.0
    rss_bytes: int = 0
    calls: int = 0
    ratio: float = 0.0
    error: str = ""


class _Measured(msgspec.Struct, frozen=True):
    p50_us: float
    p99_us: float
    cpu_us: float
    rss_bytes: int
    calls: int


def bench_package(path: Path, *, seconds: float, threads: int = 1) -> list[Figures]:
    """Measure every variant for `seconds`. Raises PackageError, UsageError; an engine's failure is in its row."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"expected --seconds above 0, found {seconds}")
    if threads < 1:
        raise UsageError(f"expected --threads of 1 or more, found {threads}")
    with tempfile.TemporaryDirectory(prefix="edgeinfer-bench-") as name:
        folder = Path(name)
        with PackageFile(path) as package:
            package.verify_files()
            package.extract_to(folder)
            manifest = package.manifest
        found = [_bench_variant(variant, folder, seconds=seconds, threads=threads) for variant in manifest.variants]
    return _with_ratios(found, reference=_reference(found))


def _bench_variant(variant: Variant, folder: Path, *, seconds: float, threads: int) -> Figures:
    row = Figures(variant.id, variant.engine, variant.precision, variant.bytes)
    if variant.engine not in available_engines():
        return msgspec.structs.replace(row, error=f"the engine {variant.engine} is not installed")
    arguments = [variant.engine, str(folder / variant.file), str(threads), str(seconds)]
    try:
        child = subprocess.run(
            [sys.executable, "-m", "edgeinfer.runtime.bench", *arguments],
            capture_output=True,
            check=False,
            timeout=seconds + _GRACE_S,
        )
    except subprocess.TimeoutExpired:
        return msgspec.structs.replace(row, error=f"gave no answer in {seconds + _GRACE_S:.0f} s")
    if child.returncode != 0:
        last = (child.stderr.decode(errors="replace").strip() or f"ended with {child.returncode}").splitlines()[-1]
        return msgspec.structs.replace(row, error=last[:300])
    measured = msgspec.json.decode(child.stdout, type=_Measured)
    return msgspec.structs.replace(row, **msgspec.structs.asdict(measured))


def _reference(found: Sequence[Figures]) -> Figures | None:
    """The float variant on ONNX Runtime, else any float one, else the last: the least preferred."""
    measured = [row for row in found if not row.error]
    floats = [row for row in measured if row.precision in {"fp32", "float32"}]
    onnx = [row for row in floats if row.engine == "onnx"]
    return next(iter([*onnx, *floats, *reversed(measured)]), None)


def _with_ratios(found: Sequence[Figures], *, reference: Figures | None) -> list[Figures]:
    if reference is None:
        return list(found)
    return [msgspec.structs.replace(row, ratio=round(row.p50_us / reference.p50_us, 4)) for row in found]


def measure(engine_name: str, path: Path, *, threads: int, seconds: float) -> _Measured:
    """Call the engine for `seconds` with values from 0 to 1. Raises ModelError, DependencyError."""
    engine = load_engine(engine_name, path, threads=threads)
    inputs = [_sample(spec) for spec in engine.inputs]
    for _ in range(_WARM_UP_CALLS):
        engine.run(inputs)
    times_ns: list[int] = []
    cpu_before, end = time.process_time_ns(), time.perf_counter_ns() + int(seconds * 1e9)
    while (begin := time.perf_counter_ns()) < end:
        engine.run(inputs)
        times_ns.append(time.perf_counter_ns() - begin)
    cpu_ns = time.process_time_ns() - cpu_before
    if not times_ns:
        raise ModelError(f"{path}: not one call in {seconds} s")
    times_ns.sort()
    return _Measured(
        p50_us=round(_percentile(times_ns, 0.50) / 1000, 2),
        p99_us=round(_percentile(times_ns, 0.99) / 1000, 2),
        cpu_us=round(cpu_ns / len(times_ns) / 1000, 2),
        rss_bytes=_rss_bytes(),
        calls=len(times_ns),
    )


def _sample(spec: TensorSpec) -> Array:
    import numpy as np

    shape = tuple(1 if size < 0 else size for size in spec.shape)
    return quantize_input(np.random.default_rng(0).random(shape, np.float32), spec)


def _percentile(ordered: Sequence[int], share: float) -> int:
    """The nearest-rank percentile of values in ascending order."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _rss_bytes() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def main(arguments: Sequence[str]) -> int:
    """The child process: engine, file, threads, seconds; prints one JSON document."""
    engine, path, threads, seconds = arguments
    try:
        measured = measure(engine, Path(path), threads=int(threads), seconds=float(seconds))
    except EdgeInferError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(msgspec.json.encode(measured).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
