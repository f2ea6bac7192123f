"""The agent's part of timing a package: fetched, handed over, and brought back, or an answer that says why not."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from edgeinfer.runtime.bench_order import BENCH_NOTE, BENCH_SUFFIX, MAX_DOCUMENT_BYTES, BenchAnswer
from edgeinfer.runtime.errors import MessageError
from edgeinfer.runtime.handoff import RuntimeDb, SyncDb
from edgeinfer.runtime.trust import SigningKey, seal
from edgeinfer.sync.allowance import UNLIMITED
from edgeinfer.sync.benches import Benches
from edgeinfer.sync.commands import Commands, why_not
from edgeinfer.sync.daemon_view import DaemonView
from edgeinfer.sync.log_ring import LogRing
from edgeinfer.sync.messages import (
    CANCEL_KIND,
    MAX_RESULT_BYTES,
    BlobRange,
    BlobRequest,
    Command,
    CommandResult,
    decode,
    encode,
    encode_blob_range,
)
from edgeinfer.sync.mqtt import MqttLink
from edgeinfer.sync.settings import CommandTrust, SyncConfig

BLOB = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(BLOB).hexdigest()
ENVELOPE = b"signed"
COMMAND = Command(
    id="c-1", device="dev-1", kind="bench", issued_s=1000, expires_s=1303,
    blob_sha256=SHA256, blob_bytes=len(BLOB), each_ms=100, threads=1,
)  # fmt: skip


class Agent:
    """`Benches` with real databases, and a console that answers what is asked."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[BlobRequest] = []
        self.incoming = folder / "runtime" / "models" / "incoming"
        self.db = SyncDb(folder / "sync.db")
        self.runtime = RuntimeDb(folder / "runtime" / "runtime.db")
        self.config = SyncConfig(device="dev-1", state_dir=str(folder), runtime_dir=str(folder / "runtime"))
        self.view = DaemonView(folder / "runtime")
        self.benches = self.start()

    def start(self) -> Benches:
        return Benches(self.config, self.db, cast("MqttLink", self), self.view, UNLIMITED)

    def publish(self, name: str, raw: bytes, **_: object) -> bool:
        assert name.endswith("/up/get")
        self.asked.append(decode(raw, BlobRequest))
        return True

    def fetch(self, blob: bytes = BLOB, *, now_s: float = 0.0) -> CommandResult | None:
        """Let it download until nothing more is asked for."""
        while self.benches.downloading:
            if (answer := self.benches.step(now_s)) is not None:
                return answer
            for request in self.asked:
                data = blob[request.offset : request.offset + request.length]
                self.benches.data(encode_blob_range(BlobRange(SHA256, request.offset, len(blob), data)), now_s)
            self.asked.clear()
        return self.benches.step(now_s)

    def left(self) -> list[str]:
        return sorted(path.name for path in self.incoming.glob("*"))


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    yield made
    made.benches.close()
    made.view.close()
    made.db.close()
    made.runtime.close()


def begun(agent: Agent) -> Agent:
    assert agent.benches.begin(COMMAND, ENVELOPE, 0.0) == ""
    return agent


def handed_over(agent: Agent) -> str:
    """How the daemon names the order."""
    assert begun(agent).fetch() is None
    assert (agent.incoming / f"{SHA256}{BENCH_SUFFIX}").read_bytes() == BLOB
    assert agent.db.note(BENCH_NOTE) == ENVELOPE
    return hashlib.sha256(ENVELOPE).hexdigest()


def ended(agent: Agent) -> bool:
    return agent.left() == [] and agent.db.note(BENCH_NOTE) == b""


def test_figures_go_to_the_console_and_nothing_stays(agent: Agent) -> None:
    order = handed_over(agent)
    agent.runtime.set_bench(BenchAnswer(order))
    assert agent.benches.step(1.0) is None
    assert agent.benches.step(100.0) is None
    agent.runtime.set_bench(BenchAnswer(order, done=True, document='{"seconds": 1}'))
    answer = agent.benches.step(101.0)
    assert answer == CommandResult("c-1", ok=True, detail="timed", document='{"seconds": 1}')
    assert ended(agent)
    assert agent.benches.begin(COMMAND, ENVELOPE, 102.0) == ""


