"""What exporters leave behind and ONNX Runtime does not take away: operations that only give a tensor another shape,
one after the other, and long ways to say something short.

- Operations that leave all elements as they are and where they are (Squeeze, Unsqueeze, Reshape, a mean over one
  element, ...) become one of them, or none.
- A slice of one that loses its axis and gets it back (Gather, Unsqueeze) keeps it.
- A square is a product; whole numbers times zero are zero, and need not be added.

Each saves a microsecond or two, which is as much as the layers of a small model take. Shapes have to be known: the
rules leave alone what has open sizes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.quantize.schemes.onnx.shapes import Shape, closed_shapes
from edgeinfer.quantize.schemes.onnx.weighted import attribute, swept
from edgeinfer.runtime.engines.base import Array

if TYPE_CHECKING:
    import onnx

__all__ = ["take_away"]

_SHAPING = frozenset({"Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
# Of one element they are that element.
_REDUCING = frozenset({"ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"})


def take_away(model: "onnx.GraphProto") -> int:
    """Apply the rules to a graph whose shapes are inferred, without bodies of control flow; how often one did."""
    graph = _Graph(model)
    changed = sum(rule(graph, node) for rule in _RULES for node in list(model.node))
    if changed:
        graph.sweep()
    return changed


@dataclass(slots=True)
class _Graph:
    """`shapes` has those without open sizes, `types` the element types of tensors, `makers` who makes a tensor."""

    proto: "onnx.GraphProto"
    shapes: dict[str, Shape] = field(init=False)
    types: dict[str, int] = field(init=False)
    constants: "dict[str, onnx.TensorProto]" = field(init=False)
    makers: "dict[str, onnx.NodeProto]" = field(init=False)
    outputs: set[str] = field(init=False)

    def __post_init__(self) -> None:
        values = (*self.proto.value_info, *self.proto.input, *self.proto.output)
        self.shapes = closed_shapes(self.proto)
        self.types = {value.name: value.type.tensor_type.elem_type for value in values}
        self.constants = {one.name: one for one in self.proto.initializer}
        self.makers = {name: node for node in self.proto.node for name in node.output}
        self.outputs = {value.name for value in self.proto.output}

    def constant(self, name: str) -> Array | None:
        from onnx import numpy_helper

        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def add(self, name: str, values: Array) -> str:
        """The name of a constant of these values: the one that is given, where no other constant has it."""
        from onnx import numpy_helper

        while (known := self.constant(name)) is not None and not _same(known, values):
            name += "~"
        if known is None:
            self.constants[name] = numpy_helper.from_array(values, name)
            self.proto.initializer.append(self.constants[name])
        return name

    def rename(self, name: str, other: str) -> None:
        """Let all who take `name` take `other`."""
        for node in self.proto.node:
            for slot, taken in enumerate(node.input):
                if taken == name:
                    node.input[slot] = other

    def rewrite(self, node: "onnx.NodeProto", op: str, inputs: list[str]) -> None:
        """Make it an operation without attributes, of the same result."""
        node.op_type = op
        del node.input[:], node.attribute[:]
        node.input.extend(inputs)

    def sweep(self) -> None:
        """Remove what nothing takes any more."""
        taken = set(self.outputs)
        kept = []
        for node in reversed(self.proto.node):
            if any(name in taken for name in node.output):
                taken.update(name for name in node.input if name)
                kept.append(node)
        del self.proto.node[:]
        self.proto.node.extend(reversed(kept))
        swept(self.proto)


def _same(one: Array, other: Array) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other)


def _one_view(graph: _Graph, node: "onnx.NodeProto") -> bool:
    """The last of several operations that only give another shape takes what the first one takes."""
    if not _is_view(graph, node):
        return False
    first, count = node, 1
    while (maker := graph.makers.get(first.input[0])) is not None and _is_view(graph, maker):
        first, count = maker, count + 1
    source, result = first.input[0], node.output[0]
    shape = graph.shapes[result]
    if shape == graph.shapes[source]:
        return _dropped(graph, source, result)
    if count == 1:
        return False
    graph.rewrite(node, "Reshape", [source, graph.add(f"{result}~shape", np.array(shape, np.int64))])
    return True


def _is_view(graph: _Graph, node: "onnx.NodeProto") -> bool:
    """Whether its result has the elements of its first input, in their order."""
    if not node.input or not {node.input[0], node.output[0]} <= graph.shapes.keys():
        return False
    before, after = graph.shapes[node.input[0]], graph.shapes[node.output[0]]
    if 0 in before or np.prod(before, dtype=np.int64) != np.prod(after, dtype=np.int64):
        return False
    if node.op_type == "Transpose":
        order = attribute(node, "perm", list(reversed(range(len(before)))))
        moved = [axis for axis in order if before[axis] > 1]
        return moved == sorted(moved)
    return node.op_type in _SHAPING or node.op_type in _REDUCING


def _dropped(graph: _Graph, source: str, result: str) -> bool:
    """Take `source` for `result`. A result of the model keeps its name, where its maker can be given it."""
    if result not in graph.outputs:
        graph.rename(result, source)
        return True
    maker = graph.makers.get(source)
    if maker is None or source in graph.outputs:
        return False
    maker.output[list(maker.output).index(source)] = result
    for node in graph.proto.node:
        if node is not maker and result in node.output:
            node.output[list(node.output).index(result)] = f"{result}~before"
    graph.rename(source, result)
    graph.makers[result] = maker
    return True


def _kept_axis(graph: _Graph, node: "onnx.NodeProto") -> bool:
    """Unsqueeze(Gather(x, one index)) of the same axis: Gather with a list of that index."""
    maker = graph.makers.get(node.input[0]) if node.op_type == "Unsqueeze" and len(node.input) > 1 else None
    if maker is None or maker.op_type != "Gather":
        return False
    index, axes, source = graph.constant(maker.input[1]), graph.constant(node.input[1]), maker.input[0]
    if index is None or axes is None or index.ndim or axes.size != 1 or source not in graph.shapes:
        return False
    rank, axis = len(graph.shapes[source]), attribute(maker, "axis", 0)
    if axis % rank != int(axes.ravel()[0]) % rank:
        return False
    graph.rewrite(node, "Gather", [source, graph.add(f"{maker.input[1]}~list", index.reshape(1))])
    node.attribute.extend(maker.attribute)
    return True


def _square(graph: _Graph, node: "onnx.NodeProto") -> bool:
    """x to the power of 2: x times x."""
    exponent = graph.constant(node.input[1]) if node.op_type == "Pow" else None
    if exponent is None or exponent.size != 1 or float(exponent.ravel()[0]) != 2.0:
        return False
    source = node.input[0]
    if graph.types.get(source) != graph.types.get(node.output[0]) or exponent.ndim > len(graph.shapes.get(source, ())):
        return False
    graph.rewrite(node, "Mul", [source, source])
    return True


def _zero(graph: _Graph, node: "onnx.NodeProto") -> bool:
    """Whole numbers times zero, which exporters write to keep an input that nothing needs; and such in another type."""
    from onnx import helper

    result = node.output[0]
    if result in graph.outputs or result not in graph.shapes or node.op_type not in {"Cast", "Mul"}:
        return False
    factors = [graph.constant(name) for name in node.input]
    if all(values is None or values.any() or values.dtype.kind not in "iu" for values in factors):
        return False
    kind = helper.tensor_dtype_to_np_dtype(graph.types[result])
    if kind.kind not in "iuf":
        return False
    graph.rename(result, graph.add(f"{result}~zero", np.zeros(graph.shapes[result], kind)))
    return True


def _nothing_added(graph: _Graph, node: "onnx.NodeProto") -> bool:
    """x + 0, which the engine leaves where it is a result of the model."""
    zero = graph.constant(node.input[1]) if node.op_type == "Add" else None
    if zero is None or zero.any():
        return False
    source, result = node.input[0], node.output[0]
    same = source in graph.shapes and graph.shapes[source] == graph.shapes.get(result)
    return same and _dropped(graph, source, result)


_RULES: tuple[Callable[[_Graph, "onnx.NodeProto"], bool], ...] = (_zero, _nothing_added, _square, _kept_axis, _one_view)
