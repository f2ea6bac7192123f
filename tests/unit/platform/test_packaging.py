"""The files under packaging/ say what the code understands."""

import configparser
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from edgeinfer.cli import SERVICES
from edgeinfer.console.settings import load_console_config
from edgeinfer.runtime.config import load_config
from edgeinfer.runtime.settings import RuntimeConfig
from edgeinfer.sync.settings import load_sync_config

PACKAGING = Path(__file__).resolve().parents[3] / "packaging"


def unit(name: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # the documented way to keep the case
    parser.read(PACKAGING / "systemd" / name, encoding="utf-8")
    return parser


def test_example_configuration_can_be_read_and_fits_together() -> None:
    daemon = load_config(PACKAGING / "etc" / "edgeinfer.toml", RuntimeConfig)
    agent = load_sync_config(PACKAGING / "etc" / "sync.toml")
    console = load_console_config(PACKAGING / "etc" / "console.toml")
    assert daemon.device == agent.device == agent.broker.username
    assert (daemon.state_dir, daemon.sync.state_dir) == (agent.runtime_dir, agent.state_dir)
    assert agent.tenant == console.tenant


@pytest.mark.parametrize(
    ("name", "service", "user"),
    [
        ("edgeinfer.service", "run", "edgeinfer"),
        ("edgeinfer-sync.service", "sync", "edgeinfer-sync"),
        ("edgeinfer-console.service", "console", "edgeinfer-console"),
    ],
)
def test_units_start_what_there_is(name: str, service: str, user: str) -> None:
    found = unit(name)["Service"]
    _, command, _, config = found["ExecStart"].split()
    assert (command, found["User"], found["Type"]) == (service, user, "notify")
    assert command in SERVICES
    assert (PACKAGING / "etc" / Path(config).name).is_file()
    assert int(found["WatchdogSec"]) > 0
    assert re.search(rf"^u {user} ", (PACKAGING / "sysusers.d" / "edgeinfer.conf").read_text(), re.MULTILINE)


def test_the_daemon_has_no_network_and_the_agent_no_device() -> None:
    daemon, agent = unit("edgeinfer.service")["Service"], unit("edgeinfer-sync.service")["Service"]
    assert daemon["RestrictAddressFamilies"] == "AF_UNIX"
    assert agent["PrivateDevices"] == "yes"
    assert agent["ReadWritePaths"] == "/var/lib/edgeinfer/models/incoming"


def test_constraints_pin_every_dependency() -> None:
    pinned = {}
    for line in (PACKAGING / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, _, version = line.partition("==")
            assert re.fullmatch(r"[0-9][0-9A-Za-z.+!-]*", version), line
            pinned[_normalized(name)] = version
    project = tomllib.loads((PACKAGING.parent / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    wanted += [entry for extra, entries in extras.items() if extra not in {"all", "tflite"} for entry in entries]
    assert {_normalized(re.split(r"[\[<>=]", entry)[0]) for entry in wanted} - pinned.keys() == set()
    assert not pinned["numpy"].startswith("1.")


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def test_ci_script_is_a_script() -> None:
    script = PACKAGING.parent / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", script], check=True)
