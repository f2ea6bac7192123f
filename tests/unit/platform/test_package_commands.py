"""`edgeinfer package ...` and `edgeinfer bench` on a package of two canary models."""

import json
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest

from edgeinfer.cli import main
from edgeinfer.cli.shared import TaskName
from edgeinfer.devices import doctor
from edgeinfer.quantize.commands import create_package
from edgeinfer.runtime.manifest import Task

CANARY = Path(doctor.__file__).parent / "canary"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("package") / "canary.edgepkg"
    models = [CANARY / "canary.tflite", CANARY / "canary.onnx"]
    create_package(models, task="classification", name="canary", version="1.0.0", output=path)
    return path


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_tasks_are_those_of_the_manifest() -> None:
    assert {task.value for task in TaskName} == set(get_args(Task))


def test_inspect(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["package", "inspect", str(package)]) == 0
    assert capsys.readouterr().out.startswith("canary 1.0.0, classification\n")
    assert main(["package", "inspect", str(package), "--json"]) == 0
    found = document(capsys)
    assert (found["name"], found["signatures"], len(found["digest"])) == ("canary", [], 64)
    assert len(found["variants"]) == 2


def test_verify_whole_damaged_and_cut(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = package.read_bytes()
    assert main(["package", "verify", str(package), "--json"]) == 0
    assert document(capsys)["ok"] is True
    changed, cut = tmp_path / "changed.edgepkg", tmp_path / "cut.edgepkg"
    position = raw.index(b"edgeinfer canary")
    changed.write_bytes(raw[:position] + b"E" + raw[position + 1 :])
    cut.write_bytes(raw[: len(raw) // 2])
    for broken in (changed, cut):
        assert main(["package", "verify", str(broken)]) == 3
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith(f"edgeinfer: error: {broken}: ")
        assert main(["package", "verify", str(broken), "--json"]) == 3
        found = document(capsys)
        assert found["ok"] is False
        assert str(broken) in found["reason"]


def test_sign_and_verify(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key, stranger = tmp_path / "release.key", tmp_path / "stranger.key"
    assert main(["package", "keygen", str(key)]) == 0
    assert main(["package", "keygen", str(stranger)]) == 0
    assert key.stat().st_mode & 0o777 == 0o600
    signed = tmp_path / "signed.edgepkg"
    shutil.copy(package, signed)
    assert main(["package", "verify", str(signed), "--key", str(key.with_suffix(".pub"))]) == 3
    assert main(["package", "sign", str(signed), "--key", str(key)]) == 0
    capsys.readouterr()
    assert main(["package", "verify", str(signed), "--key", str(key.with_suffix(".pub")), "--json"]) == 0
    assert document(capsys)["signed_by"]
    assert main(["package", "verify", str(signed), "--key", str(stranger.with_suffix(".pub"))]) == 3
    assert "none of the 1 trusted keys" in capsys.readouterr().err


def test_bench(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(package), "--seconds", "0.1", "--json"]) == 0
    rows = {row["engine"]: row for row in document(capsys)["variants"]}
    assert rows.keys() == {"litert", "onnx"}
    for row in rows.values():
        assert row["error"] == ""
        assert {"variant", "p50_us", "p99_us", "cpu_us", "rss_bytes", "ratio"} <= row.keys()
        assert 0 < row["p50_us"] <= row["p99_us"]
        assert row["rss_bytes"] > 1 << 20
    assert rows["onnx"]["ratio"] == 1.0


def test_bench_refuses_no_time(package: Path) -> None:
    assert main(["bench", str(package), "--seconds", "0"]) == 2
    assert main(["bench", str(package), "--seconds", "nan"]) == 2


def test_probe_and_doctor(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["probe", "--json"]) == 0
    assert document(capsys)["cores"] > 0
    config = tmp_path / "edgeinfer.toml"
    config.write_text('devise = "dev-1"\n')
    assert main(["doctor", "--config", str(config), "--json"]) == 1
    findings = {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert findings["engine onnx"]["ok"]
    assert findings["engine litert"]["ok"]
    assert findings["configuration edgeinfer.toml"]["mend"] == "did you mean 'device'?"


def test_doctor_looks_at_both_services(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    daemon, agent = tmp_path / "edgeinfer.toml", tmp_path / "sync.toml"
    daemon.write_text(
        f'device = "dev-1"\nstate_dir = "{tmp_path}/state"\n'
        f'[[pipeline]]\nname = "door"\npackage = "{tmp_path}/absent"\nsource = {{kind = "host"}}\n'
    )
    agent.write_text(
        f'device = "dev-1"\nstate_dir = "{tmp_path}/absent"\nruntime_dir = "{tmp_path}/state"\n[broker]\nport = 1\n'
    )
    assert main(["doctor", "--config", str(daemon), "--sync-config", str(agent), "--json"]) == 1
    findings = {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert findings["configuration edgeinfer.toml"]["ok"]
    assert findings["configuration sync.toml"]["ok"]
    assert findings["state directory"]["ok"]
    bad = {check for check, finding in findings.items() if not finding["ok"]} - {"state directory: free space"}
    assert bad == {"packages", "agent's state directory", "broker"}
    assert all(findings[check]["mend"] for check in bad)


def test_doctor_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    assert "ok   engine onnx: " in capsys.readouterr().out
    assert main(["probe"]) == 0
    assert "\ncores " in capsys.readouterr().out
