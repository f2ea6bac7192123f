"""The reference of a package: what devices hold their scores and inputs against."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.quantize.commands import create_package, quantize_model
from edgeinfer.quantize.dataset import Samples
from edgeinfer.quantize.reference import MIN_ROWS, make_reference, typical
from edgeinfer.quantize.rows import ArrayRows, stacked
from edgeinfer.runtime.engines import load_engine
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.learn.distribution import ks, psi
from edgeinfer.runtime.learn.packages import package_from_file
from edgeinfer.runtime.learn.statistics import InputStatistics, frame_inputs, score_statistics
from edgeinfer.runtime.manifest import AnomalyPost, ClassifyPost, ImagePre, Reference, TensorPre
from edgeinfer.runtime.model import LoadedModel
from edgeinfer.runtime.package import PackageFile
from packages import identity_model, linear_model


def reference_in(path: Path) -> Reference | None:
    with PackageFile(path) as package:
        return package.manifest.reference


def samples_of(x: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]", y: "np.ndarray[tuple[int], np.dtype[np.int64]]",
               group: "np.ndarray[tuple[int], np.dtype[np.int64]] | None" = None) -> Samples:  # fmt: skip
    return Samples(x=ArrayRows(x), y=y, group=group, calibration=None, sha256="")


def test_a_quantized_package_has_one(make_model: Callable[..., Path], samples: Path, tmp_path: Path) -> None:
    output = tmp_path / "p.edgepkg"
    quantize_model(
        [make_model()],
        data=samples,
        task="classification",
        name="halves",
        version="1.0.0",
        output=output,
        max_drop=50.0,
    )
    reference = reference_in(output)
    assert reference is not None
    assert {"score", "label", "margin"} <= reference.scores.keys()
    assert reference.inputs.keys() >= {"brightness", "contrast", "sharpness"}
    assert reference.scores["label"].shares == pytest.approx((0.5, 0.5), abs=0.1)


def test_a_created_package_has_one_where_samples_are_given(
    make_model: Callable[..., Path], samples: Path, tmp_path: Path
) -> None:
    model = make_model()
    for name, data in (("with", samples), ("without", None)):
        create_package(
            [model], task="classification", name=name, version="1.0.0", output=tmp_path / f"{name}.edgepkg", data=data
        )
    reference = reference_in(tmp_path / "with.edgepkg")
    assert reference is not None
    assert reference.scores["score"].n == 60
    assert reference_in(tmp_path / "without.edgepkg") is None


def test_normal_samples_alone_are_typical_of_an_anomaly_model(tmp_path: Path) -> None:
    """Anomalies in the reference would hide those that come."""
    x = np.concatenate([np.full((40, 4), 1.0), np.full((40, 4), 9.0)]).astype(np.float32)
    y = np.repeat([0, 1], 40)
    group = np.arange(80) // 4
    rows, examples = typical(samples_of(x, y, group), task="anomaly")
    assert (len(rows), examples, float(stacked(rows).max())) == (40, 10, 1.0)
    rows, examples = typical(samples_of(x, y), task="classification")
    assert (len(rows), examples) == (80, 80)
    engine = load_engine("onnx", identity_model(tmp_path / "m.onnx", features=4))
    made = make_reference(engine, (ArrayRows(x), 10), preprocess=TensorPre(), postprocess=AnomalyPost(1.0))
    assert made.scores["score"].n == 10, "as many as there are recordings, however many windows each has"
    engine.close()


def test_few_samples_make_none_and_many_are_spread_over(tmp_path: Path) -> None:
    engine = load_engine("onnx", linear_model(tmp_path / "m.onnx", features=4))
    x = np.random.default_rng(0).normal(size=(5000, 4)).astype(np.float32)
    x[2500:] += 5.0
    few = make_reference(engine, (ArrayRows(x[: MIN_ROWS - 1]), 5), preprocess=TensorPre(), postprocess=ClassifyPost())
    assert few == Reference()
    made = make_reference(engine, (ArrayRows(x), 5000), preprocess=TensorPre(), postprocess=ClassifyPost())
    assert made.inputs["mean"].n == 512
    assert made.inputs["mean"].edges[len(made.inputs["mean"].edges) // 2] == pytest.approx(2.5, abs=2.6)
    assert made.inputs["mean"].low < 1.0 < 4.0 < made.inputs["mean"].high
    engine.close()


@pytest.mark.data
def test_a_device_finds_what_the_workstation_found(data_dir: Path, tmp_path: Path) -> None:
    """The same pictures, through the device's own preprocessing and int8 engine, have not drifted by anything."""
    samples = np.load(data_dir / "tiny" / "vww_samples.npz")
    np.savez(tmp_path / "x.npz", x=samples["x"], y=samples["y"])
    path = tmp_path / "vww.edgepkg"
    create_package(
        [data_dir / "tiny" / "vww_int8.tflite"], task="classification", name="vww", version="1.0.0", output=path,
        data=tmp_path / "x.npz", preprocess="kind=image,width=96,height=96,std=255,raw=true",
    )  # fmt: skip
    with package_from_file(path) as package:
        reference, model = package.manifest.reference, LoadedModel(package)
        assert reference is not None
        assert isinstance(package.manifest.preprocess, ImagePre)
        scores_of = score_statistics(model.kind)
        inputs_of = InputStatistics(package.manifest.preprocess, frame_inputs(package.manifest.variants))
        scores, inputs = [], []
        for index, picture in enumerate(samples["x"]):
            prepared = model.prepare(Frame(np.ascontiguousarray(picture[..., ::-1]), 0, 0, index))
            scores.append(scores_of(model.infer(prepared).items))
            inputs.append(inputs_of(prepared.target))
    for known, rows in ((reference.scores, scores), (reference.inputs, inputs)):
        assert known
        for name, distribution in known.items():
            values = np.array([row[name] for row in rows])
            assert psi(distribution, values) < 1e-3, name
            assert ks(distribution, values) < 0.01, name
