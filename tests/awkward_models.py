"""Models that misbehave when they are asked to: they hang, take memory, or raise, by what is in their input.

path = awkward_model(tmp_path / "a.onnx")          # ONNX: input (1, 4): see `awkward`
path = countdown_model(tmp_path / "c.tflite")      # LiteRT: input (1,): counts down to 100, one a step
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["awkward", "awkward_model", "countdown_model", "stubborn_model"]

Floats = npt.NDArray[np.float32]
_OPSET = 17
_ENDLESS = 10**12


def awkward(value: float = 1.0, *, hang: bool = False, megabytes: int = 0, fail: bool = False) -> list[Floats]:
    """Inputs for `awkward_model`: it gives `value` times two, (1, 1), unless it does what it is asked to."""
    return [np.array([[value, float(hang), float(megabytes), 99.0 if fail else 0.0]], dtype=np.float32)]


def awkward_model(path: Path) -> Path:
    """`hang`: a loop of 10^12 rounds; `megabytes`: takes so much memory before, and keeps it, as ONNX Runtime's arena
    does; `fail`: reads past the end of a table."""
    from onnx import helper

    def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> Any:
        return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)

    nodes = [
        node("Split", "x", "value hang mb fail", axis=1),
        # Memory: zeros, as many as asked for, and their sum, which changes nothing.
        node("Cast", "mb", "mb_int", to=7),
        node("Mul", "mb_int floats_a_mb", "count"),
        node("Reshape", "count one_dim", "shape"),
        node("ConstantOfShape", "shape", "memory"),
        node("ReduceSum", "memory", "nothing", keepdims=0),
        # Failure: an index that is not in the table.
        node("Cast", "fail", "index", to=7),
        node("Gather", "table index", "zero"),
        node("Add", "value nothing", "sum"),
        node("Add", "sum zero", "start"),
        node("Mul", "hang rounds", "many"),
        node("Cast", "many", "many_int", to=7),
        node("Add", "many_int one", "trip_shaped"),
        node("Reshape", "trip_shaped no_dim", "trip"),
        node("Loop", "trip true start", "end", body=_loop_body()),
        node("Add", "end start", "y"),
    ]
    constants = {
        "floats_a_mb": np.int64(1 << 18),
        "one_dim": np.array([1], np.int64),
        "no_dim": np.array([], np.int64),
        "table": np.zeros((4,), np.float32),
        "rounds": np.float32(_ENDLESS),
        "one": np.int64(1),
        "true": np.array(True),
    }
    return _save_onnx(path, nodes, constants, width=4)


def _loop_body() -> Any:
    from onnx import TensorProto, helper

    return helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Identity", ["v"], ["v_next"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_next", TensorProto.FLOAT, None),
        ],
    )


def stubborn_model(path: Path) -> Path:
    """One node that takes the square of the input's value (1, 1) in steps, and cannot be ended in between: the
    suppression of so many boxes that do not overlap. The output is the number of boxes."""
    from onnx import helper

    def node(kind: str, inputs: str, outputs: str) -> Any:
        return helper.make_node(kind, inputs.split(), outputs.split())

    nodes = [
        node("Reshape", "x no_dim", "count"),
        node("Range", "zero count two", "left"),
        node("Unsqueeze", "left columns", "x1"),
        node("Add", "x1 unit", "x2"),
        node("Mul", "x1 zero", "y1"),
        node("Add", "y1 unit", "y2"),
        helper.make_node("Concat", ["y1", "x1", "y2", "x2"], ["flat"], axis=1),
        node("Unsqueeze", "flat batch", "boxes"),
        node("Unsqueeze", "left batch_and_class", "scores"),
        node("NonMaxSuppression", "boxes scores most", "kept"),
        node("Shape", "kept", "kept_shape"),
        helper.make_node("Cast", ["kept_shape"], ["sizes"], to=1),
        helper.make_node("Reshape", ["sizes", "row"], ["y"]),
    ]
    constants = {
        "no_dim": np.array([], np.int64),
        "zero": np.float32(0),
        "two": np.float32(2),
        "unit": np.float32(1),
        "columns": np.array([1], np.int64),
        "batch": np.array([0], np.int64),
        "batch_and_class": np.array([0, 1], np.int64),
        "most": np.array([1 << 40], np.int64),
        "row": np.array([1, 2], np.int64),
    }
    return _save_onnx(path, nodes, constants, width=1, outputs=2)


def _save_onnx(path: Path, nodes: list[Any], constants: dict[str, Any], *, width: int, outputs: int = 1) -> Path:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, outputs])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8), str(path))
    return path


def countdown_model(path: Path) -> Path:
    """A while loop: as long as the value (1,) is above 100, one less. Infinity never ends, 1e7 takes seconds."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    kinds, real, truth = schema.BuiltinOptions, schema.TensorType.FLOAT32, schema.TensorType.BOOL
    buffers: list[Any] = [schema.BufferT()]

    def tensor(name: str, kind: int, value: float | None = None) -> Any:
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, np.array([1], np.int32), kind, 0
        made.quantization = schema.QuantizationParametersT()
        if value is not None:
            content = schema.BufferT()
            content.data = np.frombuffer(np.float32(value).tobytes(), np.uint8)
            buffers.append(content)
            made.buffer = len(buffers) - 1
        return made

    def graph(code: int, tensors: list[Any], options: Any, options_type: int) -> Any:
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.builtinOptions, operator.builtinOptionsType = code, options, options_type
        made = schema.SubGraphT()
        made.tensors, made.operators = tensors, [operator]
        made.inputs, made.outputs = np.array([0], np.int32), np.array([len(tensors) - 1], np.int32)
        operator.inputs, operator.outputs = np.arange(len(tensors) - 1, dtype=np.int32), made.outputs
        return made

    loop = schema.WhileOptionsT()
    loop.condSubgraphIndex, loop.bodySubgraphIndex = 1, 2
    model = schema.ModelT()
    model.version = 3
    above = [tensor("c", real), tensor("limit", real, 100), tensor("above", truth)]
    one_less = [tensor("b", real), tensor("one", real, 1), tensor("less", real)]
    model.subgraphs = [
        graph(0, [tensor("x", real), tensor("y", real)], loop, kinds.WhileOptions),
        graph(1, above, schema.GreaterOptionsT(), kinds.GreaterOptions),
        graph(2, one_less, schema.SubOptionsT(), kinds.SubOptions),
    ]
    model.buffers, model.operatorCodes = buffers, []
    for operator in (schema.BuiltinOperator.WHILE, schema.BuiltinOperator.GREATER, schema.BuiltinOperator.SUB):
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = operator, min(operator, 127), 1
        model.operatorCodes.append(code)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path
