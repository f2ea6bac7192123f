"""Makes model packages for tests: from model files, and from small models built on the spot.

model = linear_model(tmp_path / "m.onnx", features=8, classes=3)
digest = make_package(tmp_path / "m.edgepkg", model, name="m", pre=TensorPre(), post=ClassifyPost())
"""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgeinfer.quantize.postprocessing import TASKS
from edgeinfer.runtime.engines import dequantize, load_engine, quantize_input
from edgeinfer.runtime.manifest import (
    SCHEMA_VERSION,
    ClassifyPost,
    Golden,
    Manifest,
    Postprocess,
    Preprocess,
    TensorPre,
    Tolerance,
    Variant,
)
from edgeinfer.runtime.package import encode_manifest, sha256_file, write_package
from edgeinfer.runtime.preprocess import concrete_shape
from edgeinfer.runtime.trust import SigningKey

__all__ = ["identity_model", "linear_model", "make_package", "picture_model", "projection_model"]

Array = npt.NDArray[Any]
EngineName = Literal["onnx", "litert"]
_OPSET = 17


def make_package(
    path: Path,
    model: Path,
    *,
    name: str,
    version: str = "1.0.0",
    engine: EngineName = "onnx",
    pre: Preprocess | None = None,
    post: Postprocess | None = None,
    labels: Sequence[str] = (),
    golden: int = 0,
    golden_offset: float = 0.0,
    key: SigningKey | None = None,
) -> str:
    """Write a package of one variant; its digest. `golden` vectors are recorded from the model itself, then
    moved by `golden_offset`, so that anything but 0 is a mismatch."""
    loaded = load_engine(engine, model)
    pre = TensorPre() if pre is None else pre
    post = ClassifyPost() if post is None else post
    variant_id = f"{engine}-fp32"
    files: dict[str, bytes | Path] = {model.name: model}
    label_file = golden_file = None
    if labels:
        files["labels.txt"] = content = "".join(f"{label}\n" for label in labels).encode()
        label_file = ("labels.txt", hashlib.sha256(content).hexdigest())
    if golden:
        files["golden.npz"] = vectors = _golden(loaded, variant_id, golden, golden_offset)
        golden_file = Golden(
            "golden.npz", hashlib.sha256(vectors).hexdigest(), golden, {variant_id: Tolerance(1e-3, 1e-3)}
        )
    variant = Variant(
        variant_id, engine, model.name, sha256_file(model), model.stat().st_size, "fp32", loaded.inputs, loaded.outputs
    )
    manifest = encode_manifest(
        Manifest(SCHEMA_VERSION, name, version, TASKS[type(post)], pre, post, (variant,), label_file, golden_file)
    )
    write_package(path, manifest, files, [key.sign(manifest)] if key is not None else ())
    loaded.close()
    return hashlib.sha256(manifest).hexdigest()


def _golden(engine: Any, variant_id: str, count: int, offset: float) -> bytes:
    spec = engine.inputs[0]
    inputs = np.random.default_rng(1).random((count, *concrete_shape(spec)[1:]), dtype=np.float32)
    rows = [engine.run([quantize_input(one[None], spec)]) for one in inputs]
    vectors: dict[str, Array] = {"input": inputs}
    for index, output in enumerate(engine.outputs):
        vectors[f"{variant_id}/{index}"] = np.stack([dequantize(row[index], output)[0] for row in rows]) + offset
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **vectors)
    return buffer.getvalue()


def linear_model(path: Path, *, features: int = 8, classes: int = 3, seed: int = 0) -> Path:
    """softmax(x W): input (batch, features), output (batch, classes)."""
    weights = np.random.default_rng(seed).normal(size=(features, classes)).astype(np.float32)
    return _save(path, [("MatMul", ["x", "w"], ["logits"]), ("Softmax", ["logits"], ["y"])], features, classes, weights)


def identity_model(path: Path, *, features: int) -> Path:
    """y = x: a reconstruction without an error."""
    return _save(path, [("MatMul", ["x", "w"], ["y"])], features, features, np.eye(features, dtype=np.float32))


def projection_model(path: Path, basis: Array) -> Path:
    """Onto the rows of `basis` (components, features), which are orthonormal, and back: a linear autoencoder."""
    weights = (basis.T @ basis).astype(np.float32)
    return _save(path, [("MatMul", ["x", "w"], ["y"])], basis.shape[1], basis.shape[1], weights)


def picture_model(path: Path, *, width: int, height: int, classes: int = 3) -> Path:
    """softmax(flatten(x) W) over pictures (batch, height, width, 3) float32."""
    features = width * height * 3
    weights = np.random.default_rng(2).normal(size=(features, classes)).astype(np.float32)
    nodes = [("Flatten", ["x"], ["flat"]), ("MatMul", ["flat", "w"], ["logits"]), ("Softmax", ["logits"], ["y"])]
    return _save(path, nodes, (height, width, 3), classes, weights)


def _save(
    path: Path, nodes: list[tuple[str, list[str], list[str]]], features: int | tuple[int, ...], outputs: int, w: Array
) -> Path:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    shape = (features,) if isinstance(features, int) else features
    graph = helper.make_graph(
        [helper.make_node(kind, ins, outs) for kind, ins, outs in nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", outputs])],
        [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
    onnx.save(model, str(path))
    return path
