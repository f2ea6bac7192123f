"""The operators of an ONNX model: which of them no engine of ours has, and whether any has weights to quantize."""

from typing import TYPE_CHECKING

from edgeinfer.quantize.intake.graphs import all_graphs, all_nodes, named, opset
from edgeinfer.runtime.errors import ModelError, UsageError

if TYPE_CHECKING:
    import onnx

__all__ = ["check_float", "check_operators", "unquantizable"]

# Those whose definitions come with onnx; ONNX Runtime runs them.
_STANDARD = {"", "ai.onnx", "ai.onnx.ml"}
# ONNX Runtime's own: it tells itself which it has.
_BUILT_IN = {"com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"}
# https://onnxruntime.ai/docs/reference/compatibility.html: guaranteed from here on.
_MIN_OPSET = 7
_WEIGHTED = {"Attention", "Conv", "ConvTranspose", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "RNN"}
_QUANTIZED = {
    "ConvInteger",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulBnb4",
    "MatMulInteger",
    "MatMulNBits",
    "QGemm",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
}
_TREES = "an ensemble of trees"
_CLASSIC = {
    "TreeEnsemble": _TREES,
    "TreeEnsembleClassifier": _TREES,
    "TreeEnsembleRegressor": _TREES,
    "LinearClassifier": "a linear model in one operator",
    "LinearRegressor": "a linear model in one operator",
    "SVMClassifier": "a support vector machine in one operator",
    "SVMRegressor": "a support vector machine in one operator",
}


def check_operators(model: "onnx.ModelProto", *, about: str) -> None:
    """Raises ModelError for operators that are not known, and for versions of them that are too new or too old."""
    import onnx

    known = onnx.defs.onnx_opset_version()
    version = opset(model)
    if any(node.domain in {"", "ai.onnx"} for node in all_nodes(model)) and not _MIN_OPSET <= version <= known:
        raise ModelError(
            f"{about}: expected operators of opset {_MIN_OPSET} to {known}, found opset {version}",
            hint="export the model again with opset_version=17, or convert it with onnx.version_converter",
        )
    for node in all_nodes(model):
        _check_operator(model, node, about=about)


def _check_operator(model: "onnx.ModelProto", node: "onnx.NodeProto", *, about: str) -> None:
    import onnx

    domain = "" if node.domain == "ai.onnx" else node.domain
    if domain in _BUILT_IN:
        return
    if domain not in _STANDARD:
        raise ModelError(
            f"{about}: expected operators of ONNX, found the custom operator {node.op_type} of the domain {domain!r} "
            f"in the node {node.name or next(iter(node.output), '')!r}",
            hint="edgeinfer runs what the engine has built in: export the model without custom operators",
        )
    version = opset(model, domain)
    if version == 0:
        raise ModelError(
            f"{about}: {named(node)} is of the domain {domain!r}, of which the model names no version",
            hint="the file is damaged: get or export it again",
        )
    if not onnx.defs.has(node.op_type, version, domain):
        raise ModelError(
            f"{about}: expected operators of ONNX, found the unknown operator {node.op_type} in the node "
            f"{node.name or next(iter(node.output), '')!r} (domain {domain or 'ai.onnx'!r}, opset {version})",
            hint="export the model with operators of ONNX only, or with a newer opset",
        )


def check_float(model: "onnx.ModelProto", *, about: str) -> None:
    """Raises UsageError for a model that is quantized already."""
    count = sum(node.op_type in _QUANTIZED for node in all_nodes(model))
    if count:
        raise UsageError(
            f"{about}: expected a float model, found one that is quantized already: it holds {count} quantization "
            f"node{'s' * (count > 1)}",
            hint="pack it as it is: edgeinfer package create",
        )


def unquantizable(model: "onnx.ModelProto") -> str:
    """Why nothing can be quantized in a model, "" where something may be."""
    nodes = list(all_nodes(model))
    constants = {
        tensor.name for graph in all_graphs(model.graph) for tensor in graph.initializer if len(tensor.dims) > 1
    }
    if any(_has_weights(node, constants) for node in nodes):
        return ""
    kinds = sorted({_CLASSIC[node.op_type] for node in nodes if node.op_type in _CLASSIC})
    if _TREES in kinds:
        return f"{_TREES}: it compares with thresholds and multiplies nothing, so there are no weights"
    if kinds:
        return f"{' and '.join(kinds)}, whose weights no quantizer sees"
    return "no operation of it has weights"


def _has_weights(node: "onnx.NodeProto", constants: set[str]) -> bool:
    """A Gather is one where it picks rows of an embedding, and none where it picks features."""
    if node.domain not in _BUILT_IN | {"", "ai.onnx"}:
        return False
    return node.op_type in _WEIGHTED or (node.op_type == "Gather" and node.input[0] in constants)
