"""Six ways in which tools for quantization fail without a word, each shown to the whole command on the real file."""

import ast
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import edgeinfer.quantize as package
from edgeinfer.quantize.commands import quantize_model
from edgeinfer.quantize.schemes import litert as litert_schemes
from edgeinfer.quantize.schemes import onnx as onnx_schemes
from edgeinfer.quantize.schemes.base import Make, Scheme
from edgeinfer.quantize.schemes.litert import flatbuffer
from edgeinfer.runtime.engines.base import Array

pytestmark = pytest.mark.timeout(1200)

Search = Callable[..., dict[str, Mapping[str, Any]]]


@pytest.fixture
def search(data_dir: Path, tmp_path: Path) -> Search:
    """The rows of a report by variant; the document itself is under "document"."""

    def run(name: str, model: str, **more: Any) -> dict[str, Mapping[str, Any]]:
        source = tmp_path / model
        shutil.copy(data_dir / "tiny" / model, source)
        samples, task = tmp_path / f"{name}.npz", "anomaly" if name == "ad" else "classification"
        np.savez(samples, allow_pickle=False, **_samples(data_dir, name))
        document = quantize_model(
            [source],
            data=samples,
            task=task,  # type: ignore[arg-type]  # one of the two
            name=name,
            version="1.0.0",
            output=tmp_path / "out.edgepkg",
            **more,
        )
        return {row["variant"]: row for row in document["candidates"]} | {"document": document}

    return run


def _samples(data_dir: Path, name: str) -> dict[str, Any]:
    with np.load(data_dir / "tiny" / f"{name}_samples.npz") as archive:
        data = {key: archive[key] for key in archive.files}
    if name == "kws":
        return {"x": (data["x"].astype(np.float32) - 83) * np.float32(0.5847029089927673), "y": data["y"]}
    x = _windows(data["frames"], 10)
    count = len(x) // len(data["y"])
    with np.load(data_dir / "tiny" / "ad_calibration.npz") as archive:
        normal = _windows(archive["frames"], 40)
    group = np.repeat(np.arange(len(data["y"])), count)
    return {"x": x, "y": np.repeat(data["y"], count), "group": group, "x_calibration": normal}


def _windows(frames: Array, stride: int) -> Array:
    """Recordings (N, 200, 128) as windows of 5 frames, (N * windows, 640)."""
    return np.concatenate([np.stack([one[i : i + 5].reshape(-1) for i in range(0, 196, stride)]) for one in frames])


def _offer_only(monkeypatch: pytest.MonkeyPatch, module: ModuleType, *names: str, rung: int | None = None) -> None:
    """Of an engine's schemes these alone. Those of rung 1 are not tried pruned too."""
    offered = module.schemes

    def some(path: Path) -> list[Scheme]:
        kept = [one for one in offered(path) if one.id in names]
        return [replace(one, rung=rung) for one in kept] if rung is not None else kept

    monkeypatch.setattr(module, "schemes", some)


@pytest.mark.data
def test_saturation_is_refused_for_a_cpu_without_vnni(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    """By arithmetic, on any machine. With 7-bit weights the same scheme is free of it."""
    _offer_only(monkeypatch, onnx_schemes, "onnx-u8s8", "onnx-u8s8-full")
    rows = search("kws", "kws.onnx", target="x86-64-avx2", exhaustive=True, max_drop=2.0)
    assert rows["onnx-u8s8-full"]["verdict"] == "refused"
    assert "may saturate on CPUs without VNNI" in rows["onnx-u8s8-full"]["reason"]
    assert "saturate" not in rows["onnx-u8s8"]["reason"]
    assert not any("saturate" in warning for warning in rows["onnx-u8s8"]["warnings"])


@pytest.mark.data
def test_a_model_of_old_operator_codes_is_quantized(search: Search) -> None:
    rows = search("ad", "ad_float.tflite", time_s=0.001)
    made = [row for row in rows.values() if row.get("quantized")]
    assert made
    assert all(0 < row["bytes"] < 0.5 * rows["litert-fp32"]["bytes"] for row in made)


@pytest.mark.data
def test_the_same_model_without_mending_is_refused_as_untouched(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flatbuffer, "normalized", lambda content: content)
    _offer_only(monkeypatch, litert_schemes, "litert-int8", "litert-int8-weights", rung=1)
    rows = search("ad", "ad_float.tflite", max_drop=0.5, exhaustive=True)
    for name in ("litert-int8", "litert-int8-weights"):
        assert rows[name]["verdict"] == "refused"
    assert rows["litert-int8-weights"]["reason"].startswith("nothing was quantized")
    assert "cannot prepare" in rows["litert-int8"]["reason"], "half of it was done"


@pytest.mark.data
def test_a_moving_average_that_cuts_off_what_matters_is_refused(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    _offer_only(monkeypatch, litert_schemes, "litert-int8", "litert-int8-ma", rung=1)
    rows = search("ad", "ad_float.tflite", max_drop=1.0, exhaustive=True)
    assert rows["litert-int8-ma"]["verdict"] == "refused"
    assert rows["litert-int8-ma"]["reason"].startswith("loses ")
    assert rows["litert-int8-ma"]["significant"]
    assert rows["litert-int8"]["verdict"] in {"accepted", "chosen"}


def _larger_float(source: Path, target: Path, *_: object) -> str:
    """What NNCF's accuracy control gave back after minutes: the float model, and more of it."""
    model = onnx.load(str(source))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((99, 99), np.float32), "unused"))
    onnx.save(model, str(target))
    return ""


def _fused(source: Path, target: Path, *_: object) -> str:
    """What is left for MatMulNBits after quant_pre_process: each MatMul has become a Gemm."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(str(source), str(target), skip_symbolic_shape=True)
    return ""


def _fused_before_blocks(source: Path, target: Path, *_: object) -> str:
    """MatMulNBits after it."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    fused = target.with_name("fused.onnx")
    _fused(source, fused)
    quantizer = MatMulNBitsQuantizer(onnx.load(str(fused)), block_size=32, is_symmetric=True)
    quantizer.process()
    quantizer.model.save_model_to_file(str(target), False)
    return ""


@pytest.mark.data
@pytest.mark.filterwarnings("ignore")  # of the tool that is shown
@pytest.mark.parametrize(
    ("make", "needs"),
    [(_larger_float, "onnx"), (_fused, "onnx"), (_fused_before_blocks, "onnx_ir")],
    ids=["larger", "fused", "blocks"],
)
def test_a_tool_that_returns_a_float_model_is_refused(
    search: Search, monkeypatch: pytest.MonkeyPatch, make: Make, needs: str
) -> None:
    pytest.importorskip(needs)
    scheme = Scheme("onnx-plain-tool", "onnx", "int8", "a tool as it comes", make)
    monkeypatch.setattr(onnx_schemes, "schemes", lambda _path: [scheme])
    rows = search("ad", "ad.onnx", max_drop=0.5, exhaustive=True)  # made however slow it seems
    assert rows["onnx-plain-tool"]["verdict"] == "refused"
    assert rows["onnx-plain-tool"]["reason"].startswith("nothing was quantized")
    assert not rows["document"]["chosen"]["precision"].startswith("int")


def test_nothing_hangs_on_a_tool_that_has_no_code_for_onnx_any_more() -> None:
    """neural-compressor 3 installs, imports, and has nothing for ONNX."""
    root = Path(package.__path__[0])
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            named += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith("neural_compressor") for name in named), path
