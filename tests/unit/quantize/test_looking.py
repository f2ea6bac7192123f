"""How far outputs are from the float model's."""

import math

import numpy as np
import pytest

from edgeinfer.quantize.looking import divergence
from edgeinfer.runtime.engines.base import Array


def test_the_same_outputs_do_not_diverge() -> None:
    values = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    assert divergence([values], [values]) == 0.0


def test_it_is_a_share_of_the_variance() -> None:
    expected = np.array([[1.0], [-1.0]])
    assert divergence([expected + 0.5], [expected]) == pytest.approx(0.25)
    assert divergence([expected + 0.5, expected], [expected, expected]) == pytest.approx(0.125)


@pytest.mark.parametrize("found", [np.array([[np.nan], [0.0]]), np.array([[np.inf], [0.0]]), np.zeros((2, 3))])
def test_what_cannot_be_compared_is_infinitely_far(found: Array) -> None:
    assert divergence([found], [np.array([[1.0], [2.0]])]) == math.inf


def test_outputs_without_values_do_not_diverge() -> None:
    assert divergence([np.zeros((2, 0))], [np.zeros((2, 0))]) == 0.0
