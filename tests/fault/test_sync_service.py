"""`edgeinfer sync` as a process: signals, systemd's protocol, exit statuses, what it prints."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import DEVICE, agent_process, fill, write_config
from brokers import Mosquitto
from edgeinfer.runtime.errors import BrokerError, ConfigError
from edgeinfer.sync.mqtt import BrokerConfig
from edgeinfer.sync.service import main
from tiny_console import TinyConsole
from waiting import ENDS_WITHIN_S, wait_until


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as started:
        yield started


class Manager:
    """The service manager's end of the notify socket."""

    def __init__(self, path: Path) -> None:
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def hears(self, word: str, times: int = 1) -> bool:
        while True:
            try:
                self.heard += self._socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return self.heard.count(word) >= times

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    yield made
    made.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_is_ready_stays_alive_and_ends_within_two_seconds(
    tmp_path: Path, broker: Mosquitto, manager: Manager, number: signal.Signals
) -> None:
    with agent_process(write_config(tmp_path, broker)) as process:
        wait_until(lambda: manager.hears("READY=1"), what="READY")
        wait_until(lambda: manager.hears("WATCHDOG=1", 3), what="the watchdog")
        process.send_signal(number)
        assert process.wait(ENDS_WITHIN_S) == 0
    assert manager.hears("STOPPING=1")


def test_it_ends_in_time_without_a_broker(tmp_path: Path, broker: Mosquitto, manager: Manager) -> None:
    broker.stop()
    with agent_process(write_config(tmp_path, broker)) as process:
        wait_until(lambda: manager.hears("WATCHDOG=1", 2), what="a life without a broker")
        process.send_signal(signal.SIGTERM)
        assert process.wait(ENDS_WITHIN_S) == 0


def test_a_hanging_broker_does_not_delay_the_end(tmp_path: Path, broker: Mosquitto, manager: Manager) -> None:
    with agent_process(write_config(tmp_path, broker)) as process:
        wait_until(lambda: "event=broker_connected" in (tmp_path / "agent.log").read_text(), what="the connection")
        broker.pause()
        process.send_signal(signal.SIGTERM)
        assert process.wait(ENDS_WITHIN_S) == 0
    assert manager.hears("STOPPING=1")


def test_a_hangup_takes_the_new_configuration_and_refuses_a_wrong_one(
    tmp_path: Path, broker: Mosquitto, manager: Manager
) -> None:
    second = tmp_path / "second"
    second.mkdir()
    file, log = write_config(tmp_path, broker), tmp_path / "agent.log"
    with Mosquitto(second) as other, agent_process(file) as process:
        wait_until(lambda: manager.hears("READY=1"), what="READY")
        good = file.read_text()
        file.write_text(good + "\n[brokker]\nport = 1\n")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "event=reload_refused" in log.read_text(), what="the refusal")
        wait_until(lambda: manager.hears("READY=1", 2), what="READY with the old configuration")
        file.write_text(good.replace(f"port = {broker.port}", f"port = {other.port}"))
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: f"broker=127.0.0.1:{other.port}" in log.read_text(), what="the other broker")
        wait_until(lambda: manager.hears("READY=1", 3), what="READY with the new configuration")
        process.send_signal(signal.SIGTERM)
        assert process.wait(ENDS_WITHIN_S) == 0
    assert "brokker" in log.read_text()


def test_the_log_has_one_line_an_event_and_no_traceback(tmp_path: Path, broker: Mosquitto) -> None:
    broker.stop()
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / "buffer.db").write_bytes(b"this is no database" * 100)
    (tmp_path / "runtime" / "runtime.db").write_bytes(b"SQLite format 3\0" + bytes(200))
    log = tmp_path / "agent.log"
    with agent_process(write_config(tmp_path, broker)) as process:
        wait_until(lambda: "event=broker_lost" in log.read_text(), what="the loss")
        wait_until(lambda: log.read_text().count("event=database_unreadable") >= 2, what="both databases")
        process.send_signal(signal.SIGTERM)
        assert process.wait(ENDS_WITHIN_S) == 0
    lines = log.read_text().splitlines()
    assert all("event=" in line for line in lines)
    assert len(lines) < 20


def test_once_prints_one_document(tmp_path: Path, broker: Mosquitto) -> None:
    fill(tmp_path, 250).close()
    code = "import sys; from edgeinfer.sync.service import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "--config", str(write_config(tmp_path, broker)), "--once", "--json"]
    with TinyConsole(BrokerConfig(port=broker.port), device=DEVICE) as console:
        wait_until(lambda: console.link is not None and console.link.connected, what="the console")
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    document = json.loads(done.stdout)
    assert set(document) == {"sent", "acknowledged", "bytes", "seconds", "update"}
    assert (document["sent"], document["acknowledged"], document["update"]) == (250, 250, "IDLE")


def test_wrong_configuration_and_absent_broker_raise_what_the_command_line_expects(
    tmp_path: Path, broker: Mosquitto
) -> None:
    file = write_config(tmp_path, broker)
    broker.stop()
    with pytest.raises(BrokerError):
        main(["--config", str(file), "--once", "--timeout", "0.5"])
    good = file.read_text()
    for wrong, message in (
        (good.replace("device =", "devise ="), "devise"),
        (good.replace('"dev-1"', '"dev/1"'), "device must be"),
        (good.replace("ack_timeout_s = 0.5", "ack_timeout_s = 0"), "ack_timeout_s"),
        (good.replace("port = ", "port = 9"), "port"),
        (good.replace(f"{tmp_path}/sync", f"{tmp_path}/runtime"), "same folder"),
        ("device", "is not TOML"),
    ):
        file.write_text(wrong)
        with pytest.raises(ConfigError, match=message):
            main(["--config", str(file)])
    with pytest.raises(ConfigError, match="cannot be read"):
        main(["--config", str(tmp_path / "absent.toml")])
