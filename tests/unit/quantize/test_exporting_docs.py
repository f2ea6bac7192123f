"""The lines of docs/exporting.md, run where their library is at hand."""

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeinfer.quantize.intake import take_in

X = np.random.default_rng(6).normal(size=(120, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0.5)


def line(repository: Path, heading: str) -> str:
    text = (repository / "docs" / "exporting.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(heading)}\n+```python\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def trained(library: str) -> Any:
    if library == "sklearn":
        from sklearn.neural_network import MLPClassifier

        return MLPClassifier((8,), max_iter=50).fit(X, Y)
    module = pytest.importorskip(library, reason=f"{library} is not installed")
    if library == "xgboost":
        return module.XGBClassifier(n_estimators=3, n_jobs=1).fit(X, Y)
    return module.LGBMClassifier(n_estimators=3, n_jobs=1, verbose=-1).fit(X, Y)


@pytest.mark.parametrize(
    ("heading", "library", "exporter"),
    [
        ("scikit-learn", "sklearn", "skl2onnx"),
        ("XGBoost", "xgboost", "onnxmltools"),
        ("LightGBM", "lightgbm", "onnxmltools"),
    ],
)
def test_the_line_makes_a_file_that_is_taken(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heading: str, library: str, exporter: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of those who train and export, and of the file that the line leaves open
        module = pytest.importorskip(exporter, reason=f"{exporter} is not installed")
        names = {exporter: module, "model": trained(library), "x_train": X}
        exec(line(repository, heading), names)  # noqa: S102 - our own document
        del names
        clean = tmp_path / "clean"
        clean.mkdir()
        (model,) = take_in([Path("model.onnx")], clean)
    assert model.outputs[0].shape[-1] == 3
    assert model.input_shape == (4,)
