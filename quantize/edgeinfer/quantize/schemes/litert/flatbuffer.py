"""TFLite files as objects: read, mended for the quantizer, slimmed, written.

The library's generated classes have no types, hence `Any` for the model and its parts.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import DependencyError, ModelError

__all__ = ["data_of", "half_weights", "integer_weights", "normalized", "parse", "serialized", "set_data", "slimmed"]

_SIGNATURE = "serving_default"


def parse(content: bytes) -> Any:
    """The model's root object. Raises ModelError for bytes that are none, DependencyError."""
    try:
        from ai_edge_litert.tools import flatbuffer_utils
    except ImportError as error:
        raise DependencyError("ai-edge-litert is not installed", hint="pip install 'edgeinfer[quantize]'") from error
    try:
        model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
        for buffer in model.buffers:
            if buffer.data is not None:  # as an array, it is written in one piece and not byte by byte
                buffer.data = np.frombuffer(buffer.data, np.uint8)
    except Exception as error:  # the generated reader fails with whatever a wrong offset leads to
        raise ModelError(f"is no TFLite model: {error}") from error
    return model


def serialized(model: Any) -> bytes:
    """The file of a root object, its constants inside the FlatBuffer, where runtimes of any age look for them."""
    from ai_edge_litert.tools import flatbuffer_utils

    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def data_of(model: Any, tensor: Any) -> Array | None:
    """A constant's bytes, uint8 (n,), not copied; or None of a tensor that is computed."""
    data = model.buffers[tensor.buffer].data
    return None if data is None or len(data) == 0 else data


def set_data(model: Any, tensor: Any, values: Array) -> None:
    """Give a constant other values, in a buffer of its own: the one that it had may be shared."""
    from ai_edge_litert import schema_py_generated as schema

    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor.buffer = len(model.buffers) - 1


def integer_weights(content: bytes) -> int:
    """How many constant tensors of a TFLite model hold int8, uint8 or int4 values in more than one dimension."""
    from ai_edge_litert import schema_py_generated as schema

    return _constants(content, {schema.TensorType.INT8, schema.TensorType.UINT8, schema.TensorType.INT4})


def half_weights(content: bytes) -> int:
    """How many constant tensors hold float16 values in more than one dimension."""
    from ai_edge_litert import schema_py_generated as schema

    return _constants(content, {schema.TensorType.FLOAT16})


def _constants(content: bytes, types: set[int]) -> int:
    model = parse(content)
    return sum(
        1
        for graph in model.subgraphs
        for tensor in graph.tensors
        if tensor.type in types
        and tensor.shape is not None
        and len(tensor.shape) > 1
        and data_of(model, tensor) is not None
    )


def normalized(content: bytes) -> bytes:
    """The same model as the quantizer relies on finding it: with `builtin_code` filled in where a file has only
    `deprecated_builtin_code`, with a signature, float16 weights widened, and every tensor under a name of its own."""
    model = parse(content)
    mended = [_filled_codes(model), _signed(model), _widened(model), _named_apart(model)]
    return serialized(model) if any(mended) else content


def _filled_codes(model: Any) -> bool:
    absent = [code for code in model.operatorCodes if code.builtinCode == 0 and code.deprecatedBuiltinCode != 0]
    for code in absent:
        code.builtinCode = code.deprecatedBuiltinCode
    return bool(absent)


def _signed(model: Any) -> bool:
    from ai_edge_litert import schema_py_generated as schema

    if model.signatureDefs:
        return False
    graph = model.subgraphs[0]

    def named(indices: Any, prefix: str) -> list[Any]:
        entries = []
        for position, index in enumerate(indices):
            entry = schema.TensorMapT()
            entry.name = f"{prefix}_{position}"
            entry.tensorIndex = int(index)
            entries.append(entry)
        return entries

    signature = schema.SignatureDefT()
    signature.signatureKey = _SIGNATURE
    signature.subgraphIndex = 0
    signature.inputs = named(graph.inputs, "input")
    signature.outputs = named(graph.outputs, "output")
    model.signatureDefs = [signature]
    return True


