"""The cost of a frame beyond the engine's call, and what many frames and many pipelines leave behind."""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import daemons
import models
import videos

ROUNDS = 5
KWS_FRAMES = 20_000
SHARED_FRAMES = 2_000
PIPELINES = 10
SOAK_WARM = 200_000
SOAK_FRAMES = 1_000_000
SOAK_FEATURES = 4


def measure(data: Path) -> dict[str, float]:
    if not (data / models.KWS_LITERT.file).is_file():
        sys.stderr.write(f"edgeinfer: frame figures left out: {videos.MISSING}\n")
        return {}
    with tempfile.TemporaryDirectory() as folder:
        return {**overhead(Path(folder), data), **ten_pipelines(Path(folder), data), **soak(Path(folder))}


def tensors(path: Path, rows: npt.NDArray[Any]) -> str:
    np.savez(path, x=rows)
    return f'[pipeline.source]\nkind = "tensors"\npath = "{path}"\n'


def overhead(work: Path, data: Path) -> dict[str, float]:
    """Keyword spotting from memory to durable buffer: what a frame takes longer than the engine's bare call."""
    rng = np.random.default_rng(0)
    source = tensors(work / "kws.npz", rng.normal(size=(KWS_FRAMES, 49, 10, 1)).astype(np.float32))
    package = models.package(work, data, models.KWS_LITERT)
    config = daemons.configure(work / "kws", f'[[pipeline]]\nname = "kws"\npackage = "{package}"\n{source}')
    prepared = rng.normal(size=(1, 49, 10, 1)).astype(np.float32)
    costs = []
    for _ in range(ROUNDS):
        call_s, _ = models.bare_call(data, models.KWS_LITERT, prepared, threads=1)
        (pipeline,) = daemons.run_until_end(config)
        assert pipeline["frames"]["inferred"] == KWS_FRAMES
        costs.append(1e6 * (1.0 / pipeline["fps"] - call_s))
    return {"frame_overhead_us": statistics.median(costs)}


def ten_pipelines(work: Path, data: Path) -> dict[str, float]:
    """Ten pipelines on one shared model over one pipeline with as many frames in all."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, size=(SHARED_FRAMES // PIPELINES, 160, 160, 3)).astype(np.uint8)
    package = models.package(work, data, models.MOBILENET_LITERT)
    share = tensors(work / "share.npz", rows)
    whole = tensors(work / "whole.npz", np.concatenate([rows] * PIPELINES))
    head = '[[pipeline]]\nname = "p{number}"\npackage = "{package}"\n'
    one = daemons.configure(work / "one", head.format(number=0, package=package) + whole)
    ten = daemons.configure(
        work / "ten", "".join(head.format(number=number, package=package) + share for number in range(PIPELINES))
    )
    ratios = []
    for _ in range(ROUNDS):
        (alone,) = daemons.run_until_end(one)
        together = daemons.run_until_end(ten)
        assert sum(pipeline["frames"]["inferred"] for pipeline in together) == SHARED_FRAMES
        slowest_s = max(pipeline["seconds"] for pipeline in together)
        ratios.append(alone["seconds"] / slowest_s)
    return {"ten_pipelines_ratio": statistics.median(ratios)}


def soak(work: Path) -> dict[str, float]:
    """Growth of the resident set over a million tiny frames, once warm; threads and files have to stay as many."""
    from packages import linear_model, make_package

    # Some more than are looked at: at the end of a source its threads end too.
    rows = np.random.default_rng(0).normal(size=(SOAK_WARM + SOAK_FRAMES * 11 // 10, SOAK_FEATURES)).astype(np.float32)
    source = tensors(work / "soak.npz", rows)
    package = work / "soak.edgepkg"
    make_package(package, linear_model(work / "soak.onnx", features=SOAK_FEATURES), name="soak")
    config = daemons.configure(
        work / "soak",
        f'[[pipeline]]\nname = "soak"\npackage = "{package}"\n{source}',
        device="[buffer]\nmax_bytes = 8388608",
    )
    with daemons.running(config) as process:
        at = {count: growth_point(work / "soak", process.pid, count) for count in (SOAK_WARM, SOAK_WARM + SOAK_FRAMES)}
    (early, early_open), (late, late_open) = at.values()
    assert early_open == late_open, f"threads and files: {early_open} became {late_open}"
    return {"soak_growth_mb": (late - early) / 1e6}


def growth_point(work: Path, pid: int, count: int) -> tuple[int, tuple[int, int]]:
    """The resident set, and the threads and files, once `count` results are durable."""
    from edgeinfer.runtime.buffer_reader import BufferReader

    path = work / "state" / "buffer.db"
    daemons.wait_for(path.exists)

    def reached() -> bool:
        time.sleep(0.2)
        with BufferReader(path) as reader:
            return reader.durable_seq() >= count

    daemons.wait_for(reached, timeout_s=600)
    return daemons.resident_bytes(pid), daemons.threads_and_files(pid)
