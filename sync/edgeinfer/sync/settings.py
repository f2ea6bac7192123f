"""The agent's configuration: `sync.toml`.

device = "press-4"
groups = ["canary"]

[broker]
host = "mqtt.plant.example"
username = "press-4"
password_file = "/etc/edgeinfer/mqtt.password"
"""

from pathlib import Path
from typing import Annotated

import msgspec

from edgeinfer.runtime.config import Section, load_config
from edgeinfer.runtime.errors import ConfigError
from edgeinfer.sync.connection import BrokerConfig
from edgeinfer.sync.messages import is_name
from edgeinfer.sync.session import UploadConfig
from edgeinfer.sync.transfer import DownloadConfig

__all__ = ["SyncConfig", "load_sync_config"]

PositiveS = Annotated[float, msgspec.Meta(gt=0)]


class SyncConfig(Section, frozen=True, kw_only=True):
    """What the agent needs to know. `device` is the name that the daemon's configuration gives too."""

    device: str
    tenant: str = "default"
    groups: tuple[str, ...] = ()
    # Where sync.db lies; only the agent writes there.
    state_dir: str = "/var/lib/edgeinfer-sync"
    # The daemon's state_dir: buffer.db and runtime.db are read, models/incoming is written.
    runtime_dir: str = "/var/lib/edgeinfer"
    broker: BrokerConfig = BrokerConfig()
    upload: UploadConfig = UploadConfig()
    download: DownloadConfig = DownloadConfig()
    telemetry_interval_s: PositiveS = 5.0
    # Counts change with every result; the retained report follows them at this pace.
    report_interval_s: PositiveS = 10.0

    def __post_init__(self) -> None:
        for what, name in (("device", self.device), ("tenant", self.tenant), *(("groups", g) for g in self.groups)):
            if not is_name(name):
                raise ValueError(f"{what} must be of letters, digits and _.- and at most 64 long, found {name!r}")


def load_sync_config(path: Path) -> SyncConfig:
    """Raises ConfigError."""
    config = load_config(path, SyncConfig)
    if Path(config.state_dir).resolve() == Path(config.runtime_dir).resolve():
        raise ConfigError(
            f"{path}: state_dir and runtime_dir are the same folder: {config.state_dir}",
            hint="the agent and the daemon each write to a folder of their own",
        )
    return config
