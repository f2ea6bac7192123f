"""`deploy` and `fleet` print what the console says; the console itself is tested elsewhere."""

from pathlib import Path
from typing import Any

import pytest

from edgeinfer.cli import main
from edgeinfer.console import commands

DEVICE = {"id": "dev-1", "online": True, "groups": ["canary"], "models": {"digits": {"version": "2.0.0"}}, "backlog": 7}
ENTRY = {"device": "dev-1", "state": "COMMITTED", "outcome": "succeeded", "reason": ""}
ROLLOUT = {"id": 3, "package": "digits 2.0.0", "to": "all", "state": "FINISHED", "deployments": [ENTRY]}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The console's answers, and what it was asked."""
    seen: list[dict[str, Any]] = []
    for name, answer in (("deploy", ROLLOUT), ("fleet_devices", [DEVICE]), ("fleet_rollouts", [ROLLOUT])):

        def asked(*arguments: object, answer: object = answer, **keywords: object) -> object:
            seen.append({"arguments": arguments, **keywords})
            return answer

        monkeypatch.setattr(commands, name, asked)
    return seen


def test_devices(calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet", "devices"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["dev-1", "online", "canary", "digits", "2.0.0", "7"]
    assert calls == [{"arguments": (), "console_url": "http://127.0.0.1:8080", "token": None}]


@pytest.mark.usefixtures("calls")
def test_rollouts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet", "rollouts"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["3", "digits", "2.0.0", "FINISHED", "dev-1", "COMMITTED"]


def test_deploy_hands_on_the_token_of_a_file(
    calls: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package, token = tmp_path / "x.edgepkg", tmp_path / "token"
    package.write_bytes(b"x")
    token.write_text("secret\n")
    arguments = ["deploy", str(package), "--to", "all", "--console", "http://c:1", "--token-file", str(token), "--json"]
    assert main(arguments) == 0
    assert '"state": "FINISHED"' in capsys.readouterr().out
    assert (calls[0]["console_url"], calls[0]["token"]) == ("http://c:1", "secret")


def test_a_failed_device_is_status_1_when_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = {**ROLLOUT, "deployments": [{**ENTRY, "state": "FAILED", "outcome": "failed", "reason": "golden vectors"}]}
    monkeypatch.setattr(commands, "deploy", lambda *_, **__: failed)
    package = tmp_path / "x.edgepkg"
    package.write_bytes(b"x")
    assert main(["deploy", str(package), "--to", "all", "--wait"]) == 1
    assert "golden vectors" in capsys.readouterr().out
    assert main(["deploy", str(package), "--to", "all"]) == 0


@pytest.mark.parametrize("arguments", [["deploy", "x.edgepkg"], ["deploy", "absent.edgepkg", "--to", "all"]])
def test_wrong_calls(arguments: list[str]) -> None:
    assert main(arguments) == 2
