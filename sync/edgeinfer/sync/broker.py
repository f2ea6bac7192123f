"""Which brokers there are, in which order, and how to get in.

[broker]
host = "mqtt.plant.example"
tls = true
token_file = "/etc/edgeinfer/device.token"
fallbacks = ["mqtt2.plant.example", "10.0.0.7:8884"]

What a fallback does not say is as in [broker]; one that differs in more than its address is a table:

[[broker.fallbacks]]
host = "cloud.example"
port = 8883
username = "press-4"
password_file = "/etc/edgeinfer/cloud.password"
"""

from typing import Annotated, Literal

import msgspec

from edgeinfer.runtime.config import Section

__all__ = ["BrokerConfig", "FallbackBroker"]

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Protocol = Literal[4, 5]
PositiveS = Annotated[float, msgspec.Meta(gt=0)]

_MQTT_5 = 5
_MAX_PORT = 65535


class FallbackBroker(Section, frozen=True, kw_only=True):
    """A broker to go to while those before it cannot be reached; each key that is not given is as in `[broker]`."""

    host: str
    port: Port | None = None
    protocol: Protocol | None = None
    username: str | None = None
    password_file: str | None = None
    token_file: str | None = None
    tls: bool | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None


class BrokerConfig(Section, frozen=True, kw_only=True):
    """Where the broker is and how to get in. `protocol` is 5 (MQTT 5) or 4 (MQTT 3.1.1).

    Credentials are a client certificate (`tls_cert`, `tls_key`), a user with a password, or a device's token (a JWT,
    or what else the broker takes): a token is sent as the password, under `username` or else under the device's name.
    Passwords and tokens are read from their files at each connect, so that they can be changed while the service
    runs, and stay out of the configuration and of every `repr`.

    `tls` encrypts and checks the broker's certificate against the authorities of the system, or against `tls_ca`;
    `tls_ca` and `tls_cert` switch it on too. `fallbacks` are tried in order while the brokers before them cannot be
    reached: `host`, `host:port`, or a table.
    """

    host: str = "127.0.0.1"
    port: Port = 1883
    protocol: Protocol = 5
    username: str = ""
    password_file: str = ""
    token_file: str = ""
    tls: bool = False
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    # Half a minute keeps most NAT tables warm and finds a dead peer within one.
    keepalive_s: Annotated[int, msgspec.Meta(ge=5, le=65535)] = 30
    # A fleet that comes back together must not come back at once: waits are random and grow up to this, and up to
    # ten times this where trying again soon cannot help (wrong credentials, another client of the same name).
    reconnect_max_s: PositiveS = 30.0
    fallbacks: tuple[str | FallbackBroker, ...] = ()
    # How long a fallback is stayed with before the first broker is looked for again.
    return_after_s: PositiveS = 900.0

    def __post_init__(self) -> None:
        if self.password_file and self.token_file:
            raise ValueError("expected password_file or token_file, found both")
        if self.password_file and not self.username and self.protocol != _MQTT_5:
            raise ValueError("expected a username beside password_file: MQTT 3.1.1 sends no password without one")
        if self.tls_key and not self.tls_cert:
            raise ValueError("expected tls_cert beside tls_key")
        _ = self.in_order  # refuses a fallback that cannot be

    @property
    def in_order(self) -> tuple["BrokerConfig", ...]:
        """This broker, then its fallbacks, each complete."""
        alone = msgspec.structs.replace(self, fallbacks=()) if self.fallbacks else self
        return (alone, *(_fallback(alone, one) for one in self.fallbacks))

    @property
    def encrypted(self) -> bool:
        return self.tls or bool(self.tls_ca or self.tls_cert)

    @property
    def address(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def _fallback(first: BrokerConfig, fallback: str | FallbackBroker) -> BrokerConfig:
    """Raises ValueError for an address that is none."""
    if isinstance(fallback, str):
        host, port = _address(fallback)
        return msgspec.structs.replace(first, host=host, port=port or first.port)
    said = {name: value for name, value in msgspec.structs.asdict(fallback).items() if value is not None}
    if fallback.password_file and fallback.token_file is None:
        said["token_file"] = ""
    if fallback.token_file and fallback.password_file is None:
        said["password_file"] = ""
    return msgspec.structs.replace(first, **said)


def _address(text: str) -> tuple[str, int]:
    """`host`, `host:port`, `[v6]:port` or a bare v6 address; port 0 where none is given."""
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        host, port = text, ""
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) <= _MAX_PORT):
        raise ValueError(f"expected host or host:port in fallbacks, found {text!r}")
    host = host.removeprefix("[").removesuffix("]")
    if not host or any(character.isspace() for character in host):
        raise ValueError(f"expected host or host:port in fallbacks, found {text!r}")
    return host, int(port or 0)
