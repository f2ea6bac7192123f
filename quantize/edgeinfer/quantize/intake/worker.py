"""The process that looks at one model file: python -m edgeinfer.quantize.intake.worker

Reads a job from standard input and writes what it found to standard output, both JSON.
"""

import contextlib
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from edgeinfer.quantize.feeding import Feeding, frame_input
from edgeinfer.quantize.intake.exchange import Found, Job
from edgeinfer.runtime.engines import Engine, load_engine
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import DependencyError, EdgeInferError, ModelError, StorageError, UsageError
from edgeinfer.runtime.manifest import TensorSpec
from edgeinfer.runtime.preprocess import concrete_shape

__all__ = ["look", "main"]

_MAX_INPUT_ELEMENTS = 1 << 28
_SEED = 20240501


def main() -> int:
    """Answer one job."""
    # What libraries print must not get into the answer.
    answer = os.dup(1)
    os.dup2(2, 1)
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    memory = job.max_memory_bytes if most == resource.RLIM_INFINITY else min(most, job.max_memory_bytes)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open(answer, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
        file.write(msgspec.json.encode(_safely(job)))
    return 0


def _safely(job: Job) -> Found:
    try:
        return look(job)
    except DependencyError as error:
        return Found(error=error.message, hint=error.hint, kind="missing")
    except UsageError as error:
        return Found(error=error.message, hint=error.hint, kind="usage")
    except StorageError as error:
        return Found(error=error.message, hint=error.hint, kind="storage")
    except EdgeInferError as error:
        return Found(error=error.message, hint=error.hint, kind="model")
    except MemoryError:
        return Found(error=f"{job.source}: needs more memory than there is", kind="model")
    except Exception as error:  # a broken file may raise anything from the libraries that read it
        what = (str(error).strip() or "no message").splitlines()[0][:300]
        return Found(error=f"{job.source}: cannot be read: {type(error).__name__}: {what}", kind="model")


def look(job: Job) -> Found:
    """Clean the file, load it with its engine and run it. Raises ModelError, UsageError, DependencyError."""
    if job.engine == "onnx":
        from edgeinfer.quantize.intake.onnx_file import clean

        found = clean(job)
        return found if found.open_input is not None else _tried(job, found, Path(job.target))
    from edgeinfer.quantize.intake import tflite_file

    path = Path(job.source)
    found = _tried(job, tflite_file.inspect(path), path)
    # After it was loaded: what cannot run at all is told first.
    tflite_file.check_float(path)
    return found


def _tried(job: Job, found: Found, path: Path) -> Found:
    """Completed by what the engine says of the file, once it has run."""
    with _naming(job), contextlib.closing(load_engine(job.engine, path, threads=job.threads)) as engine:
        frame = frame_input(engine.inputs, engine.outputs, job.feeding, about=job.source)
        _check_frame(frame, about=job.source)
        _run(engine, job.feeding)
        return msgspec.structs.replace(found, inputs=(frame,), outputs=engine.outputs, library=engine.version)


@contextlib.contextmanager
def _naming(job: Job) -> Iterator[None]:
    """Errors of the engine name the file that the user gave."""
    try:
        yield
    except DependencyError:
        raise
    except ModelError as error:
        said = error.message.replace(job.target, job.source)
        raise ModelError(
            said if job.source in said else f"{job.source}: {said}", hint=error.hint or _hint(said)
        ) from error


def _hint(said: str) -> str:
    if "custom op" in said:
        return "edgeinfer runs what the engine has built in: export the model without custom operations"
    if "Select TensorFlow" in said:
        return "convert it with built-in operations only (target_spec.supported_ops = [TFLITE_BUILTINS])"
    return ""


def _check_frame(frame: TensorSpec, *, about: str) -> None:
    shape = frame.shape
    if not shape or shape[0] not in {-1, 1} or any(size < 1 for size in shape[1:]):
        raise UsageError(
            f"{about}: expected an input with a batch of 1 (or open) and fixed sizes after it, "
            f"found {frame.name!r} of shape {shape}",
            hint="fix the sizes when exporting the model",
        )
    if int(np.prod([max(size, 1) for size in shape], dtype=object)) > _MAX_INPUT_ELEMENTS:
        raise ModelError(f"{about}: expected an input of at most {_MAX_INPUT_ELEMENTS} values, found shape {shape}")


def _run(engine: Engine, feeding: Feeding) -> None:
    """Twice, on nothing and on noise: a file that loads and cannot run is no model."""
    random = np.random.default_rng(_SEED)
    constants = {constant.input: constant.value for constant in feeding.constants}
    for scale in (0.0, 1.0):
        engine.run([_value(spec, constants, scale, random) for spec in engine.inputs])


def _value(spec: TensorSpec, constants: dict[str, float], scale: float, random: np.random.Generator) -> Array:
    shape = concrete_shape(spec)
    if spec.name in constants:
        return np.full(shape, constants[spec.name], spec.dtype)
    noise: Array = (random.random(shape) * scale).astype(spec.dtype)
    return noise


if __name__ == "__main__":
    sys.exit(main())
