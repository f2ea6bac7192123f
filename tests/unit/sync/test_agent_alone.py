"""One agent a device, under the device's own name."""

import threading
from pathlib import Path

import msgspec
import pytest

from edgeinfer.runtime.errors import BrokerError, BufferStorageError, ConfigError
from edgeinfer.runtime.handoff import RuntimeDb
from edgeinfer.runtime.locking import lock, unlock
from edgeinfer.sync.agent import Agent
from edgeinfer.sync.broker import BrokerConfig
from edgeinfer.sync.settings import SyncConfig


def make_agent(folder: Path) -> Agent:
    broker = BrokerConfig(port=1)  # nobody is there: neither test gets so far
    return Agent(SyncConfig(device="d1", state_dir=str(folder / "a"), runtime_dir=str(folder / "r"), broker=broker))


@pytest.mark.parametrize(
    ("broker", "words"),
    [
        (BrokerConfig(port=1), "TLS?"),
        (BrokerConfig(port=1, tls=True), "(tls_cert, tls_key)?"),
        (BrokerConfig(port=1, tls_cert="/nowhere/d1.crt"), "/nowhere/d1.crt?"),
    ],
)
def test_a_broker_that_lets_nobody_in_may_want_more(tmp_path: Path, broker: BrokerConfig, words: str) -> None:
    agent = make_agent(tmp_path)
    agent.config = msgspec.structs.replace(agent.config, broker=broker)
    with pytest.raises(BrokerError) as found:
        agent.drain_once(0.1)
    assert found.value.hint.endswith(words)


def test_a_second_agent_is_refused(tmp_path: Path) -> None:
    held = lock(tmp_path / "a" / "sync.db", hint="")
    with pytest.raises(BufferStorageError, match="already running"):
        make_agent(tmp_path).run(threading.Event())
    unlock(held)


def test_an_agent_of_another_name_sends_nothing(tmp_path: Path) -> None:
    with RuntimeDb(tmp_path / "r" / "runtime.db") as db:
        db.set_status(msgspec.json.encode({"device": "d2"}))
        with pytest.raises(ConfigError, match=r"'d2'.*found 'd1'"):
            make_agent(tmp_path).run(threading.Event())
