"""The chunk codec on recorded results of real runs: bytes a result on the wire, and time.

The daemon itself records: a detector over the sample video, played at its own pace, and beside it an anomaly model over
a series of the sample data, a row each 20 ms. All that a pipeline says is cut into chunks of 100, its counts of frames,
too; a result's bytes are those of whole chunk messages with their link. The recordings are kept in build/recorded.
"""

import csv
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

import daemons
import videos
from daemon_process import results_of
from edgeinfer.runtime.chunk import LINK_BYTES, PACKED
from edgeinfer.runtime.codec import decode, encode, summarize
from edgeinfer.runtime.manifest import DetectPost, ImagePre
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.sync.messages import ChunkMessage, encode_chunk
from packages import make_package
from packed_runs import PackedRun, linear_window_model

RECORDED = Path(__file__).resolve().parents[2] / "build" / "recorded"
SERIES = "sensors/nab/realAWSCloudwatch/ec2_cpu_utilization_24ae8d.csv"
N = 100
# What the console's figures are of.
LONG = 1000
# What gives two boxes a result on this video.
SCORE_THRESHOLD = 0.37
WINDOW = 16
USUAL = 400
ROUNDS = 15
CALLS = 5

Chunks = list[list[Result]]


def measure(data: Path) -> dict[str, float]:
    if not (data / videos.VIDEO).is_file() or not (data / SERIES).is_file():
        sys.stderr.write(f"edgeinfer: figures of the codec left out: {videos.MISSING}\n")
        return {}
    record(data)
    detections, scores = recorded("detection", N), recorded("anomaly", N)
    long = recorded("detection", LONG)
    detection_us, anomaly_us = both_ways_us(detections), both_ways_us(scores)
    return {
        "wire_bytes_detection": wire_bytes(detections),
        "wire_bytes_anomaly": wire_bytes(scores),
        "wire_boxes_a_result": boxes(detections),
        "codec_us": max(detection_us, anomaly_us),
        "codec_detection_us": detection_us,
        "codec_anomaly_us": anomaly_us,
        "codec_detection_1000_us": both_ways_us(long),
        "codec_summary_1000_us": summary_us(long),
    }


def record(data: Path) -> None:
    """Both pipelines at once, in one daemon."""
    if all((RECORDED / f"{name}.json").is_file() for name in ("detection", "anomaly")):
        return
    sys.stderr.write("edgeinfer: recording results of a real run, which takes two and a half minutes\n")
    RECORDED.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        config = daemons.configure(work, detector(work, data) + anomalies(work, data))
        daemons.run_until_end(config)
        for name in ("detection", "anomaly"):
            (RECORDED / f"{name}.json").write_bytes(msgspec.json.encode(results_of(work, name)))


def detector(work: Path, data: Path) -> str:
    make_package(
        work / "detector.edgepkg",
        data / "models" / "ssd_mobilenet_v1_coco_quant.tflite",
        name="ssd",
        engine="litert",
        pre=ImagePre(300, 300, mean=(128.0,), std=(128.0,)),
        post=DetectPost(score_threshold=SCORE_THRESHOLD),
    )
    return (
        f'[[pipeline]]\nname = "detection"\npackage = "{work}/detector.edgepkg"\n'
        f'[pipeline.source]\nkind = "video"\npaced = true\npath = "{data / videos.VIDEO}"\n'
    )


def anomalies(work: Path, data: Path) -> str:
    """The reconstruction error of windows on their first three components, fitted to the first rows."""
    with (data / SERIES).open() as file:
        values = np.array([float(row["value"]) for row in csv.DictReader(file)])
    mean, std = values[:USUAL].mean(), values[:USUAL].std()
    windows = np.lib.stride_tricks.sliding_window_view((values[:USUAL] - mean) / std, WINDOW)
    basis = np.linalg.svd(windows, full_matrices=False)[2][:3]
    model = linear_window_model(work / "m.onnx", basis.T @ basis, np.zeros(WINDOW), shape=(WINDOW, 1))
    preprocess = f"kind=window,length={WINDOW},channels=value,mean={mean},std={std}"
    named = ("--preprocess", preprocess, "--postprocess", "kind=anomaly,threshold=1.0")
    package = PackedRun(work).pack(model, "anomaly", *named)
    return (
        f'[[pipeline]]\nname = "anomaly"\npackage = "{package}"\n[pipeline.source]\nkind = "csv"\n'
        f'path = "{data / SERIES}"\nwindow = {WINDOW}\nstride = 1\ncolumns = ["value"]\ninterval_s = 0.02\n'
    )


def recorded(name: str, n: int) -> Chunks:
    """Chunks of `n`."""
    results = msgspec.json.decode((RECORDED / f"{name}.json").read_bytes(), type=list[Result])
    return [results[start : start + n] for start in range(0, len(results) - n + 1, n)]


def boxes(chunks: Chunks) -> float:
    counts = [len(result.items) for chunk in chunks for result in chunk if result.kind is Kind.DETECTION]
    return statistics.fmean(counts)


def wire_bytes(chunks: Chunks) -> float:
    """Bytes of the messages, all of them, a result."""
    total = 0
    for number, chunk in enumerate(chunks):
        body = encode(chunk)
        message = ChunkMessage(PACKED, 1, 1 + number * N, N, zlib.crc32(body), body, bytes(LINK_BYTES))
        total += len(encode_chunk(message))
    return total / (N * len(chunks))


def both_ways_us(chunks: Chunks) -> float:
    """Encoding, and decoding to results again."""
    n = len(chunks[0])
    bodies = [encode(chunk) for chunk in chunks]
    encoding_us = a_result_us(lambda: [encode(chunk) for chunk in chunks], n * len(chunks))
    return encoding_us + a_result_us(lambda: [decode(PACKED, body, n=n) for body in bodies], n * len(chunks))


def summary_us(chunks: Chunks) -> float:
    n = len(chunks[0])
    bodies = [encode(chunk) for chunk in chunks]
    return a_result_us(lambda: [summarize(PACKED, body, n=n) for body in bodies], n * len(chunks))


def a_result_us(work: Callable[[], object], results: int) -> float:
    """CPU time of the fastest round: what disturbs only ever adds to it."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(CALLS):
            work()
        rounds.append(time.process_time() - began)
    return min(rounds) * 1e6 / (CALLS * results)
