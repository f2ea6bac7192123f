"""A kind of device as a target: which candidates it can run, and in which order they come."""

from pathlib import Path

import numpy as np
import pytest

from edgeinfer.devices import find_kind, load_kinds
from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.search.entry import Timing
from edgeinfer.quantize.targets.profile import ProfileTarget
from edgeinfer.runtime.engines.base import Array
from packages import linear_model

SAMPLE: Array = np.zeros((1, 8), np.float32)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with a matrix product as ONNX; the TFLite file cannot be read, which ranking goes on without."""
    linear_model(tmp_path / "m.onnx")
    (tmp_path / "m.tflite").write_bytes(b"no model")
    return tmp_path


def candidate(models: Path, engine: str, precision: str) -> Candidate:
    path = models / ("m.onnx" if engine == "onnx" else "m.tflite")
    return Candidate(f"{engine}-{precision}", engine, precision, path, quantized=precision != "fp32")


def timed(models: Path, kind: str, *wanted: tuple[str, str], reference: str = "onnx-fp32") -> dict[str, Timing]:
    target = ProfileTarget(find_kind(kind))
    return target.time([candidate(models, *one) for one in wanted], sample=SAMPLE, reference=reference)


@pytest.mark.parametrize("kind", [kind.name for kind in load_kinds()])
def test_what_every_kind_says(models: Path, kind: str) -> None:
    target = ProfileTarget(find_kind(kind))
    assert (target.name, target.measured, target.repeats) == (kind, False, False)
    assert target.machine
    made = [candidate(models, engine, one) for engine in target.engines for one in ("fp32", "int8", "int8-weights")]
    found = target.time(made, sample=SAMPLE, reference=made[0].id, rough=True)
    assert found.keys() == {one.id for one in made}
    assert all(timing.estimated and not timing.error for timing in found.values())
    assert all(0.0 < timing.ratio_low <= timing.ratio <= timing.ratio_high for timing in found.values())
    assert found[made[0].id].ratio == found[made[0].id].ratio_low == found[made[0].id].ratio_high == 1.0
    assert target.why.keys() == found.keys()
    target.close()


def test_an_engine_that_the_kind_does_not_have_is_said(models: Path) -> None:
    found = timed(models, "stm32mp1", ("onnx", "fp32"), ("litert", "fp32"), ("litert", "int8"))
    assert found["onnx-fp32"].error == "STM32MP1 (Cortex-A7) has no onnx: it has tflite-runtime"
    assert not found["litert-fp32"].error
    assert found["litert-int8"].ratio < found["litert-fp32"].ratio


@pytest.mark.parametrize(("kind", "refused"), [("rpi4", True), ("rpi5", False), ("x86-64-vnni", True)])
def test_half_precision_needs_its_arithmetic(models: Path, kind: str, refused: bool) -> None:
    found = timed(models, kind, ("onnx", "fp32"), ("onnx", "fp16"), ("litert", "fp16"))
    assert bool(found["onnx-fp16"].error) is refused
    assert not found["litert-fp16"].error, "it is unpacked when it is loaded"


def test_one_that_does_not_fit_the_memory_is_said(models: Path) -> None:
    with (models / "m.tflite").open("wb") as file:
        file.truncate(300 << 20)  # a hole: it takes no room
    found = timed(models, "rpi-zero2w", ("onnx", "fp32"), ("litert", "int8"))
    assert "more than half of the 512 MB" in found["litert-int8"].error
    assert not timed(models, "rpi5", ("onnx", "fp32"), ("litert", "int8"))["litert-int8"].error


def test_int8_gains_more_where_there_are_dot_products(models: Path) -> None:
    ratios = [timed(models, kind, ("onnx", "fp32"), ("onnx", "int8"))["onnx-int8"].ratio for kind in ("rpi3", "rpi5")]
    assert ratios[1] < ratios[0] < 1.0


def test_ratios_are_to_the_reference(models: Path) -> None:
    to_onnx = timed(models, "rpi5", ("onnx", "fp32"), ("litert", "fp32"), ("litert", "int8"))
    to_litert = timed(models, "rpi5", ("onnx", "fp32"), ("litert", "fp32"), ("litert", "int8"), reference="litert-fp32")
    assert to_litert["litert-int8"].ratio == pytest.approx(to_onnx["litert-int8"].ratio / to_onnx["litert-fp32"].ratio)


def test_a_pruned_candidate_has_less_to_do(models: Path, tmp_path: Path) -> None:
    slim = linear_model(tmp_path / "slim.onnx", features=4)
    target = ProfileTarget(find_kind("rpi4"))
    whole = candidate(models, "onnx", "fp32")
    pruned = Candidate("onnx-pruned", "onnx", "fp32", slim, quantized=True)
    found = target.time([whole, pruned], sample=SAMPLE, reference=whole.id)
    assert found["onnx-pruned"].ratio == pytest.approx(0.5)
