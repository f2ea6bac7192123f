"""What the link makes of a broker's reasons, of several brokers, of silent peers; and what it says over the wire."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from brokers import Mosquitto, free_port
from edgeinfer.runtime import tls_socket
from edgeinfer.sync.mqtt import BrokerConfig, Complaint, MqttLink
from link_peers import LET_IN, PahoListener, ScriptedBroker
from waiting import wait_until

RESULTS = "ei/v1/default/d/dev-1/up/res/door"
# CONNACK with a server keep-alive of one second.
BRISK = b"\x20\x06\x00\x00\x03\x13\x00\x01"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as started:
        yield started


@contextmanager
def link(config: BrokerConfig, name: str = "dev-1", *, connect: bool = True, **more: object) -> Iterator[MqttLink]:
    made = MqttLink(config, client_id=name, subscriptions=[], **{"will": None, **more})  # type: ignore[arg-type]  # tests pass what the test is about
    made.start()
    try:
        if connect:
            wait_until(lambda: made.connected, what=f"{name} to connect")
        yield made
    finally:
        made.stop()


# -- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0x80, 0x87, 0x97, 0x99])
def test_a_message_that_is_refused_is_complained_of_and_said_once(code: int, caplog: pytest.LogCaptureFixture) -> None:
    with ScriptedBroker(puback=code) as peer, link(BrokerConfig(port=peer.port)) as one:
        for _ in range(20):
            assert one.publish(RESULTS, b"12345", qos=1)
        assert one.flush(60.0), "a no is an answer too"
        assert one.complaints() == [Complaint(code, RESULTS, 5)] * 20
        assert one.complaints() == []
    assert caplog.text.count("event=publish_refused") == 1


def test_nobody_who_listens_is_no_refusal() -> None:
    with ScriptedBroker(puback=0x10) as peer, link(BrokerConfig(port=peer.port)) as one:
        assert one.publish(RESULTS, b"x", qos=1)
        wait_until(lambda: one.unheard, what="the answer")
        assert one.complaints() == []
        peer.puback = 0
        assert one.publish(RESULTS, b"x", qos=1)
        wait_until(lambda: not one.unheard, what="the answer")


def test_mosquittos_own_refusals_are_understood(tmp_path: Path) -> None:
    """An access list, and a limit that it does not announce."""
    access = tmp_path / "acl"
    access.write_text("topic readwrite t/#\n")
    with Mosquitto(tmp_path, extra=f"acl_file {access}\nmessage_size_limit 1000") as broker:
        with link(BrokerConfig(port=broker.port)) as one:
            assert one.publish("secret/a", b"x", qos=1)
            assert one.flush(60)
            assert [(found.code, found.size) for found in one.complaints()] == [(0x87, 1)]
            # "Packet too large" is no reason of a PUBACK [MQTT-5 3.4.2.1]: the connection ends.
            generation = one.generation
            assert one.publish("t/a", bytes(2000), qos=1)
            wait_until(lambda: one.generation > generation, what="the next connection")
            assert [(found.ended, found.size) for found in one.complaints()] == [(True, 2000)]
        with link(BrokerConfig(port=broker.port, protocol=4)) as older:
            assert older.publish("secret/a", b"x", qos=1)
            assert older.flush(60.0)
            assert older.complaints() == [], "3.1.1 cannot say it"


@pytest.mark.parametrize(("code", "words"), [(0x95, b"\xe0\x02\x95\x00"), (0, b"")])
def test_the_largest_message_on_its_way_is_named_when_a_connection_ends(code: int, words: bytes) -> None:
    with ScriptedBroker(puback=None) as peer, link(BrokerConfig(port=peer.port, reconnect_max_s=0.1)) as one:
        assert one.publish(RESULTS, bytes(50), qos=1)
        assert one.publish(RESULTS, bytes(500), qos=1)
        wait_until(lambda: len(peer.sizes) == 2, what="both")
        peer.last_words = words or b"\xf0\x00"  # which no broker may send
        assert one.publish(RESULTS, bytes(5), qos=1)
        wait_until(lambda: one.generation == 2, what="the next connection")
        assert one.complaints() == [Complaint(code, RESULTS, 500, ended=True)]


# -- ends ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("connack", "protocol", "words"),
    [
        (b"\x20\x03\x00\x86\x00", 5, "bad user name or password (0x86)"),
        (b"\x20\x03\x00\x84\x00", 5, "try protocol = 4"),
        (b"\x20\x02\x00\x01", 5, "try protocol = 4"),
        (b"\x20\x02\x00\x04", 4, "bad user name or password (0x86)"),
        (b"\x20\x02\x00\x05", 4, "not authorized (0x87)"),
        (b"\x20\x0b\x00\x97\x08\x1f\x00\x055 a d", 5, "quota exceeded (0x97): 5 a d"),
        (b"\x20\x05\x00\x00\x02\x24\x00", 5, "no messages of QoS 1"),
    ],
)
def test_why_a_broker_lets_nobody_in_is_said(connack: bytes, protocol: int, words: str) -> None:
    with ScriptedBroker(connack=connack) as peer:
        config = BrokerConfig(port=peer.port, protocol=5 if protocol == 5 else 4, reconnect_max_s=0.1)
        with link(config, connect=False) as one:
            wait_until(lambda: words in one.last_error, what=words)
            peer.connack = LET_IN if protocol == 5 else b"\x20\x02\x00\x00"
            wait_until(lambda: one.connected, what="the change of mind")


def test_wrong_credentials_are_not_tried_every_few_milliseconds() -> None:
    with (
        ScriptedBroker(connack=b"\x20\x03\x00\x86\x00") as refusing,
        ScriptedBroker(connack=b"\x20\x03\x00\x88\x00") as away,
    ):
        with (
            link(BrokerConfig(port=refusing.port, reconnect_max_s=10.0), connect=False),
            link(BrokerConfig(port=away.port, reconnect_max_s=0.1), connect=False),
        ):
            wait_until(lambda: away.connects >= 30, what="many tries of a broker that is busy")
        assert refusing.connects <= 3


def test_another_client_of_this_name_is_named_and_waited_out(caplog: pytest.LogCaptureFixture) -> None:
    with (
        ScriptedBroker(last_words=b"\xe0\x02\x8e\x00") as peer,
        link(BrokerConfig(port=peer.port, reconnect_max_s=10.0)) as one,
    ):
        assert one.publish(RESULTS, b"x", qos=1)
        wait_until(lambda: "another client has connected" in one.last_error, what="the loss")
        assert peer.connects == 1, "the first wait is some seconds long"
    assert "is a second agent running?" in caplog.text


def test_two_clients_of_one_name_are_never_connected_together(broker: Mosquitto) -> None:
    """mosquitto only hangs up."""
    config = BrokerConfig(port=broker.port, reconnect_max_s=0.5)
    with link(config, "twin") as one, link(config, "twin", connect=False) as other:
        wait_until(lambda: min(one.generation, other.generation) >= 2, what="both to have been back")
        wait_until(lambda: "another client has this name" in one.last_error, what="the reason")


# -- several brokers ----------------------------------------------------------------------------------------------


def test_a_broker_that_cannot_be_reached_hands_on_to_the_next(broker: Mosquitto) -> None:
    config = BrokerConfig(port=free_port(), fallbacks=(f"127.0.0.1:{free_port()}", f"127.0.0.1:{broker.port}"))
    with link(config) as one:
        assert one.address == f"127.0.0.1:{broker.port}"
        assert one.local_address == "127.0.0.1"


@pytest.mark.parametrize("code", [0x9C, 0x9D])
def test_a_broker_that_has_moved_hands_on_to_the_next(broker: Mosquitto, code: int) -> None:
    with ScriptedBroker(connack=bytes((0x20, 3, 0, code, 0))) as moved:
        config = BrokerConfig(port=moved.port, fallbacks=(f"127.0.0.1:{broker.port}",))
        with link(config) as one:
            assert one.address == f"127.0.0.1:{broker.port}"
            assert moved.connects == 1


def test_the_first_broker_is_returned_to_without_a_last_will(tmp_path: Path, broker: Mosquitto) -> None:
    config = BrokerConfig(
        port=free_port(),
        fallbacks=(f"127.0.0.1:{broker.port}",),
        return_after_s=0.5,
        reconnect_max_s=0.2,
        keepalive_s=5,
    )
    with (
        PahoListener(broker.port) as listener,
        link(config, will=("w/dev-1", b"gone")) as one,
        Mosquitto(tmp_path, port=config.port) as first,
    ):
        assert one.address == f"127.0.0.1:{broker.port}"
        wait_until(lambda: one.connected and one.address == f"127.0.0.1:{first.port}", what="the return")
        one.publish("t/a", b"home", qos=1)
        assert one.flush(60.0)
        with link(BrokerConfig(port=broker.port), "witness") as witness:
            assert witness.publish("t/b", b"after", qos=1)
            wait_until(lambda: ("t/b", b"after") in listener.heard, what="the witness")
        assert listener.heard == [("t/b", b"after")]


# -- silence ------------------------------------------------------------------------------------------------------


def test_a_peer_that_falls_silent_is_found_within_two_keepalives() -> None:
    with ScriptedBroker(connack=BRISK, deaf=True) as peer, link(BrokerConfig(port=peer.port), connect=True) as one:
        wait_until(lambda: "half-open" in one.last_error, what="the end")


def test_a_peer_that_answers_pings_and_confirms_nothing_is_left() -> None:
    with ScriptedBroker(connack=BRISK, puback=None) as peer, link(BrokerConfig(port=peer.port)) as one:
        assert one.publish(RESULTS, b"x", qos=1)
        wait_until(lambda: "confirmed nothing" in one.last_error, what="the end")


def test_a_peer_that_is_only_quiet_is_stayed_with() -> None:
    patient = BRISK[:-1] + b"\x04"  # a pause of this machine is not to look like silence
    with ScriptedBroker(connack=patient) as peer, link(BrokerConfig(port=peer.port)) as one:
        wait_until(lambda: peer.pings >= 2, what="the second keep-alive")
        assert (one.generation, one.connected, peer.connects) == (1, True, 1)


def test_a_hung_broker_is_found(broker: Mosquitto) -> None:
    with link(BrokerConfig(port=broker.port, keepalive_s=5)) as one:
        broker.pause()
        wait_until(lambda: not one.connected, what="the loss")
        broker.resume()
        wait_until(lambda: one.connected, what="the return")


def test_a_peer_that_never_ends_the_tls_handshake_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_socket, "_HANDSHAKE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        config = BrokerConfig(port=server.getsockname()[1], tls=True, reconnect_max_s=0.1)
        with link(config, connect=False) as one:
            peer, _ = server.accept()
            with peer:
                wait_until(lambda: "no TLS handshake in time" in one.last_error, what="the end")


# -- what goes over the wire --------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [5, 4])
def test_topics_are_the_same_to_everybody_with_aliases_and_after_reconnects(broker: Mosquitto, protocol: int) -> None:
    """Fifteen topics, ten aliases: mosquitto takes that many."""
    config = BrokerConfig(port=broker.port, protocol=5 if protocol == 5 else 4, reconnect_max_s=0.2)
    with link(config) as one:
        for _ in range(3):
            with PahoListener(broker.port, protocol=protocol) as listener:
                wait_until(lambda: one.connected, what="the link")
                sent = [(f"t/{number % 15}", str(number).encode()) for number in range(100)]
                assert all(one.publish(topic, payload, qos=1, alias=True) for topic, payload in sent)
                wait_until(lambda listener=listener: len(listener.heard) == 100, what="all")  # type: ignore[misc]  # a default is bound to the loop's value
                assert listener.heard == sent
            broker.kill()
            broker.start()


def test_an_alias_stands_for_its_topic_from_the_second_message_on() -> None:
    limits = b"\x20\x06\x00\x00\x03\x22\x00\x02"  # two aliases
    with ScriptedBroker(connack=limits) as peer, link(BrokerConfig(port=peer.port, reconnect_max_s=0.1)) as one:
        for name in ("a", "b", "c", "a", "b", "c"):
            assert one.publish(name, b"x", qos=1, alias=True)
        assert one.flush(60.0)
        assert peer.topics == ["a", "b", "c", "", "", "c"]
        peer.last_words = b"\xe0\x00"
        assert one.publish("a", b"x", qos=1, alias=True)
        wait_until(lambda: one.generation == 2 and one.connected, what="the next connection")
        peer.topics.clear()
        assert one.publish("a", b"x", qos=1, alias=True)
        assert one.flush(60.0)
        assert peer.topics == ["a"], "a new connection knows no numbers"


def test_a_broker_that_takes_no_aliases_gets_none() -> None:
    with ScriptedBroker() as peer, link(BrokerConfig(port=peer.port)) as one:
        for _ in range(3):
            assert one.publish("a", b"x", qos=1, alias=True)
        assert one.flush(60.0)
        assert peer.topics == ["a", "a", "a"]


@pytest.mark.parametrize("qos", [0, 1])
def test_a_message_carries_its_expiry(broker: Mosquitto, qos: int) -> None:
    with PahoListener(broker.port) as listener, link(BrokerConfig(port=broker.port)) as one:
        assert one.publish("t/a", b"x", qos=qos, expiry_s=100)
        assert one.publish("t/a", b"y", qos=qos)
        wait_until(lambda: len(listener.heard) == 2, what="both")
        assert listener.expiries[0] is not None
        assert 90 <= listener.expiries[0] <= 100
        assert listener.expiries[1] is None


def test_expiry_is_left_out_where_the_protocol_has_none(broker: Mosquitto) -> None:
    with PahoListener(broker.port) as listener, link(BrokerConfig(port=broker.port, protocol=4)) as one:
        assert one.publish("t/a", b"x", qos=1, expiry_s=100)
        wait_until(lambda: listener.heard == [("t/a", b"x")], what="the message")


def test_what_has_more_to_come_waits_for_the_push() -> None:
    with ScriptedBroker() as peer, link(BrokerConfig(port=peer.port)) as one:
        for _ in range(5):
            assert one.publish("a", b"x", qos=1, more=True)
        one.push()
        assert one.flush(60.0)
        assert len(peer.topics) == 5


def test_a_broker_that_retains_nothing_is_not_asked_to(caplog: pytest.LogCaptureFixture) -> None:
    with ScriptedBroker(connack=b"\x20\x05\x00\x00\x02\x25\x00") as peer, link(BrokerConfig(port=peer.port)) as one:
        assert one.publish("a", b"x", qos=1, retain=True)
        assert one.flush(60.0)
    assert "broker_lost" not in caplog.text


def test_a_token_is_sent_as_the_password_of_the_device(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("tok-7\n")
    users = tmp_path / "users"
    users.write_text("dev-1:tok-7\n")
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed (Debian: apt install mosquitto)")
    subprocess.run([tool, "-U", str(users)], check=True)
    rules = f"listener {{port}} 127.0.0.1\nallow_anonymous false\npassword_file {users}"
    with Mosquitto(tmp_path, config=rules) as broker:
        config = BrokerConfig(port=broker.port, token_file=str(token), reconnect_max_s=0.2)
        with link(config, "anything", identity="dev-1") as one:
            assert one.connected
