"""The console killed at any moment, against a real broker: what it acknowledged it has, and nothing twice."""

import sqlite3
from pathlib import Path

import httpx
import msgspec
import pytest

from agents import DEVICE, UPLOAD, append, fill, running, sync_config
from brokers import Mosquitto
from consoles import RunningConsole, WireDevice, console_toml, made_results
from edgeinfer.sync.mqtt import BrokerConfig, MqttLink
from stored import stored_results
from waiting import wait_until

_CHUNK = 50


def _stored(folder: Path) -> list[int]:
    return [result.seq for result in stored_results(folder / "data" / "console.db", "dev-1")]


def test_killed_while_chunks_stream_in_it_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    config = console_toml(tmp_path, 0)
    with Mosquitto(tmp_path) as broker:
        console_toml(tmp_path, broker.port)
        with RunningConsole(config) as console, WireDevice("dev-1", broker.port) as device:
            device.come_online()
            for _ in range(4):
                before = device.acked()
                for _ in range(10):
                    device.send("door", made_results(_CHUNK))
                wait_until(lambda low=before: device.acked() > low, what="an acknowledgement")  # type: ignore[misc]  # mypy infers no default
                console.kill()
                acked = device.acked()
                stored = _stored(tmp_path)
                assert stored[:acked] == list(range(1, acked + 1))
                console.start()
                # What an agent does: send again from what was acknowledged.
                for first in range(acked + 1, device.next_seq, _CHUNK):
                    device.send("door", made_results(_CHUNK), first_seq=first)
                device.wait_acked(device.next_seq - 1)
            audit = console.audit("dev-1")
        made = device.next_seq - 1
        assert _stored(tmp_path) == list(range(1, made + 1))
        assert (audit["stored"], audit["gaps"], audit["missing"]) == (made, 0, 0)


def test_what_the_broker_has_confirmed_and_no_console_stored_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bundles that lie in a console's memory, confirmed to and by the broker, while its database takes nothing, are
    gone with it; no result is."""
    for name in ("window._QUEUE_S", "window._LONG_QUEUE_S", "window._WIDE_QUEUE_S", "window._LONG_WIDE_QUEUE_S"):
        monkeypatch.setattr(f"edgeinfer.sync.{name}", 1e6)  # however slow this machine is, the window opens
    monkeypatch.setattr("edgeinfer.sync.bundle._REST_S", 0.0)
    (tmp_path / "runtime").mkdir()
    buffer = fill(tmp_path, 2_000, chunk_results=10)
    with Mosquitto(tmp_path) as broker, RunningConsole(console_toml(tmp_path, broker.port)) as console:
        spy = MqttLink(
            BrokerConfig(port=broker.port),
            client_id="spy",
            will=None,
            subscriptions=[("ei/v1/+/d/+/up/res/_bundle", 1)],
        )
        spy.start()
        wait_until(lambda: spy.connected, what="the spy")
        slowly = msgspec.structs.replace(UPLOAD, ack_timeout_s=5.0, ack_timeout_max_s=5.0)
        with running(sync_config(tmp_path, broker, upload=slowly)):
            wait_until(lambda: len(_stored(tmp_path)) == 2_000, what="the first results")
            while spy.receive(0.1) is not None:
                pass
            database = sqlite3.connect(tmp_path / "data" / "console.db", isolation_level=None, timeout=60.0)
            database.execute("BEGIN IMMEDIATE")
            append(buffer, 2_000, 4_000)
            wait_until(lambda: spy.receive(0.1) is not None, what="a bundle")
            console.kill()
            database.execute("ROLLBACK")
            database.close()
            assert len(_stored(tmp_path)) == 2_000
            console.start()
            wait_until(lambda: len(_stored(tmp_path)) == 6_000, what="all results")
        spy.stop()
        audit = console.audit(DEVICE)
    assert _stored(tmp_path) == list(range(1, 6_001))
    assert (audit["stored"], audit["gaps"], audit["missing"]) == (6_000, 0, 0)
    buffer.close()


def test_a_kill_between_commit_and_acknowledgement_is_harmless(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        config = console_toml(tmp_path, broker.port)
        with RunningConsole(config) as console, WireDevice("dev-1", broker.port) as device:
            device.come_online()
            device.send("door", made_results(_CHUNK))
            device.wait_acked(_CHUNK)
            # The acknowledgement that the device never saw: it sends the same chunk to the next console.
            device.acks.clear()
            console.kill()
            console.start()
            device.send("door", made_results(_CHUNK), first_seq=1)
            wait_until(lambda: console.audit("dev-1")["duplicates"] == _CHUNK, what="the duplicates to be counted")
            assert console.audit("dev-1")["stored"] == _CHUNK
            assert device.acked() == _CHUNK
        assert _stored(tmp_path) == list(range(1, _CHUNK + 1))


def test_a_broker_that_dies_and_returns_costs_nothing(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        config = console_toml(tmp_path, broker.port)
        with RunningConsole(config) as console, WireDevice("dev-1", broker.port) as device:
            device.come_online()
            device.send("door", made_results(_CHUNK))
            device.wait_acked(_CHUNK)
            broker.kill()
            wait_until(lambda: not console.get("/api/status")["broker"]["connected"], what="the console to notice")
            # The link knows first; the thread that stores it is next.
            wait_until(lambda: console.get("/api/devices")["devices"][0]["online"] is False, what="nobody to be online")
            broker.start()
            wait_until(lambda: bool(console.get("/api/status")["broker"]["connected"]), what="the console to reconnect")
            wait_until(lambda: device.link.connected, what="the device to reconnect")
            device.come_online()
            device.send("door", made_results(_CHUNK))
            device.wait_acked(2 * _CHUNK)
            wait_until(lambda: bool(console.get("/api/devices")["devices"][0]["online"]), what="the device to show")


def test_without_a_broker_the_page_is_served_and_says_so(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        port = broker.port
    config = console_toml(tmp_path, port)
    with RunningConsole(config) as console:
        status = console.get("/api/status")
        assert status["broker"]["connected"] is False
        wait_until(lambda: bool(console.get("/api/status")["broker"]["error"]), what="a reason to be shown")
        assert console.get("/healthz")["ok"] is True
        assert "Traceback" not in console.log.read_text()


@pytest.mark.parametrize("idle", [True, False])
def test_sigterm_ends_it_in_good_time(tmp_path: Path, *, idle: bool) -> None:
    with Mosquitto(tmp_path) as broker:
        config = console_toml(tmp_path, broker.port)
        with RunningConsole(config) as console, WireDevice("dev-1", broker.port) as device:
            device.come_online()
            device.send("door", made_results(_CHUNK))
            device.wait_acked(_CHUNK)
            # A page that is open holds an event stream; it must not hold up the end.
            if idle:
                status = console.terminate()
            else:
                with httpx.stream("GET", console.url + "/api/events", timeout=60) as stream:
                    assert stream.status_code == 200
                    status = console.terminate()
        assert status == 0
        assert "Traceback" not in console.log.read_text()
        assert _stored(tmp_path) == list(range(1, _CHUNK + 1))
