"""A float TFLite file that is ready to be rewritten: its constants, who reads which tensor, and what is in a tensor
while it runs. The library's objects carry no types; what comes from them is typed here."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgeinfer.quantize.schemes.base import Calibration
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import DependencyError, ModelError

__all__ = ["FlatFile", "Operation"]

Operation = Any
"""An OperatorT: `inputs`, `outputs` (indices of tensors), `builtinOptions`."""


class FlatFile:
    """The first subgraph of a TFLite file. Raises ModelError for what is none, DependencyError."""

    def __init__(self, path: Path) -> None:
        try:
            from ai_edge_litert import schema_py_generated as schema
            from ai_edge_litert.tools import flatbuffer_utils
        except ImportError as error:
            raise DependencyError(
                "ai-edge-litert is not installed", hint="pip install 'edgeinfer[quantize]'"
            ) from error
        self.path = path
        try:
            self.model = flatbuffer_utils.read_model_from_bytearray(bytearray(path.read_bytes()))
            self._graph = self.model.subgraphs[0]
        except Exception as error:  # the generated reader fails with whatever a wrong offset leads to
            raise ModelError(f"{path}: is no TFLite model: {error}") from error
        self._schema = schema
        self._kinds = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
        self.outputs = {int(index) for index in self._graph.outputs}
        self.readers: dict[int, list[Operation]] = defaultdict(list)
        for operation in self.operations:
            for index in dict.fromkeys(int(i) for i in operation.inputs):
                self.readers[index].append(operation)

    @property
    def operations(self) -> list[Operation]:
        return list(self._graph.operators)

    @property
    def subgraphs(self) -> int:
        return len(self.model.subgraphs)

    def kind(self, operation: Operation) -> str:
        """As `CONV_2D`. Old files keep the code in a field of one byte."""
        code = self.model.operatorCodes[operation.opcodeIndex]
        return str(self._kinds.get(max(code.builtinCode, code.deprecatedBuiltinCode), ""))

    def shape(self, index: int) -> tuple[int, ...]:
        shape = self._graph.tensors[index].shape
        return () if shape is None else tuple(int(size) for size in shape)

    def constant(self, operation: Operation, slot: int) -> Array | None:
        """What the operation reads at `slot`, None unless it is a constant of float32 or int32."""
        index = int(operation.inputs[slot]) if slot < len(operation.inputs) else -1
        if index < 0:
            return None
        tensor = self._graph.tensors[index]
        data = self.model.buffers[tensor.buffer].data
        dtype = {self._schema.TensorType.FLOAT32: np.float32, self._schema.TensorType.INT32: np.int32}.get(tensor.type)
        if data is None or dtype is None or len(data) == 0:
            return None
        return np.frombuffer(bytes(data), dtype).reshape(self.shape(index))

    def quantized(self, operation: Operation, slot: int) -> tuple[str, Array, bool] | None:
        """Name and values of the 8-bit constant that the operation reads at `slot`, and whether it has a scale a
        channel; None where it is none."""
        tensor = self._graph.tensors[int(operation.inputs[slot])]
        data = self.model.buffers[tensor.buffer].data
        types = self._schema.TensorType
        dtype = {types.INT8: np.int8, types.UINT8: np.uint8}.get(tensor.type)
        if data is None or len(data) == 0 or dtype is None:
            return None
        scales = None if tensor.quantization is None else tensor.quantization.scale
        values = np.frombuffer(bytes(data), dtype).reshape(self.shape(int(operation.inputs[slot])))
        return bytes(tensor.name or b"").decode(errors="replace"), values, scales is not None and len(scales) > 1

    def replace(self, operation: Operation, slot: int, values: Array) -> None:
        """Let the operation read the constant `values` at `slot`: other readers of it keep theirs."""
        index = int(operation.inputs[slot])
        tensor = self._graph.tensors[index]
        if len(self.readers[index]) > 1:
            self.readers[index].remove(operation)
            tensor = self._copy_of(tensor)
            self._graph.tensors.append(tensor)
            operation.inputs[slot] = len(self._graph.tensors) - 1
            self.readers[int(operation.inputs[slot])] = [operation]
        if sum(other.buffer == tensor.buffer for graph in self.model.subgraphs for other in graph.tensors) > 1:
            self.model.buffers.append(self._schema.BufferT())
            tensor.buffer = len(self.model.buffers) - 1
        self.model.buffers[tensor.buffer].data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        tensor.shape = np.array(values.shape, np.int32)
        tensor.shapeSignature = None

    def _copy_of(self, tensor: Any) -> Any:
        copy = self._schema.TensorT()
        vars(copy).update(vars(tensor))
        return copy

    def resize(self, index: int, last: int) -> None:
        """Give an activation another size of its last axis."""
        tensor = self._graph.tensors[index]
        for name in ("shape", "shapeSignature"):
            sizes = getattr(tensor, name)
            if sizes is not None:
                setattr(tensor, name, np.array([*sizes[:-1], last], np.int32))

    def content(self) -> bytes:
        from ai_edge_litert.tools import flatbuffer_utils

        return bytes(flatbuffer_utils.convert_object_to_bytearray(self.model))

    def tapped(self, indices: Iterable[int], calibration: Calibration) -> Iterator[dict[int, Array]]:
        """Of each calibration sample: the activations `indices`, with the built-in kernels. Raises ModelError."""
        from ai_edge_litert import interpreter as litert

        wanted = tuple(dict.fromkeys(indices))
        try:
            interpreter = litert.Interpreter(
                model_content=self.path.read_bytes(),
                num_threads=1,
                experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                experimental_preserve_all_tensors=True,
            )
            interpreter.allocate_tensors()
            for sample in calibration:
                for detail, values in zip(interpreter.get_input_details(), sample, strict=True):
                    interpreter.set_tensor(detail["index"], values)
                interpreter.invoke()
                yield {index: interpreter.get_tensor(index) for index in wanted}
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"{self.path}: cannot be run on calibration samples: {error}") from error
