"""OpenVINO: what is its own. What it shares with the other engines is tried with them (tests/contract)."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.runtime.engines import available_engines, load_engine
from edgeinfer.runtime.errors import DependencyError, ModelError
from packages import linear_model

needs_openvino = pytest.mark.skipif("openvino" not in available_engines(), reason="OpenVINO is not installed")


def test_without_it_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert "openvino" not in available_engines()
    with pytest.raises(DependencyError) as caught:
        load_engine("openvino", linear_model(tmp_path / "m.onnx"))
    assert "edgeinfer[openvino]" in caught.value.hint


@needs_openvino
def test_it_says_what_onnx_runtime_says(tmp_path: Path) -> None:
    path = linear_model(tmp_path / "m.onnx", features=8)
    first, other = load_engine("onnx", path), load_engine("openvino", path)
    assert other.inputs == first.inputs
    assert other.outputs == first.outputs
    x = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    assert np.allclose(first.run([x])[0], other.run([x])[0], atol=1e-6)


@needs_openvino
def test_arrays_that_are_read_only_or_in_another_order_are_taken(tmp_path: Path) -> None:
    engine = load_engine("openvino", linear_model(tmp_path / "m.onnx", features=8))
    x = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    (expected,) = engine.run([x])
    frozen = x.copy()
    frozen.flags.writeable = False
    for same in (frozen, np.asfortranarray(x), np.concatenate([x, x], axis=1)[:, :8]):
        assert np.array_equal(engine.run([same])[0], expected)


@needs_openvino
@pytest.mark.parametrize("content", [b"<?xml version='1.0'?><net name='n' version='11'></net>", b"TFL3" * 100])
def test_files_of_other_formats_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match="OpenVINO cannot load it"):
        load_engine("openvino", tmp_path / "m.onnx")


_FORBID = "import ctypes; assert ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) == 0; "  # PR_SET_MDWE, of Linux 6.3
_MAY = "from edgeinfer.runtime.engines.openvino import may_compile; import sys; sys.exit(may_compile())"


def test_where_written_memory_may_not_run_it_is_no_engine(tmp_path: Path) -> None:
    """As in the daemon's unit. A package's next variant is taken there."""
    if _exit_status(_FORBID) != 0:
        pytest.skip("the kernel is older than 6.3")
    assert _exit_status(_FORBID + _MAY) == 0
    if "openvino" not in available_engines():
        return
    path = linear_model(tmp_path / "m.onnx")
    code = (
        "from pathlib import Path; from edgeinfer.runtime.engines import available_engines, load_engine; "
        "from edgeinfer.runtime.errors import ModelError\n"
        "assert 'openvino' not in available_engines()\n"
        f"try: load_engine('openvino', Path({str(path)!r}))\n"
        "except ModelError as error: assert 'MemoryDenyWriteExecute' in error.hint\n"
        "else: raise AssertionError\n"
    )
    assert _exit_status(_FORBID + code) == 0


def _exit_status(code: str) -> int:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", code], env=environment, check=False, timeout=240).returncode


@needs_openvino
def test_its_telemetry_is_not_even_imported(tmp_path: Path) -> None:
    """Left to itself it writes into the home directory when it is imported, and calls home, but not in CI."""
    path = linear_model(tmp_path / "m.onnx")
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "import sys; from pathlib import Path; from edgeinfer.runtime.engines import load_engine; "
        f"load_engine('openvino', Path({str(path)!r})); "
        "sys.exit(any(m and n.startswith('openvino_telemetry') for n, m in sys.modules.items()))"
    )
    spoken_of = {"CI", "TF_BUILD", "JENKINS_URL"}
    environment = {name: value for name, value in os.environ.items() if name not in spoken_of}
    environment |= {"HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=240)
    assert not list(home.iterdir())
