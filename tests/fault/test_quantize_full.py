"""Quantizing on disks that are full: where candidates are made, and where the package is written."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from small_disks import small_disk

pytestmark = [pytest.mark.data, pytest.mark.timeout(1200)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", mebibytes=1):
        yield tmp_path / "disk"


@pytest.fixture
def samples(data_dir: Path, tmp_path: Path) -> Path:
    with np.load(data_dir / "tiny" / "kws_samples.npz") as archive:
        x, y = archive["x"][:60].astype(np.float32), archive["y"][:60]
    np.savez(tmp_path / "kws.npz", x=(x - 83) * np.float32(0.5847029089927673), y=y)
    return tmp_path / "kws.npz"


def quantized(
    model: Path, samples: Path, output: Path, *more: str, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """In a process of its own: where temporary files go is settled once a process."""
    command = [sys.executable, "-m", "edgeinfer", "quantize", str(model), "--data", str(samples)]
    command += ["--task", "classification", "--name", "kws", "--version", "1.0.0", "-o", str(output)]
    command += ["--max-drop", "100", "--json", *more]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)


def test_no_room_for_candidates(data_dir: Path, samples: Path, disk: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.edgepkg"
    (disk / "others").write_bytes(bytes(800 << 10))
    done = quantized(data_dir / "tiny" / "kws.onnx", samples, output, TMPDIR=str(disk))
    assert done.returncode == 1, done.stderr
    assert "unexpected" not in done.stderr
    assert "no room to write onnx-" in done.stderr
    assert "TMPDIR" in done.stderr
    assert not output.exists()
    assert list(disk.glob("edgeinfer*")) == [], "nothing is left behind"


def test_no_room_for_the_package(data_dir: Path, samples: Path, disk: Path) -> None:
    (disk / "others").write_bytes(bytes(1000 << 10))
    done = quantized(data_dir / "tiny" / "kws.onnx", samples, disk / "out.edgepkg", "--time-budget", "1s")
    assert done.returncode == 1, done.stderr
    assert "unexpected" not in done.stderr
    assert "out.edgepkg: cannot be written: No space left on device" in done.stderr
    assert [path.name for path in disk.iterdir()] == ["others"]
