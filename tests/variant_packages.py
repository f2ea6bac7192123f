"""Packages with several variants that this device can tell apart: a quick one, a slow one, one that is wrong.

make_variants(path, {"slow": slow_model(...), "quick": linear_model(...)}, name="m", choose="measured")
"""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.engines import load_engine
from edgeinfer.runtime.manifest import SCHEMA_VERSION, ClassifyPost, Golden, Manifest, TensorPre, Tolerance, Variant
from edgeinfer.runtime.package import encode_manifest, sha256_file, write_package
from edgeinfer.runtime.trust import SigningKey

__all__ = ["make_variants", "slow_model"]

Array = npt.NDArray[Any]
_WIDTH = 1024
_ROUNDS = 8
_GOLDEN = 2


def slow_model(path: Path, *, features: int = 8, classes: int = 3, seed: int = 0) -> Path:
    """What `packages.linear_model` computes, beside millions of multiplications whose outcome is multiplied by 0: some
    hundred times slower, whatever the machine."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(seed)
    tensors = {"w": random.normal(size=(features, classes)), "zero": np.zeros(1)}
    tensors |= {"into": np.ones((features, _WIDTH)) / features, "wide": np.eye(_WIDTH)}
    nodes = [helper.make_node("MatMul", ["x", "into"], ["h0"])]
    nodes += [helper.make_node("MatMul", [f"h{i}", "wide"], [f"h{i + 1}"]) for i in range(_ROUNDS)]
    nodes += [
        helper.make_node("ReduceMean", [f"h{_ROUNDS}"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("MatMul", ["x", "w"], ["plain"]),
        helper.make_node("Add", ["plain", "nothing"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", features])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def make_variants(
    path: Path,
    models: Mapping[str, Path],
    *,
    name: str,
    version: str = "1.0.0",
    choose: Literal["first", "measured"] = "measured",
    requires: Mapping[str, tuple[str, ...]] | None = None,
    wrong: tuple[str, ...] = (),
    damaged: tuple[str, ...] = (),
    key: SigningKey | None = None,
) -> str:
    """Write a package of ONNX variants with golden vectors; its digest. Those of the `wrong` are moved by one, and the
    files of the `damaged` are no models."""
    vectors: dict[str, Array] = {"input": np.random.default_rng(1).random((_GOLDEN, 8), dtype=np.float32)}
    variants, files = [], {}
    for id_, model in models.items():
        engine = load_engine("onnx", model)
        outputs = np.stack([engine.run([one[None]])[0][0] for one in vectors["input"]])
        vectors[f"{id_}/0"] = outputs + (1.0 if id_ in wrong else 0.0)
        file = path.with_name(f"{path.stem}-{id_}.onnx")
        file.write_bytes(b"no model" if id_ in damaged else model.read_bytes())
        files[file.name] = file
        needs = (requires or {}).get(id_, ())
        variants.append(
            Variant(
                id_,
                "onnx",
                file.name,
                sha256_file(file),
                file.stat().st_size,
                "fp32",
                engine.inputs,
                engine.outputs,
                requires=needs,
            )
        )
        engine.close()
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **vectors)
    golden = Golden(
        "golden.npz",
        hashlib.sha256(buffer.getvalue()).hexdigest(),
        _GOLDEN,
        {id_: Tolerance(1e-3, 1e-3) for id_ in models},
    )
    manifest = encode_manifest(
        Manifest(
            SCHEMA_VERSION,
            name,
            version,
            "classification",
            TensorPre(),
            ClassifyPost(),
            tuple(variants),
            golden=golden,
            choose=choose,
        )
    )
    write_package(
        path, manifest, {**files, "golden.npz": buffer.getvalue()}, [key.sign(manifest)] if key is not None else ()
    )
    return hashlib.sha256(manifest).hexdigest()
