"""A live source at 30 frames/s: the age of a frame at its result, memory with a camera, what motion gating saves."""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import daemons
import models
import videos

SECONDS = 15.0
ROUNDS = 3


def measure(data: Path) -> dict[str, float]:
    if not (data / videos.VIDEO).is_file() or shutil.which("ffmpeg") is None:
        sys.stderr.write(f"edgeinfer: figures of live sources left out: ffmpeg or data missing: {videos.MISSING}\n")
        return {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        return {**ages(work, data), **camera_memory(work, data), **motion(work, data)}


def clip(path: Path, data: Path, *, still: bool) -> Path:
    """The sample video as a clip of 30 frames/s; `still`: one picture of it over and over, with a sensor's noise."""
    if not path.exists():
        still_filter = "loop=loop=900:size=1:start=0,noise=alls=2:allf=t,setpts=N/30/TB"
        motion_filter = "setpts=N/30/TB"
        subprocess.run(
            ["ffmpeg", "-v", "error", "-i", str(data / videos.VIDEO), "-vf", still_filter if still else motion_filter,
             "-r", "30", "-frames:v", "900", "-c:v", "libx264", "-preset", "fast", "-pix_fmt", "yuv420p", "-an",
             str(path)],
            check=True,
        )  # fmt: skip
    return path


def pipeline(package: Path, video: Path, *, extra: str = "") -> str:
    return (
        f'[[pipeline]]\nname = "live"\npackage = "{package}"\n{extra}'
        f'[pipeline.source]\nkind = "video"\npaced = true\nrepeat = true\npath = "{video}"\n'
    )


def ages(work: Path, data: Path) -> dict[str, float]:
    """Capture to result over the engine's own call, both of the same frames."""
    package = models.package(work, data, models.MOBILENET_LITERT)
    config = daemons.configure(work / "ages", pipeline(package, clip(work / "live.mp4", data, still=False)))
    p50, p99 = [], []
    for _ in range(ROUNDS):
        shutil.rmtree(work / "ages" / "state", ignore_errors=True)
        with daemons.running(config):
            time.sleep(SECONDS)
        found = results(config)[30:]  # what was captured while the daemon started is not what a year looks like
        inference = statistics.median(one["latency_us"] for one in found)
        age = sorted(one["age_us"] for one in found)
        p50.append(age[len(age) // 2] / inference)
        p99.append(age[len(age) * 99 // 100] / inference)
    return {"frame_age_p50_ratio": statistics.median(p50), "frame_age_p99_ratio": statistics.median(p99)}


def results(config: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "edgeinfer", "results", "--config", str(config), "--limit", "100000", "--json"],
        capture_output=True,
        check=True,
    )
    found = [one["result"] for one in json.loads(done.stdout)["results"]]
    return [one for one in found if one["kind"] == "classification"]


def camera_memory(work: Path, data: Path) -> dict[str, float]:
    """The resident set with a live picture source and an int8 detector."""
    package = models.package(work, data, models.SSD_LITERT)
    config = daemons.configure(work / "camera", pipeline(package, clip(work / "live.mp4", data, still=False)))
    with daemons.running(config) as process:
        time.sleep(SECONDS / 2)
        return {"rss_camera_mb": daemons.resident_bytes(process.pid) / 1e6}


def motion(work: Path, data: Path) -> dict[str, float]:
    """CPU of a still live camera with motion gating over that without."""
    package = models.package(work, data, models.SSD_LITERT)
    video = clip(work / "still.mp4", data, still=True)
    ratios = []
    for _ in range(ROUNDS):
        gated = cpu_of(daemons.configure(work / "gated", pipeline(package, video, extra="motion = {}\n")))
        ungated = cpu_of(daemons.configure(work / "ungated", pipeline(package, video)))
        ratios.append(gated / ungated)
    return {"motion_idle_cpu_ratio": statistics.median(ratios)}


def cpu_of(config: Path) -> float:
    """CPU seconds of a daemon in its steady state."""
    with daemons.running(config) as process:
        time.sleep(3.0)
        before = daemons.cpu_s(process.pid)
        time.sleep(SECONDS)
        return daemons.cpu_s(process.pid) - before
