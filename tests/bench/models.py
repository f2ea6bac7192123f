"""The models that are measured, each as a package and as the bare loop that it is held against."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

INFERENCE_S = 3.0

Array = Any


class Model(NamedTuple):
    """A model file of the sample data: what runs it, and the side of its square input."""

    name: str
    file: str
    engine: str
    side: int


MOBILENET_ONNX = Model("mobilenet_onnx", "models/mobilenet_v1_0.5_160_float.onnx", "onnx", 160)
MOBILENET_LITERT = Model("mobilenet_litert", "models/mobilenet_v1_0.5_160_quant.tflite", "litert", 160)
SSD_LITERT = Model("ssd_litert", "models/ssd_mobilenet_v1_coco_quant.tflite", "litert", 300)
KWS_LITERT = Model("kws_litert", "tiny/kws_dynrange.tflite", "litert", 0)
KWS_ONNX = Model("kws_onnx", "tiny/kws.onnx", "onnx", 0)


def package(folder: Path, data: Path, model: Model) -> Path:
    """The model as it is, packed as a user would pack it."""
    from edgeinfer.runtime.engines import load_engine
    from edgeinfer.runtime.manifest import (
        SCHEMA_VERSION,
        ClassifyPost,
        DetectPost,
        ImagePre,
        Manifest,
        TensorPre,
        Variant,
    )
    from edgeinfer.runtime.package import encode_manifest, sha256_file, write_package

    folder.mkdir(parents=True, exist_ok=True)
    path, file = folder / f"{model.name}.edgepkg", data / model.file
    if path.exists():
        return path
    loaded = load_engine(model.engine, file)
    detects = model is SSD_LITERT
    variant = Variant(
        id=f"{model.engine}-bench",
        engine="onnx" if model.engine == "onnx" else "litert",
        file=file.name,
        sha256=sha256_file(file),
        bytes=file.stat().st_size,
        precision="as-is",
        inputs=loaded.inputs,
        outputs=loaded.outputs,
    )
    pictures = ImagePre(model.side or 1, model.side or 1, mean=(128.0,), std=(128.0,))
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=model.name,
        version="1.0.0",
        task="detection" if detects else "classification",
        preprocess=pictures if model.side else TensorPre(),
        postprocess=DetectPost() if detects else ClassifyPost(),
        variants=(variant,),
    )
    write_package(path, encode_manifest(manifest), {file.name: file})
    return path


def bare_call(data: Path, model: Model, prepared: Array, *, threads: int) -> tuple[float, float]:
    """Wall and CPU seconds a call of the engine's library alone, in a block of calls."""
    loop = _onnx_call if model.engine == "onnx" else _litert_call
    return timed(loop(data / model.file, prepared, threads))


def _onnx_call(path: Path, prepared: Array, threads: int) -> Callable[[], object]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    # As the daemon runs it: at camera rates spinning costs twice the CPU.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: prepared}
    return lambda: session.run(None, feed)


def _litert_call(path: Path, prepared: Array, threads: int) -> Callable[[], object]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    sinks = [output["index"] for output in interpreter.get_output_details()]

    def call() -> None:
        interpreter.set_tensor(source, prepared)
        interpreter.invoke()
        for sink in sinks:
            interpreter.get_tensor(sink)

    return call


def timed(call: Callable[[], object], *, seconds: float = INFERENCE_S) -> tuple[float, float]:
    for _ in range(20):
        call()
    calls, began, cpu_began = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        for _ in range(10):
            call()
        calls += 10
    return (time.perf_counter() - began) / calls, (time.process_time() - cpu_began) / calls


def bare_decode(video: Path, model: Model, *, threads: int = 1) -> tuple[float, float, Array]:
    """Wall and CPU seconds a frame of decoding and the shortest preprocessing, in one loop; and an input."""
    import cv2

    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(str(video), cv2.CAP_ANY, [cv2.CAP_PROP_N_THREADS, threads])
    is_float = model.engine == "onnx"
    target = np.zeros((1, model.side, model.side, 3), np.float32 if is_float else np.uint8)
    frames, began, cpu_began = 0, time.perf_counter(), time.process_time()
    while True:
        ok, picture = capture.read()
        if not ok:
            break
        small = cv2.resize(picture, (model.side, model.side), interpolation=cv2.INTER_LINEAR)
        if is_float:
            small = cv2.cvtColor(small, cv2.COLOR_BGR2RGB)
            np.subtract(small, np.float32(128.0), out=target[0])
            np.multiply(target[0], np.float32(1 / 128.0), out=target[0])
        else:
            cv2.cvtColor(small, cv2.COLOR_BGR2RGB, target[0])
        frames += 1
    wall_s, cpu_s = (time.perf_counter() - began) / frames, (time.process_time() - cpu_began) / frames
    capture.release()
    return wall_s, cpu_s, target
