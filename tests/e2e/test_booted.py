"""The three services as packaged, under a real systemd: installed as packaging/README.md says, on a bare Debian."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeinfer.quantize.commands import create_package
from edgeinfer.runtime.trust import SigningKey
from machine import Machine, debian
from waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGING = REPOSITORY / "packaging"
EXAMPLES = REPOSITORY / "quantize" / "edgeinfer" / "quantize" / "examples"
EDGEINFER = "/opt/edgeinfer/bin/edgeinfer"
DAEMON, AGENT, CONSOLE = "edgeinfer.service", "edgeinfer-sync.service", "edgeinfer-console.service"
CONFIG = "/etc/edgeinfer/edgeinfer.toml"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Debian with edgeinfer installed and enabled, freshly booted."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the wheels are for the Python of Debian 12, 3.11")
    folder = tmp_path_factory.mktemp("machine")
    root = folder / "root"
    try:
        debian(root)
        made = Machine(root)
        with made:  # where this fails, nothing can be said of the services
            made.run("systemctl", "is-active", "dbus")
        install(root)
        with made:
            give_keys(made)
            yield made
    finally:
        shutil.rmtree(root, ignore_errors=True)


def install(root: Path) -> None:
    """What packaging/README.md tells, with pip from outside, since the machine has no network."""
    home = root / "opt" / "edgeinfer"
    site = home / "lib" / "python3.11" / "site-packages"
    inside(root, "python3", "-m", "venv", "--without-pip", "/opt/edgeinfer")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-build-isolation"]
    wanted = f"{REPOSITORY}[litert,onnx,camera,console]"
    subprocess.run([*pip, "--target", site, "-c", PACKAGING / "constraints.txt", wanted], check=True)
    script = (site / "bin" / "edgeinfer").read_text().splitlines(keepends=True)
    (home / "bin" / "edgeinfer").write_text("".join(["#!/opt/edgeinfer/bin/python3\n", *script[1:]]))
    (home / "bin" / "edgeinfer").chmod(0o755)

    for name in ("sysusers.d", "tmpfiles.d"):
        (root / "etc" / name).mkdir(exist_ok=True)
        shutil.copy(PACKAGING / name / "edgeinfer.conf", root / "etc" / name)
    subprocess.run(["systemd-sysusers", f"--root={root}"], check=True)
    configure(root)
    for unit in (DAEMON, AGENT, CONSOLE):
        shutil.copy(PACKAGING / "systemd" / unit, root / "etc" / "systemd" / "system")
        inside(root, "systemctl", "enable", "--quiet", unit)
    inside(root, "systemctl", "enable", "--quiet", "mosquitto")


def configure(root: Path) -> None:
    """The packaged configuration, with a clip for the camera that is not there, and a broker with passwords."""
    etc = root / "etc" / "edgeinfer"
    etc.mkdir()
    for name in ("edgeinfer", "sync", "console"):
        shutil.copy(PACKAGING / "etc" / f"{name}.toml", etc)
    text = (etc / "edgeinfer.toml").read_text()
    camera = 'kind = "camera"\ndevice = "/dev/video0"'
    keys = "release_keys = []\nconsole_keys = []"
    assert text.count(camera) == text.count(keys) == 1
    text = text.replace(camera, 'kind = "video"\npath = "/etc/edgeinfer/digits.avi"\npaced = true\nrepeat = true')
    text = text.replace(
        keys, 'release_keys = ["/etc/edgeinfer/release.pub"]\nconsole_keys = ["/etc/edgeinfer/console.pub"]'
    )
    (etc / "edgeinfer.toml").write_text(text)
    shutil.copy(EXAMPLES / "digits.avi", etc)

    key = root / "root" / "release.key"
    SigningKey.generate().save(key)
    shutil.copy(key.with_suffix(".pub"), etc)
    digits(etc / "door.edgepkg", "1.0.0", key)
    digits(root / "root" / "digits-2.0.0.edgepkg", "2.0.0", key)

    mosquitto = root / "etc" / "mosquitto"
    shutil.copy(PACKAGING / "mosquitto" / "mosquitto.conf", mosquitto / "conf.d" / "edgeinfer.conf")
    shutil.copy(PACKAGING / "mosquitto" / "acl", mosquitto / "edgeinfer.acl")
    (mosquitto / "edgeinfer.passwd").touch()
    inside(root, "chown", "mosquitto", "/etc/mosquitto/edgeinfer.passwd", "/etc/mosquitto/edgeinfer.acl")
    for name, file, user in (
        ("press-4", "mqtt.password", "edgeinfer-sync"),
        ("edgeinfer-console", "mqtt-console.password", "edgeinfer-console"),
    ):
        inside(root, "mosquitto_passwd", "-b", "/etc/mosquitto/edgeinfer.passwd", name, f"secret of {name}")
        (etc / file).write_text(f"secret of {name}")
        (etc / file).chmod(0o600)
        inside(root, "chown", user, f"/etc/edgeinfer/{file}")


def digits(path: Path, version: str, key: Path) -> None:
    create_package(
        [EXAMPLES / f"digits-{version.removesuffix('.0')}.onnx"],
        task="classification",
        name="digits",
        version=version,
        output=path,
        labels=EXAMPLES / "digits-labels.txt",
        preprocess="kind=image,std=255",
        sign_key=key,
    )
    path.chmod(0o644)


def give_keys(machine: Machine) -> None:
    """The daemon, which systemd starts again and again until then, gets the public key that the console has made."""
    made = machine.root / "var" / "lib" / "edgeinfer-console" / "keys" / "console.pub"
    wait_until(made.exists, what="the console's key")
    shutil.copy(made, machine.root / "etc" / "edgeinfer" / "console.pub")
    machine.run("chmod", "644", "/etc/edgeinfer/console.pub")


def inside(root: Path, *command: str) -> None:
    subprocess.run(["chroot", str(root), *command], check=True, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})


def audit(machine: Machine) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(machine.run(EDGEINFER, "audit", "--json", "--config", CONFIG))
    return found


def is_up(machine: Machine, *units: str) -> bool:
    return all(machine.attempt("systemctl", "is-active", unit).stdout.strip() == "active" for unit in units)


def test_the_three_services_start_and_deliver(machine: Machine) -> None:
    wait_until(lambda: is_up(machine, DAEMON, AGENT, CONSOLE), what="the services")
    wait_until(lambda: audit(machine)["acknowledged"] > 0, what="an acknowledged result")
    found = machine.run(EDGEINFER, "doctor", "--config", CONFIG, "--sync-config", "/etc/edgeinfer/sync.toml")
    assert "BAD" not in found
    assert "1 pipeline\n" in found
    for unit, event in (
        (DAEMON, "started"),
        (AGENT, "broker_connected"),
        (CONSOLE, "broker_connected"),
    ):  # in the journal's own form
        assert machine.run("journalctl", "--quiet", "--no-pager", "--boot", "--unit", unit, f"EDGEINFER_EVENT={event}")
    assert machine.show(DAEMON, "StatusText") == "1 pipeline"
    assert "Traceback" not in machine.run("journalctl", "--no-pager", "--boot")


@pytest.mark.parametrize(
    ("unit", "closed", "open_to"),
    [
        (DAEMON, ("/etc", "/usr", "/var/lib/edgeinfer-sync"), ("/var/lib/edgeinfer",)),
        (
            AGENT,
            ("/etc", "/usr", "/var/lib/edgeinfer"),
            ("/var/lib/edgeinfer-sync", "/var/lib/edgeinfer/models/incoming"),
        ),
        (CONSOLE, ("/etc", "/usr", "/var/lib/edgeinfer"), ("/var/lib/edgeinfer-console",)),
    ],
)
def test_a_service_writes_only_what_is_its_own(
    machine: Machine, unit: str, closed: tuple[str, ...], open_to: tuple[str, ...]
) -> None:
    wait_until(lambda: is_up(machine, unit), what=unit)
    pid = machine.show(unit, "MainPID")
    for folder in closed:
        refused = machine.attempt("nsenter", "-t", pid, "--mount", "touch", f"{folder}/x")
        assert "Read-only file system" in refused.stderr
    for folder in open_to:
        machine.run("nsenter", "-t", pid, "--mount", "touch", f"{folder}/x")
        machine.run("rm", f"{folder}/x")
    status = dict(line.split(":\t", 1) for line in machine.run("cat", f"/proc/{pid}/status").splitlines())
    assert (status["CapEff"].strip("0"), status["NoNewPrivs"], status["Seccomp"]) == ("", "1", "2")
    assert "0" not in status["Uid"].split()


def test_an_update_passes_through_the_sandboxes(machine: Machine) -> None:
    wait_until(lambda: is_up(machine, DAEMON, AGENT, CONSOLE), what="the services")
    told = machine.run(EDGEINFER, "deploy", "/root/digits-2.0.0.edgepkg", "--to", "device:press-4", "--wait")
    assert "COMMITTED" in told
    models = machine.run(EDGEINFER, "models", "list", "--config", CONFIG)
    assert [line.split()[1] for line in models.splitlines() if " active" in line] == ["2.0.0"]


@pytest.mark.parametrize(("signal", "result"), [("KILL", "signal"), ("STOP", "watchdog")])
def test_services_that_die_or_hang_are_back(machine: Machine, signal: str, result: str) -> None:
    """Killed outright, or stopped until systemd's watchdog, which is the unit's own, notices."""
    units = (DAEMON, AGENT, CONSOLE)
    wait_until(lambda: is_up(machine, *units), what="the services")
    before = {unit: machine.show(unit, "MainPID") for unit in units}
    machine.run("systemctl", "kill", f"--signal={signal}", "--kill-whom=main", *units)
    for unit, pid in before.items():
        wait_until(lambda unit=unit, pid=pid: machine.show(unit, "MainPID") not in (pid, "0"), what="another process")  # type: ignore[misc]  # bound at once
        said = machine.run("journalctl", "--no-pager", "--boot", "--unit", unit)
        assert f"Failed with result '{result}'" in said
    wait_until(lambda: is_up(machine, *units), what="the services")
    found = audit(machine)
    assert (found["gaps"], found["made"]) == ([], found["durable"])


def test_after_a_power_cut_all_is_as_before(machine: Machine) -> None:
    wait_until(lambda: is_up(machine, DAEMON, AGENT, CONSOLE), what="the services")
    before = audit(machine)
    machine.cut_power()
    machine.boot()
    wait_until(lambda: is_up(machine, DAEMON, AGENT, CONSOLE), what="the services")
    wait_until(lambda: audit(machine)["acknowledged"] > before["durable"], what="what was made since")
    after = audit(machine)
    assert (after["epoch"], after["gaps"]) == (before["epoch"], [])
    assert "2.0.0" in machine.run(EDGEINFER, "models", "list", "--config", CONFIG)
    machine.run(EDGEINFER, "console", "audit", "press-4")


def test_the_services_end_when_asked(machine: Machine) -> None:
    wait_until(lambda: is_up(machine, DAEMON, AGENT, CONSOLE), what="the services")
    machine.run("systemctl", "stop", DAEMON, AGENT, CONSOLE)
    for unit in (DAEMON, AGENT, CONSOLE):
        assert (machine.show(unit, "Result"), machine.show(unit, "ExecMainStatus")) == ("success", "0")
    found = audit(machine)
    assert (found["gaps"], found["made"]) == ([], found["durable"])
