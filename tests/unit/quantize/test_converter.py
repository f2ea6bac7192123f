"""ONNX to TFLite by onnx2tf: with the true command where there is one, and with programs that fail in its place."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.quantize.converter import convert_onnx
from edgeinfer.runtime.engines import load_engine
from edgeinfer.runtime.errors import ModelError, UsageError
from tflite_models import small_net
from waiting import wait_until

_STAND_IN = """#!{python}
import pathlib, subprocess, sys, time
if "--version" in sys.argv:
    print({version!r})
    sys.exit(0)
folder = pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
kept = "-kat" in sys.argv
{body}
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> "StandIn":
    return StandIn(tmp_path)


class StandIn:
    """Writes a program that takes onnx2tf's arguments and does as it is told."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, body: str, *, version: str = "2.6.9") -> Path:
        path = self._folder / "onnx2tf"
        path.write_text(_STAND_IN.format(python=sys.executable, version=version, body=body))
        path.chmod(0o755)
        return path


@pytest.fixture
def model(data_dir: Path) -> Path:
    return data_dir / "tiny" / "kws.onnx"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


WRITES = f'(folder / "kws_float32.tflite").write_bytes(bytes.fromhex("{small_net().hex()}") + bytes(kept))'


def real_converter() -> Path:
    found = os.environ.get("EDGEINFER_ONNX2TF") or shutil.which("onnx2tf")
    if not found:
        pytest.skip("no onnx2tf on the PATH and none named by EDGEINFER_ONNX2TF: pip install onnx2tf, of Python 3.12")
    return Path(found)


@pytest.mark.data
@pytest.mark.parametrize("task", ["ad", "ic", "kws"])
def test_the_true_command_gives_the_same_outputs(data_dir: Path, out: Path, task: str) -> None:
    path = data_dir / "tiny" / f"{task}.onnx"
    made = convert_onnx(path, out, converter=real_converter())
    assert made is not None
    assert all(conversion.version.startswith("2.") for conversion in made)
    kept = [conversion for conversion in made if conversion.kept_layout]
    assert len(kept) == 1
    onnx, converted = load_engine("onnx", path), load_engine("litert", kept[0].path)
    assert converted.inputs[0].shape[1:] == onnx.inputs[0].shape[1:]
    x = np.random.default_rng(0).uniform(0, 3, (1, *onnx.inputs[0].shape[1:])).astype(np.float32)
    np.testing.assert_allclose(converted.run([x])[0], onnx.run([x])[0], rtol=1e-4, atol=1e-4)
    for engine in (onnx, converted):
        engine.close()


@pytest.mark.data
def test_both_conversions_are_given(model: Path, out: Path, stand_in: StandIn) -> None:
    made = convert_onnx(model, out, converter=stand_in(WRITES))
    assert made is not None
    assert [(conversion.kept_layout, conversion.version) for conversion in made] == [(False, "2.6.9"), (True, "2.6.9")]
    assert {path.name for path in out.iterdir()} == {"kws-converted.tflite", "kws-kept.tflite"}
    assert made[0].path.read_bytes() == small_net()


@pytest.mark.data
def test_two_that_are_the_same_are_one(model: Path, out: Path, stand_in: StandIn) -> None:
    made = convert_onnx(model, out, converter=stand_in(WRITES.replace(" + bytes(kept)", "")))
    assert made is not None
    assert [conversion.kept_layout for conversion in made] == [True]
    assert list(out.iterdir()) == [made[0].path]


@pytest.mark.data
def test_the_inputs_names_are_handed_on(model: Path, out: Path, stand_in: StandIn) -> None:
    checks = 'assert not kept or sys.argv[sys.argv.index("-kat") + 1 :] == ["input_1"], sys.argv\n'
    made = convert_onnx(model, out, converter=stand_in(checks + WRITES))
    assert made is not None
    assert len(made) == 2


@pytest.mark.data
def test_one_that_fails_leaves_the_other(model: Path, out: Path, stand_in: StandIn) -> None:
    made = convert_onnx(model, out, converter=stand_in("if kept: sys.exit(1)\n" + WRITES))
    assert made is not None
    assert [conversion.kept_layout for conversion in made] == [False]


@pytest.mark.data
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('print("\\x1b[31mERROR: op Foo\\x1b[0m"); sys.exit(1)', r"failed with status 1: ERROR: op Foo$"),
        ("sys.exit(3)", r"failed with status 3: it printed nothing$"),
        ('print("all is well")', r"wrote no float32 TFLite file: all is well$"),
        ('(folder / "kws_float32.tflite").touch()', r"wrote no float32 TFLite file"),
        ('print("x" * 10_000_000); print("the end"); sys.exit(1)', r"failed with status 1: x{300} \| the end$"),
    ],
)
def test_failures_say_what_was_printed_last(model: Path, out: Path, stand_in: StandIn, body: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        convert_onnx(model, out, converter=stand_in(body))
    assert not list(out.iterdir())


@pytest.mark.data
def test_what_hangs_ends_with_all_that_it_started(model: Path, out: Path, stand_in: StandIn, tmp_path: Path) -> None:
    note = tmp_path / "child"
    body = (
        f'child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])\n'
        f'pathlib.Path("{note}").write_text(str(child.pid))\n'
        "time.sleep(600)"
    )
    with pytest.raises(ModelError, match="did not end within 2 s"):
        convert_onnx(model, out, converter=stand_in(body), timeout_s=2.0)
    if note.exists():  # a slow machine may not have come so far
        wait_until(lambda: _has_ended(int(note.read_text())))


def _has_ended(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    return "State:\tZ" in status


@pytest.mark.parametrize("version", ["1.28.8", "no number"])
def test_another_version_is_refused(out: Path, stand_in: StandIn, tmp_path: Path, version: str) -> None:
    with pytest.raises(ModelError, match=r"expected onnx2tf 2\.x, found (1\.28\.8|no version)"):
        convert_onnx(tmp_path / "any.onnx", out, converter=stand_in("", version=version))


def test_none_is_none(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert convert_onnx(tmp_path / "any.onnx", out) is None
    with pytest.raises(UsageError, match="found no such executable file"):
        convert_onnx(tmp_path / "any.onnx", out, converter=tmp_path / "absent")


def test_it_is_found_on_the_path(out: Path, stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in("")
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "no.onnx").write_bytes(b"\xff" * 32)
    with pytest.raises(ModelError, match="is no ONNX model"):
        convert_onnx(tmp_path / "no.onnx", out)


def test_what_cannot_be_started_is_said(out: Path, tmp_path: Path) -> None:
    broken = tmp_path / "onnx2tf"
    broken.write_bytes(b"\x7fELF")
    broken.chmod(0o755)
    with pytest.raises(ModelError, match="cannot be started"):
        convert_onnx(tmp_path / "any.onnx", out, converter=broken)
