"""Takes in the user's model files: cheap checks here, everything that reads their content in a process of its own."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgeinfer.quantize.feeding import FED_ALONE, Feeding
from edgeinfer.quantize.intake.exchange import Found, Job
from edgeinfer.quantize.intake.process import Limits, ask
from edgeinfer.quantize.modelfile import ModelFile, engine_of
from edgeinfer.runtime.errors import ConfigError, ModelError, UsageError
from edgeinfer.runtime.manifest import TensorSpec

__all__ = ["take_in"]

# Protocol buffers end here: https://protobuf.dev/programming-guides/proto-limits/
_MAX_BYTES = (1 << 31) - 1


def take_in(
    paths: Sequence[Path],
    folder: Path,
    *,
    feeding: Feeding = FED_ALONE,
    preprocess: str = "",
    rows: tuple[int, ...] | None = None,
    threads: int = 1,
    limits: Limits | None = None,
) -> tuple[ModelFile, ...]:
    """The models at `paths`, in their order, ready for every scheme of their format.

    ONNX files are written anew into `folder`; TFLite files stay where they are. `feeding` says what inputs beside the
    frame's are fed with. Sizes that a model leaves open are closed by the declaration `preprocess`, else by `rows`,
    the shape of one sample as the model takes it (without the batch).

    Raises UsageError for files that are no float models, have inputs that nothing feeds or sizes that nothing closes;
    ModelError for what is broken or cannot run; StorageError, DependencyError.
    """
    engines = [engine_of(path) for path in paths]
    for path in paths:
        _check_size(path)
    taken: list[ModelFile] = []
    for index, (path, engine) in enumerate(zip(paths, engines, strict=True)):
        target = folder / f"model-{index}{path.suffix.lower()}"
        job = Job(str(path), str(target), engine, feeding, threads=threads)
        found = ask(job, limits=limits or Limits())
        if found.open_input is not None:
            shape = _closed(path, found, preprocess, rows)
            found = _ask_closed(msgspec.structs.replace(job, shape=shape), limits or Limits())
        taken.append(
            ModelFile(
                target if engine == "onnx" else path,
                engine,
                found.inputs,
                found.outputs,
                found.library,
                original=path,
                sha256=_sha256(path),
                notes=found.notes,
                unquantizable=found.unquantizable,
            )
        )
    return tuple(taken)


def _check_size(path: Path) -> None:
    size = path.stat().st_size
    if size == 0:
        raise ModelError(f"{path}: expected a model, found an empty file", hint="get the file again")
    if size > _MAX_BYTES:
        raise ModelError(
            f"{path}: expected a model below 2 GB, found {size / 1e9:.1f} GB: no file of these formats is larger",
            hint="edgeinfer is for models that fit small devices",
        )


def _ask_closed(job: Job, limits: Limits) -> Found:
    try:
        return ask(job, limits=limits)
    except ModelError as error:
        raise ModelError(
            f"{error.message} (with an input of {job.shape})",
            hint=error.hint or "does the model take inputs of this size? declare them with --preprocess",
        ) from error


def _closed(path: Path, found: Found, preprocess: str, rows: tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape of the frame's input. Raises UsageError naming the sizes that stay open."""
    spec = found.open_input
    assert spec is not None  # noqa: S101 - the caller has looked
    if preprocess:
        return _declared(path, preprocess, spec)
    sizes = _filled(spec.shape[1:], rows) if rows is not None else None
    if sizes is not None:
        return (1, *sizes)
    seen = f"; the samples have {rows}" if rows is not None else ""
    raise UsageError(
        f"{path}: expected an input with fixed sizes, found {spec.name!r} of shape {spec.shape} that leaves "
        f"{', '.join(found.open_names)} open{seen}",
        hint="declare them, as in --preprocess kind=tensor,shape="
        f"{','.join(str(size) if size > 0 else 'SIZE' for size in spec.shape[1:])} (or kind=image,width=,height=), "
        "or fix them when exporting the model",
    )


def _filled(sizes: tuple[int, ...], rows: tuple[int, ...]) -> tuple[int, ...] | None:
    """The model's sizes with those of the samples where it leaves them open; None where the others do not agree.
    The samples may lack sizes of 1."""
    if len(rows) != len(sizes):
        wanted = iter(size for size in rows if size != 1)
        rows = tuple(1 if size == 1 else next(wanted, -1) for size in sizes)
        if next(wanted, None) is not None:
            return None
    fits = all(given > 0 and size in {-1, given} for size, given in zip(sizes, rows, strict=True))
    return rows if fits else None


def _declared(path: Path, preprocess: str, spec: TensorSpec) -> tuple[int, ...]:
    from edgeinfer.quantize.preprocessing import declare
    from edgeinfer.runtime.preprocess import resolve_input

    try:
        return resolve_input(declare(preprocess, spec).preprocess, spec).shape
    except ModelError as error:
        raise ConfigError(f"{path}: {error.message}", hint=error.hint) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
