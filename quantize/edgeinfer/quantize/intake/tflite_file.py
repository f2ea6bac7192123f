"""A TFLite file on its way in: what can be said of it before its engine loads it. It is not changed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeinfer.quantize.intake.exchange import Found
from edgeinfer.runtime.errors import DependencyError, ModelError, UsageError

__all__ = ["check_float", "inspect"]

_IDENTIFIER = b"TFL3"
_AGAIN = "the file is damaged: get or export it again"


def inspect(path: Path) -> Found:
    """Raises ModelError for what is no TFLite model or an empty one."""
    model = _read(path)
    _check_sizes(model, path)
    notes = ("float16 weights",) if _count_weights(model, "FLOAT16") else ()
    return Found(notes=notes, unquantizable="" if _count_weights(model, "FLOAT32", "FLOAT16") else "it has no weights")


def check_float(path: Path) -> None:
    """Raises UsageError for a model that is quantized already."""
    model = _read(path)
    integer = [kind for kind in _input_types(model) if kind in {"int8", "uint8", "int16"}]
    count = _count_weights(model, "INT8", "UINT8", "INT4")
    what = f"its input is {integer[0]}" if integer else f"{count} of its weight tensors are integers" if count else ""
    if what:
        raise UsageError(
            f"{path}: expected a float model, found one that is quantized already: {what}",
            hint="pack it as it is: edgeinfer package create",
        )


def _read(path: Path) -> Any:
    content = path.read_bytes()
    if content[4:8] != _IDENTIFIER:
        raise ModelError(f"{path}: is no TFLite model: expected {_IDENTIFIER.decode()} at byte 4", hint=_AGAIN)
    model = _parse(content, path)
    if not model.subgraphs or not model.subgraphs[0].operators:
        raise ModelError(f"{path}: expected a model with operations, found none", hint="export the model again")
    return model


def _parse(content: bytes, path: Path) -> Any:
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError as error:
        raise DependencyError("ai-edge-litert is not installed", hint="pip install 'edgeinfer[quantize]'") from error
    try:
        return schema.ModelT.InitFromPackedBuf(content, 0)
    except Exception as error:  # offsets that point anywhere raise anything
        raise ModelError(
            f"{path}: is a TFLite model that cannot be read: it is cut short, or points outside of itself", hint=_AGAIN
        ) from error


def _check_sizes(model: Any, path: Path) -> None:
    graph = model.subgraphs[0]
    for index in graph.inputs if graph.inputs is not None else ():
        tensor = graph.tensors[index]
        if tensor.shape is not None and 0 in list(tensor.shape):
            raise ModelError(
                f"{path}: expected inputs that hold something, found {_text(tensor.name)!r} of shape "
                f"{tuple(map(int, tensor.shape))}",
                hint="export the model again with the sizes of a real input",
            )


def _input_types(model: Any) -> list[str]:
    from ai_edge_litert import schema_py_generated as schema

    names = {value: name.lower() for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    graph = model.subgraphs[0]
    return [names.get(graph.tensors[index].type, "") for index in (graph.inputs if graph.inputs is not None else ())]


def _count_weights(model: Any, *kinds: str) -> int:
    """Constant tensors of these types in more than one dimension."""
    from ai_edge_litert import schema_py_generated as schema

    wanted = {getattr(schema.TensorType, kind) for kind in kinds}
    return sum(tensor.type in wanted for tensor in _constants(model))


def _constants(model: Any) -> Iterator[Any]:
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            shape, data = tensor.shape, _data(model, tensor)
            if shape is not None and len(shape) > 1 and data is not None and len(data):
                yield tensor


def _data(model: Any, tensor: Any) -> Any:
    """What a tensor holds, None where it points nowhere: its engine says what that means."""
    inside = model.buffers is not None and 0 <= tensor.buffer < len(model.buffers)
    return model.buffers[tensor.buffer].data if inside else None


def _text(name: Any) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)
