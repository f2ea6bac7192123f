"""Sizes of an ONNX model's inputs: read, judged, and fixed where the model leaves them open."""

from typing import TYPE_CHECKING

from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import TensorSpec

if TYPE_CHECKING:
    import onnx

__all__ = ["check_sizes", "fix_sizes", "open_names", "specs"]


def specs(values: "list[onnx.ValueInfoProto]", *, about: str) -> tuple[TensorSpec, ...]:
    """What inputs or outputs are, -1 for open sizes. Raises ModelError for what is no tensor of numbers."""
    return tuple(_spec(value, about=about) for value in values)


def _spec(value: "onnx.ValueInfoProto", *, about: str) -> TensorSpec:
    from onnx import TensorProto, helper

    kind = value.type.WhichOneof("value")
    tensor = value.type.tensor_type
    if kind != "tensor_type" or tensor.elem_type in {TensorProto.STRING, TensorProto.UNDEFINED}:
        found = "strings" if kind == "tensor_type" and tensor.elem_type else kind or "no type"
        raise ModelError(
            f"{about}: expected inputs that are tensors of numbers, found {value.name!r} of {found}",
            hint="encode categories as numbers before the model, and export the model without that step",
        )
    if tensor.elem_type not in TensorProto.DataType.values():
        raise ModelError(f"{about}: {value.name!r} has the unknown type {tensor.elem_type}")
    dtype = str(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return TensorSpec(name=value.name, shape=tuple(map(_size, tensor.shape.dim)), dtype=dtype)


def _size(dim: "onnx.TensorShapeProto.Dimension") -> int:
    return dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else -1


def check_sizes(inputs: tuple[TensorSpec, ...], *, about: str) -> None:
    """Raises ModelError for an input that holds nothing."""
    for spec in inputs:
        if 0 in spec.shape:
            raise ModelError(
                f"{about}: expected inputs that hold something, found {spec.name!r} of shape {spec.shape}",
                hint="export the model again with the sizes of a real input",
            )


def open_names(value: "onnx.ValueInfoProto") -> tuple[str, ...]:
    """The open sizes behind the batch, by name, or by place where they have none."""
    dims = list(value.type.tensor_type.shape.dim)
    return tuple(
        repr(dim.dim_param) if dim.dim_param else f"dimension {place}"
        for place, dim in enumerate(dims)
        if place > 0 and _size(dim) < 0
    )


def fix_sizes(model: "onnx.ModelProto", frame: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Give the input `frame` its shape, and a size of the same name that size wherever it stands; returns what was
    changed. Open sizes of other inputs become 1: they are states and numbers of one source."""
    known: dict[str, int] = {}
    notes: list[str] = []
    values = sorted(model.graph.input, key=lambda value: value.name != frame)
    for value in values:
        dims = value.type.tensor_type.shape.dim
        for place, dim in enumerate(dims):
            if _size(dim) >= 0:
                continue
            name = dim.dim_param
            size = shape[place] if value.name == frame else known.get(name, 1)
            known.setdefault(name, size)
            notes.append(f"{_called(name, place)} of {value.name} fixed to {size}")
            dim.Clear()
            dim.dim_value = size
    known.pop("", None)
    if notes:
        # Hints of another size than the one that is fixed now are in the way of those who infer shapes.
        del model.graph.value_info[:]
        _close_outputs(model, known)
    return tuple(notes)


def _called(name: str, place: int) -> str:
    return name or ("batch" if place == 0 else f"dimension {place}")


def _close_outputs(model: "onnx.ModelProto", known: dict[str, int]) -> None:
    import onnx

    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in known:
                size = known[dim.dim_param]
                dim.Clear()
                dim.dim_value = size
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # sizes of outputs may stay open; what the model is worth, the engine says
        return
    for value, better in zip(model.graph.output, inferred.graph.output, strict=True):
        if len(better.type.tensor_type.shape.dim) == len(value.type.tensor_type.shape.dim):
            value.CopyFrom(better)
