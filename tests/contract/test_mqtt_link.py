"""What MqttLink promises, over MQTT 5 and 3.1.1, against a real mosquitto."""

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from brokers import Mosquitto, free_port
from edgeinfer.sync.mqtt import BrokerConfig, MqttLink
from waiting import wait_until

TOPIC = "ei/v1/default/d/dev-1/down/ack"


@pytest.fixture(params=[5, 4], ids=["mqtt5", "mqtt311"])
def config(request: pytest.FixtureRequest, broker: Mosquitto) -> BrokerConfig:
    return BrokerConfig(port=broker.port, protocol=request.param, reconnect_max_s=0.3)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as started:
        yield started


@contextmanager
def link(config: BrokerConfig, name: str, *filters: str, connect: bool = True, **more: object) -> Iterator[MqttLink]:
    made = MqttLink(
        config, client_id=name, will=None, subscriptions=[(one, 1) for one in filters], **more  # type: ignore[arg-type]  # tests pass what the test is about
    )  # fmt: skip
    made.start()
    try:
        if connect:
            wait_until(lambda: made.connected, what=f"{name} to connect")
        yield made
    finally:
        made.stop()


def take(receiver: MqttLink, count: int, *, timeout_s: float = 60.0) -> list[bytes]:
    """The next `count` payloads, or fewer when time runs out."""
    found: list[bytes] = []
    deadline = time.monotonic() + timeout_s
    while len(found) < count and time.monotonic() < deadline:
        message = receiver.receive(0.1)
        if message is not None:
            found.append(message[1])
    return found


@pytest.mark.parametrize("qos", [0, 1])
def test_what_is_published_arrives_in_order(config: BrokerConfig, qos: int) -> None:
    with link(config, "reader", "ei/v1/+/d/+/down/#") as reader, link(config, "writer") as writer:
        sent = [str(number).encode() for number in range(200)]
        assert all(writer.publish(TOPIC, payload, qos=qos) for payload in sent)
        assert take(reader, 200) == sent


def test_a_retained_message_waits_for_its_reader(config: BrokerConfig) -> None:
    with link(config, "writer") as writer:
        assert writer.publish(TOPIC, b"kept", qos=1, retain=True)
        assert writer.flush(60.0)
    with link(config, "reader", TOPIC) as reader:
        assert take(reader, 1) == [b"kept"]


def test_a_link_does_not_hear_itself_in_mqtt5(broker: Mosquitto) -> None:
    with link(BrokerConfig(port=broker.port), "both", "t/#") as both:
        assert both.publish("t/a", b"x", qos=1)
        assert both.flush(60.0)
        assert both.receive(0.2) is None


def test_an_absent_broker_is_a_state_and_not_an_error() -> None:
    with link(BrokerConfig(port=free_port()), "lonely", connect=False) as lonely:
        wait_until(lambda: bool(lonely.last_error), what="the first failure")
        assert not lonely.connected
        assert not lonely.publish(TOPIC, b"x", qos=1)
        assert lonely.receive(0.01) is None
        assert lonely.generation == 0


def test_a_killed_broker_changes_the_generation_and_nothing_is_sent_again(
    config: BrokerConfig, broker: Mosquitto
) -> None:
    changes: list[bool] = []
    with (
        link(config, "reader", TOPIC) as reader,
        link(config, "writer", on_change=lambda: changes.append(True)) as writer,
    ):
        generation = writer.generation
        broker.pause()
        assert writer.publish(TOPIC, b"in flight when it died", qos=1)
        broker.kill()
        wait_until(lambda: not writer.connected and not reader.connected, what="the loss")
        assert not writer.publish(TOPIC, b"refused", qos=1)
        broker.start()
        wait_until(lambda: writer.connected and reader.connected, what="the return")
        assert writer.generation == generation + 1
        assert writer.publish(TOPIC, b"new", qos=1)
        assert take(reader, 1) == [b"new"]
        assert reader.receive(0.1) is None
    assert len(changes) >= 4  # up, down, up, down


def test_confirmation_follows_the_broker(config: BrokerConfig, broker: Mosquitto) -> None:
    with link(config, "writer") as writer:
        assert writer.flush(1.0)  # nothing is on its way
        broker.pause()
        assert writer.publish(TOPIC, b"x", qos=1)
        ticket = writer.ticket()
        assert not writer.is_confirmed(ticket)
        assert not writer.flush(0.05)
        broker.resume()
        wait_until(lambda: writer.is_confirmed(ticket), what="the confirmation")
        broker.kill()
        wait_until(lambda: not writer.connected, what="the loss")
        assert not writer.is_confirmed(ticket)


def test_the_brokers_receive_maximum_is_kept(tmp_path: Path) -> None:
    with Mosquitto(tmp_path, extra="max_inflight_messages 3") as broker:
        config = BrokerConfig(port=broker.port)
        with link(config, "reader", "t/#") as reader, link(config, "writer") as writer:
            assert writer.send_quota == 3
            sent = [str(number).encode() for number in range(300)]
            assert all(writer.publish("t/a", payload, qos=1) for payload in sent)
            assert take(reader, 300) == sent
            assert writer.generation == 1  # mosquitto throws out who exceeds it


