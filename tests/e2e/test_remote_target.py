"""Candidates are timed on a device that a real ssh reaches, by a real sshd."""

import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from brokers import free_port
from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.targets.address import SSH_VARIABLE
from edgeinfer.quantize.targets.choose import open_target
from edgeinfer.quantize.targets.remote import SshTarget
from edgeinfer.runtime.errors import DependencyError, RemoteError
from packages import linear_model
from ssh_server import SshServer
from waiting import wait_until

TIME = """
import sys
from pathlib import Path
import numpy as np
from edgeinfer.cli import _guarded
from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.targets.remote import SshTarget
model = Candidate("onnx-fp32", "onnx", "fp32", Path(sys.argv[2]), quantized=False)
target, sample = SshTarget(sys.argv[1], seconds=600), np.ones((1, 8), np.float32)
sys.exit(_guarded(lambda: target.time([model], sample=sample, reference="onnx-fp32")))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with SshServer(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The edgeinfer that this very interpreter runs."""
    path = tmp_path / "edgeinfer there"
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m edgeinfer "$@"\n')
    path.chmod(0o755)
    return path


def test_a_device_is_asked_and_times_candidates(
    server: SshServer, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SSH_VARIABLE, server.client)
    target = open_target(f"ssh://127.0.0.1:{server.port}{program}")
    assert "onnx" in target.engines
    models = [
        Candidate(name, "onnx", precision, linear_model(tmp_path / f"{name}.onnx", seed=seed), quantized=seed > 0)
        for seed, (name, precision) in enumerate((("onnx-fp32", "fp32"), ("onnx-u8", "int8")))
    ]
    sample = np.ones((1, 8), np.float32)
    found = target.time(models, sample=sample, reference="onnx-fp32", rough=True)
    assert [found[model.id].error for model in models] == ["", ""]
    assert found["onnx-fp32"].ratio == 1.0
    assert found["onnx-u8"].ratio_low <= found["onnx-u8"].ratio <= found["onnx-u8"].ratio_high
    assert [left for left in server.temporary.iterdir() if left.is_dir()] == []


def test_an_interrupt_ends_it_over_there_too(
    server: SshServer, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the ten minutes that it would take, few seconds have passed."""
    monkeypatch.setenv(SSH_VARIABLE, server.client)
    command = [sys.executable, "-c", TIME, f"ssh://127.0.0.1:{server.port}{program}", str(tmp_path / "m.onnx")]
    linear_model(tmp_path / "m.onnx")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        try:
            wait_until(lambda: any(server.temporary.glob("edgeinfer-bench-*/*")), what="the bench over there")
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=240)
        finally:
            process.kill()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    wait_until(lambda: list(server.temporary.iterdir()) == [], what="the end over there")


def test_a_key_that_is_refused(server: SshServer, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SSH_VARIABLE, server.stranger)
    with pytest.raises(RemoteError, match=r"cannot be reached over ssh: .*Permission denied") as caught:
        SshTarget(f"ssh://127.0.0.1:{server.port}{program}")
    assert "this has to work without a question: ssh " in caught.value.hint


def test_a_device_that_is_not_there(server: SshServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SSH_VARIABLE, server.client)
    with pytest.raises(RemoteError, match="Connection refused"):
        SshTarget(f"ssh://127.0.0.1:{free_port()}")


def test_a_device_without_edgeinfer(server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SSH_VARIABLE, server.client)
    with pytest.raises(DependencyError, match="there is no /"):
        SshTarget(f"ssh://127.0.0.1:{server.port}{tmp_path}/nothing")
