"""The command's start-up and memory: exec to first durable result, resident set, `--help`."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import daemons
import models
import videos
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.errors import BufferStorageError

ROUNDS = 7
SETTLE_S = 3.0


def measure(data: Path) -> dict[str, float]:
    figures = {"help_s": statistics.median(help_s() for _ in range(ROUNDS))}
    if not (data / models.KWS_LITERT.file).is_file():
        sys.stderr.write(f"edgeinfer: cold start and memory left out: {videos.MISSING}\n")
        return figures
    with tempfile.TemporaryDirectory() as folder:
        litert = configure(Path(folder) / "litert", data, models.KWS_LITERT)
        onnx = configure(Path(folder) / "onnx", data, models.KWS_ONNX)
        figures["cold_start_s"] = statistics.median(cold_start_s(litert) for _ in range(ROUNDS))
        figures["rss_litert_mb"] = resident_mb(litert)
        figures["rss_onnx_mb"] = resident_mb(onnx)
    return figures


def help_s() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "edgeinfer", "--help"], capture_output=True, check=True)
    return time.perf_counter() - began


def configure(work: Path, data: Path, model: models.Model) -> Path:
    """Keyword spotting, fed for ever from recorded windows at a sensor's pace."""
    work.mkdir(parents=True)
    rows = np.random.default_rng(0).normal(size=(20_000, 10))
    header = ",".join(f"mfcc{i}" for i in range(10))
    np.savetxt(work / "series.csv", rows, delimiter=",", header=header, comments="", fmt="%.4f")
    return daemons.configure(
        work,
        f'[[pipeline]]\nname = "kws"\npackage = "{models.package(work, data, model)}"\n'
        f'[pipeline.source]\nkind = "csv"\npath = "{work / "series.csv"}"\nwindow = 49\n'
        "stride = 1\ninterval_s = 0.0005\n",
        device="[buffer]\nflush_interval_s = 0.05\n",
    )


def cold_start_s(config: Path) -> float:
    """exec to the first result that would survive a power cut, as a reader of the buffer sees it."""
    state = forget_results(config)
    began = time.perf_counter()
    with daemons.running(config):
        while not has_result(state / "buffer.db"):
            time.sleep(0.002)
        return time.perf_counter() - began


def forget_results(config: Path) -> Path:
    """The folder of the daemon's state, in which results of an earlier run can be taken for new ones no more."""
    state = config.parent / "state"
    for part in state.glob("*.db*"):
        part.unlink()
    return state


def has_result(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        with BufferReader(path) as reader:
            return reader.durable_seq() > 0
    except BufferStorageError:
        return False


def resident_mb(config: Path) -> float:
    """The resident set (MB, 10^6 bytes) of a daemon that has run for some seconds."""
    state = forget_results(config)
    with daemons.running(config) as process:
        daemons.wait_for(lambda: has_result(state / "buffer.db"))
        time.sleep(SETTLE_S)
        return daemons.resident_bytes(process.pid) / 1e6


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
