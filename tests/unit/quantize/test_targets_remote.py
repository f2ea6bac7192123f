"""A device over ssh, with a program in place of ssh that runs the command here: addresses, answers and mishaps."""

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.devices.probe import probe
from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.feeding import Feeding
from edgeinfer.quantize.targets.address import SSH_VARIABLE, Address, parse_address
from edgeinfer.quantize.targets.bundle import write_bundle
from edgeinfer.quantize.targets.choose import open_target
from edgeinfer.quantize.targets.remote import SshTarget
from edgeinfer.quantize.targets.shell import run_limited
from edgeinfer.runtime.errors import DependencyError, ModelError, RemoteError, UsageError
from edgeinfer.runtime.manifest import Constant, StateTensor
from edgeinfer.runtime.package import PackageFile
from packages import linear_model

SAMPLE = np.linspace(0.0, 1.0, 8, dtype=np.float32)[None]
EDGEINFER = f"{shlex.quote(sys.executable)} -m edgeinfer"


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Makes a device of a shell script that is its edgeinfer; gives its address."""
    ssh = tmp_path / "my ssh"
    ssh.write_text('#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv(SSH_VARIABLE, shlex.join([str(ssh), "-F", "/dev/null"]))

    def make(script: str) -> str:
        program = tmp_path / "it's edgeinfer"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return f"ssh://host{program}"

    return make


def candidates(folder: Path) -> list[Candidate]:
    return [
        Candidate("onnx-fp32", "onnx", "fp32", linear_model(folder / "a.onnx"), quantized=False),
        Candidate("onnx-u8", "onnx", "int8", linear_model(folder / "b.onnx", seed=1), quantized=True),
    ]


def answering(document: object) -> str:
    """A device that answers `bench` with this."""
    return f"if [ $1 = probe ]; then {EDGEINFER} probe --json; else cat <<'EOF'\n{json.dumps(document)}\nEOF\nfi"


@pytest.mark.parametrize(
    ("spec", "address"),
    [
        ("ssh://kitchen", Address("kitchen")),
        ("ssh://Kitchen.lan/", Address("Kitchen.lan")),
        ("ssh://pi@10.0.0.7:2222", Address("10.0.0.7", "pi", 2222)),
        ("ssh://[fe80::1]:22/opt/e/edgeinfer", Address("fe80::1", "", 22, "/opt/e/edgeinfer")),
    ],
)
def test_addresses(spec: str, address: Address) -> None:
    assert parse_address(spec) == address


@pytest.mark.parametrize(
    "spec",
    [
        "ssh://",
        "ssh:///path",
        "http://host",
        "host",
        "ssh://-oProxyCommand=x",
        "ssh://-l@host",
        "ssh://@host",
        "ssh://pi:secret@host",
        "ssh://host:0x1",
        "ssh://host:99999",
        "ssh://a;b",
        "ssh://a b",
        "ssh://$(reboot)",
        "ssh://host?x=1",
        "ssh://host#x",
        "ssh://[::1",
        "ssh://host/a\x07b",
    ],
)
def test_what_is_no_address(spec: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(spec)
    assert "secret" not in str(caught.value)


@given(st.text(max_size=40))
def test_no_address_becomes_an_option(text: str) -> None:
    try:
        address = parse_address(f"ssh://{text}")
    except UsageError:
        return
    *_, dashes, host, command = address.command("true")
    assert (dashes, host[:1] != "-", command) == ("--", True, "sh -c true")


def test_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SSH_VARIABLE, raising=False)
    command = Address("h", "u", 7).command("echo 'a b'; x")
    assert command[0] == "ssh"
    assert command[-6:-3] == ["7", "-l", "u"]
    assert "BatchMode=yes" in command
    assert shlex.split(command[-1]) == ["sh", "-c", "echo 'a b'; x"]
    monkeypatch.setenv(SSH_VARIABLE, "my-ssh -F 'a file'")
    assert Address("h").command("x")[:3] == ["my-ssh", "-F", "a file"]


def test_candidates_are_timed_there(device: Callable[[str], str], tmp_path: Path) -> None:
    spec = device(f'echo "Welcome, it is late"; exec {EDGEINFER} "$@"')
    with pytest.raises(RemoteError, match="expected the JSON"):
        SshTarget(spec)  # what edgeinfer itself says must be a document
    target = SshTarget(device(f'exec {EDGEINFER} "$@"'), seconds=0.05)
    assert target.engines == tuple(probe().engines)
    assert target.machine
    assert (target.name, target.measured, target.repeats) == (spec, True, False)
    found = target.time(candidates(tmp_path), sample=SAMPLE, reference="onnx-fp32", rough=True)
    assert found["onnx-fp32"].ratio == found["onnx-fp32"].ratio_low == found["onnx-fp32"].ratio_high == 1.0
    other = found["onnx-u8"]
    assert 0 < other.ratio_low <= other.ratio <= other.ratio_high
    assert other.latency_us > 0
    assert other.rss_bytes
    turned = target.time(candidates(tmp_path), sample=SAMPLE, reference="onnx-u8")
    assert turned["onnx-u8"].ratio == 1.0
    target.close()


def test_a_greeting_of_the_login_shell_is_skipped(
    device: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = device(f'exec {EDGEINFER} "$@"')
    ssh = tmp_path / "greeting"
    ssh.write_text('#!/bin/sh\necho "{} Welcome"\nfor last; do :; done\nexec sh -c "$last"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv(SSH_VARIABLE, str(ssh))
    assert SshTarget(spec).profile.cores == probe().cores


def test_an_engine_that_fails_there(device: Callable[[str], str], tmp_path: Path) -> None:
    models = candidates(tmp_path)
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    broken = Candidate("onnx-broken", "onnx", "int8", tmp_path / "broken.onnx", quantized=True)
    target = SshTarget(device(f'exec {EDGEINFER} "$@"'), seconds=0.05)
    found = target.time([models[0], broken], sample=SAMPLE, reference="onnx-fp32")
    assert "cannot load it" in found["onnx-broken"].error
    assert not found["onnx-fp32"].error
    with pytest.raises(ModelError, match=r"onnx-broken cannot be run there: .*cannot load it"):
        target.time([models[0], broken], sample=SAMPLE, reference="onnx-broken")


@pytest.mark.parametrize("document", [[], {"variants": []}, {"package": "x", "variants": [{"variant": "a"}]}])
def test_an_edgeinfer_that_is_too_old(device: Callable[[str], str], tmp_path: Path, document: object) -> None:
    target = SshTarget(device(answering(document)))
    with pytest.raises(RemoteError, match="bench`, found: status 0") as caught:
        target.time(candidates(tmp_path), sample=SAMPLE, reference="onnx-fp32")
    assert "--version" in caught.value.hint


@pytest.mark.parametrize(
    ("script", "error", "said"),
    [
        ("echo hello", RemoteError, r"expected the JSON of .* probe`, found: status 0"),
        ("echo no such option >&2; exit 2", RemoteError, "found: no such option"),
        ("exit 127", DependencyError, "there is no /"),
        ("echo Permission denied >&2; exit 255", RemoteError, "cannot be reached over ssh: Permission denied"),
        ("exit 255", RemoteError, "cannot be reached over ssh: it gave no reason"),
        ("cat /dev/zero", RemoteError, "an answer of at most 8388608 bytes, found more"),
    ],
)
def test_mishaps(device: Callable[[str], str], script: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        SshTarget(device(script))


def test_no_ssh_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(SSH_VARIABLE, str(tmp_path / "ssh"))
    with pytest.raises(DependencyError, match="cannot be started"):
        SshTarget("ssh://host")


def test_a_command_that_hangs_is_ended() -> None:
    with pytest.raises(RemoteError, match="no answer in 0 s"):
        run_limited([sys.executable, "-c", "import signal; signal.pause()"], deadline_s=0.2, max_bytes=10)


def test_a_command_and_its_input(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"x" * 100_000)
    done = run_limited(["sh", "-c", "wc -c; echo late >&2; exit 3"], stdin=tmp_path / "in", deadline_s=30, max_bytes=99)
    assert (done.status, done.output.strip(), done.last_error) == (3, b"100000", "late")


def test_a_bundle_of_a_model_with_states(tmp_path: Path) -> None:
    feeding = Feeding((StateTensor("before", "now"),), (Constant("factor", 2.0),))
    model = linear_model(tmp_path / "m.onnx")
    write_bundle(
        tmp_path / "b.edgepkg", [Candidate("a", "onnx", "int8", model, quantized=True, feeding=feeding)], SAMPLE
    )
    with PackageFile(tmp_path / "b.edgepkg") as package:
        package.verify_files()
        (variant,) = package.manifest.variants
    assert (variant.states, variant.constants, variant.file) == (feeding.states, feeding.constants, "a.onnx")
    with pytest.raises(UsageError, match="cannot be packed"):
        write_bundle(tmp_path / "c.edgepkg", [Candidate("$(reboot)", "onnx", "int8", model, quantized=True)], SAMPLE)


def test_targets_by_name() -> None:
    assert open_target("local").name == "local"
    assert open_target("local", threads=2).machine
    assert open_target("rpi4").measured is False
    for unknown in ("devices:7", "rpi99", ""):
        with pytest.raises(UsageError) as caught:
            open_target(unknown)
        assert "rpi4" in caught.value.hint


def test_what_a_command_leaves_behind_is_not_waited_for() -> None:
    """As ssh does with ControlPersist: the connection stays in the background, with the pipes that it was given."""
    done = run_limited(["sh", "-c", "sleep 60 & echo $!"], deadline_s=50, max_bytes=99)
    os.kill(int(done.output), signal.SIGKILL)
    assert done.status == 0
