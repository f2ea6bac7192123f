"""Classical models as they come out of skl2onnx and onnxmltools, really trained: what they give after the way in is
what the library that trained them says."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgeinfer.quantize.intake import take_in
from edgeinfer.quantize.modelfile import ModelFile
from edgeinfer.runtime.engines import load_engine
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import ModelError

FEATURES = 6
RANDOM = np.random.default_rng(4)
X: Array = RANDOM.normal(size=(240, FEATURES)).astype(np.float32)
Y: Array = (X[:, 0] + X[:, 1] > 0).astype(np.int64) + (X[:, 2] > 0.5)
TREES = "an ensemble of trees: it compares with thresholds and multiplies nothing, so there are no weights"


@pytest.fixture(autouse=True)
def _their_warnings() -> Iterator[None]:
    """Those who train and export warn of things that are theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def from_sklearn(estimator: Any, folder: Path, x: Array = X, y: Array = Y, **options: Any) -> Path:
    skl2onnx = pytest.importorskip("skl2onnx", reason="skl2onnx is not installed")
    estimator.fit(x, y)
    path = folder / "m.onnx"
    path.write_bytes(skl2onnx.to_onnx(estimator, x[:1], **options).SerializeToString())
    return path


def taken(path: Path, folder: Path) -> ModelFile:
    clean = folder / "clean"
    clean.mkdir(exist_ok=True)
    (model,) = take_in([path], clean)
    onnx.checker.check_model(onnx.load(str(model.path)))
    return model


def answers(model: ModelFile, x: Array = X[:20]) -> Array:
    engine = load_engine("onnx", model.path)
    try:
        rows: Array = np.concatenate([engine.run([x[i : i + 1].astype(np.float32)])[0] for i in range(len(x))])
    finally:
        engine.close()
    return rows


def _classifiers() -> dict[str, Any]:
    ensemble = pytest.importorskip("sklearn.ensemble", reason="scikit-learn is not installed")
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    def mlp() -> Any:
        return MLPClassifier((16,), max_iter=100, random_state=1)

    return {
        "logistic": LogisticRegression(),
        "forest": ensemble.RandomForestClassifier(8, random_state=1),
        "boosting": ensemble.GradientBoostingClassifier(n_estimators=4, random_state=1),
        "mlp": mlp(),
        "scaled mlp": make_pipeline(StandardScaler(), mlp()),
        "svm": SVC(probability=True, random_state=1),
    }


@pytest.mark.parametrize("name", ["logistic", "forest", "boosting", "mlp", "scaled mlp", "svm"])
@pytest.mark.parametrize("zipmap", [True, False])
def test_classifiers_give_their_probabilities(tmp_path: Path, name: str, zipmap: bool) -> None:
    estimator = _classifiers()[name]
    options: dict[str, Any] = {} if zipmap else {"options": {"zipmap": False}}
    model = taken(from_sklearn(estimator, tmp_path, **options), tmp_path)
    assert [spec.dtype for spec in model.outputs] == ["float32"]
    assert model.inputs[0].shape == (1, FEATURES)
    np.testing.assert_allclose(answers(model), estimator.predict_proba(X[:20]), atol=1e-4)
    assert any("dropped" in note for note in model.notes)
    assert any("classes 0, 1, 2" in note for note in model.notes) == zipmap
    assert (model.unquantizable == "") == ("mlp" in name)
    assert (model.unquantizable == TREES) == (name in {"forest", "boosting"})


