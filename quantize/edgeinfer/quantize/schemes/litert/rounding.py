"""Rounding weights so that a layer's outputs, not its weights, stay closest to what they were.

The method is GPTQ (Frantar et al., 2022, arXiv:2210.17323): weights are rounded one input after the other, and the
error of each is made up for by the inputs that are still to come, as the second moments of the inputs allow.
"""

import numpy as np

from edgeinfer.runtime.engines.base import Array

__all__ = ["rounded"]

# The scales that are tried, as shares of the one that keeps the largest weight: the fewer the levels, the more it pays
# to give up on the largest weights.
_FEW_LEVELS = np.linspace(0.4, 1.0, 13)
_MANY_LEVELS = np.linspace(0.9, 1.0, 2)
_BLOCK = 32
# Added to the diagonal, as a share of its mean: inputs that hardly vary leave the inverse unbounded (as in the paper).
_DAMPING = 0.01


def rounded(weights: Array, moments: Array, *, levels: int) -> tuple[Array, Array]:
    """Weights (outputs, inputs) as multiples -levels..levels of one scale an output, and these scales (outputs,).

    `moments` are the inputs' second moments, (1, inputs, inputs) where all outputs have the same inputs, else
    (outputs, inputs, inputs). With r the change of an output's weights, r @ moments @ r is the squared change of that
    output, whose smallest value over the tried scales is kept.
    """
    order = np.argsort(-np.einsum("bii->i", moments), kind="stable")  # what weighs most first: much can still make up
    source = weights.astype(np.float64)[:, order]
    damped = _damped(moments)[:, order][:, :, order]
    factor = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)
    largest = np.maximum(np.abs(source).max(axis=1), np.finfo(np.float32).tiny * levels)
    best = np.full(len(source), np.inf)
    values, scales = np.zeros_like(source), largest / levels
    for share in _FEW_LEVELS if levels < 64 else _MANY_LEVELS:
        tried = share * largest / levels
        candidate = _compensated(source, factor, tried, levels)
        change = (candidate - source).reshape(len(damped), -1, source.shape[1])
        error = ((change @ damped) * change).sum(axis=2).reshape(-1)
        better = error < best
        best = np.where(better, error, best)
        values[better], scales[better] = candidate[better], tried[better]
    unsorted = np.empty_like(values)
    unsorted[:, order] = values
    return unsorted, scales


def _damped(moments: Array) -> Array:
    mean = np.einsum("bii->b", moments) / moments.shape[1]
    added = np.where(mean > 0.0, _DAMPING * mean, 1.0)
    damped: Array = moments + added[:, None, None] * np.eye(moments.shape[1])
    return damped


def _compensated(source: Array, factor: Array, scales: Array, levels: int) -> Array:
    """Column by column; what a block of columns leaves to the later ones is handed on in one multiplication."""
    remaining, result, errors = source.copy(), np.empty_like(source), np.empty_like(source)
    inputs = source.shape[1]
    for start in range(0, inputs, _BLOCK):
        end = min(start + _BLOCK, inputs)
        for column in range(start, end):
            result[:, column] = np.clip(np.rint(remaining[:, column] / scales), -levels, levels) * scales
            errors[:, column] = (remaining[:, column] - result[:, column]) / factor[:, column, column]
            later = slice(column + 1, end)
            remaining[:, later] -= errors[:, column, None] * factor[:, column, later]
        block = errors[:, start:end].reshape(len(factor), -1, end - start)
        remaining[:, end:] -= (block @ factor[:, start:end, end:]).reshape(len(source), -1)
    return result
