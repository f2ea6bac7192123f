"""The broker configuration that comes along, in a real mosquitto: devices are kept apart.

A forbidden subscription is granted and delivers nothing, so what is looked at is what is delivered.
"""

import queue
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

from brokers import Mosquitto, find_mosquitto

FOLDER = Path(__file__).resolve().parents[2] / "packaging" / "mosquitto"
USERS = ("dev-1", "dev-2", "edgeinfer-console", "homeassistant")
PREFIX = "ei/v1/default/d"
DEADLINE_S = 120.0


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    find_mosquitto()
    folder = tmp_path_factory.mktemp("mosquitto")
    passwords = folder / "passwords"
    passwords.write_text("".join(f"{user}:secret-{user}\n" for user in USERS))
    tool = shutil.which("mosquitto_passwd")
    assert tool is not None, "mosquitto_passwd comes with mosquitto"
    subprocess.run([tool, "-U", str(passwords)], check=True, capture_output=True)
    shutil.copy(FOLDER / "acl", folder / "acl")
    text = (FOLDER / "mosquitto.conf").read_text(encoding="utf-8")
    for there, here in (
        ("listener 1883 127.0.0.1", "listener {port} 127.0.0.1"),
        ("/etc/mosquitto/edgeinfer.passwd", str(passwords)),
        ("/etc/mosquitto/edgeinfer.acl", str(folder / "acl")),
    ):
        assert there in text
        text = (
            text.replace(there, here, 1)
            if there.startswith("listener")
            else text.replace(f"file {there}", f"file {here}")
        )
    with Mosquitto(folder, config=text, extra=f"persistence_location {folder}/") as running:
        yield running


class Peer:
    """A client that waits for what it asked for."""

    def __init__(self, port: int, user: str, *topics: str, password: str = "") -> None:
        self.messages: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.answers: queue.Queue[str] = queue.Queue()
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self.client.username_pw_set(user, password or f"secret-{user}")
        self.client.on_connect = lambda _c, _u, _f, reason, _p: self.answers.put(str(reason))
        self.client.on_subscribe = lambda *_: self.answers.put("subscribed")
        self.client.on_message = lambda _c, _u, message: self.messages.put((message.topic, bytes(message.payload)))
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        self.connected = self.answers.get(timeout=DEADLINE_S)
        if topics and self.connected == "Success":
            self.client.subscribe([(topic, SubscribeOptions(qos=1)) for topic in topics])
            assert self.answers.get(timeout=DEADLINE_S) == "subscribed"

    def publish(self, topic: str) -> None:
        self.client.publish(topic, b"x", qos=1).wait_for_publish(DEADLINE_S)

    def received(self, *, until: str) -> list[str]:
        """The topics that arrived, up to the one that was sent last."""
        topics = [self.messages.get(timeout=DEADLINE_S)[0]]
        while topics[-1] != until:
            topics.append(self.messages.get(timeout=DEADLINE_S)[0])
        return topics

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        self.client._reset_sockets()  # paho leaves the pair that wakes its loop to the garbage collector


def test_devices_are_kept_apart(broker: Mosquitto) -> None:
    first = Peer(broker.port, "dev-1", f"{PREFIX}/#")
    second = Peer(broker.port, "dev-2", f"{PREFIX}/#")
    console = Peer(broker.port, "edgeinfer-console", f"{PREFIX}/#")
    try:
        second.publish(f"{PREFIX}/dev-1/up/res/forged")
        second.publish(f"{PREFIX}/dev-1/down/desired")
        second.publish(f"{PREFIX}/dev-2/down/desired")
        second.publish(f"{PREFIX}/dev-2/up/state")
        assert console.received(until=f"{PREFIX}/dev-2/up/state") == [f"{PREFIX}/dev-2/up/state"]

        console.publish(f"{PREFIX}/dev-1/up/state")  # not the console's to say
        console.publish(f"{PREFIX}/dev-2/down/ack")
        console.publish(f"{PREFIX}/dev-1/down/ack")
        assert second.received(until=f"{PREFIX}/dev-2/down/ack") == [f"{PREFIX}/dev-2/down/ack"]
        assert first.received(until=f"{PREFIX}/dev-1/down/ack") == [f"{PREFIX}/dev-1/down/ack"]
    finally:
        for peer in (first, second, console):
            peer.close()


def test_home_assistant_hears_what_devices_say_of_themselves(broker: Mosquitto) -> None:
    device = Peer(broker.port, "dev-2")
    listener = Peer(broker.port, "homeassistant", "homeassistant/#", f"{PREFIX}/#")
    try:
        device.publish("homeassistant/sensor/dev-1/forged/config")
        device.publish(f"{PREFIX}/dev-1/ha/forged")
        device.publish(f"{PREFIX}/dev-2/up/res/secret")  # not Home Assistant's to read
        allowed = [
            "homeassistant/sensor/dev-2/door_label/config",
            f"{PREFIX}/dev-2/ha/door",
            f"{PREFIX}/dev-2/up/state",
        ]
        for name in allowed:
            device.publish(name)
        assert listener.received(until=allowed[-1]) == allowed
    finally:
        for peer in (device, listener):
            peer.close()


UP = ("up/blob", "up/cmdres", "up/log", "up/res/door", "up/birth", "up/job/r1-1", "up/get", "up/tel", "up/reported")
DOWN = ("down/blob", "down/cmd", "down/ack", "down/data", "down/job/r1-1", "down/desired")


def test_every_topic_goes_its_way_and_no_other(broker: Mosquitto) -> None:
    """A device is heard on its own topics only, and hears its own only; the console says nothing for a device."""
    first = Peer(broker.port, "dev-1", f"{PREFIX}/#")
    second = Peer(broker.port, "dev-2", f"{PREFIX}/#")
    console = Peer(broker.port, "edgeinfer-console", f"{PREFIX}/#")
    try:
        for rest in UP:
            second.publish(f"{PREFIX}/dev-1/{rest}")
            console.publish(f"{PREFIX}/dev-1/{rest}")
            first.publish(f"{PREFIX}/dev-1/{rest}")
            assert console.received(until=f"{PREFIX}/dev-1/{rest}") == [f"{PREFIX}/dev-1/{rest}"]
        for rest in DOWN:
            second.publish(f"{PREFIX}/dev-1/{rest}")
            first.publish(f"{PREFIX}/dev-1/{rest}")
            console.publish(f"{PREFIX}/dev-1/{rest}")
            assert first.received(until=f"{PREFIX}/dev-1/{rest}") == [f"{PREFIX}/dev-1/{rest}"]
        second.publish(f"{PREFIX}/dev-2/up/state")
        console.publish(f"{PREFIX}/dev-2/down/ack")
        # What any forged message would have come before: each got its own once, and nothing else.
        assert console.received(until=f"{PREFIX}/dev-2/up/state") == [f"{PREFIX}/dev-2/up/state"]
        assert second.received(until=f"{PREFIX}/dev-2/down/ack") == [f"{PREFIX}/dev-2/down/ack"]
    finally:
        for peer in (first, second, console):
            peer.close()


@pytest.mark.parametrize(("user", "password"), [("dev-1", "wrong"), ("stranger", "secret-dev-1")])
def test_nobody_else_comes_in(broker: Mosquitto, user: str, password: str) -> None:
    peer = Peer(broker.port, user, password=password)
    try:
        assert peer.connected == "Not authorized"
    finally:
        peer.close()
