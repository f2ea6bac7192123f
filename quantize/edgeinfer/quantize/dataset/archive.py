"""Samples in an `.npz`.

Keys: `x` (N, input shape without the batch), `y` (N,) integer class, or 0 normal and 1 anomaly, or for regression
(N, ...) numbers; optional `x_calibration`; optional `group` (N,): rows of one group are one example (the windows of
one recording).
"""

import hashlib
import zipfile
import zlib
from pathlib import Path

import numpy as np

from edgeinfer.quantize.dataset.samples import Loaded
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import SamplesError
from edgeinfer.runtime.manifest import Task

__all__ = ["check_labels", "load_archive", "load_rows", "numbered_groups"]

_KEYS = {"x", "y", "x_calibration", "group"}
_DTYPE_KINDS = "fiub"
_BLOCK_ROWS = 1024
_WRITE = "write it with numpy.savez(path, x=..., y=...)"


def load_archive(path: Path, *, task: Task) -> Loaded:
    """Raises SamplesError for anything that is not samples."""
    arrays = _read_arrays(path)
    x = _rows(path, arrays)
    calibration = arrays.get("x_calibration")
    if calibration is not None and (calibration.shape[1:] != x.shape[1:] or len(calibration) == 0):
        raise SamplesError(
            f"{path}: expected 'x_calibration' of shape (M, {_join(x.shape[1:])}) like 'x', found {calibration.shape}"
        )
    for name, array in (("x", x), ("x_calibration", calibration)):
        if array is not None and len(broken := _not_finite(array)):
            raise SamplesError(
                f"{path}: expected finite numbers in {name!r}, found NaN or infinity in {len(broken)} of {len(array)} "
                f"samples, the first at index {broken[0]}",
                hint="leave those samples out, or repair what wrote them",
            )
    y = _labels(path, arrays, count=len(x), task=task)
    group = arrays.get("group")
    return Loaded(
        x=x,
        y=y,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        group=None if group is None else numbered_groups(group, y, where=str(path)),
        calibration=calibration,
        labelled="y" in arrays,
    )


def load_rows(path: Path) -> Array:
    """Rows to calibrate with, from an archive of their own: its `x_calibration`, or its `x`. Raises SamplesError."""
    arrays = _read_arrays(path)
    rows = arrays["x_calibration"] if "x_calibration" in arrays else _rows(path, arrays)
    if rows.ndim < 1 or len(rows) == 0 or len(_not_finite(rows)):
        raise SamplesError(f"{path}: expected finite samples to calibrate with, found shape {rows.shape}")
    return rows


def _rows(path: Path, arrays: dict[str, Array]) -> Array:
    if "x" not in arrays:
        raise SamplesError(f"{path}: expected the key 'x', found {_keys(path)}", hint=_WRITE)
    x = arrays["x"]
    if x.ndim < 1 or len(x) == 0 or x.size == 0:
        raise SamplesError(f"{path}: expected samples in 'x' (N, ...), found shape {x.shape}")
    return x


def _join(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def _not_finite(array: Array) -> Array:
    """The indices of the samples that hold NaN or infinity, found block by block: a whole mask may not fit beside the
    array."""
    if array.dtype.kind != "f" or not len(array):
        return np.zeros(0, np.int64)
    blocks = (array[at : at + _BLOCK_ROWS] for at in range(0, len(array), _BLOCK_ROWS))
    finite = [np.isfinite(block).all(axis=tuple(range(1, block.ndim))) for block in blocks]
    broken: Array = np.flatnonzero(~np.concatenate(finite))
    return broken


def _keys(path: Path) -> list[str]:
    """All that the archive has, also what is not read: the user sees what it is called there."""
    with zipfile.ZipFile(path) as archive:
        return sorted(name.removesuffix(".npy") for name in archive.namelist())


def _read_arrays(path: Path) -> dict[str, Array]:
    try:
        # Opened here: numpy leaves the file open where it finds that it is no archive.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise SamplesError(f"{path}: expected an .npz archive, found a single array")
            arrays: dict[str, Array] = {key: archive[key] for key in archive.files if key in _KEYS}
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise SamplesError(
            f"{path}: expected an .npz archive of plain arrays, found something else or a part of one{_because(error)}",
            hint=_WRITE,
        ) from error
    for key, array in arrays.items():
        if array.dtype.kind not in _DTYPE_KINDS:
            raise SamplesError(f"{path}: expected numbers in {key!r}, found dtype {array.dtype}")
    return arrays


def _because(error: Exception) -> str:
    """Without numpy's advice to load what it does not know as a pickle, which runs what is in it."""
    return "" if "allow_pickle=" in str(error) else f": {error}"


def _labels(path: Path, arrays: dict[str, Array], *, count: int, task: Task) -> Array:
    if "y" not in arrays:
        if task not in {"classification", "anomaly"}:
            return np.zeros(count, np.int64)
        raise SamplesError(
            f"{path}: expected the key 'y' with a label for each sample, found {_keys(path)}", hint=_WRITE
        )
    y = arrays["y"]
    if task == "regression":
        if y.shape[:1] != (count,) or not np.isfinite(y).all():
            raise SamplesError(f"{path}: expected {count} finite targets in 'y' (N, ...), found shape {y.shape}")
        return y.astype(np.float32)
    if y.shape != (count,) or (y.dtype.kind == "f" and not (np.isfinite(y) & (y == np.rint(y))).all()):
        raise SamplesError(f"{path}: expected {count} integer labels in 'y', found shape {y.shape} of {y.dtype}")
    labels = y.astype(np.int64)
    check_labels(labels, task=task, where=f"{path}: 'y'")
    return labels


def check_labels(labels: Array, *, task: Task, where: str) -> None:
    """Raises SamplesError for labels of an anomaly task that are not both 0 and 1."""
    if task == "anomaly" and set(np.unique(labels)) != {0, 1}:
        raise SamplesError(f"{where}: expected both 0 (normal) and 1 (anomaly), found {np.unique(labels)[:5].tolist()}")


def numbered_groups(group: Array, y: Array, *, where: str) -> Array:
    """`group` (N,) as numbers from 0. Raises SamplesError where the rows of a group have different labels."""
    if group.shape != y.shape[:1]:
        raise SamplesError(f"{where}: expected 'group' of shape ({len(y)},), found {group.shape}")
    names, first, numbered = np.unique(group, return_index=True, return_inverse=True)
    groups: Array = numbered.astype(np.int64)
    if y.ndim > 1 or y.dtype.kind != "i":
        return groups
    mixed = np.unique(groups[y != y[first][groups]])
    if len(mixed):
        labels = np.unique(y[groups == mixed[0]])[:5].tolist()
        raise SamplesError(
            f"{where}: expected one label for all rows of a group, found {labels} in group {names[mixed[0]]} "
            f"({len(mixed)} of {len(names)} groups are mixed)"
        )
    return groups
