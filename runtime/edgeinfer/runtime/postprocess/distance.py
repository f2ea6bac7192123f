"""Distance: how far an embedding is from what is normal, a few centres that the package holds.

Euclidean, or Mahalanobis: sqrt((x - c)^T S^-1 (x - c)) with the covariance S that all centres share. With S = L L^T
that is the Euclidean distance of L^-1 x and L^-1 c, so centres are transformed once and each frame costs one product.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import DistancePost, TensorSpec
from edgeinfer.runtime.postprocess.anomaly import verdict
from edgeinfer.runtime.postprocess.outputs import choose_output, real_values
from edgeinfer.runtime.postprocess.values import normalized
from edgeinfer.runtime.preprocess import Region, concrete_shape
from edgeinfer.runtime.results import Item

__all__ = ["Distance"]

Array = npt.NDArray[Any]
_MAX_CENTRES = 4096


class Distance:
    """One item: label 1 for an anomaly, 0 for none, and the distance to the nearest centre."""

    def __init__(self, declared: DistancePost, outputs: Sequence[TensorSpec], arrays: Mapping[str, Array]) -> None:
        self._declared = declared
        self._spec = choose_output(outputs, declared.output)
        self._dimensions = int(np.prod(concrete_shape(self._spec)))
        centres = _array(arrays, "centres", (-1, self._dimensions))
        if not 1 <= len(centres) <= _MAX_CENTRES:
            raise ModelError(f"expected 1 to {_MAX_CENTRES} centres, found {len(centres)}")
        self._whitening = None
        if declared.metric == "mahalanobis":
            self._whitening = _whitening(_array(arrays, "covariance", (self._dimensions, self._dimensions)))
            centres = centres @ self._whitening.T
        self._centres = centres

    def __call__(self, model_input: Array, outputs: Sequence[Array], region: Region) -> tuple[Item, ...]:
        embedding = real_values(outputs[self._declared.output], self._spec)
        if embedding.size != self._dimensions:
            raise ModelError(f"expected an embedding of {self._dimensions} values, found {embedding.size}")
        if self._declared.normalize:
            embedding = normalized(embedding)
        with np.errstate(all="ignore"):
            point = embedding.astype(np.float64)
            if self._whitening is not None:
                point = self._whitening @ point
            differences = self._centres - point
            squares = np.einsum("ij,ij->i", differences, differences)
            return verdict(float(np.sqrt(squares.min())), self._declared.threshold)


def _whitening(covariance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """L^-1 of covariance = L L^T."""
    try:
        if not np.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-8 + 1e-6 * float(np.abs(covariance).max())):
            raise ModelError("expected a covariance that is symmetric, found one that is not")
        return np.linalg.inv(np.linalg.cholesky(covariance))
    except np.linalg.LinAlgError as error:
        raise ModelError(
            f"expected a covariance that can be inverted: {error}",
            hint="more samples than dimensions, or a little added to its diagonal",
        ) from error


def _array(arrays: Mapping[str, Array], name: str, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    found = arrays.get(name)
    if found is None:
        raise ModelError(f"expected the package's arrays to hold {name!r}, found {sorted(arrays) or 'none'}")
    if found.ndim != 2 or found.shape[1] != shape[1] or shape[0] not in {-1, found.shape[0]}:
        raise ModelError(f"expected {name} of shape {shape}, found {found.shape}")
    if found.dtype.kind not in "fiu" or not np.isfinite(found).all():
        raise ModelError(f"expected {name} of finite numbers")
    return found.astype(np.float64)