def test_a_refusal_of_the_daemon_is_told(agent: Agent) -> None:
    order = handed_over(agent)
    agent.runtime.set_bench(BenchAnswer("another", done=True, document="{}"))
    assert agent.benches.step(1.0) is None
    agent.runtime.set_bench(BenchAnswer(order, done=True, error="expected a signature, found none"))
    answer = agent.benches.step(2.0)
    assert answer == CommandResult("c-1", ok=False, detail="expected a signature, found none")
    assert ended(agent)


def test_a_daemon_that_does_not_run_is_told(agent: Agent) -> None:
    handed_over(agent)
    assert agent.benches.step(29.0) is None
    answer = agent.benches.step(31.0)
    assert answer is not None
    assert "the daemon has not taken it up in 30 s" in answer.detail
    assert ended(agent)


def test_the_command_expires(agent: Agent) -> None:
    agent.runtime.set_bench(BenchAnswer(handed_over(agent)))
    assert agent.benches.step(299.0) is None
    answer = agent.benches.step(300.0)
    assert answer is not None
    assert "while timing" in answer.detail
    assert ended(agent)


def test_a_download_that_does_not_end(agent: Agent) -> None:
    begun(agent)
    assert agent.benches.step(1.0) is None
    answer = agent.benches.step(301.0)
    assert answer is not None
    assert "while downloading" in answer.detail
    assert ended(agent)


@pytest.mark.parametrize(
    ("blob", "reason"), [(b"", "no such blob"), (BLOB[:-1], "expected a blob of"), (BLOB[::-1], "in 3 attempts")]
)
def test_a_package_that_is_not_what_was_announced(agent: Agent, blob: bytes, reason: str) -> None:
    answer = begun(agent).fetch(blob)
    assert answer is not None
    assert (answer.ok, reason in answer.detail) == (False, True)
    assert ended(agent)


def test_one_at_a_time(agent: Agent) -> None:
    begun(agent)
    assert "another package" in agent.benches.begin(msgspec.structs.replace(COMMAND, id="c-2"), b"x", 0.0)


def test_what_a_killed_agent_left_is_withdrawn(agent: Agent) -> None:
    handed_over(agent)
    (agent.incoming / "update.part").write_bytes(b"x")
    agent.start()
    assert agent.left() == ["update.part"]
    assert agent.db.note(BENCH_NOTE) == b""


def test_what_nobody_waits_for_is_ended(agent: Agent) -> None:
    handed_over(agent)
    assert agent.benches.cancel("c-2") is None
    assert agent.benches.under_way == "c-1"
    assert agent.benches.cancel("c-1") == CommandResult("c-1", ok=False, detail="it was called off")
    assert ended(agent)
    assert agent.benches.cancel("c-1") is None


def test_a_download_is_ended_too(agent: Agent) -> None:
    begun(agent)
    agent.benches.step(0.0)
    assert agent.benches.cancel("c-1") is not None
    assert ended(agent)
    assert not agent.benches.downloading


def test_a_command_that_comes_again_is_carried_out_once(agent: Agent) -> None:
    key = SigningKey(b"c" * 32)
    config = msgspec.structs.replace(agent.config, trust=CommandTrust(console_keys=(key.public.hex(),)))
    answers: list[CommandResult] = []

    def publish(name: str, raw: bytes, **_: object) -> bool:
        if name.endswith("/up/cmdres"):
            answers.append(decode(raw, CommandResult))
        return True

    link = cast("MqttLink", SimpleNamespace(publish=publish, ticket=lambda: 0, is_confirmed=lambda _: True))
    benches = Benches(config, agent.db, link, agent.view, UNLIMITED)
    commands = Commands(config, agent.db, link, UNLIMITED, ring=LogRing(), benches=benches, wall_s=lambda: 1000.0)
    raw = seal(encode(COMMAND), key)
    for second in range(3):
        commands.take(raw, float(second))
        commands.step(float(second))
    assert (answers, benches.under_way) == ([], "c-1")
    commands.step(400.0)
    commands.take(raw, 401.0)
    commands.step(401.0)
    assert [(one.id, one.ok) for one in answers] == [("c-1", False)] * 2
    assert answers[0] == answers[1]
    commands.take(seal(encode(msgspec.structs.replace(COMMAND, id="c-2", threads=0)), key), 500.0)
    commands.step(500.0)
    assert "hash and size" in answers[2].detail
    assert benches.under_way == ""
    commands.take(seal(encode(msgspec.structs.replace(COMMAND, id="c-3")), key), 600.0)
    cancel = Command(id="c-4", device="dev-1", kind=CANCEL_KIND, issued_s=1000, expires_s=1030, ends="c-3")
    for number in (4, 5):
        commands.take(seal(encode(msgspec.structs.replace(cancel, id=f"c-{number}")), key), 600.0)
    commands.step(600.0)
    assert [(one.id, one.ok, one.detail) for one in answers[3:]] == [
        ("c-3", False, "it was called off"),
        ("c-4", True, "c-3 ended"),
        ("c-5", True, "c-3 is not under way here"),
    ]
    assert benches.under_way == ""


