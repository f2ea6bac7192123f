"""Labelled samples: read from an `.npz`, checked, and split into what calibrates and what evaluates.

Keys: `x` (N, input shape without the batch), `y` (N,) integer class, or 0 normal and 1 anomaly; optional
`x_calibration`; optional `group` (N,): rows of one group are one example (the windows of one recording).
"""

import hashlib
import math
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import SamplesError, UsageError
from edgeinfer.runtime.manifest import Task

__all__ = ["Samples", "fit_to_model", "load_samples", "split"]

# One fifth of the samples, at most this many examples: min/max ranges settle within some dozens of samples.
CALIBRATION_SHARE = 0.2
MAX_CALIBRATION_EXAMPLES = 100
# Rows that are really fed while calibrating: more only costs time.
MAX_CALIBRATION_ROWS = 256
_DTYPE_KINDS = "fiub"


@dataclass(frozen=True, slots=True)
class Samples:
    """`x` (N, ...), `y` (N,) int64, `group` (N,) int64 or None, `calibration` (M, ...) or None.

    `sha256` is that of the file.
    """

    x: Array
    y: Array
    group: Array | None
    calibration: Array | None
    sha256: str

    @property
    def examples(self) -> int:
        """How many examples there are: groups where there are groups, else rows."""
        return len(self.y) if self.group is None else len(np.unique(self.group))


