"""ONNX files read, written and run while schemes are made, with the errors of the tools turned into ours."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeinfer.runtime.errors import DependencyError, EdgeInferError, ModelError

if TYPE_CHECKING:
    import onnx

__all__ = ["copied", "first_line", "load", "open_session", "save", "wrapped_errors"]

# What fails is raised too, and a step that fails here is often just left out.
_LOG_FATAL_ONLY = 4
_MAX_REASON = 300


def load(path: Path) -> "onnx.ModelProto":
    """The model with its external data. Raises ModelError, DependencyError."""
    try:
        import onnx
    except ImportError as error:
        raise DependencyError("onnx is not installed", hint="pip install 'edgeinfer[quantize]'") from error
    try:
        return onnx.load(str(path))
    except Exception as error:  # protobuf's own exception classes share no public base
        raise ModelError(f"{path}: is no ONNX model: {first_line(error)}") from error


def save(model: "onnx.ModelProto", path: Path) -> None:
    """Written in one piece, with nothing beside it. Raises ModelError above protobuf's 2 GB."""
    try:
        content = model.SerializeToString()
    except Exception as error:  # as above
        raise ModelError(f"{path}: cannot be written as one ONNX file: {first_line(error)}") from error
    path.write_bytes(content)


def copied(model: "onnx.ModelProto") -> "onnx.ModelProto":
    copy = type(model)()
    copy.CopyFrom(model)
    return copy


def open_session(model: "onnx.ModelProto", *, level: str = "ORT_ENABLE_ALL", optimized: Path | None = None) -> Any:
    """An inference session on the CPU; `optimized` is where it leaves the graph that it made of the model."""
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise DependencyError("onnxruntime is not installed", hint="pip install 'edgeinfer[quantize]'") from error
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_FATAL_ONLY
    options.graph_optimization_level = ort.GraphOptimizationLevel.__members__[level]
    options.intra_op_num_threads = 1  # models at the edge are small: more threads wait for each other
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@contextlib.contextmanager
def wrapped_errors() -> Iterator[None]:
    """What the tools raise becomes a ModelError; what they log, warn and print is lost: stdout is for results, and
    they warn about what is done here already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except EdgeInferError:
        raise
    except Exception as error:  # the tools raise whatever their parts raise
        raise ModelError(f"ONNX quantization failed: {first_line(error)}") from error
    finally:
        logging.disable(before)


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n", maxsplit=1)[0][:_MAX_REASON]
