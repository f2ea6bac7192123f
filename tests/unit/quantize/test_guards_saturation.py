"""Saturation of u8 x s8 sums: found by running, and by arithmetic on CPUs that do not saturate."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.quantize.guards.pairs import pair_sums, saturating_layers, saturation_findings, unfolded, worst_pairs
from edgeinfer.quantize.guards.saturation import Saturation, compare_outputs, compare_runs, judge
from tiny_tasks import Calibrating, quantize_u8s8, run_onnx, tiny_rows

_QEMU = shutil.which("qemu-x86_64")


def _cpu_flags() -> str:
    info = Path("/proc/cpuinfo")
    return next((line for line in info.read_text().splitlines() if line.startswith("flags")), "")


@pytest.fixture(scope="module")
def kws(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """kws as U8S8 per channel; the key says whether with reduce_range."""
    folder = tmp_path_factory.mktemp("kws")
    rows = tiny_rows(data_dir, "kws")[:40]
    for reduced in (False, True):
        quantize_u8s8(data_dir / "tiny/kws.onnx", folder / f"{reduced}.onnx", rows, reduce_range=reduced)
    return {reduced: folder / f"{reduced}.onnx" for reduced in (False, True)}


@pytest.mark.data
def test_arithmetic_flags_full_range_and_not_reduced_range(kws: dict[bool, Path], data_dir: Path) -> None:
    samples = Calibrating(tiny_rows(data_dir, "kws")[100:120])
    (finding,) = saturation_findings(kws[False], samples)
    assert finding.severity == "refuse"
    assert finding.text.startswith("may saturate on CPUs without VNNI: ")
    assert max(layer.share for layer in saturating_layers(kws[False], samples)) > 0.25
    assert saturating_layers(kws[True], samples) == ()
    assert saturation_findings(kws[True], samples) == ()


@pytest.mark.data
def test_running_flags_what_this_cpu_does(kws: dict[bool, Path], data_dir: Path) -> None:
    """On x86 with AVX2 and without VNNI the full range saturates; anywhere else, and with the reduced range, not."""
    samples = Calibrating(tiny_rows(data_dir, "kws")[100:130])
    flags = _cpu_flags()
    saturates = "avx2" in flags and "vnni" not in flags
    assert (compare_runs(kws[False], samples)[1] is not None) == saturates
    found, finding = compare_runs(kws[True], samples)
    assert finding is None
    assert found.argmax_changes == 0


_EMULATED = """
import sys
from pathlib import Path
from tiny_tasks import Calibrating, tiny_rows
from edgeinfer.quantize.guards.saturation import compare_runs
samples = Calibrating(tiny_rows(Path(sys.argv[1]), "kws")[100:108])
for path in sys.argv[2:]:
    finding = compare_runs(Path(path), samples)[1]
    print("saturates" if finding else "exact")
"""


@pytest.mark.data
@pytest.mark.timeout(1200)
@pytest.mark.skipif(_QEMU is None, reason="qemu-x86_64 is not installed (Debian: qemu-user)")
@pytest.mark.skipif("avx2" not in _cpu_flags(), reason="needs an x86-64 Python to run under another CPU model")
def test_an_avx2_cpu_without_vnni_is_found_out(kws: dict[bool, Path], data_dir: Path) -> None:
    assert _QEMU is not None
    arguments = [_QEMU, "-cpu", "Haswell", sys.executable, "-c", _EMULATED, str(data_dir)]
    done = subprocess.run(
        [*arguments, str(kws[False]), str(kws[True])],
        capture_output=True,
        text=True,
        timeout=1000,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.split() == ["saturates", "exact"], done.stderr[-2000:]


@given(st.integers(0, 1000), st.integers(1, 9), st.integers(1, 4))
def test_no_pair_is_beyond_the_worst_one(seed: int, k: int, out: int) -> None:
    random = np.random.default_rng(seed)
    rows = random.integers(0, 256, (5, k)).astype(np.uint8)
    weights = random.integers(-128, 128, (k, out)).astype(np.int8)
    sums = pair_sums(rows, weights)
    np.testing.assert_array_equal(sums.sum(axis=1), rows.astype(np.int64) @ weights.astype(np.int64))
    assert (np.abs(sums).max(axis=(0, 1)) <= worst_pairs(weights[None])[0]).all()


def test_the_worst_pair_is_reached() -> None:
    weights = np.array([[127, -128], [127, -128], [0, 127]], np.int8)
    np.testing.assert_array_equal(worst_pairs(weights[None]), [[255 * 254, 255 * 256]])
    assert worst_pairs(np.array([[[64], [64]]], np.int8)).max() == 32640  # what reduce_range leaves fits


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 1000),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    pads=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    automatic=st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]),
)
def test_patches_are_those_of_a_convolution(
    seed: int, stride: int, dilation: int, pads: list[int], automatic: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Against ONNX Runtime's own Conv."""
    random = np.random.default_rng(seed)
    x = random.integers(0, 256, (1, 3, 9, 8)).astype(np.float32)
    weights = random.integers(-9, 9, (4, 3, 3, 2)).astype(np.float32)
    padding = {"pads": pads} if automatic == "NOTSET" else {"auto_pad": automatic}
    dilations = [dilation] * 2 if automatic == "NOTSET" else [1, 1]
    node = onnx.helper.make_node(
        "Conv", ["x", "w"], ["y"], strides=[stride] * 2, dilations=dilations, kernel_shape=[3, 2], **padding
    )
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node], "g", [value("x", 1, x.shape)], [value("y", 1, None)], [onnx.numpy_helper.from_array(weights, "w")]
    )
    path = tmp_path_factory.mktemp("conv") / "conv.onnx"
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    rows = unfolded(x, node, (3, 2), zero=0, places=10_000)
    sums = rows @ np.moveaxis(weights, 1, -1).reshape(4, -1).T
    np.testing.assert_array_equal(sums, np.moveaxis(run_onnx(path, x)[0], 0, -1).reshape(-1, 4))


def test_noise_is_let_pass_and_saturation_is_not() -> None:
    """Figures as measured: rounding in another order, and an emulated Haswell."""
    noise = [(0.0147, 0.0012, 0.08, 0), (0.272, 0.0028, 0.117, 0), (1.83, 0.0013, 0.004, 0), (0.067, 0.0067, 0.51, 0)]
    saturated = [(3.63, 0.566, 0.2, 15), (2.14, 0.056, 0.24, 3), (0.46, 0.099, 0.9, 0), (0.79, 0.068, 0.85, 9)]
    assert [judge(Saturation(*figures, 16)) for figures in noise] == [""] * 4
    assert all("saturates on this CPU" in judge(Saturation(*figures, 16)) for figures in saturated)


def test_what_is_not_a_number_differs_beyond_measure() -> None:
    expected = np.arange(12, dtype=np.float32).reshape(4, 3)
    assert compare_outputs([expected], [expected]) == Saturation(0.0, 0.0, 0.0, 0, 4)
    broken = expected.copy()
    broken[2, 0] = np.nan
    assert compare_outputs([broken], [expected]).largest == np.inf