def load_samples(path: Path, *, task: Task) -> Samples:
    """Read `path`. Raises UsageError for a missing file, SamplesError for anything that is not samples."""
    if not path.is_file():
        raise UsageError(f"{path}: no such samples file")
    arrays = _read_arrays(path)
    if "x" not in arrays:
        raise SamplesError(f"{path}: expected the key 'x', found {sorted(arrays)}")
    x = arrays["x"]
    if x.ndim < 1 or len(x) == 0:
        raise SamplesError(f"{path}: expected samples in 'x' (N, ...), found shape {x.shape}")
    calibration = arrays.get("x_calibration")
    if calibration is not None and (calibration.shape[1:] != x.shape[1:] or len(calibration) == 0):
        raise SamplesError(
            f"{path}: expected 'x_calibration' of shape (M, {_join(x.shape[1:])}) like 'x', found {calibration.shape}"
        )
    for name, array in (("x", x), ("x_calibration", calibration)):
        if array is not None and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise SamplesError(f"{path}: expected finite numbers in {name!r}, found NaN or infinity")
    y = _labels(path, arrays, count=len(x), task=task)
    return Samples(
        x=x,
        y=y,
        group=_groups(path, arrays, y),
        calibration=calibration,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def _read_arrays(path: Path) -> dict[str, Array]:
    try:
        # Opened here: numpy leaves the file open where it finds that it is no archive.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise SamplesError(f"{path}: expected an .npz archive, found a single array")
            wanted = [key for key in archive.files if key in {"x", "y", "x_calibration", "group"}]
            arrays: dict[str, Array] = {key: archive[key] for key in wanted}
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise SamplesError(
            f"{path}: expected an .npz archive of plain arrays, found something else or a part of one: {error}",
            hint="write it with numpy.savez(path, x=..., y=...)",
        ) from error
    for key, array in arrays.items():
        if array.dtype.kind not in _DTYPE_KINDS:
            raise SamplesError(f"{path}: expected numbers in {key!r}, found dtype {array.dtype}")
    return arrays


def _labels(path: Path, arrays: dict[str, Array], *, count: int, task: Task) -> Array:
    if "y" not in arrays:
        if task not in {"classification", "anomaly"}:
            return np.zeros(count, np.int64)
        raise SamplesError(f"{path}: expected the key 'y' with a label for each sample, found {sorted(arrays)}")
    y = arrays["y"]
    if y.shape != (count,) or (y.dtype.kind == "f" and not (np.isfinite(y) & (y == np.rint(y))).all()):
        raise SamplesError(f"{path}: expected {count} integer labels in 'y', found shape {y.shape} of {y.dtype}")
    labels = y.astype(np.int64)
    if task == "anomaly" and set(np.unique(labels)) != {0, 1}:
        raise SamplesError(
            f"{path}: expected both 0 (normal) and 1 (anomaly) in 'y', found {np.unique(labels)[:5].tolist()}"
        )
    return labels


def _groups(path: Path, arrays: dict[str, Array], y: Array) -> Array | None:
    if "group" not in arrays:
        return None
    if arrays["group"].shape != y.shape:
        raise SamplesError(f"{path}: expected 'group' of shape ({len(y)},), found {arrays['group'].shape}")
    names, first, numbered = np.unique(arrays["group"], return_index=True, return_inverse=True)
    groups: Array = numbered.astype(np.int64)
    mixed = np.unique(groups[y != y[first][groups]])
    if len(mixed):
        labels = np.unique(y[groups == mixed[0]])[:5].tolist()
        raise SamplesError(
            f"{path}: expected one label for all rows of a group, found {labels} in group {names[mixed[0]]} "
            f"({len(mixed)} of {len(names)} groups are mixed)"
        )
    return groups


def fit_to_model(x: Array, shape: tuple[int, ...], *, where: str) -> Array:
    """`x` (N, ...) as (N, *shape), where only dimensions of size 1 differ, or where the model's input is flat.

    Raises SamplesError naming both shapes where they do not fit.
    """
    found = x.shape[1:]
    same_but_ones = [n for n in found if n != 1] == [n for n in shape if n != 1]
    flat = len(shape) == 1 and math.prod(found) == shape[0]
    if same_but_ones or flat:
        return x.reshape(len(x), *shape)
    hint = "declare the samples with --preprocess, or write them as the model takes them"
    if sorted(found) == sorted(shape):
        hint = "the same sizes in another order: is the layout (channels first or last) right?"
    raise SamplesError(
        f"{where}: expected samples of shape ({_join(shape)}) for the model, found ({_join(found)})", hint=hint
    )


def _join(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def split(samples: Samples, *, task: Task) -> Samples:
    """The same samples with `calibration` set and `x`, `y`, `group` free of what is in it.

    Deterministic and stratified: within each label the examples (whole groups) are taken at equal distances;
    for anomaly only normal ones, since a reconstruction model must be calibrated on what it reconstructs.
    Raises SamplesError where too few samples are there to hold any back.
    """
    if samples.calibration is not None:
        return replace(samples, calibration=_spread(samples.calibration, MAX_CALIBRATION_ROWS))
    groups = np.arange(len(samples.y)) if samples.group is None else samples.group
    examples, first = np.unique(groups, return_index=True)
    labels = samples.y[first]
    taken = examples[_stratified(labels, classes=[0] if task == "anomaly" else np.unique(labels).tolist())]
    if len(taken) == 0 or len(taken) == len(examples):
        raise SamplesError(
            f"expected enough samples to calibrate with some and evaluate with others, found {len(examples)} examples",
            hint="give at least two samples of each class, or x_calibration",
        )
    mask = np.isin(groups, taken)
    return replace(
        samples,
        x=samples.x[~mask],
        y=samples.y[~mask],
        group=None if samples.group is None else samples.group[~mask],
        calibration=_spread(samples.x[mask], MAX_CALIBRATION_ROWS),
    )


def _stratified(labels: Array, *, classes: list[int]) -> Array:
    """Indices of the examples to calibrate with: per class at least one, never the only one."""
    quota = min(CALIBRATION_SHARE, MAX_CALIBRATION_EXAMPLES / len(labels))
    chosen: list[Array] = []
    for label in classes:
        members = np.flatnonzero(labels == label)
        count = min(max(1, round(len(members) * quota)), len(members) - 1)
        chosen.append(_spread(members, count))
    return np.sort(np.concatenate(chosen))


def _spread(values: Array, count: int) -> Array:
    """At most `count` entries of `values`, at equal distances over all of it."""
    if count >= len(values):
        return values
    picked: Array = values[(np.arange(count) * len(values)) // max(count, 1)]
    return picked
