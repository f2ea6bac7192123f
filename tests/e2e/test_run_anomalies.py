"""Anomalies in a recording of a pump: forecast residuals, and distances from what is normal, from model to result."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from packed_runs import PackedRun, linear_window_model

pytestmark = pytest.mark.data

Array = npt.NDArray[Any]
COLUMNS = (
    "Accelerometer1RMS", "Accelerometer2RMS", "Current", "Pressure",
    "Temperature", "Thermocouple", "Voltage", "Volume Flow RateRMS",
)  # fmt: skip
LENGTH = 8
# The valve of these recordings is untouched in the first rows.
UNTOUCHED = 400


class Pump:
    """A recording of SKAB, and its windows in units of what is usual at first."""

    def __init__(self, path: Path) -> None:
        with path.open() as file:
            rows = list(csv.DictReader(file, delimiter=";"))
        self.values = np.array([[float(row[name]) for name in COLUMNS] for row in rows], dtype=np.float32)
        self.anomalous = np.array([float(row["anomaly"]) for row in rows])
        usual = self.values[:UNTOUCHED]
        self.mean, self.std = usual.mean(axis=0), usual.std(axis=0) + 1e-6
        scaled = (self.values - self.mean) / self.std
        self.windows = np.lib.stride_tricks.sliding_window_view(scaled, LENGTH, axis=0).transpose(0, 2, 1)
        self.source = f'kind = "csv"\npath = "{path}"\nwindow = {LENGTH}\ndelimiter = ";"\ncolumns = {list(COLUMNS)}'
        mean, std = (",".join(f"{value:.9g}" for value in values) for values in (self.mean, self.std))
        self.preprocess = f"kind=window,length={LENGTH},channels={','.join(COLUMNS)},mean={mean},std={std}"

    def area(self, scores: Array, last_rows: Array) -> float:
        """The area under the ROC curve of what came after the untouched rows."""
        later = last_rows >= UNTOUCHED
        labels, scores = self.anomalous[last_rows[later]], scores[later]
        return float((scores[labels == 1][:, None] > scores[labels == 0][None]).mean())


def test_forecast_residual(tmp_path: Path, data_dir: Path) -> None:
    """A linear forecast of the next row, fitted to the untouched ones: its residual tells cavitation from the rest."""
    run = PackedRun(tmp_path)
    pump = Pump(data_dir / "sensors" / "skab" / "other" / "5.csv")
    given = np.column_stack([pump.windows[:-1].reshape(len(pump.windows) - 1, -1), np.ones(len(pump.windows) - 1)])
    came = pump.windows[1:, -1]
    fit = slice(0, UNTOUCHED - LENGTH)
    weights = np.linalg.solve(given[fit].T @ given[fit] + 50 * np.eye(given.shape[1]), given[fit].T @ came[fit])
    wanted = ((given @ weights - came) ** 2).mean(axis=1)
    threshold = float(np.quantile(wanted[fit], 0.999))
    model = linear_window_model(tmp_path / "m.onnx", weights[:-1], weights[-1], shape=(LENGTH, len(COLUMNS)))
    spec = f"kind=forecast,threshold={threshold},horizon=1,stride=1"
    package = run.pack(model, "anomaly", "--preprocess", pump.preprocess, "--postprocess", spec)
    found = run.results(package, pump.source)
    assert len(found) == len(pump.windows)
    assert found[0].items == ()
    scores = np.array([result.items[0].score for result in found[1:]])
    assert scores == pytest.approx(wanted, rel=1e-3, abs=1e-3)
    flagged = np.array([result.items[0].label for result in found[1:]])
    last_rows = np.arange(LENGTH, len(pump.values))
    assert pump.area(scores, last_rows) > 0.97
    assert flagged[pump.anomalous[last_rows] == 1].mean() > 0.95
    assert flagged[fit].mean() < 0.005


def test_distance(tmp_path: Path, data_dir: Path) -> None:
    """Windows on their first components: centre, covariance and threshold are made from samples by `package create`."""
    run = PackedRun(tmp_path)
    pump = Pump(data_dir / "sensors" / "skab" / "other" / "5.csv")
    windows = pump.windows.reshape(len(pump.windows), -1)
    untouched = UNTOUCHED - LENGTH
    basis = np.linalg.svd(windows[:untouched] - windows[:untouched].mean(axis=0), full_matrices=False)[2][:8].T
    model = linear_window_model(tmp_path / "m.onnx", basis, np.zeros(8), shape=(LENGTH, len(COLUMNS)))
    labels = pump.anomalous[LENGTH - 1 :]
    chosen = np.r_[0:untouched, np.flatnonzero(labels)[:50]]
    np.savez(tmp_path / "samples.npz", x=pump.windows[chosen], y=labels[chosen])
    package = run.pack(
        model,
        "anomaly",
        *("--preprocess", pump.preprocess),
        *("--postprocess", "kind=distance,metric=mahalanobis"),
        *("--data", str(tmp_path / "samples.npz")),
    )
    found = run.results(package, pump.source)
    scores = np.array([result.items[0].score for result in found])
    seen = np.delete(windows[:untouched] @ basis, np.s_[2::3], axis=0)
    covariance = np.cov(seen, rowvar=False, bias=True)
    covariance += 1e-3 * np.trace(covariance) / 8 * np.eye(8)
    away = windows @ basis - seen.mean(axis=0)
    wanted = np.sqrt(np.einsum("ij,jk,ik->i", away, np.linalg.inv(covariance), away))
    assert scores == pytest.approx(wanted, rel=1e-2, abs=1e-2)
    last_rows = np.arange(LENGTH - 1, len(pump.values))
    assert pump.area(scores, last_rows) > 0.98
    flagged = np.array([result.items[0].label for result in found])
    assert flagged[labels == 1].mean() > 0.95
    assert flagged[:untouched].mean() < 0.05
