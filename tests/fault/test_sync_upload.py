"""The agent uploads a real buffer through a real mosquitto, while parts of the way are killed."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import chunk_reader
from agents import DEVICE, PATIENT, agent_process, append, fill, result, running, sync_config, write_config
from brokers import Mosquitto
from edgeinfer.runtime.buffer import Buffer, BufferConfig
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.codec.dictionary import DICTIONARIES
from edgeinfer.runtime.errors import BrokerError, ConsoleError
from edgeinfer.runtime.handoff import SyncDb
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.sync.agent import Agent
from edgeinfer.sync.messages import Ack, Birth, StateMessage, decode, encode
from edgeinfer.sync.mqtt import BrokerConfig, MqttLink
from tiny_console import TinyConsole
from waiting import ENDS_WITHIN_S, wait_until


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as started:
        yield started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "runtime").mkdir()
    return tmp_path


def is_exact(console: TinyConsole, buffer: Buffer) -> bool:
    """Whether the console has each durable result of the buffer, and nothing else."""
    return sorted(console.results) == [(buffer.epoch, seq) for seq in range(1, buffer.durable_seq + 1)]


def is_known(folder: Path, buffer: Buffer) -> bool:
    """Whether sync.db says that the console acknowledged all that the buffer holds."""
    with SyncDb(folder / "sync" / "sync.db", read_only=True) as db:
        return db.acknowledged(buffer.epoch) == buffer.durable_seq


@pytest.mark.parametrize("protocol", [5, 4])
def test_everything_arrives_and_sync_db_knows_it(folder: Path, broker: Mosquitto, protocol: int) -> None:
    buffer = fill(folder, 2_345)
    config = sync_config(folder, broker, upload=PATIENT)
    config = msgspec.structs.replace(config, broker=msgspec.structs.replace(config.broker, protocol=protocol))
    with TinyConsole(BrokerConfig(port=broker.port), device=DEVICE) as console:
        with running(config):
            wait_until(lambda: is_exact(console, buffer), what="the upload")
            append(buffer, 3_000, 155)
            wait_until(lambda: is_exact(console, buffer), what="the new results")
            wait_until(lambda: is_known(folder, buffer), what="the last acknowledgement")
        assert console.refused == 0
        with BufferReader(folder / "runtime" / "buffer.db") as reader:
            stored = {chunk.first_seq: chunk.body for chunk in reader.chunks(0, limit=1000)}
        assert {seq: body for (_, seq), body in console.stored.items()} == stored
    buffer.close()
    with SyncDb(folder / "sync" / "sync.db") as db:
        assert db.acknowledged(buffer.epoch) == 2_500
        assert db.counter("sent") == 2_500


def test_the_console_learns_who_is_there_and_when_it_leaves(folder: Path, broker: Mosquitto) -> None:
    buffer = fill(folder, 10)
    with TinyConsole(BrokerConfig(port=broker.port), device=DEVICE) as console:
        with running(sync_config(folder, broker, groups=("canary",))):
            wait_until(lambda: any(decode(raw, Birth).epochs for raw in console.of("up/birth")), what="a birth")
            wait_until(lambda: bool(console.of("up/tel")) and bool(console.of("up/reported")), what="reports")
        wait_until(lambda: len(console.of("up/state")) >= 2, what="the farewell")
        states = [decode(raw, StateMessage) for raw in console.of("up/state")]
        birth = decode(console.of("up/birth")[-1], Birth)
    assert [state.online for state in states] == [True, False]
    assert states[0].session == birth.session
    assert set(birth.epochs) == {str(buffer.epoch)}
    assert birth.groups == ("canary",)
    buffer.close()


def test_a_broker_that_is_killed_during_the_upload_costs_nothing(folder: Path, broker: Mosquitto) -> None:
    buffer = fill(folder, 20_000)
    with TinyConsole(BrokerConfig(port=broker.port, reconnect_max_s=0.5), device=DEVICE) as console:
        with running(sync_config(folder, broker)):
            for share in (3_000, 8_000, 13_000):
                wait_until(lambda share=share: len(console.results) >= share, what="a part")  # type: ignore[misc]  # a default is bound to the loop's value
                broker.kill()
                broker.start()
            wait_until(lambda: is_exact(console, buffer), what="the rest")
        assert set(console.results) == {(buffer.epoch, seq) for seq in range(1, 20_001)}
    buffer.close()


def test_lost_chunks_are_asked_for_and_repeated_acknowledgements_do_no_harm(folder: Path, broker: Mosquitto) -> None:
    buffer = fill(folder, 5_000)
    with (
        TinyConsole(BrokerConfig(port=broker.port), device=DEVICE, lose=0.2, repeat=0.3) as console,
        running(sync_config(folder, broker)),
    ):
        wait_until(lambda: is_exact(console, buffer), what="the upload")
    buffer.close()


def test_a_console_that_dies_and_returns_gets_the_rest(folder: Path, broker: Mosquitto) -> None:
    buffer = fill(folder, 10_000)
    with TinyConsole(BrokerConfig(port=broker.port), device=DEVICE) as console, running(sync_config(folder, broker)):
        wait_until(lambda: len(console.results) >= 1_000, what="a part")
        console.die()
        append(buffer, 10_000, 500)
        console.live()
        wait_until(lambda: is_exact(console, buffer), what="the rest")
    buffer.close()


def test_an_agent_that_is_killed_again_and_again_finishes(folder: Path, broker: Mosquitto) -> None:
    buffer = fill(folder, 20_000)
    file = write_config(folder, broker)
    with TinyConsole(BrokerConfig(port=broker.port), device=DEVICE) as console:
        for share in (2_000, 8_000, 14_000):
            with agent_process(file) as process:
                wait_until(lambda share=share: len(console.results) >= share, what="a part")  # type: ignore[misc]  # a default is bound to the loop's value
                process.kill()
                process.wait(60.0)
        with agent_process(file) as process:
            wait_until(lambda: is_exact(console, buffer), what="the rest")
            wait_until(lambda: is_known(folder, buffer), what="the last acknowledgement")
            process.send_signal(signal.SIGTERM)
            assert process.wait(ENDS_WITHIN_S) == 0
    buffer.close()
    with SyncDb(folder / "sync" / "sync.db") as db:
        assert db.acknowledged(buffer.epoch) == 20_000


def test_the_daemon_may_come_late_leave_and_return(folder: Path, broker: Mosquitto) -> None:
    with TinyConsole(BrokerConfig(port=broker.port), device=DEVICE) as console, running(sync_config(folder, broker)):
        wait_until(lambda: bool(console.of("up/birth")), what="a birth without a buffer")
        first = fill(folder, 300)
        wait_until(lambda: is_exact(console, first), what="what the late daemon wrote")
        first.close()
        second = Buffer(
            BufferConfig(path=str(folder / "runtime" / "buffer.db"), flush_interval_s=0.05),
            acknowledged=lambda _epoch: 0,
        )
        assert second.epoch == first.epoch
        append(second, 300, 200)
        wait_until(lambda: is_exact(console, second), what="what the next daemon wrote")
        second.close()


def test_a_new_buffer_begins_a_new_epoch(folder: Path, broker: Mosquitto) -> None:
    with TinyConsole(BrokerConfig(port=broker.port), device=DEVICE) as console, running(sync_config(folder, broker)):
        first = fill(folder, 120)
        wait_until(lambda: is_exact(console, first), what="the first epoch")
        first.close()
        for file in (folder / "runtime").glob("buffer.db*"):
            file.unlink()
        second = fill(folder, 80)
        assert second.epoch != first.epoch
        wait_until(lambda: console.contiguous(second.epoch) == 80, what="the second epoch")
        second.close()
    assert len(console.results) == 200


def test_a_silent_console_is_probed_and_then_served(folder: Path, broker: Mosquitto) -> None:
    buffer = fill(folder, 4_000)
    with (
        TinyConsole(BrokerConfig(port=broker.port), device=DEVICE, mute=True) as console,
        running(sync_config(folder, broker)),
    ):
        wait_until(lambda: console.refused >= 200, what="the first probes")
        assert 100 <= len(console.results) <= 1_600, "the window, and not more"
        console.mute = False
        wait_until(lambda: is_exact(console, buffer), what="the upload")
    buffer.close()


def test_hostile_bytes_on_every_down_topic_change_nothing(
    folder: Path, broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    buffer = fill(folder, 3_000)
    garbage = [b"", b"\0" * 100, b"{", b"[]", b"null", os.urandom(5_000), b"[" * 20_000, b'{"epoch":-1,"seq":"x"}']
    garbage += [encode(Ack(buffer.epoch + 1, 3_000)), encode(Ack(buffer.epoch, 1 << 62)), b"ER\x01" + bytes(200)]
    with (
        TinyConsole(BrokerConfig(port=broker.port), device=DEVICE, mute=True) as console,
        running(sync_config(folder, broker)),
    ):
        wait_until(lambda: len(console.results) >= 100, what="a chunk")
        for rest in ("down/ack", "down/desired", "down/data"):
            for payload in garbage:
                assert console.say(rest, payload)
        console.mute = False
        wait_until(lambda: is_exact(console, buffer), what="the upload")
        wait_until(lambda: is_known(folder, buffer), what="the last acknowledgement")
    assert len([record for record in caplog.records if "event=trouble" in record.message]) <= 3
    buffer.close()
    with SyncDb(folder / "sync" / "sync.db") as db:
        assert db.acknowledged(buffer.epoch) == 3_000
        assert db.desired() is None


def test_an_acknowledgement_is_believed_only_up_to_what_was_sent(folder: Path, broker: Mosquitto) -> None:
    buffer = fill(folder, 4_000)
    with (
        TinyConsole(BrokerConfig(port=broker.port), device=DEVICE, mute=True) as console,
        running(
            sync_config(
                folder,
                broker,
                upload=msgspec.structs.replace(PATIENT, window=2),
            )
        ),
    ):
        wait_until(lambda: len(console.results) >= 200, what="a full window")
        assert console.say("down/ack", encode(Ack(buffer.epoch, 4_000)))
        wait_until(lambda: len(console.results) >= 400, what="the next window")
    buffer.close()
    with SyncDb(folder / "sync" / "sync.db") as db:
        assert db.acknowledged(buffer.epoch) <= 400


def test_an_acknowledgement_of_another_history_lets_nothing_go(
    folder: Path, broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    """As of a copy of this device: the same numbers, other results under them."""
    buffer = fill(folder, 200)
    with BufferReader(folder / "runtime" / "buffer.db") as reader:
        link = reader.link_before(101).hex()
    with (
        TinyConsole(BrokerConfig(port=broker.port), device=DEVICE, mute=True) as console,
        running(sync_config(folder, broker)),
    ):
        wait_until(lambda: len(console.results) >= 200, what="the upload")
        for other in ("00" * 16, "no hex"):
            assert console.say("down/ack", encode(Ack(buffer.epoch, 100, link=other)))
        wait_until(lambda: "event=conflict" in caplog.text and "expected a link" in caplog.text, what="a complaint")
        assert console.say("down/ack", encode(Ack(buffer.epoch, 100, link=link)))
        wait_until(lambda: acknowledged(folder, buffer) == 100, what="what is its own")
    buffer.close()


def acknowledged(folder: Path, buffer: Buffer) -> int:
    with SyncDb(folder / "sync" / "sync.db", read_only=True) as db:
        return db.acknowledged(buffer.epoch)


def test_once_drains_and_leaves(folder: Path, broker: Mosquitto) -> None:
    buffer = fill(folder, 1_000)
    buffer.close()
    with TinyConsole(BrokerConfig(port=broker.port), device=DEVICE) as console:
        wait_until(lambda: console.link is not None and console.link.connected, what="the console")
        report = Agent(sync_config(folder, broker)).drain_once(60.0)
        again = Agent(sync_config(folder, broker)).drain_once(60.0)
        assert is_exact(console, buffer)
    assert (report.sent, report.acknowledged, report.update) == (1_000, 1_000, "IDLE")
    assert report.bytes > 1_000
    assert (again.sent, again.acknowledged, again.bytes) == (0, 0, 0)


def test_what_was_sent_is_counted_once_though_events_go_ahead(folder: Path, broker: Mosquitto) -> None:
    buffer = fill(folder, 3_000)
    for number in range(5):
        append(buffer, 3_000 + 10 * number, 10)
        buffer.append("door", Result(Kind.EVENT, 1_700_000_000_000_000_000, number, extra={"rule": "seven"}))
        assert buffer.flush(60.0)
    buffer.close()
    with TinyConsole(BrokerConfig(port=broker.port), device=DEVICE) as console:
        wait_until(lambda: console.link is not None and console.link.connected, what="the console")
        report = Agent(sync_config(folder, broker)).drain_once(60.0)
        assert is_exact(console, buffer)
    assert (report.sent, report.acknowledged) == (3_055, 3_055)


def test_once_says_which_side_did_not_answer(folder: Path, broker: Mosquitto) -> None:
    fill(folder, 100).close()
    with pytest.raises(ConsoleError, match="acknowledge 100, found 0"):
        Agent(sync_config(folder, broker)).drain_once(8.0)
    broker.kill()
    with pytest.raises(BrokerError, match="no connection"):
        Agent(sync_config(folder, broker)).drain_once(8.0)


def test_another_client_of_the_same_name_does_not_start_a_war(folder: Path, broker: Mosquitto) -> None:
    """Two clients that throw each other out wait longer and longer; meanwhile nothing is lost."""
    buffer = fill(folder, 2_000)
    rival = MqttLink(
        BrokerConfig(port=broker.port), client_id=f"edgeinfer-default-{DEVICE}", will=None, subscriptions=[]
    )
    with TinyConsole(BrokerConfig(port=broker.port), device=DEVICE) as console, running(sync_config(folder, broker)):
        rival.start()
        wait_until(lambda: rival.generation >= 2, what="the struggle")
        rival.stop()
        wait_until(lambda: is_exact(console, buffer), what="the upload")
    buffer.close()


# -- several chunks in one message --------------------------------------------------------------------------------


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is, the window opens."""
    for name in ("_QUEUE_S", "_LONG_QUEUE_S", "_WIDE_QUEUE_S", "_LONG_WIDE_QUEUE_S"):
        monkeypatch.setattr(f"edgeinfer.sync.window.{name}", 1e6)


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silence is no reason for single chunks."""
    monkeypatch.setattr("edgeinfer.sync.bundle._REST_S", 0.0)


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("protocol", [5, 4])
def test_a_backlog_goes_in_fewer_messages_and_is_the_same(folder: Path, broker: Mosquitto, protocol: int) -> None:
    buffer = fill(folder, 20_000)
    config = sync_config(folder, broker, upload=PATIENT)
    config = msgspec.structs.replace(config, broker=msgspec.structs.replace(config.broker, protocol=protocol))
    with TinyConsole(BrokerConfig(port=broker.port), device=DEVICE) as console, running(config):
        wait_until(lambda: is_exact(console, buffer), what="the upload")
        assert console.bundles > 0
        assert console.refused == 0
        with BufferReader(folder / "runtime" / "buffer.db") as reader:
            stored = {chunk.first_seq: chunk.body for chunk in reader.chunks(0, limit=10_000)}
        assert {seq: body for (_, seq), body in console.stored.items()} == stored
    buffer.close()


@pytest.mark.usefixtures("wide")
def test_another_reader_at_the_broker_finds_every_chunk_by_the_document_alone(folder: Path, broker: Mosquitto) -> None:
    buffer = fill(folder, 20_000)
    mine = BrokerConfig(port=broker.port)
    reader = MqttLink(mine, client_id="other", will=None, subscriptions=[("ei/v1/+/d/+/up/res/#", 1)])
    reader.start()
    wait_until(lambda: reader.connected, what="the other reader")
    caught: list[tuple[str, bytes]] = []
    with TinyConsole(mine, device=DEVICE) as console, running(sync_config(folder, broker, upload=PATIENT)):
        wait_until(lambda: is_exact(console, buffer), what="the upload")
        wait_until(lambda: is_known(folder, buffer), what="the last acknowledgement")
    found: dict[int, chunk_reader.Message] = {}

    def has_all() -> bool:
        while (message := reader.receive(0.1)) is not None:
            caught.append(message)
            for name, payload in chunk_reader.read_topic(*message):
                assert name == f"ei/v1/default/d/{DEVICE}/up/res/door"
                chunk = chunk_reader.read_message(payload)
                found[chunk.first_seq] = chunk
        return sum(chunk.n for chunk in found.values()) == buffer.durable_seq

    wait_until(has_all, what="what was published")
    reader.stop()
    assert len(caught) < len(found)
    link, last_seq = chunk_reader.genesis(buffer.epoch), 0
    for first_seq, chunk in sorted(found.items()):
        assert (first_seq, chunk.epoch) == (last_seq + 1, buffer.epoch)
        link, last_seq = chunk_reader.next_link(link, chunk, "door"), last_seq + chunk.n
        assert chunk.link == link
        results = chunk_reader.read_results(chunk.codec, chunk.body, DICTIONARIES)
        assert [one["frame"] for one in results] == list(range(first_seq - 1, last_seq))
    buffer.close()


@pytest.mark.usefixtures("wide", "restless")
def test_lost_bundles_are_asked_for_too(folder: Path, broker: Mosquitto) -> None:
    buffer = fill(folder, 20_000)
    with (
        TinyConsole(BrokerConfig(port=broker.port), device=DEVICE, lose=0.1, repeat=0.3) as console,
        running(sync_config(folder, broker)),
    ):
        wait_until(lambda: is_exact(console, buffer), what="the upload")
        assert console.bundles > 0
    buffer.close()


@pytest.mark.usefixtures("wide", "restless")
def test_a_console_from_before_bundles_gets_none_and_one_that_takes_its_place_the_rest(
    folder: Path, broker: Mosquitto
) -> None:
    buffer = fill(folder, 10_000)
    with (
        TinyConsole(BrokerConfig(port=broker.port), device=DEVICE, takes=0) as console,
        running(sync_config(folder, broker)),
    ):
        wait_until(lambda: is_exact(console, buffer), what="the upload")
        assert console.bundles == 0
        console.die()
        console.takes = 64
        append(buffer, 10_000, 10_000)
        console.live()
        wait_until(lambda: is_exact(console, buffer), what="the rest")
        wait_until(lambda: is_known(folder, buffer), what="the last acknowledgement")
        assert console.bundles > 0
        console.die()
        console.takes, seen = 0, console.bundles
        append(buffer, 20_000, 10_000)
        console.live()
        # Bundles that were sent before the older console's first word it refuses; their chunks come once more, alone.
        wait_until(lambda: is_exact(console, buffer), what="the rest of the rest")
    assert console.bundles - seen == console.bad
    buffer.close()


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize(
    "limit", ["acl_file {folder}/acl", "message_size_limit 1500", "max_packet_size 1500"], ids=["acl", "size", "told"]
)
def test_a_broker_that_takes_no_bundles_gets_chunks(folder: Path, limit: str, caplog: pytest.LogCaptureFixture) -> None:
    acl = folder / "acl"
    acl.write_text("topic readwrite #\ntopic deny ei/v1/default/d/+/up/res/_bundle\n")
    acl.chmod(0o600)
    buffer = fill(folder, 20_000, chunk_results=20)
    with (
        Mosquitto(folder, extra=limit.format(folder=folder)) as broker,
        TinyConsole(BrokerConfig(port=broker.port), device=DEVICE) as console,
        running(sync_config(folder, broker, upload=PATIENT)),
    ):
        wait_until(lambda: is_exact(console, buffer), what="the upload")
        wait_until(lambda: is_known(folder, buffer), what="the last acknowledgement")
        is_refused = not limit.startswith("max_packet_size")
        assert ("event=chunks_go_alone" in caplog.text) is is_refused
        assert "event=smaller_messages" not in caplog.text, "single chunks are as large as ever"
    buffer.close()


@pytest.mark.usefixtures("wide")
def test_a_broker_that_drops_bundles_without_a_word_gets_chunks(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As mosquitto does over 3.1.1: it confirms what its access list does not allow. Events get through meanwhile."""
    acl = folder / "acl"
    acl.write_text("topic readwrite #\ntopic deny ei/v1/default/d/+/up/res/_bundle\n")
    acl.chmod(0o600)
    buffer = fill(folder, 20_000, chunk_results=20)
    with (
        Mosquitto(folder, extra=f"acl_file {acl}") as broker,
        TinyConsole(BrokerConfig(port=broker.port), device=DEVICE) as console,
    ):
        config = sync_config(folder, broker)
        with running(msgspec.structs.replace(config, broker=msgspec.structs.replace(config.broker, protocol=4))):
            while not is_exact(console, buffer):
                event = (buffer.epoch, buffer.durable_seq + 1)
                buffer.append("door", msgspec.structs.replace(result(event[1]), kind=Kind.EVENT))
                assert buffer.flush(60.0)
                wait_until(lambda event=event: event in console.results, what="the event")  # type: ignore[misc]  # a default is bound to the loop's value
            wait_until(lambda: is_known(folder, buffer), what="the last acknowledgement")
        assert console.bundles == 0
        assert "event=chunks_go_alone" in caplog.text
    buffer.close()