def test_classes_with_names(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    names = np.array(["idle", "run", "walk"])
    estimator = LogisticRegression()
    model = taken(from_sklearn(estimator, tmp_path, y=names[Y]), tmp_path)
    assert "ZipMap removed: probabilities has the scores of the classes idle, run, walk, in this order" in model.notes
    np.testing.assert_allclose(answers(model), estimator.predict_proba(X[:20]), atol=1e-5)


def test_a_pipeline_is_open_to_quantizers(tmp_path: Path) -> None:
    """The scaler becomes plain arithmetic, and sizes are known behind it: ranges can be had for all layers."""
    model = taken(from_sklearn(_classifiers()["scaled mlp"], tmp_path), tmp_path)
    assert {"1 Scaler written as Sub and Mul", "2 biases made flat"} <= set(model.notes)
    assert model.outputs[0].shape == (1, 3)
    graph = onnx.load(str(model.path)).graph
    assert all(node.domain == "" for node in graph.node)
    assert not any(tensor.name.endswith(("_scale", "_zero_point")) for tensor in graph.initializer)


@pytest.mark.parametrize("name", ["mlp", "forest", "linear", "svm"])
def test_regressors(tmp_path: Path, name: str) -> None:
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import LinearRegression
    from sklearn.neural_network import MLPRegressor
    from sklearn.svm import SVR

    estimator = {
        "mlp": MLPRegressor(hidden_layer_sizes=(16,), max_iter=100, random_state=1),
        "forest": RandomForestRegressor(5, random_state=1),
        "linear": LinearRegression(),
        "svm": SVR(),
    }[name]
    model = taken(from_sklearn(estimator, tmp_path, y=X[:, 0] * 2 + X[:, 3]), tmp_path)
    np.testing.assert_allclose(answers(model).reshape(-1), estimator.predict(X[:20]), atol=1e-3)
    assert (model.unquantizable == "") == (name == "mlp")


def test_outliers_score_high(tmp_path: Path) -> None:
    from sklearn.ensemble import IsolationForest

    estimator = IsolationForest(n_estimators=10, random_state=1)
    path = from_sklearn(estimator, tmp_path, target_opset={"": 15, "ai.onnx.ml": 3})
    model = taken(path, tmp_path)
    assert [spec.name for spec in model.outputs] == ["anomaly_score"]
    np.testing.assert_allclose(answers(model).reshape(-1), -estimator.decision_function(X[:20]), atol=1e-4)
    assert answers(model, X[:1] + 9)[0, 0] > answers(model, X[:1] * 0)[0, 0]
    assert model.unquantizable == TREES


def test_float64_features(tmp_path: Path) -> None:
    from sklearn.neural_network import MLPClassifier

    estimator = MLPClassifier((16,), max_iter=100, random_state=1)
    model = taken(from_sklearn(estimator, tmp_path, x=X.astype(np.float64)), tmp_path)
    assert model.inputs[0].dtype == "float32"
    np.testing.assert_allclose(answers(model), estimator.predict_proba(X[:20]), atol=1e-4)


def test_strings_are_refused(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    colours = np.array([["red"], ["green"], ["blue"]] * 20)
    estimator = make_pipeline(OneHotEncoder(), LogisticRegression())
    path = from_sklearn(estimator, tmp_path, x=colours, y=np.arange(60) % 3)
    with pytest.raises(ModelError, match=r"found 'X' of strings.*encode categories as numbers before the model"):
        take_in([path], tmp_path)


def _boosted(library: str, classes: int) -> tuple[Any, Any, Any]:
    """An estimator that was trained, its converter, and the module of the types that it wants."""
    module = pytest.importorskip(library, reason=f"{library} is not installed")
    onnxmltools = pytest.importorskip("onnxmltools", reason="onnxmltools is not installed")
    y = Y if classes == 3 else (Y > 0).astype(np.int64)
    if library == "xgboost":
        estimator = module.XGBClassifier(n_estimators=5, n_jobs=1).fit(X, y)
        return estimator, onnxmltools.convert_xgboost, onnxmltools
    estimator = module.LGBMClassifier(n_estimators=5, n_jobs=1, verbose=-1).fit(X, y)
    return estimator, onnxmltools.convert_lightgbm, onnxmltools


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
@pytest.mark.parametrize("classes", [2, 3])
def test_boosted_trees(tmp_path: Path, library: str, classes: int) -> None:
    estimator, convert, _ = _boosted(library, classes)
    from onnxmltools.convert.common.data_types import FloatTensorType

    path = tmp_path / "m.onnx"
    path.write_bytes(convert(estimator, initial_types=[("x", FloatTensorType([None, FEATURES]))]).SerializeToString())
    model = taken(path, tmp_path)
    np.testing.assert_allclose(answers(model), estimator.predict_proba(X[:20]), atol=1e-4)
    assert model.unquantizable == TREES


def test_a_boosted_regressor(tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost", reason="xgboost is not installed")
    onnxmltools = pytest.importorskip("onnxmltools", reason="onnxmltools is not installed")
    from onnxmltools.convert.common.data_types import FloatTensorType

    estimator = xgboost.XGBRegressor(n_estimators=5, n_jobs=1).fit(X, X[:, 0] * 2)
    path = tmp_path / "m.onnx"
    made = onnxmltools.convert_xgboost(estimator, initial_types=[("x", FloatTensorType([None, FEATURES]))])
    path.write_bytes(made.SerializeToString())
    model = taken(path, tmp_path)
    np.testing.assert_allclose(answers(model).reshape(-1), estimator.predict(X[:20]), atol=1e-4)
