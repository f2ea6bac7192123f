"""The agent's configuration: `sync.toml`.

device = "press-4"
groups = ["canary"]

[broker]
host = "mqtt.plant.example"
username = "press-4"
password_file = "/etc/edgeinfer/mqtt.password"
"""

import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from edgeinfer.runtime.config import Section, load_config
from edgeinfer.runtime.errors import ConfigError
from edgeinfer.runtime.logs import LogFormat
from edgeinfer.sync.blob_upload import BlobsConfig
from edgeinfer.sync.broker import BrokerConfig
from edgeinfer.sync.budget import NetworkConfig, check_networks
from edgeinfer.sync.homeassistant import HomeAssistantConfig
from edgeinfer.sync.messages import is_name
from edgeinfer.sync.session import UploadConfig
from edgeinfer.sync.sinks.settings import MqttSinkConfig, SinkConfig
from edgeinfer.sync.transfer import DownloadConfig

__all__ = ["CommandTrust", "SyncConfig", "load_sync_config"]

PositiveS = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
_HEX_KEY = re.compile(r"[0-9a-fA-F]{64}")


class CommandTrust(Section, frozen=True, kw_only=True):
    """`console_keys` may sign commands to this device: public keys in hex, or paths of `.pub` files. Without any, every
    command is refused. What a key may have installed is not said here but in the daemon's own `[trust]`."""

    console_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key in self.console_keys:
            if not (key.endswith(".pub") or _HEX_KEY.fullmatch(key)):
                raise ValueError(f"console_keys: expected 64 hex digits or the path of a .pub file, found {key[:80]!r}")


class SyncConfig(Section, frozen=True, kw_only=True):
    """What the agent needs to know. `device` is the name that the daemon's configuration gives too. `state_dir` is
    where only the agent writes, `runtime_dir` the daemon's `state_dir`. `log_format` is as in the daemon's file.

    `telemetry_interval_s` is how often the device says how it fares, `report_interval_s` how often the retained report
    follows the counts, which change with every result."""

    device: str
    tenant: str = "default"
    groups: tuple[str, ...] = ()
    # Where sync.db lies; only the agent writes there.
    state_dir: str = "/var/lib/edgeinfer-sync"
    # The daemon's state_dir: buffer.db and runtime.db are read, models/incoming is written.
    runtime_dir: str = "/var/lib/edgeinfer"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: LogFormat = "auto"
    broker: BrokerConfig = BrokerConfig()
    upload: UploadConfig = UploadConfig()
    sink: SinkConfig = MqttSinkConfig()
    download: DownloadConfig = DownloadConfig()
    network: tuple[NetworkConfig, ...] = ()
    blobs: BlobsConfig = BlobsConfig()
    trust: CommandTrust = CommandTrust()
    homeassistant: HomeAssistantConfig = HomeAssistantConfig()
    telemetry_interval_s: PositiveS = 5.0
    # Counts change with every result; the retained report follows them at this pace.
    report_interval_s: PositiveS = 10.0

    def __post_init__(self) -> None:
        for what, name in (("device", self.device), ("tenant", self.tenant), *(("groups", g) for g in self.groups)):
            if not is_name(name):
                raise ValueError(f"{what} must be of letters, digits and _.- and at most 64 long, found {name!r}")
        if not self.broker.host and isinstance(self.sink, MqttSinkConfig):
            raise ValueError("broker: expected a host; without a broker results need a [sink] of another kind")
        check_networks(self.network)
        if self.homeassistant.enabled and "." in self.device:
            raise ValueError(f"homeassistant: expected a device without a dot in its name, found {self.device!r}")


def load_sync_config(path: Path) -> SyncConfig:
    """Raises ConfigError."""
    config = load_config(path, SyncConfig)
    if Path(config.state_dir).resolve() == Path(config.runtime_dir).resolve():
        raise ConfigError(
            f"{path}: state_dir and runtime_dir are the same folder: {config.state_dir}",
            hint="the agent and the daemon each write to a folder of their own",
        )
    return config
