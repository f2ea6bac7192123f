"""A model that remembers, built on the spot: a loudness that falls by half from frame to frame.

model = loudness_model(tmp_path / "m.onnx")    # inputs: sound (batch, samples), before (1, 1), factor; output: now
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["loudness", "loudness_model"]


def loudness_model(path: Path) -> Path:
    """now = factor * mean |sound| + before / 2; the caller feeds `before` with the last `now`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Abs", ["sound"], ["magnitude"]),
        helper.make_node("ReduceMean", ["magnitude"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Cast", ["factor"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["mean", "real"], ["new"]),
        helper.make_node("Mul", ["before", "half"], ["old"]),
        helper.make_node("Add", ["new", "old"], ["now"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("before", TensorProto.FLOAT, [1, 1]),
            helper.make_tensor_value_info("sound", TensorProto.FLOAT, ["batch", "samples"]),
            helper.make_tensor_value_info("factor", TensorProto.INT64, []),
        ],
        [helper.make_tensor_value_info("now", TensorProto.FLOAT, ["batch", 1])],
        [numpy_helper.from_array(np.array(0.5, np.float32), "half")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def loudness(windows: npt.NDArray[Any], factor: float) -> list[float]:
    """What the model says of one window after the other, from the start of a source."""
    now, found = 0.0, []
    for window in windows:
        now = factor * float(np.abs(window).mean()) + now / 2
        found.append(now)
    return found
