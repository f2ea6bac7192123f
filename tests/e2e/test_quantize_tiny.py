"""The four MLPerf Tiny tasks through quantize, package, gate and the device's own inference.

Expected figures are those of the sample data's README. Integer kernels differ between CPUs, so the winner is
not: what must hold is that the float models reach their published figure, that what is chosen keeps the
budget, and that the installed package does on the device's path exactly what was measured.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgeinfer.quantize.commands import create_package, quantize_model
from edgeinfer.quantize.metrics.ranking import area_under_roc
from edgeinfer.runtime.errors import AccuracyBudgetError, UsageError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.gate import run_gate
from edgeinfer.runtime.manifest import Task
from edgeinfer.runtime.model import LoadedModel
from edgeinfer.runtime.store import InstalledPackage, Store

pytestmark = [pytest.mark.data, pytest.mark.timeout(1200)]

Array = npt.NDArray[Any]
MAX_DROP = 1.5


@dataclass(frozen=True)
class Case:
    """`expected` is the README's figure for the float models on all samples."""

    task: Task
    expected: float


CASES = {
    "ic": Case("classification", 0.8529),
    "kws": Case("classification", 0.9163),
    "vww": Case("classification", 0.8600),
    "ad": Case("anomaly", 0.8829),
}


def _windows(frames: Array, stride: int) -> Array:
    """Recordings (N, 200, 128) as windows of 5 frames, (N * windows, 640)."""
    starts = range(0, 196, stride)
    return np.concatenate([np.stack([one[i : i + 5].reshape(-1) for i in starts]) for one in frames])


def _samples(folder: Path, name: str) -> dict[str, Array]:
    """Samples as the float model takes them; calibration samples are given, so that all others are evaluated."""
    with np.load(folder / f"{name}_samples.npz") as archive:
        data = {key: archive[key] for key in archive.files if key != "names"}
    if name == "ic":
        with np.load(folder / "ic_calibration.npz") as calibration:
            return {"x": data["x"], "y": data["y"], "x_calibration": calibration["x"]}
    if name == "ad":
        with np.load(folder / "ad_calibration.npz") as calibration:
            taken = _windows(calibration["frames"], 40)
        x = _windows(data["frames"], 1)
        count = len(x) // len(data["y"])
        group = np.repeat(np.arange(len(data["y"])), count)
        return {"x": x, "y": np.repeat(data["y"], count), "group": group, "x_calibration": taken}
    x = data["x"].astype(np.float32)
    x = (x - 83) * np.float32(0.5847029089927673) if name == "kws" else x / np.float32(255)
    # There are no other samples for these two: the float figure is compared on all of them.
    return {"x": x, "y": data["y"], "x_calibration": x[::5]}


