"""Video file to durable buffer, over the bound: the bare inference loop, or both cores' CPU, whichever is less.

The bound is min(bare inference frames/s, cores / (CPU a frame of bare inference + CPU a frame of bare decode
and preprocess)). The three are measured in turn, several rounds; the figure is the median of the rounds' ratios.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

VIDEO = "video/one-by-one-person-detection.mp4"
ONNX = "models/mobilenet_v1_0.5_160_float.onnx"
TFLITE = "models/mobilenet_v1_0.5_160_quant.tflite"
ROUNDS = 5
INFERENCE_S = 3.0
MISSING = "the sample models and video are absent: set EDGEINFER_DATA"

Picture = Any


def measure(data: Path) -> dict[str, float]:
    if not (data / VIDEO).is_file():
        sys.stderr.write(f"edgeinfer: pipeline figures left out: {MISSING}\n")
        return {}
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model, engine, bare, to_input in (
            ("onnx", ONNX, "onnx", onnx_loop, float_input),
            ("litert", TFLITE, "litert", litert_loop, uint8_input),
        ):
            work = Path(folder) / name
            work.mkdir()
            package = make_package(work / "model.edgepkg", data / model, engine)
            rounds = [one_round(work, package, data, data / model, bare, to_input) for _ in range(ROUNDS)]
            for figure in rounds[0]:
                figures[f"pipeline_mobilenet_{name}_{figure}"] = statistics.median(r[figure] for r in rounds)
    return figures


def one_round(
    work: Path,
    package: Path,
    data: Path,
    model: Path,
    bare: Callable[[Path, Picture], tuple[float, float]],
    to_input: Callable[[Picture, Picture], None],
) -> dict[str, float]:
    decode_cpu_s, prepared = bare_decode(data / VIDEO, to_input)
    inference_s, inference_cpu_s = bare(model, prepared)
    pipeline_fps = run_pipeline(work, package, data / VIDEO)
    cores = len(os.sched_getaffinity(0))
    bound = min(1.0 / inference_s, cores / (inference_cpu_s + decode_cpu_s))
    return {"ratio": pipeline_fps / bound, "fps": pipeline_fps, "bound_fps": bound, "bare_fps": 1.0 / inference_s}


def bare_decode(video: Path, to_input: Callable[[Picture, Picture], None]) -> tuple[float, Picture]:
    """CPU seconds a frame of decoding and the shortest preprocessing, in one thread of ours; and an input."""
    import cv2

    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(str(video))
    target = np.zeros((1, 160, 160, 3), np.float32 if to_input is float_input else np.uint8)
    frames, began = 0, time.process_time()
    while True:
        ok, picture = capture.read()
        if not ok:
            break
        to_input(picture, target)
        frames += 1
    cpu_s = (time.process_time() - began) / frames
    capture.release()
    return cpu_s, target


def uint8_input(picture: Picture, target: Picture) -> None:
    import cv2

    small = cv2.resize(picture, (160, 160), interpolation=cv2.INTER_LINEAR)
    cv2.cvtColor(small, cv2.COLOR_BGR2RGB, target[0])


def float_input(picture: Picture, target: Picture) -> None:
    import cv2

    small = cv2.cvtColor(cv2.resize(picture, (160, 160), interpolation=cv2.INTER_LINEAR), cv2.COLOR_BGR2RGB)
    np.subtract(small, np.float32(128.0), out=target[0])
    np.multiply(target[0], np.float32(1 / 128.0), out=target[0])


def onnx_loop(model: Path, prepared: Picture) -> tuple[float, float]:
    """Wall and CPU seconds a call of ONNX Runtime alone: one intra-op thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: prepared}
    return timed(lambda: session.run(None, feed))


def litert_loop(model: Path, prepared: Picture) -> tuple[float, float]:
    """The same for LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(model), num_threads=1)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    sink = interpreter.get_output_details()[0]["index"]

    def call() -> None:
        interpreter.set_tensor(source, prepared)
        interpreter.invoke()
        interpreter.get_tensor(sink)

    return timed(call)


def timed(call: Callable[[], object]) -> tuple[float, float]:
    for _ in range(20):
        call()
    calls, began, cpu_began = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < INFERENCE_S:
        for _ in range(10):
            call()
        calls += 10
    return (time.perf_counter() - began) / calls, (time.process_time() - cpu_began) / calls


def make_package(path: Path, model: Path, engine: str) -> Path:
    from edgeinfer.runtime.engines import load_engine
    from edgeinfer.runtime.manifest import SCHEMA_VERSION, ClassifyPost, ImagePre, Manifest, Variant
    from edgeinfer.runtime.package import encode_manifest, sha256_file, write_package

    loaded = load_engine(engine, model)
    variant = Variant(
        id=f"{engine}-bench",
        engine="onnx" if engine == "onnx" else "litert",
        file=model.name,
        sha256=sha256_file(model),
        bytes=model.stat().st_size,
        precision="as-is",
        inputs=loaded.inputs,
        outputs=loaded.outputs,
    )
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name="bench",
        version="1.0.0",
        task="classification",
        preprocess=ImagePre(160, 160, mean=(128.0,), std=(128.0,)),
        postprocess=ClassifyPost(),
        variants=(variant,),
    )
    write_package(path, encode_manifest(manifest), {model.name: model})
    return path


def run_pipeline(work: Path, package: Path, video: Path) -> float:
    """Frames/s of the real daemon, from the first frame to the last result made durable."""
    config = work / "edgeinfer.toml"
    config.write_text(
        f'device = "bench"\nstate_dir = "{work / "state"}"\nlog_level = "ERROR"\n'
        f'[[pipeline]]\nname = "bench"\npackage = "{package}"\n'
        f'[pipeline.source]\nkind = "video"\npath = "{video}"\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "edgeinfer", "run", "--config", str(config), "--until-end", "--json"],
        capture_output=True,
        check=True,
    )
    pipeline = json.loads(done.stdout)["pipelines"][0]
    assert pipeline["frames"]["inferred"] == pipeline["captured"], pipeline
    return float(pipeline["fps"])
