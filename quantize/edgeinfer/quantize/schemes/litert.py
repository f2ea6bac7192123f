"""LiteRT quantization with ai-edge-quantizer: int8 weights only, or int8 weights and activations.

Two of the library's ways are mended here. A model that carries only `deprecated_builtin_code` is quantized
to nothing, silently: the code is copied over first. Its calibration averages the ranges it sees, which cuts
off the rare large values that an autoencoder is about: the true minimum and maximum are kept instead.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import DependencyError, ModelError

__all__ = ["integer_weights", "static_int8", "weight_only_int8"]

_SIGNATURE = "serving_default"


def integer_weights(content: bytes) -> int:
    """How many constant tensors of a TFLite model hold int8, uint8 or int4 values in more than one dimension."""
    from ai_edge_litert import schema_py_generated as schema

    model = _parse(content)
    kinds = {schema.TensorType.INT8, schema.TensorType.UINT8, schema.TensorType.INT4}
    return sum(
        1
        for graph in model.subgraphs
        for tensor in graph.tensors
        if tensor.type in kinds and tensor.shape is not None and len(tensor.shape) > 1 and _has_data(model, tensor)
    )


def _has_data(model: Any, tensor: Any) -> bool:
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def weight_only_int8(source: Path, target: Path, calibration: Array) -> str:
    """Weights as int8 with one scale a channel; the arithmetic stays float. Needs no calibration.

    Returns "" or why the result is of no use. Raises ModelError where the quantizer fails.
    """
    del calibration
    content = normalized(source.read_bytes())
    with _quiet(), _wrapped_errors():
        recipe, quantizer = _library()
        result = quantizer.Quantizer(content, recipe.weight_only_wi8_afp32()).quantize(
            enable_progress_bar=False, enable_progress_report=False
        )
    return _write(target, result.quantized_model)


def static_int8(source: Path, target: Path, calibration: Array) -> str:
    """Weights and activations as int8; `calibration` is float32 (N, *input shape). As above."""
    content = normalized(source.read_bytes())
    with _quiet(), _wrapped_errors():
        recipe, quantizer = _library()
        from ai_edge_quantizer import calibrator, recipe_manager
        from ai_edge_quantizer.utils import qsv_utils

        ways = recipe.static_wi8_ai8()
        manager = recipe_manager.RecipeManager()
        manager.load_quantization_recipe(ways)
        ranges = calibrator.Calibrator(content, num_threads=1, qsv_update_func=qsv_utils.min_max_update)
        key, signature = next(iter(ranges.get_signature_list().items()))
        name = signature["inputs"][0]
        ranges.calibrate({key: [{name: calibration[i : i + 1]} for i in range(len(calibration))]}, manager)
        result = quantizer.Quantizer(content, ways).quantize(
            ranges.get_model_qsvs(), enable_progress_bar=False, enable_progress_report=False
        )
    return _write(target, result.quantized_model)


def normalized(content: bytes) -> bytes:
    """The same model with `builtin_code` filled in and a signature, both of which the quantizer relies on."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = _parse(content)
    changed = False
    for code in model.operatorCodes:
        if code.builtinCode == 0 and code.deprecatedBuiltinCode != 0:
            code.builtinCode = code.deprecatedBuiltinCode
            changed = True
    if not model.signatureDefs:
        model.signatureDefs = [_signature(model)]
        changed = True
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model)) if changed else content


def _signature(model: Any) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    graph = model.subgraphs[0]

    def named(indices: Any, prefix: str) -> list[Any]:
        entries = []
        for position, index in enumerate(indices):
            entry = schema.TensorMapT()
            entry.name = f"{prefix}_{position}"
            entry.tensorIndex = int(index)
            entries.append(entry)
        return entries

    signature = schema.SignatureDefT()
    signature.signatureKey = _SIGNATURE
    signature.subgraphIndex = 0
    signature.inputs = named(graph.inputs, "input")
    signature.outputs = named(graph.outputs, "output")
    return signature


def _parse(content: bytes) -> Any:
    try:
        from ai_edge_litert.tools import flatbuffer_utils
    except ImportError as error:
        raise DependencyError("ai-edge-litert is not installed", hint="pip install 'edgeinfer[quantize]'") from error
    try:
        return flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    except Exception as error:  # the generated reader fails with whatever a wrong offset leads to
        raise ModelError(f"is no TFLite model: {error}") from error


def _write(target: Path, content: bytes | bytearray | None) -> str:
    if content is None or integer_weights(bytes(content)) == 0:
        return "nothing was quantized: no weight tensor became an integer one"
    target.write_bytes(content)
    return ""


def _library() -> tuple[Any, Any]:
    try:
        from ai_edge_quantizer import quantizer, recipe
    except ImportError as error:
        raise DependencyError("ai-edge-quantizer is not installed", hint="pip install 'edgeinfer[quantize]'") from error
    return recipe, quantizer


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The library warns about a debugging option that it sets itself, and draws progress bars of its own."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _wrapped_errors() -> Iterator[None]:
    try:
        yield
    except (DependencyError, ModelError):
        raise
    except Exception as error:  # the quantizer raises whatever its parts raise
        first = (str(error).strip() or type(error).__name__).split("\n", maxsplit=1)[0][:300]
        raise ModelError(f"LiteRT quantization failed: {first}") from error
