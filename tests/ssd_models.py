"""An SSD without its postprocessing: the operator is cut off a TFLite file that ends in it."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["without_postprocess"]

_OPERATOR = b"TFLite_Detection_PostProcess"
_IDENTIFIER = b"TFL3"


def without_postprocess(source: Path, target: Path) -> npt.NDArray[np.float32]:
    """Write the model whose outputs are what that operator takes, box encodings and scores; its anchors (n, 4)."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model: Any = schema.ModelT.InitFromPackedBuf(source.read_bytes(), 0)
    (graph,) = model.subgraphs
    operator = graph.operators.pop()
    assert model.operatorCodes[operator.opcodeIndex].customCode == _OPERATOR
    boxes, scores, anchors = operator.inputs.tolist()
    graph.outputs = np.array([boxes, scores], dtype=np.int32)
    model.signatureDefs = None
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    target.write_bytes(bytes(builder.Output()))
    tensor = graph.tensors[anchors]
    levels = np.frombuffer(bytes(model.buffers[tensor.buffer].data), dtype=np.uint8).reshape(tensor.shape)
    quantization = tensor.quantization
    real: npt.NDArray[np.float32] = (levels.astype(np.float32) - quantization.zeroPoint[0]) * quantization.scale[0]
    return real
