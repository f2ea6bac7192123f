"""The command's start-up and memory: exec to first durable result, resident set, `--help`."""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import videos
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.errors import BufferStorageError

KWS = "tiny/kws_dynrange.tflite"
ROUNDS = 7
SETTLE_S = 3.0


def measure(data: Path) -> dict[str, float]:
    figures = {"help_s": statistics.median(help_s() for _ in range(ROUNDS))}
    if not (data / KWS).is_file():
        sys.stderr.write(f"edgeinfer: cold start and memory left out: {videos.MISSING}\n")
        return figures
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        config = configure(work, data)
        figures["cold_start_s"] = statistics.median(cold_start_s(work, config) for _ in range(ROUNDS))
        figures["rss_litert_mb"] = resident_mb(work, config)
    return figures


def help_s() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "edgeinfer", "--help"], capture_output=True, check=True)
    return time.perf_counter() - began


def configure(work: Path, data: Path) -> Path:
    """Keyword spotting on LiteRT, fed for ever from recorded windows at a sensor's pace."""
    from edgeinfer.runtime.engines import load_engine
    from edgeinfer.runtime.manifest import SCHEMA_VERSION, ClassifyPost, Manifest, Variant, WindowPre
    from edgeinfer.runtime.package import encode_manifest, sha256_file, write_package

    model = data / KWS
    engine = load_engine("litert", model)
    variant = Variant(
        id="litert-bench",
        engine="litert",
        file=model.name,
        sha256=sha256_file(model),
        bytes=model.stat().st_size,
        precision="dynamic",
        inputs=engine.inputs,
        outputs=engine.outputs,
    )
    manifest = Manifest(
        SCHEMA_VERSION, "kws", "1.0.0", "classification", WindowPre(49), ClassifyPost(), variants=(variant,)
    )
    package = work / "kws.edgepkg"
    write_package(package, encode_manifest(manifest), {model.name: model})
    rows = np.random.default_rng(0).normal(size=(20_000, 10))
    header = ",".join(f"mfcc{i}" for i in range(10))
    np.savetxt(work / "series.csv", rows, delimiter=",", header=header, comments="", fmt="%.4f")
    config = work / "edgeinfer.toml"
    config.write_text(
        f'device = "bench"\nstate_dir = "{work / "state"}"\nlog_level = "ERROR"\n'
        "[buffer]\nflush_interval_s = 0.05\n"
        f'[[pipeline]]\nname = "kws"\npackage = "{package}"\n'
        f'[pipeline.source]\nkind = "csv"\npath = "{work / "series.csv"}"\nwindow = 49\n'
        "stride = 1\ninterval_s = 0.0005\n"
    )
    return config


def start(config: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "edgeinfer", "run", "--config", str(config)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=20)


def cold_start_s(work: Path, config: Path) -> float:
    """exec to the first result that would survive a power cut, as a reader of the buffer sees it."""
    for part in (work / "state").glob("*.db*"):
        part.unlink()
    began = time.perf_counter()
    process = start(config)
    try:
        while not has_result(work / "state" / "buffer.db"):
            assert process.poll() is None
            time.sleep(0.002)
        return time.perf_counter() - began
    finally:
        stop(process)


def has_result(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        with BufferReader(path) as reader:
            return reader.durable_seq() > 0
    except BufferStorageError:
        return False


def resident_mb(work: Path, config: Path) -> float:
    """The resident set (MB, 10^6 bytes) of a daemon that has run for some seconds."""
    process = start(config)
    try:
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline or not has_result(work / "state" / "buffer.db"):
            time.sleep(0.05)
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    finally:
        stop(process)


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
