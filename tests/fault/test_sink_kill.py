"""The agent is killed (kill -9) again and again while it delivers through a sink, and the other side dies, too."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import DEVICE, agent_process, append, fill
from edgeinfer.runtime.buffer import Buffer
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.runtime.handoff import SyncDb
from edgeinfer.sync.messages import decode_chunk
from sink_peers import HttpPeer, KafkaPeer, contiguous
from waiting import wait_until

_KILLS = 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "runtime").mkdir()
    return tmp_path


@pytest.fixture
def buffer(folder: Path) -> Iterator[Buffer]:
    made = fill(folder, 10_000)
    yield made
    made.close()


def write_config(folder: Path, sink: str) -> Path:
    file = folder / "sync.toml"
    file.write_text(
        f'device = "{DEVICE}"\nstate_dir = "{folder}/sync"\nruntime_dir = "{folder}/runtime"\n'
        "[broker]\nport = 9\n[upload]\npersist_interval_s = 0.05\n"
        f"[sink]\nbatch_bytes = 2000\nretry_max_s = 0.2\n{sink}\n"
    )
    return file


def acknowledged(folder: Path, epoch: int) -> int:
    try:
        with SyncDb(folder / "sync" / "sync.db", read_only=True) as db:
            return db.acknowledged(epoch)
    except BufferStorageError:  # just being made
        return 0


def held(folder: Path) -> dict[int, bytes]:
    with BufferReader(folder / "runtime" / "buffer.db") as reader:
        return {chunk.first_seq: chunk.body for chunk in reader.chunks(0, limit=10_000)}


def bodies(stored: list[bytes]) -> dict[int, bytes]:
    return {chunk.first_seq: chunk.body for chunk in map(decode_chunk, stored)}


@pytest.mark.parametrize("receiver", ["console", "webhook"])
def test_kills_on_both_sides_of_http_lose_nothing(folder: Path, buffer: Buffer, receiver: str) -> None:
    rng, peer = random.Random(receiver), HttpPeer(receiver)
    config = write_config(folder, f'kind = "http"\nurl = "{peer.url}"\nreceiver = "{receiver}"')
    for round_ in range(_KILLS):
        append(buffer, 20_000 + 100 * round_, 100)  # there is always something to send, however fast all of it went
        before = len(peer.stored())
        with agent_process(config) as agent:
            wait_until(lambda before=before: len(peer.stored()) > before, what="a batch")  # type: ignore[misc]  # a default is bound to the loop's value
            if round_ % 3 == 2:
                peer.die()
            threading.Event().wait(rng.random() * 0.05)
            agent.kill()
            agent.wait(60)
        assert acknowledged(folder, buffer.epoch) <= contiguous(peer.stored())
        if round_ % 3 == 2:
            peer.live()
    append(buffer, 10_000, 500)
    with agent_process(config):
        wait_until(lambda: acknowledged(folder, buffer.epoch) == 10_500 + 100 * _KILLS, what="everything")
    assert bodies(peer.stored()) == held(folder)
    again = len(peer.stored()) - len(bodies(peer.stored()))
    print(f"receiver={receiver} kills={_KILLS} lost=0 chunks={len(held(folder))} delivered_again={again}")
    peer.close()


def test_kills_while_a_topic_is_filled_lose_nothing(folder: Path, buffer: Buffer) -> None:
    rng, peer = random.Random(3), KafkaPeer()
    config = write_config(folder, f'kind = "kafka"\nbrokers = ["{peer.address}"]\ntopic = "results"')
    for round_ in range(_KILLS // 2):
        append(buffer, 20_000 + 100 * round_, 100)
        before = acknowledged(folder, buffer.epoch)
        with agent_process(config) as agent:
            wait_until(lambda before=before: acknowledged(folder, buffer.epoch) > before, what="a batch")  # type: ignore[misc]  # a default is bound to the loop's value
            threading.Event().wait(rng.random() * 0.05)
            agent.kill()
            agent.wait(60)
        assert acknowledged(folder, buffer.epoch) <= contiguous(peer.stored())
    with agent_process(config):
        everything = 10_000 + 100 * (_KILLS // 2)
        wait_until(lambda: acknowledged(folder, buffer.epoch) == everything, what="everything")
    assert bodies(peer.stored()) == held(folder)
    peer.close()