@pytest.mark.parametrize(
    ("changes", "signer", "reason"),
    [
        ({}, b"x", "none of the 1 trusted"),
        ({"device": "dev-2"}, b"c", "for dev-1"),
        ({"issued_s": 100, "expires_s": 130}, b"c", "expired"),
        ({"id": "c-1", "ends": "c-1"}, b"c", ""),
        ({"ends": ""}, b"c", "is not under way here"),
        ({"ends": "c-10"}, b"c", "is not under way here"),
    ],
)
def test_what_may_not_end_it(agent: Agent, changes: dict[str, object], signer: bytes, reason: str) -> None:
    """Forged, for another device, too late, under the name of what it would end, of none, of another."""
    key = SigningKey(b"c" * 32)
    config = msgspec.structs.replace(agent.config, trust=CommandTrust(console_keys=(key.public.hex(),)))
    answers: list[CommandResult] = []

    def publish(name: str, raw: bytes, **_: object) -> bool:
        if name.endswith("/up/cmdres"):
            answers.append(decode(raw, CommandResult))
        return True

    link = cast("MqttLink", SimpleNamespace(publish=publish, ticket=lambda: 0, is_confirmed=lambda _: True))
    benches = Benches(config, agent.db, link, agent.view, UNLIMITED)
    commands = Commands(config, agent.db, link, UNLIMITED, ring=LogRing(), benches=benches, wall_s=lambda: 1000.0)
    commands.take(seal(encode(COMMAND), key), 0.0)
    cancel = Command(id="c-2", device="dev-1", kind=CANCEL_KIND, issued_s=1000, expires_s=1030, ends="c-1")
    commands.take(seal(encode(msgspec.structs.replace(cancel, **changes)), SigningKey(signer * 32)), 1.0)
    commands.step(1.0)
    assert benches.under_way == "c-1"
    assert [reason in one.detail for one in answers] == ([True] if reason else [])


def test_a_trusted_key_that_is_none_refuses_every_command(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "console.pub").write_text("no key")
    config = msgspec.structs.replace(agent.config, trust=CommandTrust(console_keys=(f"{tmp_path}/console.pub",)))
    answers: list[CommandResult] = []

    def publish(_name: str, raw: bytes, **_: object) -> bool:
        answers.append(decode(raw, CommandResult))
        return True

    link = cast("MqttLink", SimpleNamespace(publish=publish, ticket=lambda: 0, is_confirmed=lambda _: True))
    commands = Commands(config, agent.db, link, UNLIMITED, ring=LogRing(), benches=agent.benches, wall_s=lambda: 1000.0)
    commands.take(seal(encode(COMMAND), SigningKey(b"c" * 32)), 0.0)
    commands.step(0.0)
    assert [(one.ok, "expected a public key in hex" in one.detail) for one in answers] == [(False, True)]


@pytest.mark.parametrize(
    "changes", [{"blob_sha256": "../x"}, {"blob_bytes": 0}, {"blob_bytes": 5 << 30}, {"each_ms": 0}, {"threads": 0}]
)
def test_commands_that_are_not_whole(changes: dict[str, object]) -> None:
    assert why_not(COMMAND, device="dev-1", now_s=1000) == ""
    assert "hash and size" in why_not(msgspec.structs.replace(COMMAND, **changes), device="dev-1", now_s=1000)


def test_results_have_a_limit_of_their_own() -> None:
    document = '"' * (MAX_DOCUMENT_BYTES - 2)
    result = CommandResult("c-1", ok=True, document=document)
    assert decode(encode(result), CommandResult) == result
    assert len(encode(result)) < MAX_RESULT_BYTES
    with pytest.raises(MessageError, match="document"):
        decode(encode(CommandResult("c-1", ok=True, document="x" * (MAX_DOCUMENT_BYTES + 1))), CommandResult)
    with pytest.raises(MessageError, match="at most"):
        decode(b" " * (MAX_RESULT_BYTES + 1), CommandResult)
    with pytest.raises(MessageError, match="at most"):
        decode(b" " * MAX_RESULT_BYTES, Command)
