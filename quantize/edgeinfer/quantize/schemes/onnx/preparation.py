"""A float model made ready for all schemes, once.

Constants are taken out of the inputs, the opset is raised to 13, the graph is slimmed (onnxslim), batch norms and
constants are folded (ONNX Runtime's basic level, which stays within portable operations), and every operation gets a
name of its own. Each step is checked against the model before it on made-up inputs, since a tool that errs here would
spoil every scheme: a step that changes what the model computes, or that fails, is left out. onnxslim is not let near
control flow, where it can lose inputs. At last convolutions get the form that has the fastest kernels (`convolutions`),
and what exporters left behind goes (`leftovers`).

Preparing what was prepared changes no name.
"""

import functools
import logging
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.quantize.schemes.onnx.convolutions import fill_channels, make_planes
from edgeinfer.quantize.schemes.onnx.leftovers import take_away
from edgeinfer.quantize.schemes.onnx.modelproto import copied, first_line, load, open_session, wrapped_errors
from edgeinfer.quantize.schemes.onnx.shapes import forget_gone, with_shapes
from edgeinfer.runtime.engines.base import Array

if TYPE_CHECKING:
    import onnx

__all__ = ["MIN_OPSET", "Prepared", "prepared", "raised_opset"]

# Scales per channel need DequantizeLinear with an axis.
MIN_OPSET = 13
# The first whose constants need not be inputs too.
_MIN_IR = 4
# Newer ones hold nothing that is needed here, and engines on devices are often older than the tools.
MAX_IR = 10
# Folding changes the order of float operations, and so the last digits.
_TOLERANCE = 1e-3
# Folding may copy a constant into several places; past this growth it costs more than it gives.
_MAX_GROWTH = 1.1
_ROOM = 4 << 10  # for names and shapes of what has hardly any constants
_CACHED = 4

# None: there is nothing to do.
_Step = Callable[["onnx.ModelProto"], "onnx.ModelProto | None"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """`model` is shared by all who prepare the same file: copy it before changing it. `before` counts the operations
    of each type that the file itself has. `rearranged`: the engine takes other kernels than for the file, or fewer."""

    model: "onnx.ModelProto"
    before: Counter[str]
    rearranged: bool


def prepared(path: Path) -> Prepared:
    """The model in `path`, from memory as long as the file stays as it is. Raises ModelError."""
    try:
        status = path.stat()
    except OSError:
        return _prepare(path)  # which says what is wrong with the file
    return _cached(path.resolve(), status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=_CACHED)
def _cached(path: Path, _mtime_ns: int, _size: int) -> Prepared:
    return _prepare(path)


def _prepare(path: Path) -> Prepared:
    model = load(path)
    before = Counter(str(node.op_type) for node in model.graph.node)
    with wrapped_errors():
        model = _without_constant_inputs(model)
        probe = _Probe(model)
        if probe.works and not _has_subgraphs(model):
            model = probe.kept(model, _slimmed)
        model = raised_opset(model, MIN_OPSET)
        model = probe.kept(model, _folded)
        arranged = probe.kept(model, _rearranged)
        rearranged = arranged is not model
        model = with_shapes(_named(_with_flat_biases(arranged)))
    model.ir_version = min(model.ir_version, MAX_IR)
    return Prepared(model, before, rearranged)


class _Probe:
    """Inputs made up for a model, and what it gives for them. `works` is False where it takes no such inputs."""

    def __init__(self, model: "onnx.ModelProto") -> None:
        self._inputs: dict[str, Array] = {}
        self._outputs: list[Array] = []
        try:
            session = open_session(model)
            random = np.random.default_rng(0)
            self._inputs = {node.name: _made_up(node.type, node.shape, random) for node in session.get_inputs()}
            self._outputs = session.run(None, self._inputs)
        except Exception as error:  # a model of other shapes than these, or one that does not load
            _log(model, "cannot be probed", error)
        self.works = bool(self._outputs)

    def kept(self, model: "onnx.ModelProto", step: _Step) -> "onnx.ModelProto":
        """What `step` makes of the model where it computes the same, else the model."""
        try:
            made = step(copied(model))
            if made is None:
                return model
            small = made.ByteSize() <= _MAX_GROWTH * model.ByteSize() + _ROOM
            if small and (not self.works or self._same(made)):
                return made
        except Exception as error:  # optional: a model that cannot be prepared may still be quantized
            _log(model, f"{step.__name__} failed", error)
        return model

    def _same(self, model: "onnx.ModelProto") -> bool:
        outputs = open_session(model).run(None, self._inputs)
        return len(outputs) == len(self._outputs) and all(
            _close(one, other) for one, other in zip(outputs, self._outputs, strict=True)
        )


def _made_up(kind: str, shape: list[int | str | None], random: np.random.Generator) -> Array:
    size = [extent if isinstance(extent, int) else 1 for extent in shape]
    if kind in {"tensor(float)", "tensor(double)", "tensor(float16)"}:
        dtype = {"tensor(float)": np.float32, "tensor(double)": np.float64}.get(kind, np.float16)
        return random.standard_normal(size).astype(dtype)
    return np.zeros(size, np.dtype(kind.removeprefix("tensor(").removesuffix(")")))


def _close(one: Array, other: Array) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not np.issubdtype(one.dtype, np.floating):
        return bool(np.array_equal(one, other))
    largest = float(np.abs(other[np.isfinite(other)]).max(initial=0.0))
    return bool(np.allclose(one, other, rtol=_TOLERANCE, atol=_TOLERANCE * max(largest, 1e-6), equal_nan=True))


def _without_constant_inputs(model: "onnx.ModelProto") -> "onnx.ModelProto":
    constants = {initializer.name for initializer in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, _MIN_IR)
    return model


def _has_subgraphs(model: "onnx.ModelProto") -> bool:
    return any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute)


