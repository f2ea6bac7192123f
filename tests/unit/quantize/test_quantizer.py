"""The whole search on a tiny model: what comes out, what is refused, and what is never written."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeinfer.quantize import latency
from edgeinfer.quantize.commands import quantize_command, quantize_model, read_flags
from edgeinfer.quantize.latency import Block, Round
from edgeinfer.quantize.recipe import Recipe
from edgeinfer.quantize.schemes.onnx import schemes
from edgeinfer.runtime.errors import AccuracyBudgetError, ConfigError, ModelError, SamplesError, UsageError
from edgeinfer.runtime.manifest import ClassifyPost
from edgeinfer.runtime.package import PackageFile
from edgeinfer.runtime.trust import SigningKey, verify

VARIANTS = {"onnx-fp32", "onnx-u8s8", "onnx-u8s8-percentile", "onnx-u8u8", "onnx-int8-weights", "onnx-fp16"}
ENTRY_KEYS = {
    "variant",
    "engine",
    "metric_value",
    "agreement",
    "bytes",
    "latency_us",
    "latency_ratio",
    "verdict",
    "reason",
}


def _arguments(samples: Path, **changed: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "data": samples,
        "task": "classification",
        "name": "halves",
        "version": "1.0.0",
        "output": samples.parent / "out.edgepkg",
    }
    return given | changed


def _recipe(model: Path, samples: Path, **flags: object) -> Recipe:
    given: dict[str, object] = {
        "samples.path": samples,
        "task": "classification",
        "package.name": "halves",
        "package.version": "1.0.0",
        "package.output": samples.parent / "out.edgepkg",
    }
    return read_flags([model], given | flags, specs={})


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Replaces the clock alone: which of the models is faster differs between machines."""

    def set_ratio(quantized: float) -> None:
        def rounds(engines: Mapping[str, object], _sample: object, *, count: int, **_: float) -> list[Round]:
            blocks = {name: 1e-4 * (1.0 if "fp32" in name else quantized) for name in engines}
            return [{name: Block(call_s, call_s) for name, call_s in blocks.items()} for _ in range(count)]

        monkeypatch.setattr(latency, "run_rounds", rounds)

    return set_ratio


def test_a_package_that_holds_what_the_document_says(make_model: Callable[..., Path], samples: Path) -> None:
    seen: list[float] = []
    document = quantize_model([make_model()], **_arguments(samples), progress=lambda _step, done: seen.append(done))
    assert set(document) >= {"package", "metric", "float", "chosen", "candidates", "samples", "seconds"}
    assert {entry["variant"] for entry in document["candidates"]} >= VARIANTS
    assert all(set(entry) >= ENTRY_KEYS for entry in (*document["candidates"], document["float"], document["chosen"]))
    assert document["float"]["latency_ratio"] == 1.0
    assert document["samples"] == 48
    assert document["calibration_samples"] == 12
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    with PackageFile(Path(document["package"])) as package:
        package.verify_files()
        manifest = package.manifest
        report = json.loads(package.read("report.json"))
    assert manifest.variants[0].id == document["chosen"]["variant"]
    packed = {variant.id for variant in manifest.variants}
    assert "onnx-fp32" in packed
    assert len(packed) == 2
    assert packed <= {entry["variant"] for entry in document["candidates"]}
    assert manifest.postprocess == ClassifyPost(activation="softmax")
    assert manifest.golden is not None
    assert manifest.golden.count == 6
    assert set(manifest.golden.tolerance) == packed
    assert manifest.provenance is not None
    assert len(manifest.provenance.evaluation_sha256) == len(manifest.provenance.calibration_sha256) == 64
    assert "halves.onnx" in manifest.provenance.source_sha256
    assert report == {key: value for key, value in document.items() if key != "package"}


