"""The agent and its link over TLS, against a real mosquitto: who is believed, and who is let in."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from agents import DEVICE, fill, running, sync_config
from brokers import Mosquitto
from certificates import Authority
from edgeinfer.sync.mqtt import BrokerConfig, MqttLink
from fault_proxy import FaultProxy
from tiny_console import TinyConsole
from waiting import wait_until

_CONFIG = """
listener {{port}} 127.0.0.1
cafile {ca}
certfile {certificate}
keyfile {key}
require_certificate {required}
allow_anonymous true
persistence false
log_dest stderr
"""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@contextmanager
def tls_broker(
    folder: Path, authority: Authority, *, require_certificate: bool, address: str = "127.0.0.1"
) -> Iterator[Mosquitto]:
    certificate, key = authority.issue("broker", address=address)
    required = str(require_certificate).lower()
    config = _CONFIG.format(ca=authority.certificate, certificate=certificate, key=key, required=required)
    with Mosquitto(folder, config=config) as started:
        yield started


def refusal(config: BrokerConfig) -> str:
    """Why the link does not get through."""
    link = MqttLink(config, client_id="stranger", will=None, subscriptions=[])
    link.start()
    try:
        wait_until(lambda: bool(link.last_error) or link.connected, what="the refusal")
        assert not link.connected
        return link.last_error
    finally:
        link.stop()


@pytest.mark.parametrize("protocol", [5, 4])
def test_results_are_delivered_to_a_broker_whose_authority_is_trusted(
    tmp_path: Path, authority: Authority, protocol: int
) -> None:
    fill(tmp_path, 500).close()
    with tls_broker(tmp_path, authority, require_certificate=False) as broker:
        config = BrokerConfig(
            port=broker.port,
            protocol=5 if protocol == 5 else 4,
            tls_ca=str(authority.certificate),
            reconnect_max_s=0.3,
        )
        agent = msgspec.structs.replace(sync_config(tmp_path, broker), broker=config)
        with TinyConsole(config, device=DEVICE) as console, running(agent):
            wait_until(lambda: len(console.results) == 500, what="the results")


def test_a_link_of_seconds_is_none_too_slow_for_certificates(tmp_path: Path, authority: Authority) -> None:
    """There and back takes longer than many a limit on a handshake."""
    certificate, key = authority.issue("dev-1")
    with tls_broker(tmp_path, authority, require_certificate=True) as broker, FaultProxy(broker.port) as proxy:
        proxy.up.delay_s = proxy.down.delay_s = 2.6
        config = BrokerConfig(
            port=proxy.port, tls_ca=str(authority.certificate), tls_cert=str(certificate), tls_key=str(key)
        )
        link = MqttLink(config, client_id="dev-1", will=None, subscriptions=[])
        link.start()
        try:
            wait_until(lambda: link.connected, what="the link")
            assert link.publish("t", b"x", qos=1)
            assert link.flush(60.0)
            assert proxy.connections == 1
        finally:
            link.stop()


def test_results_are_delivered_with_a_client_certificate_and_not_without(tmp_path: Path, authority: Authority) -> None:
    fill(tmp_path, 500).close()
    certificate, key = authority.issue("dev-1")
    with tls_broker(tmp_path, authority, require_certificate=True) as broker:
        anonymous = BrokerConfig(port=broker.port, tls_ca=str(authority.certificate), reconnect_max_s=0.3)
        assert refusal(anonymous)
        config = BrokerConfig(
            port=broker.port,
            tls_ca=str(authority.certificate),
            tls_cert=str(certificate),
            tls_key=str(key),
            reconnect_max_s=0.3,
        )
        agent = msgspec.structs.replace(sync_config(tmp_path, broker), broker=config)
        with TinyConsole(config, device=DEVICE) as console, running(agent):
            wait_until(lambda: len(console.results) == 500, what="the results")


def test_a_broker_of_another_authority_or_at_another_address_is_not_believed(
    tmp_path: Path, authority: Authority
) -> None:
    other = Authority(tmp_path, "other")
    with tls_broker(tmp_path, authority, require_certificate=False) as broker:
        assert "certificate verify failed" in refusal(BrokerConfig(port=broker.port, tls_ca=str(other.certificate)))
    with tls_broker(tmp_path, authority, require_certificate=False, address="127.0.0.2") as broker:
        assert "IP address mismatch" in refusal(BrokerConfig(port=broker.port, tls_ca=str(authority.certificate)))


def test_a_certificate_that_is_not_there_is_said(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        assert "tls_ca" in refusal(BrokerConfig(port=broker.port, tls_ca=str(tmp_path / "absent.crt")))
        assert "tls_cert" in refusal(BrokerConfig(port=broker.port, tls_cert=str(tmp_path / "absent.crt")))
