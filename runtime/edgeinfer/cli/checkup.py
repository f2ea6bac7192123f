"""`edgeinfer doctor`: gathers the findings of every part, in the order in which one would mend them."""

import os
import time
from pathlib import Path

from edgeinfer.devices.doctor import Finding, check_broker, check_device, check_state_dir, check_watchdog
from edgeinfer.devices.probe import probe
from edgeinfer.runtime.config import load_config
from edgeinfer.runtime.selfcheck import check_config, check_engines

__all__ = ["checkup"]

_ETC = Path("/etc/edgeinfer")
_UNITS = tuple(
    Path(folder) / "edgeinfer.service"
    for folder in ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
)


def checkup(config: Path | None, sync_config: Path | None) -> list[Finding]:
    """All findings. Files that were not named are looked at where they usually are, if they are there."""
    findings = [*check_device(probe(), now_s=time.time()), *check_engines()]
    daemon = config or _installed("edgeinfer.toml")
    if daemon is not None:
        findings += _check_daemon(daemon)
    agent = sync_config or _installed("sync.toml")
    if agent is not None:
        findings += _check_agent(agent)
    return findings


def _installed(name: str) -> Path | None:
    return _ETC / name if (_ETC / name).exists() else None


def _check_daemon(path: Path) -> list[Finding]:
    from edgeinfer.runtime.settings import RuntimeConfig

    finding, settings = check_config(path, lambda file: load_config(file, RuntimeConfig))
    if settings is None:
        return [finding]
    missing = [entry.package for entry in settings.pipeline if entry.package and not Path(entry.package).is_file()]
    count = len(settings.pipeline)
    packages = Finding(
        "packages",
        not missing,
        f"{missing[0]}: no such file" if missing else f"{count} pipeline{'s' * (count != 1)}",
        "copy the package there, or correct `package`" if missing else "",
    )
    watchdog = [check_watchdog(_UNITS, os.environ)] if any(unit.exists() for unit in _UNITS) else []
    return [finding, packages, *check_state_dir(Path(settings.state_dir)), *watchdog]


def _check_agent(path: Path) -> list[Finding]:
    from edgeinfer.sync.settings import load_sync_config

    finding, settings = check_config(path, load_sync_config)
    if settings is None:
        return [finding]
    folder = check_state_dir(Path(settings.state_dir), check="agent's state directory")
    broker = [check_broker(settings.broker.host, settings.broker.port)] if settings.broker.host else []
    return [finding, *folder, *broker]