def _slimmed(model: "onnx.ModelProto") -> "onnx.ModelProto":
    import onnxslim

    made: onnx.ModelProto = onnxslim.slim(model)
    return made


def raised_opset(model: "onnx.ModelProto", opset: int) -> "onnx.ModelProto":
    """The model in `opset`, or in its own where that is newer."""
    from onnx import version_converter

    own = max((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), default=1)
    return version_converter.convert_version(model, opset) if own < opset else model


def _folded(model: "onnx.ModelProto") -> "onnx.ModelProto":
    with tempfile.TemporaryDirectory(prefix="edgeinfer-") as folder:
        path = Path(folder) / "folded.onnx"
        open_session(model, level="ORT_ENABLE_BASIC", optimized=path)
        made = load(path)
    kept = {entry.domain for entry in model.opset_import} | {node.domain for node in made.graph.node}
    imports = [entry for entry in made.opset_import if entry.domain in kept]
    del made.opset_import[:]
    made.opset_import.extend(imports)
    return made


def _rearranged(model: "onnx.ModelProto") -> "onnx.ModelProto | None":
    """For the engine's fastest kernels. Bodies of control flow may take any tensor: a model with such is left alone."""
    if _has_subgraphs(model):
        return None
    changed = make_planes(model.graph)
    forget_gone(model.graph)
    model = with_shapes(model)
    changed += fill_channels(model.graph) + take_away(model.graph)
    forget_gone(model.graph)
    return _folded(model) if changed else None


def _with_flat_biases(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Gemm takes a bias of (1, N) as one of (N,); ONNX Runtime's quantizer fails on it."""
    constants = {initializer.name: initializer for initializer in model.graph.initializer}
    takers = Counter(name for node in model.graph.node for name in node.input)
    for node in model.graph.node:
        bias = constants.get(node.input[2]) if node.op_type == "Gemm" and len(node.input) > 2 else None
        if bias is not None and len(bias.dims) == 2 and bias.dims[0] == 1 and takers[bias.name] == 1:
            del bias.dims[0]
    return model


def _named(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Every operation gets a name that no other has: what it makes, where it has none."""
    taken: set[str] = set()
    for node in model.graph.node:
        name = node.name or f"{node.op_type}/{next((output for output in node.output if output), '')}"
        unique, number = name, 1
        while unique in taken:
            number += 1
            unique = f"{name}~{number}"
        node.name = unique
        taken.add(unique)
    return model


def _log(model: "onnx.ModelProto", what: str, error: Exception) -> None:
    logging.getLogger(__name__).debug("model=%s %s: %s", model.graph.name, what, first_line(error))
