"""A real agent, a real broker, and between them a network that is none: everything durable arrives once, the agent
lives, and its memory stays bounded."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import psutil
import pytest

from agents import DEVICE, agent_process, append, fill
from brokers import Mosquitto
from edgeinfer.runtime.codec import decode
from edgeinfer.runtime.handoff import SyncDb
from edgeinfer.sync.mqtt import BrokerConfig
from fault_proxy import FaultProxy
from fault_report import FaultReport
from tiny_console import TinyConsole
from waiting import wait_until

PATIENCE_S = 120.0
KEEPALIVE_S = 5
MAX_RSS_BYTES = 160 << 20
MAX_GROWTH_BYTES = 40 << 20

# Answers to CONNECT [MQTT 5, 3.2; MQTT 3.1.1, 3.2].
UNAVAILABLE_5 = b"\x20\x03\x00\x88\x00"
NOT_AUTHORIZED_5 = b"\x20\x03\x00\x87\x00"
QUOTA_5 = b"\x20\x03\x00\x97\x00"
NOT_AUTHORIZED_4 = b"\x20\x02\x00\x05"


class Rig:
    """A buffer that an agent, a process of its own, uploads through a proxy; the console is beside the broker."""

    def __init__(self, folder: Path, *, results: int, protocol: int = 5) -> None:
        (folder / "runtime").mkdir()
        self.folder = folder
        self._protocol = protocol
        self._stack = ExitStack()
        self.buffer = fill(folder, results)
        self.made = results

    def __enter__(self) -> Self:
        enter = self._stack.enter_context
        self.broker = enter(Mosquitto(self.folder))
        self.proxy = enter(FaultProxy(self.broker.port))
        self.console = enter(TinyConsole(BrokerConfig(port=self.broker.port, reconnect_max_s=0.2), device=DEVICE))
        self._process = enter(agent_process(self._config()))
        self._usage = psutil.Process(self._process.pid)
        wait_until(lambda: self.proxy.connections > 0, timeout_s=PATIENCE_S, what="the agent to connect")
        self._first_rss = int(self._usage.memory_info().rss)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
        self.buffer.close()

    def make(self, results: int) -> None:
        append(self.buffer, self.made, results)
        self.made += results

    def wait_for_all(self) -> None:
        """Until the console has everything durable, and the agent knows it."""
        wait_until(self._is_exact, timeout_s=PATIENCE_S, what="everything to arrive")
        with SyncDb(self.folder / "sync" / "sync.db", read_only=True) as db:
            wait_until(
                lambda: db.acknowledged(self.buffer.epoch) == self.buffer.durable_seq,
                timeout_s=PATIENCE_S,
                what="the last acknowledgement",
            )
        assert self._process.poll() is None, "the agent has ended"

    def report(self, faults: FaultReport, fault: str, *, times: int, **more: int) -> None:
        self.wait_for_all()
        stored = self._stored_frames()
        frames = set(stored.values())
        rss = int(self._usage.memory_info().rss)
        faults.add(
            fault, times=times, made=self.made, durable=self.buffer.durable_seq, stored=len(stored),
            refused=self.console.refused, lost=self.made - len(frames),
            doubled=len(stored) - len(frames), rss_mb=rss >> 20, **more,
        )  # fmt: skip
        assert stored == {(self.buffer.epoch, frame + 1): frame for frame in range(self.made)}
        assert rss < MAX_RSS_BYTES
        assert rss - self._first_rss < MAX_GROWTH_BYTES
        assert "Traceback" not in self.log()

    def log(self) -> str:
        return (self.folder / "agent.log").read_text()

    def _stored_frames(self) -> dict[tuple[int, int], int]:
        """The frame under each (epoch, seq): each result was made of a frame of its own, so that one which is there
        under two numbers shows, and so does a number that came again with another result."""
        stored: dict[tuple[int, int], int] = {}
        for chunk in self.console.chunks:
            for seq, result in enumerate(decode(chunk.codec, chunk.body, n=chunk.n), chunk.first_seq):
                first = stored.setdefault((chunk.epoch, seq), result.frame)
                assert result.frame == first, (
                    f"{chunk.epoch}, {seq} was frame {first}, and came again as {result.frame}"
                )
        return stored

    def _is_exact(self) -> bool:
        return len(self.console.results) == self.buffer.durable_seq == self.made

    def _config(self) -> Path:
        file = self.folder / "sync.toml"
        file.write_text(
            f'device = "{DEVICE}"\nstate_dir = "{self.folder}/sync"\nruntime_dir = "{self.folder}/runtime"\n'
            f"[broker]\nport = {self.proxy.port}\nprotocol = {self._protocol}\n"
            f"reconnect_max_s = 0.05\nkeepalive_s = {KEEPALIVE_S}\n"
            "[upload]\nack_timeout_s = 0.5\nack_timeout_max_s = 2.0\npersist_interval_s = 0.1\n"
        )
        return file


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with Rig(tmp_path, results=2000) as rig:
        yield rig


def a_moment(chance: random.Random, longest_s: float) -> None:
    threading.Event().wait(chance.uniform(0.0, longest_s))


# -- the faults: each begins and ends one -------------------------------------------------------------------------


def restart(rig: Rig, chance: random.Random) -> None:
    rig.broker.kill()
    a_moment(chance, 0.3)
    rig.broker.start()


def refuse_connections(rig: Rig, chance: random.Random) -> None:
    rig.proxy.refuse()
    rig.proxy.drop()
    a_moment(chance, 0.5)
    rig.proxy.accept()


def refuse_politely(rig: Rig, chance: random.Random) -> None:
    rig.proxy.answer = chance.choice((UNAVAILABLE_5, QUOTA_5, NOT_AUTHORIZED_5, NOT_AUTHORIZED_4))
    said = rig.proxy.connections
    rig.proxy.drop()
    wait_until(lambda: rig.proxy.connections > said, timeout_s=PATIENCE_S, what="a refusal")
    rig.proxy.answer = b""


def hang(rig: Rig, chance: random.Random) -> None:
    """Half-open: the agent's packets or the broker's go nowhere, until the agent has given the connection up."""
    ways = chance.choice([[rig.proxy.up], [rig.proxy.down], [rig.proxy.up, rig.proxy.down]])
    rig.wait_for_all()
    before = rig.proxy.connections
    for way in ways:
        way.stalled = True
    rig.make(200)
    wait_until(lambda: rig.proxy.connections > before, timeout_s=PATIENCE_S, what="the agent to give up")
    rig.proxy.heal()
    rig.proxy.drop()


def inject_garbage(rig: Rig, chance: random.Random) -> None:
    way = chance.choice([rig.proxy.up, rig.proxy.down])
    way.inject = chance.choice(
        [b"\0", chance.randbytes(3), chance.randbytes(1000), b"\xff" * 5000, b"\x30\xff\xff\xff\x7f"]
    )
    wait_until(
        lambda: not way.inject or rig.proxy.open_connections == 0, timeout_s=PATIENCE_S, what="the garbage to go"
    )


def reset(rig: Rig, chance: random.Random) -> None:
    a_moment(chance, 0.05)
    rig.proxy.drop()


FAULTS: dict[str, tuple[Callable[[Rig, random.Random], None], int, int]] = {
    "broker restarts, forgets all": (restart, 3, 40),
    "broker refuses connections": (refuse_connections, 3, 40),
    "broker says no to CONNECT": (refuse_politely, 4, 60),
    "half-open connections": (hang, 1, 12),
    "garbage in the stream": (inject_garbage, 5, 100),
    "connections reset": (reset, 10, 300),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_broker_loses_and_doubles_nothing(rig: Rig, faults: FaultReport, fault: str) -> None:
    chance = random.Random(faults.seed)
    do, ci, full = FAULTS[fault]
    times = faults.size(ci=ci, full=full)
    for _ in range(times):
        rig.make(chance.choice((1, 130, 700)))
        do(rig, chance)
    rig.proxy.heal()
    rig.make(10)
    rig.report(faults, fault, times=times)


LIMITS = (
    "max_inflight_messages 1",
    "max_packet_size 2000",
    "max_keepalive 10",
    "max_topic_alias 0",
    "persistent_client_expiration 1m",
    "acl_file {acl}",
)


def test_a_broker_that_comes_back_with_other_limits(rig: Rig, faults: FaultReport) -> None:
    """Another session, a smaller window, smaller packets, topics that are not ours any more."""
    acl = rig.folder / "acl"
    acl.write_text("topic read #\ntopic write ei/v1/default/d/+/up/state\ntopic write ei/v1/default/d/+/down/#\n")
    acl.chmod(0o600)
    plain = rig.broker.configuration.read_text()
    limits = random.Random(faults.seed).sample(LIMITS, faults.size(ci=3, full=len(LIMITS)))
    for limit in limits:
        rig.broker.kill()
        rig.broker.configuration.write_text(f"{plain}\n{limit.format(acl=acl)}\n")
        rig.broker.start()
        rig.make(250)
        if limit.startswith("acl"):
            wait_until(lambda: "event=results_refused" in rig.log(), timeout_s=PATIENCE_S, what="the agent to say so")
            assert len(rig.console.results) < rig.made
        else:
            rig.wait_for_all()
    rig.broker.kill()
    rig.broker.configuration.write_text(plain)
    rig.broker.start()
    rig.report(faults, "broker comes back changed", times=len(limits))


def test_three_seconds_of_latency(rig: Rig, faults: FaultReport) -> None:
    rig.wait_for_all()
    rig.proxy.up.delay_s = rig.proxy.down.delay_s = 1.5
    rig.proxy.drop()
    rig.make(faults.size(ci=400, full=5000))
    rig.report(faults, "3 s latency", times=1)


def test_a_kilobyte_a_second(rig: Rig, faults: FaultReport) -> None:
    rig.wait_for_all()
    rig.proxy.up.bytes_per_s = rig.proxy.down.bytes_per_s = 1000
    rig.make(faults.size(ci=300, full=3000))
    rig.report(faults, "1 kB/s", times=1)


@pytest.mark.parametrize("protocol", [5, 4])
def test_connections_cut_at_every_byte(tmp_path: Path, faults: FaultReport, protocol: int) -> None:
    """Each time, a connection ends after k bytes of one way, for k from 0 to the length of a whole session."""
    chance = random.Random(faults.seed)
    with Rig(tmp_path, results=150, protocol=protocol) as rig:
        rig.wait_for_all()
        lengths = {"up": rig.proxy.up.bytes, "down": rig.proxy.down.bytes}
        places = [(way, k) for way, length in lengths.items() for k in range(length + 1)]
        if not faults.full:
            places = sorted(chance.sample(places, 12))
        for name, k in places:
            cuts = rig.proxy.cuts
            way = {"up": rig.proxy.up, "down": rig.proxy.down}[name]
            way.cut_after = k
            rig.proxy.drop()
            wait_until(lambda cuts=cuts: is_cut(rig, cuts), timeout_s=PATIENCE_S, what=f"a cut at {name} {k}")  # type: ignore[misc]  # bound in the loop
            way.cut_after = -1
        rig.report(faults, f"cut at every byte, MQTT {protocol}", times=len(places), **lengths)


def is_cut(rig: Rig, cuts: int) -> bool:
    """Whether there have been more than so many cuts; until then results keep the connection busy."""
    rig.make(5)
    return rig.proxy.cuts > cuts
