"""The arrays that a package's postprocessing needs: from a file, or of what is normal, made from samples."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import ConfigError, ModelError, UsageError
from edgeinfer.runtime.manifest import DistancePost
from edgeinfer.runtime.postprocess import read_arrays

__all__ = ["encode_arrays", "load_arrays", "normal_arrays"]

# Added to the diagonal of a covariance, as a share of its mean: few samples leave directions without any spread.
_RIDGE = 1e-3
_SMALLEST = 1e-12


def load_arrays(path: Path) -> dict[str, Array]:
    """The arrays of an `.npz`. Raises UsageError for a missing file, ConfigError for one that is none."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file of arrays")
    try:
        return read_arrays(path)
    except ModelError as error:
        raise ConfigError(error.message, hint="write it with numpy.savez(path, centres=...)") from error


def encode_arrays(arrays: Mapping[str, Array]) -> bytes:
    """The `.npz`; the same arrays give the same bytes."""
    archive = io.BytesIO()
    # As one mapping, so that numpy's own parameter names swallow no key.
    np.savez(archive, allow_pickle=False, **dict(sorted(arrays.items())))
    return archive.getvalue()


def normal_arrays(embeddings: Array, post: DistancePost) -> dict[str, Array]:
    """One centre, and for Mahalanobis the covariance around it, of normal `embeddings` (N, dimensions)."""
    rows = _prepared(embeddings, post)
    arrays: dict[str, Array] = {"centres": rows.mean(axis=0, keepdims=True)}
    if post.metric == "mahalanobis":
        covariance = np.atleast_2d(np.cov(rows, rowvar=False, bias=True))
        ridge = _RIDGE * float(np.trace(covariance)) / len(covariance)
        arrays["covariance"] = covariance + max(ridge, _SMALLEST) * np.eye(len(covariance))
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def _prepared(embeddings: Array, post: DistancePost) -> Array:
    rows = embeddings.reshape(len(embeddings), -1).astype(np.float64)
    if not post.normalize:
        return rows
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    normalized: Array = rows / np.where(lengths > 0.0, lengths, 1.0)
    return normalized
