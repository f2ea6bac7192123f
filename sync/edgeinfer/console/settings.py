"""The console's configuration: `console.toml` as frozen values.

tenant = "default"
data_dir = "/var/lib/edgeinfer-console"

[broker]
host = "127.0.0.1"

[web]
port = 8080
"""

import ipaddress
from pathlib import Path
from typing import Annotated

import msgspec

from edgeinfer.runtime.config import Section, load_config
from edgeinfer.runtime.errors import ConfigError
from edgeinfer.sync.messages import is_name
from edgeinfer.sync.mqtt import BrokerConfig

__all__ = [
    "ConsoleConfig",
    "ConsoleTrust",
    "LimitsConfig",
    "WebConfig",
    "is_loopback",
    "load_console_config",
    "read_token",
]

_MIN_TOKEN_CHARACTERS = 16


class WebConfig(Section, frozen=True, kw_only=True):
    """The page and the REST API.

    `token_file` holds one line, the secret that whoever changes something has to present; without one only
    this machine may connect. `token_for_reading` asks for it to look at the page, too. `allowed_hosts` are
    names under which the page is reached beside the address that it listens on (a proxy's name).
    """

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8080
    token_file: str = ""
    token_for_reading: bool = False
    allowed_hosts: tuple[str, ...] = ()
    # Larger than any model that fits the devices this is for; uploads go to disk, not to memory.
    max_package_bytes: Annotated[int, msgspec.Meta(ge=1)] = 512 << 20


class ConsoleTrust(Section, frozen=True, kw_only=True):
    """`release_keys`: public keys (hex, or paths of `.pub` files) of those who may release packages. Empty: any
    sound package is taken into the registry; devices check the signatures anyway."""

    release_keys: tuple[str, ...] = ()


class LimitsConfig(Section, frozen=True, kw_only=True):
    """What strangers on the broker can make the console remember."""

    max_devices: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    # A device starts an epoch when its buffer is lost; a handful in a lifetime. Of more, the oldest that is settled
    # is kept as a sum only.
    max_epochs: Annotated[int, msgspec.Meta(ge=1)] = 64
    # Ranges held beyond a gap; an honest agent has fewer than its window.
    max_ranges: Annotated[int, msgspec.Meta(ge=1)] = 1000
    max_pipelines: Annotated[int, msgspec.Meta(ge=1)] = 256
    # Pictures and windows that devices send: one, all of a device, all together. Of more, the oldest go.
    max_blob_bytes: Annotated[int, msgspec.Meta(ge=0)] = 32 << 20
    max_device_blob_bytes: Annotated[int, msgspec.Meta(ge=0)] = 512 << 20
    max_all_blob_bytes: Annotated[int, msgspec.Meta(ge=0)] = 16 << 30


class ConsoleConfig(Section, frozen=True, kw_only=True):
    """All of `console.toml`. Raises ConfigError for values that cannot work together."""

    tenant: str = "default"
    data_dir: str = "/var/lib/edgeinfer-console"
    broker: BrokerConfig = BrokerConfig()
    web: WebConfig = WebConfig()
    trust: ConsoleTrust = ConsoleTrust()
    limits: LimitsConfig = LimitsConfig()

    def __post_init__(self) -> None:
        if not is_name(self.tenant):
            raise ConfigError(
                f"tenant: expected a name of letters, digits and _.- (at most 64), found {self.tenant[:80]!r}"
            )
        limits = self.limits
        if not limits.max_blob_bytes <= limits.max_device_blob_bytes <= limits.max_all_blob_bytes:
            raise ConfigError(
                "limits: expected max_blob_bytes <= max_device_blob_bytes <= max_all_blob_bytes, found"
                f" {limits.max_blob_bytes}, {limits.max_device_blob_bytes}, {limits.max_all_blob_bytes}"
            )
        if not is_loopback(self.web.host) and not self.web.token_file:
            raise ConfigError(
                f"web.host = {self.web.host!r} lets other machines in, but no web.token_file guards the console",
                hint="set web.token_file, or listen on 127.0.0.1 and put a proxy in front",
            )

    @property
    def folder(self) -> Path:
        return Path(self.data_dir)


def load_console_config(path: Path) -> ConsoleConfig:
    """Read `path`; relative paths in it are taken from its folder. Raises ConfigError."""
    config = load_config(path, ConsoleConfig)
    here = path.resolve().parent
    web = msgspec.structs.replace(config.web, token_file=_from(here, config.web.token_file))
    keys = tuple(_from(here, key) if key.endswith(".pub") else key for key in config.trust.release_keys)
    return msgspec.structs.replace(
        config, data_dir=_from(here, config.data_dir), web=web, trust=ConsoleTrust(release_keys=keys)
    )


def read_token(web: WebConfig) -> str | None:
    """The secret in `web.token_file`; None where none is configured. Raises ConfigError: missing, too short."""
    if not web.token_file:
        return None
    try:
        token = Path(web.token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"web.token_file: {web.token_file}: cannot be read: {reason}") from error
    if len(token) < _MIN_TOKEN_CHARACTERS:
        raise ConfigError(
            f"web.token_file: expected at least {_MIN_TOKEN_CHARACTERS} characters, found {len(token)}",
            hint="make one: openssl rand -hex 24",
        )
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to a service that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _from(folder: Path, path: str) -> str:
    return str(folder / path) if path else ""
