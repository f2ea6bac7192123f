"""External data: tensors of an ONNX model that lie in files beside it, brought into it."""

from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer.quantize.intake.graphs import all_tensors
from edgeinfer.runtime.errors import ModelError

if TYPE_CHECKING:
    import onnx

__all__ = ["embed"]

# Protocol buffers end at 2 GB; the graph itself needs some of it.
_MAX_BYTES = (1 << 31) - (1 << 24)


def embed(model: "onnx.ModelProto", folder: Path, *, about: str) -> tuple[str, ...]:
    """Read every external tensor into `model`; returns the names of the files. `folder` is the model's.

    Raises ModelError for files that are missing, lie outside the folder or are too short.
    """
    from onnx import TensorProto

    external = [tensor for tensor in all_tensors(model) if tensor.data_location == TensorProto.EXTERNAL]
    budget = _MAX_BYTES - model.ByteSize()
    names: set[str] = set()
    for tensor in external:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        path = _inside(folder, location, about=f"{about}: the tensor {tensor.name!r}")
        offset = _number(entries, "offset", default=0, about=about)
        length = _number(entries, "length", default=max(0, path.stat().st_size - offset), about=about)
        budget -= length
        if budget < 0:
            raise ModelError(
                f"{about}: expected a model below 2 GB, found more in {location!r}",
                hint="edgeinfer is for models that fit small devices",
            )
        tensor.raw_data = _read(path, offset, length, about=f"{about}: the tensor {tensor.name!r}")
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
        names.add(location)
    return tuple(sorted(names))


def _inside(folder: Path, location: str, *, about: str) -> Path:
    path = folder / location
    inside = bool(location) and path.resolve().is_relative_to(folder.resolve())
    if not inside:
        raise ModelError(
            f"{about} lies in {location!r}, expected a file in the model's folder",
            hint="copy the file there (a link to elsewhere is not followed), or save the model in one file",
        )
    if not path.is_file():
        raise ModelError(
            f"{about} lies in {location!r}, which is not in {folder}",
            hint=f"copy {Path(location).name} beside the model: the two belong together",
        )
    return path


def _number(entries: dict[str, str], key: str, *, default: int, about: str) -> int:
    text = entries.get(key, str(default))
    if not text.isascii() or not text.isdigit():
        raise ModelError(f"{about}: expected a number as {key} of external data, found {text[:40]!r}")
    return int(text)


def _read(path: Path, offset: int, length: int, *, about: str) -> bytes:
    found = path.stat().st_size
    if offset + length > found:
        raise ModelError(
            f"{about} lies at byte {offset} to {offset + length} of {path.name}, which has {found}",
            hint="the file is cut short, or belongs to another model: copy it again",
        )
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)
