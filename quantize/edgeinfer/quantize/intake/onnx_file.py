"""An ONNX file on its way in: read, checked, cleaned and written anew as one self-contained file."""

from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer.quantize.feeding import frame_input
from edgeinfer.quantize.intake.constants import drop_unread, flatten_biases, out_of_inputs
from edgeinfer.quantize.intake.dtypes import as_float32
from edgeinfer.quantize.intake.exchange import Found, Job
from edgeinfer.quantize.intake.external import embed
from edgeinfer.quantize.intake.graphs import all_nodes
from edgeinfer.quantize.intake.operators import check_float, check_operators, unquantizable
from edgeinfer.quantize.intake.outputs import plain_outputs
from edgeinfer.quantize.intake.scalers import plain_scalers
from edgeinfer.quantize.intake.sizes import check_sizes, fix_sizes, open_names, specs
from edgeinfer.quantize.intake.structure import check_graph, check_tensors
from edgeinfer.runtime.errors import DependencyError, ModelError, StorageError, UsageError

if TYPE_CHECKING:
    import onnx

__all__ = ["clean"]

# Of a model that has no operator of ONNX itself: any will do.
_PLAIN_OPSET = 17
_CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}


def clean(job: Job) -> Found:
    """Write the clean file to `job.target`. Raises ModelError, UsageError, StorageError,
    DependencyError."""
    about = job.source
    model = _read(Path(job.source))
    data = embed(model, Path(job.source).parent, about=about)
    notes = [f"external data {name} brought in" for name in data]
    check_tensors(model, about=about)
    model, inlined = _inlined(model, about=about)
    notes += inlined
    _one_version_each(model)
    check_graph(model.graph, about=about)
    check_operators(model, about=about)
    check_float(model, about=about)
    notes += out_of_inputs(model)
    notes += plain_outputs(model, about=about)
    inputs = specs(list(model.graph.input), about=about)
    check_sizes(inputs, about=about)
    frame = frame_input(inputs, specs(list(model.graph.output), about=about), job.feeding, about=about)
    names = open_names(next(value for value in model.graph.input if value.name == frame.name))
    if names and not job.shape:
        return Found(open_input=frame, open_names=names)
    if frame.shape[:1] not in {(1,), (-1,)}:
        raise UsageError(
            f"{about}: expected an input with a batch of 1 (or open), found {frame.name!r} of shape {frame.shape}",
            hint="a device takes one frame at a time: export the model with a batch of 1",
        )
    notes += fix_sizes(model, frame.name, job.shape or (1, *frame.shape[1:]))
    notes += as_float32(model, frame.name)
    notes += plain_scalers(model)
    drop_unread(model)
    notes += flatten_biases(model)
    notes += _control_flow(model)
    _write(model, Path(job.target), about=about)
    return Found(notes=tuple(notes), unquantizable=unquantizable(model))


def _read(path: Path) -> "onnx.ModelProto":
    try:
        import onnx
    except ImportError as error:
        raise DependencyError("onnx is not installed", hint="pip install 'edgeinfer[quantize]'") from error
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's own exception classes share no public base
        raise ModelError(
            f"{path}: is no ONNX model, or a part of one: {type(error).__name__}",
            hint="the file is damaged: get or export it again",
        ) from error
    if not model.HasField("graph") or not model.ir_version:
        raise ModelError(f"{path}: is no ONNX model: it has no graph", hint="get or export the file again")
    if not model.graph.node or not model.graph.output:
        raise ModelError(
            f"{path}: expected a model with operations and outputs, found {len(model.graph.node)} and "
            f"{len(model.graph.output)}",
            hint="export the model again",
        )
    return model


def _inlined(model: "onnx.ModelProto", *, about: str) -> "tuple[onnx.ModelProto, list[str]]":
    """Functions of the model's own, in place of their calls: quantizers look at operators only."""
    if not model.functions:
        return model, []
    from onnx import inliner

    count = len(model.functions)
    try:
        return inliner.inline_local_functions(model), [f"{count} functions of the model's own put in place"]
    except Exception as error:  # what it raises is not documented
        raise ModelError(f"{about}: its own functions cannot be put in place: {type(error).__name__}") from error


def _one_version_each(model: "onnx.ModelProto") -> None:
    """Converters name a domain more than once, of which loaders take the first or the last, and leave out that of
    ONNX itself where only classical operators are used, which tools stumble over."""
    versions: dict[str, int] = {}
    for entry in model.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        versions[domain] = max(entry.version, versions.get(domain, 0))
    if "" not in versions and all(node.domain not in {"", "ai.onnx"} for node in all_nodes(model)):
        versions[""] = _PLAIN_OPSET
    del model.opset_import[:]
    for domain, version in versions.items():
        model.opset_import.add(domain=domain, version=version)


def _control_flow(model: "onnx.ModelProto") -> list[str]:
    found = sorted({node.op_type for node in all_nodes(model)} & _CONTROL_FLOW)
    return [f"control flow ({', '.join(found)}) kept: what is inside stays float in most schemes"] if found else []


def _write(model: "onnx.ModelProto", target: Path, *, about: str) -> None:
    try:
        content = model.SerializeToString()
    except Exception as error:  # protobuf raises its own beyond 2 GB
        raise ModelError(f"{about}: expected a model below 2 GB with its data: {type(error).__name__}") from error
    try:
        target.write_bytes(content)
    except OSError as error:
        raise StorageError(
            f"{target}: cannot be written: {error.strerror}",
            hint="free some room there, or set TMPDIR to a folder that has",
        ) from error
