"""What `[sink]` of `sync.toml` may say: where results go. Control, updates and commands stay with the broker.

[sink]
kind = "http"
url = "https://console.plant.example/api/v1/ingest/press-4"
token_file = "/etc/edgeinfer/console.token"
"""

from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from edgeinfer.runtime.config import Section

__all__ = ["HttpSinkConfig", "KafkaSinkConfig", "MqttSinkConfig", "SinkConfig"]

PositiveS = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
_MAX_URL = 2000
_MAX_TOPIC = 249  # Kafka's own limit


class MqttSinkConfig(Section, frozen=True, kw_only=True, tag_field="kind", tag="mqtt"):
    """Results go to the broker of `[broker]`, and the console acknowledges them there."""


class _Batches(Section, frozen=True, kw_only=True):
    """What the sinks with answers of their own have in common."""

    # Enough for thousands of results; small enough to be sent again on a bad line without regret.
    batch_bytes: Annotated[int, msgspec.Meta(ge=1, le=4 << 20)] = 1 << 20
    # A batch, from the first byte to the whole answer.
    timeout_s: PositiveS = 30.0
    # Waits after a failure are random and grow up to this: fleets must not knock together.
    retry_max_s: PositiveS = 60.0
    # After a refusal (a wrong token, a wrong address): only a person can mend it, and then it should be noticed.
    refused_wait_s: PositiveS = 300.0


class HttpSinkConfig(_Batches, frozen=True, kw_only=True, tag_field="kind", tag="http"):
    """A POST for each batch. The token is read from its file for each request, so it can be changed at any time.

    `receiver`: `console` (only its list of acknowledgements counts) or `webhook` (any status 2xx means that all of
    the batch is stored: a captive portal or a proxy that answers so in its place loses results).
    """

    url: str
    receiver: Literal["console", "webhook"] = "console"
    token_file: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""

    def __post_init__(self) -> None:
        _check_tls(self.tls_cert, self.tls_key)
        parts = urlsplit(self.url)
        if parts.username or parts.password:
            raise ValueError("url: expected no user or password in it: put the secret into token_file")
        if parts.scheme not in {"http", "https"} or not parts.hostname or len(self.url) > _MAX_URL:
            raise ValueError(f"url: expected http://HOST/PATH or https://HOST/PATH, found {self.url[:100]!r}")
        if not self.url.isascii() or any(character <= " " for character in self.url):
            raise ValueError("url: expected printable ASCII (percent-encode the rest)")
        _ = parts.port  # raises ValueError for one that is none


class KafkaSinkConfig(_Batches, frozen=True, kw_only=True, tag_field="kind", tag="kafka"):
    """A topic of Apache Kafka or of what speaks its protocol. `brokers`: `host:port`, of some of the cluster.

    With `username`, SASL with `mechanism` and the password in `password_file`; with `tls` or `tls_ca`, TLS.
    """

    brokers: tuple[str, ...]
    topic: str
    tls: bool = False
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    username: str = ""
    password_file: str = ""
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"

    def __post_init__(self) -> None:
        _check_tls(self.tls_cert, self.tls_key)
        if not self.brokers or not all(":" in broker and "," not in broker for broker in self.brokers):
            raise ValueError(f"brokers: expected at least one HOST:PORT, found {list(self.brokers)}")
        allowed = all(character.isalnum() or character in "._-" for character in self.topic)
        if not (self.topic.isascii() and allowed and 0 < len(self.topic) <= _MAX_TOPIC):
            raise ValueError(f"topic: expected letters, digits and ._- (at most {_MAX_TOPIC}), found {self.topic!r}")
        if bool(self.username) != bool(self.password_file):
            raise ValueError("expected username and password_file together, or none of them")


SinkConfig = MqttSinkConfig | HttpSinkConfig | KafkaSinkConfig


def _check_tls(certificate: str, key: str) -> None:
    if bool(certificate) != bool(key):
        raise ValueError("expected tls_cert and tls_key together, or none of them")
