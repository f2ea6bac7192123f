"""Makes the two smallest models: with them `edgeinfer doctor` finds out whether an engine works here.

    python packaging/make_canary.py devices/edgeinfer/devices/canary

Needs onnx, flatbuffers and ai-edge-litert (`pip install 'edgeinfer[quantize]'`). The files are committed.
"""

import sys
from pathlib import Path

import flatbuffers
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper

_SHAPE = [1, 4]


def main(folder: Path) -> None:
    (folder / "canary.onnx").write_bytes(_onnx_identity())
    (folder / "canary.tflite").write_bytes(_tflite_relu())


def _onnx_identity() -> bytes:
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, _SHAPE) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "canary", tensors[:1], tensors[1:])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7, producer_name="edgeinfer"
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _tflite_relu() -> bytes:
    code = schema.OperatorCodeT()
    code.deprecatedBuiltinCode = code.builtinCode = schema.BuiltinOperator.RELU
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0], [1]
    graph = schema.SubGraphT()
    graph.tensors = [_tensor(b"x"), _tensor(b"y")]
    graph.inputs, graph.outputs, graph.operators, graph.name = [0], [1], [operator], b"main"
    model = schema.ModelT()
    model.version, model.description = 3, b"edgeinfer canary"
    model.operatorCodes, model.buffers, model.subgraphs = [code], [schema.BufferT()], [graph]
    builder = flatbuffers.Builder(256)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _tensor(name: bytes) -> schema.TensorT:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, _SHAPE, schema.TensorType.FLOAT32, 0
    return tensor


if __name__ == "__main__":
    main(Path(sys.argv[1]))