def _widened(model: Any) -> bool:
    """Fold DEQUANTIZE of float16 constants: the quantizer sees weights only where an operation reads a constant."""
    from ai_edge_litert import schema_py_generated as schema

    def folded(graph: Any, operator: Any) -> bool:
        if model.operatorCodes[operator.opcodeIndex].builtinCode != schema.BuiltinOperator.DEQUANTIZE:
            return False
        source, target = graph.tensors[operator.inputs[0]], graph.tensors[operator.outputs[0]]
        halves = data_of(model, source)
        if source.type != schema.TensorType.FLOAT16 or halves is None:
            return False
        set_data(model, target, halves.view(np.float16).astype(np.float32))
        return True

    changed = False
    for graph in model.subgraphs:
        kept = [operator for operator in graph.operators if not folded(graph, operator)]
        changed = changed or len(kept) < len(graph.operators)
        graph.operators = kept
    return changed


def _named_apart(model: Any) -> bool:
    """The quantizer keeps its notes by tensor name, over all subgraphs."""
    seen: set[bytes] = set()
    changed = False
    for number, graph in enumerate(model.subgraphs):
        for index, tensor in enumerate(graph.tensors):
            if not tensor.name or tensor.name in seen:
                tensor.name = (tensor.name or b"tensor") + f"#{number}.{index}".encode()
                changed = True
            seen.add(tensor.name)
    return changed


def slimmed(content: bytes) -> bytes:
    """The same computation in fewer bytes: without what no operation reads, without metadata and without the names of
    inner tensors; constants that are equal are stored once."""
    model = parse(content)
    model.metadata = model.metadataBuffer = model.description = None
    for graph in model.subgraphs:
        graph.name = None
        _drop_unread_tensors(model, graph)
        outside = {*graph.inputs, *graph.outputs}
        for index, tensor in enumerate(graph.tensors):
            if index not in outside:
                tensor.name = None
    _share_buffers(model)
    _drop_unused_codes(model)
    return serialized(model)


def _drop_unread_tensors(model: Any, graph: Any) -> None:
    used = {int(index) for operator in graph.operators for index in _indices(operator)}
    used.update(int(index) for index in (*graph.inputs, *graph.outputs))
    kept = sorted(index for index in used if index >= 0)
    places = {old: new for new, old in enumerate(kept)} | {-1: -1}
    graph.tensors = [graph.tensors[index] for index in kept]
    graph.inputs = [places[int(index)] for index in graph.inputs]
    graph.outputs = [places[int(index)] for index in graph.outputs]
    for operator in graph.operators:
        for field in ("inputs", "outputs", "intermediates"):
            indices = getattr(operator, field)
            if indices is not None:
                setattr(operator, field, [places[int(index)] for index in indices])
    for signature in model.signatureDefs or []:
        if model.subgraphs[signature.subgraphIndex] is graph:
            for entry in (*signature.inputs, *signature.outputs):
                entry.tensorIndex = places[entry.tensorIndex]


def _indices(operator: Any) -> Iterator[Any]:
    for field in (operator.inputs, operator.outputs, operator.intermediates):
        yield from field if field is not None else ()


def _share_buffers(model: Any) -> None:
    buffers = [model.buffers[0]]  # the first one is empty by the format's rule
    places: dict[bytes, int] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = data_of(model, tensor)
            if data is None:
                tensor.buffer = 0
                continue
            digest = hashlib.sha256(data.data).digest()
            if digest not in places:
                places[digest] = len(buffers)
                buffers.append(model.buffers[tensor.buffer])
            tensor.buffer = places[digest]
    model.buffers = buffers


def _drop_unused_codes(model: Any) -> None:
    used = sorted({operator.opcodeIndex for graph in model.subgraphs for operator in graph.operators})
    model.operatorCodes = [model.operatorCodes[index] for index in used]
    for graph in model.subgraphs:
        for operator in graph.operators:
            operator.opcodeIndex = used.index(operator.opcodeIndex)
