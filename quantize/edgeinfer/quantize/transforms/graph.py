"""A float ONNX model that is ready to be rewritten: constants as arrays, and who reads and who writes each tensor."""

import contextlib
import io
import logging
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import DependencyError, ModelError

if TYPE_CHECKING:
    import onnx

__all__ = ["Graph", "attribute", "load_model", "open_graph", "quiet"]


class Graph:
    """`constants` and `shapes` (-1 where a size is open) go by tensor name. Constants are replaced for one reader at a
    time: two layers may share an array, and only one of them be meant."""

    def __init__(self, model: "onnx.ModelProto") -> None:
        from onnx import numpy_helper

        self.model = model
        self.constants: dict[str, Array] = {
            item.name: numpy_helper.to_array(item).copy() for item in model.graph.initializer
        }
        self.outputs = {value.name for value in model.graph.output}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self.writer: dict[str, onnx.NodeProto] = {}
        for node in model.graph.node:
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)
            for name in node.output:
                self.writer[name] = node
        values = [*model.graph.value_info, *model.graph.input, *model.graph.output]
        self.shapes = {value.name: _shape(value) for value in values if value.type.tensor_type.HasField("shape")}

    def constant(self, node: "onnx.NodeProto", slot: int) -> Array | None:
        """The constant that `node` reads at `slot`, None where there is none."""
        return self.constants.get(node.input[slot]) if slot < len(node.input) else None

    def replace(self, node: "onnx.NodeProto", slot: int, values: Array) -> None:
        """Let `node` read `values` at `slot`, which may be one past its last input."""
        name = node.input[slot] if slot < len(node.input) else ""
        if not name or len(self.readers[name]) > 1 or list(node.input).count(name) > 1:
            name = self._fresh(f"{name or node.output[0]}_own")
            if slot < len(node.input):
                node.input[slot] = name
            else:
                node.input.append(name)
            self.readers[name] = [node]
        self.constants[name] = values

    def _fresh(self, name: str) -> str:
        while name in self.constants or name in self.writer:
            name += "_"
        return name

    def save(self, target: Path) -> None:
        """Write the model with its constants as they are now, without those that nothing reads any longer."""
        import onnx
        from onnx import numpy_helper

        graph = self.model.graph
        used = {name for node in graph.node for name in node.input} | self.outputs
        del graph.initializer[:]
        graph.initializer.extend(
            numpy_helper.from_array(np.asarray(values, order="C"), name)  # a scalar stays one
            for name, values in self.constants.items()
            if name in used
        )
        del graph.value_info[:]  # sizes may have changed
        try:
            onnx.save(onnx.shape_inference.infer_shapes(self.model), str(target))
        except Exception as error:  # protobuf's and onnx's own exception classes share no public base
            raise ModelError(f"{target}: the rewritten model cannot be written: {_first_line(error)}") from error


def open_graph(source: Path, folder: Path) -> Graph:
    """The model with batch norms and biases folded into their layers, constants computed and shapes inferred. Files
    are put into a temporary folder in `folder`. Raises ModelError, DependencyError."""
    try:
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise DependencyError("onnxruntime is not installed", hint="pip install 'edgeinfer[quantize]'") from error
    import onnx

    model = load_model(source)
    _constants_are_no_inputs(model)
    with tempfile.TemporaryDirectory(prefix=".prepared-", dir=folder) as scratch, quiet():
        prepared = Path(scratch) / "prepared.onnx"
        onnx.save(model, str(prepared))
        try:
            quant_pre_process(str(prepared), str(prepared), skip_symbolic_shape=True)
        except Exception as error:  # it raises whatever its parts raise
            raise ModelError(f"{source}: cannot be prepared for rewriting: {_first_line(error)}") from error
        return Graph(onnx.shape_inference.infer_shapes(onnx.load(str(prepared))))


def _constants_are_no_inputs(model: "onnx.ModelProto") -> None:
    """Inputs that have a default value may be set from outside: nothing could be folded."""
    constants = {item.name for item in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)


def load_model(path: Path) -> "onnx.ModelProto":
    """Raises ModelError for what is no ONNX file, DependencyError where onnx is missing."""
    try:
        import onnx
    except ImportError as error:
        raise DependencyError("onnx is not installed", hint="pip install 'edgeinfer[quantize]'") from error
    try:
        return onnx.load(str(path))
    except Exception as error:  # as above
        raise ModelError(f"{path}: is no ONNX model: {_first_line(error)}") from error


def attribute(node: "onnx.NodeProto", name: str, default: Any) -> Any:  # an attribute is a number, a text or a list
    """The node's attribute, or `default`."""
    import onnx

    for item in node.attribute:
        if item.name == name:
            return onnx.helper.get_attribute_value(item)
    return default


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """ONNX Runtime's tools warn on the root logger and print on stdout, which is for results."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _shape(value: "onnx.ValueInfoProto") -> tuple[int, ...]:
    return tuple(int(dim.dim_value) if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n", maxsplit=1)[0][:300]