def test_what_waits_for_the_quota_is_bounded(broker: Mosquitto) -> None:
    with link(BrokerConfig(port=broker.port), "writer") as writer:
        broker.pause()
        taken = sum(writer.publish("t/a", b"x", qos=1) for _ in range(5_000))
        large = sum(writer.publish("t/a", bytes(1 << 20), qos=0) for _ in range(100))
        broker.resume()
    assert 1_000 <= taken <= 1_100
    assert large <= 20  # 16 MiB, and what the socket took


def test_two_threads_may_publish_while_messages_come_in(config: BrokerConfig) -> None:
    """The deadlock that paho invites: publishing from threads while its own thread confirms and delivers."""
    with (
        link(config, "both", "in/#") as both,
        link(config, "reader", "out/#") as reader,
        link(config, "other") as other,
    ):

        def publish(who: MqttLink, topic: str) -> None:
            for number in range(400):
                while not who.publish(topic, str(number).encode(), qos=1):
                    threading.Event().wait(0.001)

        threads = [
            threading.Thread(target=publish, args=arguments)
            for arguments in ((both, "out/a"), (both, "out/b"), (other, "in/a"))
        ]
        for thread in threads:
            thread.start()
        assert len(take(both, 400)) == 400
        assert len(take(reader, 800)) == 800
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()


def test_a_slow_reader_holds_the_broker_back_and_gets_everything(config: BrokerConfig) -> None:
    with link(config, "reader", "t/#", max_inbound=10) as reader, link(config, "writer") as writer:
        for number in range(2_000):
            payload = str(number).encode()
            wait_until(lambda payload=payload: writer.publish("t/a", payload, qos=1), what="room")  # type: ignore[misc]  # a default is bound to the loop's value
        assert writer.flush(60.0)
        assert len(reader._inbox._messages) < 100
        assert take(reader, 2_000) == [str(number).encode() for number in range(2_000)]


def test_the_last_will_speaks_only_after_a_death(config: BrokerConfig) -> None:
    with link(config, "reader", "w/#") as reader:
        first = MqttLink(config, client_id="mortal", will=("w/1", b"gone"), subscriptions=[])
        first.start()
        wait_until(lambda: first.connected, what="the mortal")
        first.stop()
        assert reader.receive(0.3) is None
        second = MqttLink(config, client_id="mortal", will=("w/1", b"gone"), subscriptions=[])
        second.start()
        wait_until(lambda: second.connected, what="the mortal again")
        with link(config, "mortal"):  # throws the other one out
            assert take(reader, 1) == [b"gone"]
        second.stop()


def test_stop_is_quick_in_every_state(broker: Mosquitto) -> None:
    connected = MqttLink(BrokerConfig(port=broker.port), client_id="a", will=None, subscriptions=[])
    waiting = MqttLink(BrokerConfig(port=free_port()), client_id="b", will=None, subscriptions=[])
    unstarted = MqttLink(BrokerConfig(), client_id="c", will=None, subscriptions=[])
    connected.start()
    waiting.start()
    wait_until(lambda: connected.connected and bool(waiting.last_error), what="both states")
    for one in (connected, waiting, unstarted):
        one.stop(5.0)
        assert one._thread is None or not one._thread.is_alive()


def test_a_user_and_password_are_used_and_never_shown(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("dev-1:secret-7\n")
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed (Debian: apt install mosquitto)")
    subprocess.run([tool, "-U", str(users)], check=True)
    password = tmp_path / "password"
    password.write_text("wrong\n")
    rules = "listener {port} 127.0.0.1\nallow_anonymous false\npassword_file " + str(users)
    with Mosquitto(tmp_path, config=rules) as broker:
        config = BrokerConfig(port=broker.port, username="dev-1", password_file=str(password), reconnect_max_s=0.2)
        with link(config, "dev-1", connect=False) as one:
            wait_until(lambda: "not authorized" in one.last_error, what="the refusal")
            assert "secret-7" not in repr(config)
            password.write_text("secret-7\n")  # changed while the service runs
            wait_until(lambda: one.connected, what="the right password")


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x20\xff\xff\xff\xff\xff",
        bytes(500),
        b"\x20\x03\x00\x99\x00",  # CONNACK: banned, or worse
        b"\x30\x02\x00\x09",  # PUBLISH before CONNACK, its topic cut off
        b"\x90\x04\x00\x01\x00\x01",  # SUBACK before CONNACK
    ],
)
def test_a_peer_that_is_no_broker_is_survived(reply: bytes, broker: Mosquitto) -> None:
    """Whatever answers on the port, the link goes on trying and works once a broker is there."""
    port = free_port()
    with (
        socket.create_server(("127.0.0.1", port)) as server,
        link(BrokerConfig(port=port, reconnect_max_s=0.1), "dev-1", connect=False) as one,
    ):
        server.settimeout(60)
        for _ in range(2):
            peer, _address = server.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(reply)
        assert not one.connected
        server.close()
        broker.stop()
        with Mosquitto(broker.log.parent, port=port):
            wait_until(lambda: one.connected, what="the true broker")


def test_unknown_protocol_numbers_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="protocol"):
        msgspec.convert({"protocol": 3}, BrokerConfig)