@pytest.fixture
def quantize(data_dir: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def run(name: str, models: list[str], **changed: Any) -> dict[str, Any]:
        np.savez(tmp_path / f"{name}.npz", allow_pickle=False, **_samples(data_dir / "tiny", name))
        arguments: dict[str, Any] = {"max_drop": MAX_DROP} | changed
        return quantize_model(
            [data_dir / "tiny" / model for model in models],
            data=tmp_path / f"{name}.npz",
            task=CASES[name].task,
            name=name,
            version="1.0.0",
            output=tmp_path / f"{name}.edgepkg",
            **arguments,
        )

    return run


@pytest.mark.parametrize("name", CASES)
def test_both_formats_reach_the_published_accuracy(
    data_dir: Path, tmp_path: Path, quantize: Callable[..., dict[str, Any]], name: str
) -> None:
    case = CASES[name]
    document = quantize(name, [f"{name}.onnx", f"{name}_float.tflite"])
    figures = {entry["variant"]: entry for entry in document["candidates"]}
    for variant in ("onnx-fp32", "litert-fp32"):
        assert figures[variant]["metric_value"] == pytest.approx(case.expected, abs=0.001)
    assert set(figures) >= {"onnx-u8s8", "litert-int8-weights", "litert-int8"}
    chosen = document["chosen"]
    assert chosen["metric_value"] >= document["float"]["metric_value"] - MAX_DROP / 100 - 1e-9
    assert chosen["agreement"] > 0.9
    assert figures["litert-int8-weights"]["bytes"] < 0.5 * figures["litert-fp32"]["bytes"]
    installed = Store(tmp_path / "state").install(tmp_path / f"{name}.edgepkg")
    for variant_entry in installed.manifest.variants:
        assert run_gate(installed, variant=variant_entry.id).variant == variant_entry.id
    measured = _measured_on_the_device(installed, data_dir / "tiny", name)
    assert measured == pytest.approx(chosen["metric_value"], abs=1e-6)


def _measured_on_the_device(installed: InstalledPackage, folder: Path, name: str) -> float:
    """The metric of what the daemon's own model object says of each frame, from what a source hands over."""
    samples = _samples(folder, name)
    frames = samples["x"]
    if name in {"ic", "vww"}:
        with np.load(folder / f"{name}_samples.npz") as archive:
            frames = np.ascontiguousarray(archive["x"][..., ::-1])  # RGB there, BGR from a source
    model = LoadedModel(installed)
    items = []
    for index, data in enumerate(frames):
        prepared = model.prepare(Frame(data, 0, 0, index))
        items.append(model.infer(prepared).items[0])
        model.release(prepared)
    if CASES[name].task == "classification":
        return float(np.mean([item.label for item in items] == samples["y"]))
    scores = np.array([item.score for item in items])
    groups = samples["group"]
    means = np.bincount(groups, weights=scores) / np.bincount(groups)
    return area_under_roc(means, samples["y"][np.unique(groups, return_index=True)[1]])


@pytest.mark.parametrize("model", ["ic.onnx", "ic_float.tflite"])
def test_one_format_alone_is_compared_with_its_own_float_model(
    quantize: Callable[..., dict[str, Any]], model: str
) -> None:
    document = quantize("ic", [model])
    engine = "onnx" if model.endswith(".onnx") else "litert"
    assert document["float"]["variant"] == f"{engine}-fp32"
    assert document["float"]["latency_ratio"] == 1.0
    assert {entry["engine"] for entry in document["candidates"]} == {engine}


@pytest.mark.parametrize("name", CASES)
def test_onnx_alone_gives_a_package_without_calibration_samples_of_its_own(
    data_dir: Path, tmp_path: Path, name: str
) -> None:
    """Static ranges depend on which samples are split off: another candidate must then keep the budget."""
    samples = _samples(data_dir / "tiny", name)
    del samples["x_calibration"]
    np.savez(tmp_path / "samples.npz", allow_pickle=False, **samples)
    document = quantize_model(
        [data_dir / "tiny" / f"{name}.onnx"],
        data=tmp_path / "samples.npz",
        task=CASES[name].task,
        name=name,
        version="1.0.0",
        output=tmp_path / "out.edgepkg",
        max_drop=1.0,
    )
    installed = Store(tmp_path / "state").install(Path(document["package"]))
    assert any(variant.precision != "fp32" for variant in installed.manifest.variants)
    for variant in installed.manifest.variants:
        assert run_gate(installed, variant=variant.id).variant == variant.id


def test_calibration_samples_are_split_off_where_none_are_given(data_dir: Path, tmp_path: Path) -> None:
    samples = _samples(data_dir / "tiny", "kws")
    np.savez(tmp_path / "kws.npz", x=samples["x"], y=samples["y"])
    document = quantize_model(
        [data_dir / "tiny" / "kws.onnx"],
        data=tmp_path / "kws.npz",
        task="classification",
        name="kws",
        version="1.0.0",
        output=tmp_path / "kws.edgepkg",
        max_drop=MAX_DROP,
    )
    assert document["samples"] + document["calibration_samples"] == 502
    assert document["calibration_samples"] == pytest.approx(100, abs=6)


def test_an_anomaly_threshold_lets_most_normal_windows_pass(
    data_dir: Path, tmp_path: Path, quantize: Callable[..., dict[str, Any]]
) -> None:
    quantize("ad", ["ad_float.tflite"])
    installed = Store(tmp_path / "state").install(tmp_path / "ad.edgepkg")
    model = LoadedModel(installed)
    samples = _samples(data_dir / "tiny", "ad")
    normal = samples["x"][samples["y"] == 0]
    raised = [model.infer(model.prepare(Frame(row, 0, 0, 0))).items[0].label for row in normal]
    assert np.mean(raised) == pytest.approx(0.01, abs=0.002)


@pytest.mark.parametrize("name", ["ic_int8.tflite", "kws_dynrange.tflite"])
def test_integer_models_are_packed_and_not_quantized(
    data_dir: Path, tmp_path: Path, quantize: Callable[..., dict[str, Any]], name: str
) -> None:
    task = name.split("_", maxsplit=1)[0]
    with pytest.raises(UsageError, match="quantized already") as caught:
        quantize(task, [name])
    assert "package create" in caught.value.hint
    output = tmp_path / "packed.edgepkg"
    create_package([data_dir / "tiny" / name], task="classification", name=task, version="1.0.0", output=output)
    installed = Store(tmp_path / "state").install(output)
    assert run_gate(installed).variant == installed.manifest.variants[0].id
    accuracy = _measured_on_the_device(installed, data_dir / "tiny", task)
    assert accuracy == pytest.approx({"ic": 0.8431, "kws": 0.9044}[task], abs=0.02)


def test_no_budget_for_any_loss_ships_what_loses_nothing(quantize: Callable[..., dict[str, Any]]) -> None:
    """On these samples static ONNX quantization loses some of vww, whatever the CPU; half precision and a model without
    its dead channels do not."""
    document = quantize("vww", ["vww.onnx"], max_drop=0.0)
    assert document["chosen"]["metric_value"] >= document["float"]["metric_value"]
    rows = {entry["variant"]: entry for entry in document["candidates"]}
    assert rows["onnx-u8s8"]["verdict"] == "refused"


def test_no_file_is_small_enough(quantize: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(AccuracyBudgetError, match="bytes, more than the 1000 allowed"):
        quantize("kws", ["kws.onnx"], max_bytes=1000)
    assert not (tmp_path / "kws.edgepkg").exists()
