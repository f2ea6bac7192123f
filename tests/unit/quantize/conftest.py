"""A tiny classifier and samples for it, written without any training: which half of a picture is brighter."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

SIDE = 8


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """Writes the classifier, float32 (1, 1, 8, 8) to (1, 2). With `outlier` one weight of a pixel that is always
    dark is so large that a scale for all weights leaves nothing of the others."""

    def make(name: str = "halves.onnx", *, outlier: float = 0.0) -> Path:
        weight = np.zeros((2, SIDE * SIDE), np.float32)
        columns = np.arange(SIDE * SIDE) % SIDE
        weight[0] = np.where(columns < SIDE // 2, 1.0, -1.0) / SIDE
        weight[1] = -weight[0]
        weight[:, 0] = outlier
        nodes = [
            helper.make_node("Flatten", ["x"], ["flat"], axis=1),
            helper.make_node("Gemm", ["flat", "weight", "bias"], ["scores"], transB=1),
        ]
        graph = helper.make_graph(
            nodes,
            "halves",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, SIDE, SIDE])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 2])],
            [
                numpy_helper.from_array(weight, "weight"),
                numpy_helper.from_array(np.zeros(2, np.float32), "bias"),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
        model.ir_version = 8
        path = tmp_path / name
        onnx.save(model, str(path))
        return path

    return make


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """60 pictures, half of each class, with the first pixel dark."""
    random = np.random.default_rng(5)
    y = np.arange(60) % 2
    x = random.uniform(0.0, 0.6, (60, 1, SIDE, SIDE)).astype(np.float32)
    x[y == 0, :, :, : SIDE // 2] += 0.4
    x[y == 1, :, :, SIDE // 2 :] += 0.4
    x[:, 0, 0, 0] = 0.0
    path = tmp_path / "samples.npz"
    np.savez(path, x=x, y=y)
    return path
