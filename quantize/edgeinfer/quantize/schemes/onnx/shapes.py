"""What is written down of the shapes of a model's tensors."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["Shape", "closed_shapes", "forget_gone", "with_shapes"]

Shape = tuple[int, ...]


def with_shapes(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """The model with what is known of its tensors' types and shapes written down."""
    import onnx

    return onnx.shape_inference.infer_shapes(model)


def closed_shapes(graph: "onnx.GraphProto") -> dict[str, Shape]:
    """Those that are written down and leave no size open, by tensor; of constants too."""
    shapes = {one.name: tuple(one.dims) for one in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(_closed(size) for size in kind.shape.dim):
            shapes[value.name] = tuple(size.dim_value for size in kind.shape.dim)
    return shapes


def _closed(size: "onnx.TensorShapeProto.Dimension") -> bool:
    """Some exporters write -1 for what is open."""
    return bool(size.HasField("dim_value")) and size.dim_value >= 0


def forget_gone(graph: "onnx.GraphProto") -> None:
    """Remove what is written down of tensors that there are no longer."""
    made = {name for node in graph.node for name in node.output}
    known = [value for value in graph.value_info if value.name in made]
    del graph.value_info[:]
    graph.value_info.extend(known)