def test_nothing_within_the_budget_prints_the_table_and_writes_nothing(
    make_model: Callable[..., Path], samples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AccuracyBudgetError, match=r"onnx-\S+: has \d+ bytes, more than the 10 allowed") as caught:
        quantize_command(_recipe(make_model(), samples, **{"budget.max_bytes": 10}))
    assert caught.value.exit_code == 3
    shown = capsys.readouterr().out
    assert "Nothing to ship" in shown
    assert "onnx-u8s8" in shown
    assert "refused" in shown
    assert "package: none" in shown
    assert not (samples.parent / "out.edgepkg").exists()
    assert (samples.parent / "out.report.html").stat().st_size > 0, "why it was refused is worth a page"


def test_refusal_as_json_is_one_document_without_a_package(
    make_model: Callable[..., Path], samples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AccuracyBudgetError):
        quantize_command(_recipe(make_model(), samples, **{"budget.max_bytes": 10}), as_json=True, page=False)
    document = json.loads(capsys.readouterr().out)
    assert document["package"] is None
    assert document["chosen"] is None
    assert {entry["verdict"] for entry in document["candidates"]} == {"refused"}
    assert not (samples.parent / "out.report.html").exists()


def test_a_target_without_an_engine_for_the_model(
    make_model: Callable[..., Path], samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A float model that cannot run there is not shipped to it."""
    monkeypatch.setenv("PATH", "")  # no converter
    with pytest.raises(UsageError, match=r"stm32mp1 has no engine for \.onnx, but for litert") as caught:
        quantize_model([make_model()], **_arguments(samples, target="stm32mp1"))
    assert caught.value.hint == "give the model as a .tflite file"
    assert not (samples.parent / "out.edgepkg").exists()


def test_what_loses_too_much_is_not_shipped(
    make_model: Callable[..., Path], samples: Path, timed: Callable[[float], None]
) -> None:
    """With an outlier among its weights one scale a channel leaves nothing of the others: int8 loses, half precision
    does not."""
    timed(0.5)
    document = quantize_model([make_model(outlier=1e5)], **_arguments(samples))
    rows = {entry["variant"]: entry for entry in document["candidates"]}
    assert rows["onnx-u8s8"]["verdict"] == "refused"
    assert "is the same for all" in rows["onnx-u8s8"]["reason"]
    assert document["chosen"]["metric_value"] == document["float"]["metric_value"]
    assert document["chosen"]["variant"] != "onnx-u8s8"


def test_a_signed_package(make_model: Callable[..., Path], samples: Path, tmp_path: Path) -> None:
    key = SigningKey.generate()
    key.save(tmp_path / "release.key")
    document = quantize_model([make_model()], **_arguments(samples, sign_key=tmp_path / "release.key"))
    with PackageFile(Path(document["package"])) as package:
        verify(package.manifest_bytes, package.signatures, [key.public])


def test_labels_go_into_the_package(make_model: Callable[..., Path], samples: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("left\nright\n")
    document = quantize_model([make_model()], **_arguments(samples, labels=tmp_path / "labels.txt"))
    with PackageFile(Path(document["package"])) as package:
        assert package.labels() == ("left", "right")


def test_labels_of_another_number_are_refused_before_the_search(
    make_model: Callable[..., Path], samples: Path, tmp_path: Path
) -> None:
    (tmp_path / "labels.txt").write_text("left\nmiddle\nright\n")
    with pytest.raises(UsageError, match=r"expected 2 labels, .* found 3"):
        quantize_model([make_model()], **_arguments(samples, labels=tmp_path / "labels.txt"))
    assert not (samples.parent / "out.edgepkg").exists()


@pytest.mark.parametrize(("quantized_ratio", "first"), [(0.5, False), (2.0, True)])
def test_a_float_model_that_stays_first_is_said_so(
    make_model: Callable[..., Path],
    samples: Path,
    capsys: pytest.CaptureFixture[str],
    timed: Callable[[float], None],
    quantized_ratio: float,
    first: bool,
) -> None:
    timed(quantized_ratio)
    quantize_command(_recipe(make_model(), samples), as_json=True)
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert ("warning: nothing is quantized: " in printed.err) is first
    assert document["chosen"]["quantized"] is not first
    assert document["package"] is not None
    if first:
        assert document["answer"].startswith("Ship the float model")


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"name": "Bad Name"}, UsageError, "package name"),
        ({"version": "1.0"}, UsageError, "package version"),
        ({"output": Path("/nonexistent-folder/out.edgepkg")}, UsageError, "existing folder"),
        ({"max_drop": -1.0}, UsageError, "--max-drop"),
        ({"max_drop": float("nan")}, UsageError, "--max-drop"),
        ({"threads": 0}, UsageError, "--threads"),
        ({"data": Path("/nonexistent.npz")}, UsageError, "no such samples file"),
        ({"labels": Path("/nonexistent.txt")}, UsageError, "labels?|label a line"),
        ({"sign_key": Path("/nonexistent.key")}, UsageError, "no such key file"),
        ({"task": "anomaly"}, ConfigError, "reconstruction"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    make_model: Callable[..., Path], samples: Path, changed: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        quantize_model([make_model()], **_arguments(samples, **changed))
    assert not (samples.parent / "out.edgepkg").exists()


def test_a_missing_model_is_a_usage_error(samples: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such model file"):
        quantize_model([tmp_path / "none.onnx"], **_arguments(samples))


def test_another_kind_of_file_is_a_usage_error(samples: Path) -> None:
    with pytest.raises(UsageError, match="expected a model file of"):
        quantize_model([samples], **_arguments(samples))


@pytest.mark.parametrize("keep", [0, 1, 100])
@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_a_truncated_model_is_a_model_error(
    make_model: Callable[..., Path], samples: Path, tmp_path: Path, keep: int, suffix: str
) -> None:
    broken = tmp_path / f"broken{suffix}"
    broken.write_bytes(make_model().read_bytes()[:keep])
    with pytest.raises(ModelError, match="broken"):
        quantize_model([broken], **_arguments(samples))


def test_samples_of_another_shape_name_both(make_model: Callable[..., Path], samples: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, x=np.zeros((10, 1, 9, 8)), y=np.arange(10) % 2)
    with pytest.raises(SamplesError, match=r"expected samples of shape \(1, 8, 8\) for the model, found \(1, 9, 8\)"):
        quantize_model([make_model()], **_arguments(samples, data=path))


def test_labels_that_the_model_does_not_know(make_model: Callable[..., Path], samples: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, x=np.zeros((10, 1, 8, 8)), y=np.arange(10) % 3)
    with pytest.raises(SamplesError, match="expected labels of 0 to 1"):
        quantize_model([make_model()], **_arguments(samples, data=path))


def test_an_already_quantized_onnx_model_is_sent_to_package_create(
    make_model: Callable[..., Path], samples: Path, tmp_path: Path
) -> None:
    model = make_model()
    scheme = next(scheme for scheme in schemes(model) if scheme.id == "onnx-u8s8")
    rows = [[row[np.newaxis]] for row in np.load(samples)["x"][:8]]
    assert scheme.make(model, tmp_path / "again.onnx", rows, {}) == ""
    with pytest.raises(UsageError, match="quantized already") as caught:
        quantize_model([tmp_path / "again.onnx"], **_arguments(samples))
    assert "package create" in caught.value.hint


def test_the_command_tells_what_it_inferred_and_exits_with_the_status(
    make_model: Callable[..., Path], samples: Path, repository: Path
) -> None:
    folders = [str(repository / part) for part in ("runtime", "quantize", "devices", "sync")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}

    def run(model: Path, *more: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "edgeinfer", "quantize", str(model), "--data", str(samples), "--json"]
        command += ["--task", "classification", "--name", "halves", "--version", "1.0.0"]
        command += ["-o", str(samples.parent / "out.edgepkg"), *more]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)

    done = run(make_model())
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["package"].endswith("out.edgepkg")
    assert "preprocessing inferred: image 8x8 gray nchw, (x - 0) / 255" in done.stderr
    refused = run(make_model(), "--max-bytes", "10")
    assert refused.returncode == 3
    assert json.loads(refused.stdout)["package"] is None
    assert "nothing keeps the budget (at most 1 point lost, 10 bytes or fewer)" in refused.stderr
    assert "Traceback" not in refused.stderr
