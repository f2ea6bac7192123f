"""Outputs as packages take them: tensors of numbers. Classical models are exported with others beside them.

skl2onnx and onnxmltools give a classifier two outputs: the label that won, and the probabilities, the latter through
ZipMap as a sequence of maps. A detector of outliers gives a label and a score that is large for what is normal.
"""

from typing import TYPE_CHECKING

from edgeinfer.quantize.intake.graphs import all_nodes
from edgeinfer.runtime.errors import ModelError

if TYPE_CHECKING:
    import onnx

__all__ = ["plain_outputs"]

_ML = "ai.onnx.ml"
_MAX_SHOWN = 20


def plain_outputs(model: "onnx.ModelProto", *, about: str) -> tuple[str, ...]:
    """Leave outputs that are tensors of numbers; returns what was changed. Raises ModelError where none would be."""
    from onnx import TensorProto

    notes = _without_zip_maps(model)
    outputs = list(model.graph.output)
    useless = [value.name for value in outputs if not _is_numbers(value)]
    numbers = [value for value in outputs if value.name not in useless]
    is_classic = any(node.domain == _ML for node in all_nodes(model))
    floats = [value for value in numbers if value.type.tensor_type.elem_type in _float_types()]
    labels = [value.name for value in numbers if value.type.tensor_type.elem_type == TensorProto.INT64]
    if is_classic and floats:
        useless += labels
        if _detects_outliers(labels, floats):
            notes += _negated(model, floats[0])
    kept = [value for value in model.graph.output if value.name not in useless]
    if not kept:
        raise ModelError(
            f"{about}: expected an output that is a tensor of numbers, found {', '.join(map(_described, outputs))}",
            hint="export the probabilities or scores too",
        )
    if useless:
        notes += (f"output {', '.join(useless)} dropped: {kept[0].name} says more",)
        del model.graph.output[:]
        model.graph.output.extend(kept)
        _drop_unread(model)
    return notes


def _without_zip_maps(model: "onnx.ModelProto") -> tuple[str, ...]:
    """What ZipMap packs into maps is an output itself, under its own name."""
    from onnx import TensorProto, helper

    notes: tuple[str, ...] = ()
    for node in [node for node in model.graph.node if node.op_type == "ZipMap" and node.domain == _ML]:
        places = [place for place, value in enumerate(model.graph.output) if value.name in node.output]
        if not places:
            continue
        classes = _classes(node)
        inner = helper.make_tensor_value_info(node.input[0], TensorProto.FLOAT, [None, len(classes) or None])
        model.graph.output[places[0]].CopyFrom(inner)
        model.graph.node.remove(node)
        shown = ", ".join(classes[:_MAX_SHOWN]) + (", ..." if len(classes) > _MAX_SHOWN else "")
        notes += (f"ZipMap removed: {node.input[0]} has the scores of the classes {shown}, in this order",)
    return notes


def _classes(node: "onnx.NodeProto") -> list[str]:
    for attribute in node.attribute:
        if attribute.name == "classlabels_int64s":
            return [str(label) for label in attribute.ints]
        if attribute.name == "classlabels_strings":
            return [label.decode(errors="replace") for label in attribute.strings]
    return []


def _is_numbers(value: "onnx.ValueInfoProto") -> bool:
    from onnx import TensorProto

    return value.type.WhichOneof("value") == "tensor_type" and value.type.tensor_type.elem_type not in {
        TensorProto.STRING,
        TensorProto.UNDEFINED,
        TensorProto.COMPLEX64,
        TensorProto.COMPLEX128,
    }


def _float_types() -> set[int]:
    from onnx import TensorProto

    return {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16}


def _detects_outliers(labels: list[str], floats: "list[onnx.ValueInfoProto]") -> bool:
    """skl2onnx's layout of IsolationForest, OneClassSVM and LocalOutlierFactor: label and scores, one a row."""
    sizes = [dim.dim_value for dim in floats[0].type.tensor_type.shape.dim]
    return labels == ["label"] and [value.name for value in floats] == ["scores"] and sizes[1:] == [1]


def _negated(model: "onnx.ModelProto", score: "onnx.ValueInfoProto") -> tuple[str, ...]:
    """Scores that are high for anomalies, as everywhere here."""
    from onnx import helper

    taken = {name for node in all_nodes(model) for name in (*node.input, *node.output)}
    name = "anomaly_score"
    while name in taken:
        name += "_"
    model.graph.node.append(helper.make_node("Neg", [score.name], [name], name=name))
    before, score.name = score.name, name
    return (f"{before} negated to {name}: high for an anomaly, where scikit-learn's is high for what is normal",)


def _drop_unread(model: "onnx.ModelProto") -> None:
    """Nodes that made only what was dropped. Control flow reads names from outside: all that it holds counts."""
    read = {value.name for value in model.graph.output}
    read |= {name for graph_node in all_nodes(model) for name in graph_node.input if _is_inner(model, graph_node)}
    for node in reversed(list(model.graph.node)):
        if any(name in read for name in node.output):
            read.update(node.input)
        else:
            model.graph.node.remove(node)


def _is_inner(model: "onnx.ModelProto", node: "onnx.NodeProto") -> bool:
    return all(node is not outer for outer in model.graph.node)


def _described(value: "onnx.ValueInfoProto") -> str:
    from onnx import TensorProto

    kind = value.type.WhichOneof("value") or "nothing"
    if kind == "tensor_type":
        return f"{value.name!r} ({TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()})"
    return f"{value.name!r} ({kind.removesuffix('_type')})"
