"""Video file to durable buffer, over the bound: the bare inference loop, or all cores' CPU, whichever is less.

The bound is min(bare inference frames/s, cores / (CPU a frame of bare inference + CPU a frame of bare decode and
preprocess)), at the same number of intra-op threads. Each number of threads is tried; the one that gives the pipeline
the most frames/s counts. Bare decode, bare inference and the whole daemon take turns, several rounds; each figure is
the median over the rounds of that round's ratio.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import daemons
import models

VIDEO = "video/one-by-one-person-detection.mp4"
ROUNDS = 5
MISSING = "the sample models and video are absent: set EDGEINFER_DATA"
LARGE_FRAMES = 400


def measure(data: Path) -> dict[str, float]:
    if not (data / VIDEO).is_file():
        sys.stderr.write(f"edgeinfer: pipeline figures left out: {MISSING}\n")
        return {}
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for model in (models.MOBILENET_ONNX, models.MOBILENET_LITERT, models.SSD_LITERT):
            figures |= best_of_threads(Path(folder), data, model)
        figures |= large_video(Path(folder), data)
    return figures


def best_of_threads(work: Path, data: Path, model: models.Model) -> dict[str, float]:
    cores = len(os.sched_getaffinity(0))
    by_threads = {threads: rounds_of(work, data, model, threads) for threads in range(1, cores + 1)}
    best = max(by_threads, key=lambda threads: by_threads[threads]["fps"])
    found = {f"pipeline_{model.name}_{name}": value for name, value in by_threads[best].items()}
    return {**found, f"pipeline_{model.name}_threads": best}


def rounds_of(work: Path, data: Path, model: models.Model, threads: int) -> dict[str, float]:
    rounds = [one_round(work, data, model, threads) for _ in range(ROUNDS)]
    return {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}


def one_round(work: Path, data: Path, model: models.Model, threads: int) -> dict[str, float]:
    _, decode_cpu_s, prepared = models.bare_decode(data / VIDEO, model)
    inference_s, inference_cpu_s = models.bare_call(data, model, prepared, threads=threads)
    fps = pipeline_fps(work, data, model, data / VIDEO, threads=threads)
    cores = len(os.sched_getaffinity(0))
    bound = min(1.0 / inference_s, cores / (inference_cpu_s + decode_cpu_s))
    return {"ratio": fps / bound, "fps": fps, "bound_fps": bound, "bare_fps": 1.0 / inference_s}


def pipeline_fps(work: Path, data: Path, model: models.Model, video: Path, *, threads: int) -> float:
    """Frames/s of the real daemon, from the first frame to the last result made durable."""
    package = models.package(work, data, model)
    config = daemons.configure(
        work / f"{model.name}-{threads}",
        f'[[pipeline]]\nname = "bench"\npackage = "{package}"\nthreads = {threads}\n'
        f'[pipeline.source]\nkind = "video"\npath = "{video}"\n',
    )
    (pipeline,) = daemons.run_until_end(config)
    assert pipeline["frames"]["inferred"] == pipeline["captured"], pipeline
    return float(pipeline["fps"])


def large_video(work: Path, data: Path) -> dict[str, float]:
    """A 1080p H.264 file and a detector, over the slower of bare decode and bare inference."""
    if shutil.which("ffmpeg") is None:
        sys.stderr.write("edgeinfer: pipeline_1080p_ratio left out: it needs ffmpeg\n")
        return {}
    video = work / "large.mp4"
    subprocess.run(
        ["ffmpeg", "-v", "error", "-i", str(data / VIDEO), "-frames:v", str(LARGE_FRAMES), "-vf", "scale=1920:1080",
         "-c:v", "libx264", "-preset", "medium", "-pix_fmt", "yuv420p", "-an", str(video)],
        check=True,
    )  # fmt: skip
    model, ratios, rates = models.SSD_LITERT, [], []
    for _ in range(ROUNDS):
        decode_s, _, prepared = models.bare_decode(video, model)
        inference_s, _ = models.bare_call(data, model, prepared, threads=1)
        rates.append(pipeline_fps(work, data, model, video, threads=1))
        ratios.append(rates[-1] * max(decode_s, inference_s))
    return {"pipeline_1080p_ratio": statistics.median(ratios), "pipeline_1080p_fps": statistics.median(rates)}
