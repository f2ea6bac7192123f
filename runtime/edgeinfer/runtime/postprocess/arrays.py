"""The arrays that a package holds for its postprocessing, an `.npz`: anchors of an SSD, centres of what is normal."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.errors import ModelError

__all__ = ["read_arrays"]

Array = npt.NDArray[Any]
_MAX_ARRAYS = 16
_MAX_BYTES = 64 << 20


def read_arrays(path: Path | None) -> dict[str, Array]:
    """Name to array; empty without a file. Raises ModelError for what is no archive of plain arrays, or too large."""
    if path is None:
        return {}
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
        # Opened here: numpy leaves the file open where it finds that it is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if size > _MAX_BYTES or len(arrays.files) > _MAX_ARRAYS:
                raise ModelError(f"{path}: expected at most {_MAX_ARRAYS} arrays of {_MAX_BYTES} bytes, found more")
            found: dict[str, Array] = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelError(f"{path}: expected an .npz of plain arrays: {error}") from error
    for name, array in found.items():
        if array.dtype.kind not in "fiub":
            raise ModelError(f"{path}: expected numbers in {name!r}")
    return found
