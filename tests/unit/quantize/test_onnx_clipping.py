"""Ranges from histograms, against what they are defined as; and that learning them takes bounded memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeinfer.quantize.schemes.onnx.clipping import Histogram, entropy_range, mse_range, percentile_range
from edgeinfer.quantize.schemes.onnx.preparation import prepared
from edgeinfer.quantize.schemes.onnx.ranges import statistics_of
from edgeinfer.runtime.engines.base import Array

_BINS = 2048


def _histogram(values: Array) -> Histogram:
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    return Histogram(low, high, np.histogram(values, _BINS, (low, high))[0])


def _error(values: Array, low: float, high: float) -> float:
    step = (high - low) / 255
    return float(np.square(np.clip(np.round((values - low) / step), 0, 255) * step + low - values).mean())


@pytest.fixture
def with_outliers() -> Array:
    """100 000 values, a few of which are far from the others."""
    random = np.random.default_rng(1)
    values = random.standard_normal(100_000)
    values[:4] = 40.0
    return values


def test_percentiles_leave_out_the_rarest_values(with_outliers: Array) -> None:
    low, high = percentile_range(_histogram(with_outliers))
    assert high == pytest.approx(float(np.percentile(with_outliers, 99.995)), abs=0.05)
    assert low == pytest.approx(float(np.percentile(with_outliers, 0.005)), abs=0.05)


@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_squared_error_is_about_the_least_there_is(spread: float) -> None:
    values = np.random.default_rng(4).laplace(0.0, spread, 400_000)
    histogram = _histogram(values)
    chosen = _error(values, *mse_range(histogram))
    others = [
        _error(values, histogram.low * low, histogram.high * high)
        for low in np.linspace(0.3, 1.0, 8)
        for high in np.linspace(0.3, 1.0, 8)
    ]
    assert chosen < 1.05 * min(others)
    assert chosen < 0.9 * others[-1], "than with all values inside"


def test_values_without_outliers_keep_their_range() -> None:
    values = np.random.default_rng(2).uniform(-1.0, 3.0, 50_000)
    for choose in (percentile_range, mse_range, entropy_range):
        low, high = choose(_histogram(values))
        assert low == pytest.approx(-1.0, abs=0.15), choose.__name__
        assert high == pytest.approx(3.0, abs=0.15), choose.__name__


def test_entropy_is_not_misled_by_the_zeros_behind_a_relu() -> None:
    values = np.maximum(np.random.default_rng(3).standard_normal(100_000), 0.0)
    low, high = entropy_range(_histogram(values))
    assert low == 0.0
    assert high > 2.0


@given(
    st.lists(st.integers(0, 10**6), min_size=4, max_size=64),
    st.floats(-1e6, 0.0, width=32),
    st.floats(0.0, 1e6, width=32),
)
def test_ranges_lie_within_what_was_seen_and_hold_zero(counts: list[int], low: float, high: float) -> None:
    histogram = Histogram(low, high, np.array(counts, np.int64))
    for choose in (percentile_range, mse_range, entropy_range):
        found = choose(histogram)
        assert low <= found[0] <= 0.0 <= found[1] <= high, choose.__name__


def _write_scaler(path: Path, side: int) -> None:
    """y = relu(2 x - 1) over (1, side), in three operations."""
    constants = [
        numpy_helper.from_array(np.full(side, 2.0, np.float32), "two"),
        numpy_helper.from_array(np.ones(side, np.float32), "one"),
    ]
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["double"]),
        helper.make_node("Sub", ["double", "one"], ["less"]),
        helper.make_node("Relu", ["less"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, side]) for name in "xy"]
    graph = helper.make_graph(nodes, "scaler", ends[:1], ends[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))


def test_the_extremes_are_those_of_all_rows(tmp_path: Path) -> None:
    _write_scaler(tmp_path / "m.onnx", 4)
    rows = [[np.full((1, 4), value, np.float32)] for value in (1.0, -3.0, 7.0)]
    statistics = statistics_of(prepared(tmp_path / "m.onnx").model, rows)
    ranges = statistics.extremes()
    assert ranges["x"] == (-3.0, 7.0)
    assert ranges["less"] == (-7.0, 13.0)
    assert ranges["y"] == (0.0, 13.0)
    assert statistics_of(prepared(tmp_path / "m.onnx").model, rows) is statistics


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """4 MB a row and tensor: kept for each of 40 rows they would take 640 MB, for each of 200 five times as much."""
    _write_scaler(tmp_path / "m.onnx", 1 << 20)
    program = """
import resource, sys
from pathlib import Path
import numpy as np
from edgeinfer.quantize.schemes.onnx.clipping import mse_range
from edgeinfer.quantize.schemes.onnx.preparation import prepared
from edgeinfer.quantize.schemes.onnx.ranges import statistics_of

class Rows:
    def __len__(self): return int(sys.argv[2])
    def __iter__(self): return ([np.full((1, 1 << 20), index, np.float32)] for index in range(len(self)))

statistics_of(prepared(Path(sys.argv[1])).model, Rows()).clipped(mse_range)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks = []
    for count in (40, 200):
        command = [sys.executable, "-c", program, str(tmp_path / "m.onnx"), str(count)]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert peaks[1] < peaks[0] + (100 << 10), f"peak resident memory in KiB: {peaks}"
