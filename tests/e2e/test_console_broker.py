"""The embedded broker, both kinds, with a console and a device on it."""

from pathlib import Path

import pytest

from brokers import find_mosquitto, free_port
from consoles import RunningConsole, console_toml, made_results
from edgeinfer.console.broker import EmbeddedBroker
from edgeinfer.runtime.results import Result
from edgeinfer.sync import messages
from edgeinfer.sync.mqtt import BrokerConfig, MqttLink
from waiting import wait_until


@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
def test_results_go_through_it_and_it_comes_back_after_a_kill(tmp_path: Path, kind: str) -> None:
    if kind == "mosquitto":
        find_mosquitto()
    with EmbeddedBroker(tmp_path / "broker", port=free_port(), kind=kind) as broker:
        config = console_toml(tmp_path, broker.port)
        text = config.read_text().replace("[web]", f"protocol = {broker.protocol}\nreconnect_max_s = 0.5\n[web]")
        config.write_text(text)
        with RunningConsole(config) as console:
            link = _link(broker)
            _send(console, link, made_results(5), first_seq=1)
            broker.kill()
            assert not broker.running
            wait_until(lambda: not link.connected, what="the link to be lost")
            broker.start()
            _send(console, link, made_results(5), first_seq=6)
            link.stop()
    assert not broker.running


def _link(broker: EmbeddedBroker) -> MqttLink:
    link = MqttLink(
        BrokerConfig(port=broker.port, protocol=5 if broker.protocol == 5 else 4, reconnect_max_s=0.5),
        client_id="dev-1",
        will=None,
        subscriptions=[(messages.topic("default", "dev-1", "down/#"), 1)],
    )
    link.start()
    return link


def _send(console: RunningConsole, link: MqttLink, results: list[Result], *, first_seq: int) -> None:
    import zlib

    from edgeinfer.runtime.codec import COLUMNS, encode

    body = encode(results, COLUMNS)
    chunk = messages.ChunkMessage(COLUMNS, 1, first_seq, len(results), zlib.crc32(body), body)
    wait_until(lambda: link.connected, what="the device to be connected")
    wait_until(lambda: bool(console.get("/api/status")["broker"]["connected"]), what="the console, too")
    assert link.publish(messages.topic("default", "dev-1", "up/res/door"), messages.encode_chunk(chunk), qos=1)
    wanted = first_seq + len(results) - 1
    wait_until(lambda: console.audit("dev-1")["stored"] == wanted, what="the results to be stored")
