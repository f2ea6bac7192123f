"""Whether an ONNX graph is whole: every tensor has what it declares, every name is made once, before it is read."""

import math
from typing import TYPE_CHECKING

from edgeinfer.quantize.intake.graphs import all_tensors, named, sub_graphs
from edgeinfer.runtime.errors import ModelError

if TYPE_CHECKING:
    import onnx

__all__ = ["check_graph", "check_tensors"]

_AGAIN = "the file is damaged: get or export it again"
_STRING = 8  # TensorProto.STRING


def check_tensors(model: "onnx.ModelProto", *, about: str) -> None:
    """Raises ModelError for a tensor whose values are not as many as its sizes say: what declares terabytes must not
    be believed."""
    for tensor in all_tensors(model):
        _check_tensor(tensor, about=f"{about}: the tensor {tensor.name!r}")


def _check_tensor(tensor: "onnx.TensorProto", *, about: str) -> None:
    from onnx import TensorProto, helper

    sizes = tuple(tensor.dims)
    if any(size < 0 for size in sizes):
        raise ModelError(f"{about} has the sizes {sizes}, expected none below 0", hint=_AGAIN)
    count = math.prod(sizes)
    if count == 0 and len(sizes) > 1:
        raise ModelError(f"{about} has the sizes {sizes}, expected none of 0", hint="export the model again")
    if tensor.data_type not in TensorProto.DataType.values() or tensor.data_type == TensorProto.UNDEFINED:
        raise ModelError(f"{about} has the unknown type {tensor.data_type}", hint=_AGAIN)
    if tensor.HasField("raw_data"):
        expected, found, unit = _raw_bytes(tensor.data_type, count), len(tensor.raw_data), "bytes"
    else:
        found = len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type)))
        expected, unit = _field_entries(tensor.data_type, count), "values"
    if found != expected:
        raise ModelError(f"{about} of sizes {sizes} should have {expected} {unit}, and has {found}", hint=_AGAIN)


def _bits(data_type: int) -> int:
    from onnx import TensorProto, helper

    name = TensorProto.DataType.Name(data_type)
    for narrow in (2, 4):
        if name.startswith((f"INT{narrow}", f"UINT{narrow}", f"FLOAT{narrow}")):
            return narrow
    return helper.tensor_dtype_to_np_dtype(data_type).itemsize * 8


def _raw_bytes(data_type: int, count: int) -> int:
    if data_type == _STRING:
        return 0
    return math.ceil(count * _bits(data_type) / 8)


def _field_entries(data_type: int, count: int) -> int:
    """How many entries a field of numbers has: those of four and two bits share one, complex ones take two."""
    from onnx import TensorProto

    if data_type != _STRING and _bits(data_type) < 8:
        return math.ceil(count * _bits(data_type) / 8)
    return 2 * count if data_type in {TensorProto.COMPLEX64, TensorProto.COMPLEX128} else count


def check_graph(graph: "onnx.GraphProto", *, about: str, outer: frozenset[str] = frozenset()) -> None:
    """Raises ModelError for names that are missing, made twice, or read before they are made. `outer`: names that a
    sub-graph may read from around it."""
    made = _given(graph, about=about)
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        for name in filter(None, node.input):
            if name not in made and name not in outer:
                raise ModelError(_unmade(node, name, makers.get(name), about), hint=_AGAIN)
        for inner in sub_graphs(node):
            check_graph(inner, about=f"{about}: in {named(node)}", outer=outer | made)
        for name in filter(None, node.output):
            if name in made:
                raise ModelError(f"{about}: two nodes make {name!r}, one of them {named(node)}", hint=_AGAIN)
            made.add(name)
    for value in graph.output:
        if value.name not in made and value.name not in outer:
            raise ModelError(f"{about}: nothing makes the output {value.name!r}", hint=_AGAIN)


def _given(graph: "onnx.GraphProto", *, about: str) -> set[str]:
    """The names of inputs and constants, of which an input may be both."""
    inputs = [value.name for value in graph.input]
    constants = [tensor.name for tensor in graph.initializer]
    constants += [sparse.values.name for sparse in graph.sparse_initializer]
    for kind, names in (("inputs", inputs), ("constants", constants)):
        if len(set(names)) != len(names) or "" in names:
            shown = ", ".join(map(repr, names[:20]))
            raise ModelError(f"{about}: expected {kind} with a name of their own each, found {shown}", hint=_AGAIN)
    return {*inputs, *constants}


def _unmade(node: "onnx.NodeProto", name: str, maker: "onnx.NodeProto | None", about: str) -> str:
    if maker is not None:
        return f"{about}: the nodes are not in order: {named(node)} reads {name!r}, which {named(maker)} makes later"
    return f"{about}: {named(node)} reads {name!r}, which no node, input or constant gives: a part is missing"
