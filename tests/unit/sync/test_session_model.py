"""Device, network and console as one model, with everything that can go wrong between them at any step.

The device is the real uploader and session over a model of the buffer and of `sync.db`; the console is the real ledger
with the rules of its transactions. Messages are lost, doubled and reordered, either side crashes anywhere, also between
COMMIT and acknowledgement, the broker refuses, chunks are split, evicted and dropped, and handed in by other ways when
their numbers have been settled without them. Whatever happens, what counts as
acknowledged is committed; and once the network is healed, the console has each result exactly once, or its tombstone.
"""

import contextlib
import copy
import itertools
import shutil
import tempfile
from pathlib import Path
from typing import cast

import msgspec
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edgeinfer.console.batch import Batch
from edgeinfer.console.deployer import Deployer
from edgeinfer.console.known import Known
from edgeinfer.console.ledger import Ledger
from edgeinfer.console.repository import SqliteRepository
from edgeinfer.console.settings import LimitsConfig
from edgeinfer.runtime.chunk import EVENTS, EVICTED_PIPELINE, RESULTS, TOMBSTONE
from edgeinfer.runtime.codec import decode as decode_results
from edgeinfer.runtime.handoff import SyncDb
from edgeinfer.sync.messages import Ack, ChunkMessage, decode_chunk, encode, encode_chunk, topic
from edgeinfer.sync.mqtt import MqttLink
from edgeinfer.sync.session import UploadConfig, UploadSession
from edgeinfer.sync.settings import SyncConfig
from edgeinfer.sync.uploader import Uploader
from upload_models import PIPELINE, ROOMY, ModelBuffer, ModelDb, ModelLink, Payload

CONFIG = UploadConfig(
    window=4, bundle=4, ack_timeout_s=5.0, ack_timeout_max_s=20.0, gap_retry_s=1.0, persist_interval_s=2.0
)
# Few, so that an acknowledgement that does not name all gaps is seen often.
GAPS_NAMED = 3


class ModelConsole:
    """What it committed survives its crashes: the ledger and, per number, what is stored under it."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.stored: dict[int, int] = {}
        self.inbox: list[bytes] = []

    def commit(self, most: int | None = None) -> None:
        """One transaction over the first `most` that have come, or all."""
        for raw in self.inbox[:most]:
            chunk = decode_chunk(raw)
            if chunk.codec == TOMBSTONE:
                self.ledger.evict(chunk.first_seq, chunk.n)
                continue
            numbers = [result.frame for result in decode_results(chunk.codec, chunk.body, n=chunk.n)]
            for first, last in self.ledger.store(chunk.first_seq, chunk.n):
                for seq in range(first, last + 1):
                    assert seq not in self.stored, "stored twice"
                    self.stored[seq] = numbers[seq - chunk.first_seq]
        del self.inbox[:most]

    def crash(self) -> None:
        """In the middle of a transaction."""
        self.inbox.clear()

    def close(self) -> None:
        pass

    def ack(self) -> Ack:
        """As `edgeinfer.console.known` has it, but for how many gaps are named."""
        return Ack(
            7,
            self.ledger.contiguous,
            self.ledger.gaps(GAPS_NAMED),
            highest=self.ledger.highest,
            complete=len(self.ledger.ranges) <= GAPS_NAMED,
        )


class DatabaseConsole:
    """The console's own transactions, over a database on the disk."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="console-"))
        self.repository = SqliteRepository(self.folder / "console.db")
        self.known = Known(self.repository, LimitsConfig())
        self.inbox: list[bytes] = []

    def commit(self, most: int | None = None) -> None:
        with self.repository.transaction():
            self._batch(most).write()
        del self.inbox[:most]

    def crash(self) -> None:
        """In the middle of a transaction; what is started anew knows what is on the disk."""
        with contextlib.suppress(_PowerCutError), self.repository.transaction():
            self._batch().write()
            raise _PowerCutError
        self.inbox.clear()
        self.repository.close()
        self.repository = SqliteRepository(self.folder / "console.db")
        self.known = Known(self.repository, LimitsConfig())

    def close(self) -> None:
        self.repository.close()
        shutil.rmtree(self.folder)

    def ack(self) -> Ack:
        return self.known.ack("dev-1", 7, self.ledger)

    @property
    def ledger(self) -> Ledger:
        return self.repository.ledgers("dev-1").get(7, Ledger())

    @property
    def stored(self) -> dict[int, int]:
        rows = self.repository.results("dev-1", after=(0, 0), limit=100_000)
        assert len({row.seq for row in rows}) == len(rows), "stored twice"
        return {row.seq: row.frame for row in rows}

    def _batch(self, most: int | None = None) -> Batch:
        batch = Batch(self.repository, self.known, cast("Deployer", None), tenant="default", t_ns=0)
        for raw in self.inbox[:most]:
            pipeline = EVICTED_PIPELINE if decode_chunk(raw).codec == TOMBSTONE else PIPELINE
            batch.add(topic("default", "dev-1", f"up/res/{pipeline}"), raw)
        assert not batch.refusals, batch.refusals
        return batch


class _PowerCutError(Exception):
    pass


class Delivery(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now_s = 100.0
        self.buffer = ModelBuffer()
        self.db = ModelDb()
        self.link = ModelLink()
        self.console = self.new_console()
        self.down: list[Ack] = []
        self.takes = 0  # chunks in a message, by what stands behind the broker now
        self.told = 0  # and by what the agent heard of it on this connection
        self.acked = 0
        self.lost_at_first = 0
        self.handed_in: set[int] = set()
        self.uploader = self.new_uploader()

    def new_console(self) -> "ModelConsole | DatabaseConsole":
        return ModelConsole()

    def new_uploader(self) -> Uploader:
        config = SyncConfig(device="dev-1", upload=CONFIG)
        self.link.complaints()  # a new process has a link of its own, which remembers none
        uploader = Uploader(config, cast("SyncDb", self.db), cast("MqttLink", self.link))
        uploader._buffer = self.buffer  # type: ignore[assignment]  # a model of it
        return uploader

    @property
    def session(self) -> UploadSession | None:
        return self.uploader._session

    # -- the device -------------------------------------------------------------------------------------------

    @initialize(
        backlog=st.lists(st.integers(1, 4), max_size=40), lost=st.integers(0, 3), takes=st.sampled_from([0, 2, 64, 64])
    )
    def begins_with(self, backlog: list[int], lost: int, takes: int) -> None:
        self.lost_at_first = lost
        self.takes = takes
        for n in backlog:
            self.buffer.append([0] * n, RESULTS)

    @rule(
        sizes=st.lists(st.sampled_from([0, 0, 0, 300]), min_size=1, max_size=5), lane=st.sampled_from([RESULTS, EVENTS])
    )
    def produce(self, sizes: list[int], lane: int) -> None:
        self.buffer.append(sizes, lane)

    @rule(chunks=st.integers(8, 30))
    def was_offline_for_long(self, chunks: int) -> None:
        for number in range(chunks):
            self.buffer.append([0] * (1 + number % 3), RESULTS)

    @precondition(lambda self: self.buffer.rows)
    @rule(data=st.data())
    def evict(self, data: st.DataObject) -> None:
        self.buffer.evict(data.draw(st.integers(0, len(self.buffer.rows) - 1)))

    @rule()
    def drop_what_is_acknowledged(self) -> None:
        self.buffer.drop(self.db.acknowledged(7))

    @rule()
    def step(self) -> None:
        before = len(self.link.up)
        self.uploader.step(self.now_s)
        for message in self.link.up[before:]:
            assert not message.is_bundle or 2 <= len(message.chunks) <= min(self.told, CONFIG.bundle)
            event(f"chunks in a message: {len(message.chunks)}")

    @rule()
    def device_crashes(self) -> None:
        self.uploader = self.new_uploader()
        self.link.connected = False
        self.acked = self.told = 0

    @rule(step_s=st.sampled_from([0.1, 1.5, 6.0, 25.0, 700.0]))
    def time_passes(self, step_s: float) -> None:
        self.now_s += step_s

    # -- the network ------------------------------------------------------------------------------------------

    @rule()
    def connect(self) -> None:
        if not self.link.connected:
            self.link.connected = True
            self.told = 0
            self.uploader.connected(self.now_s)
            assert self.session is None or self.session.in_flight == 0, "nothing is in flight on a new connection"

    @precondition(lambda self: self.link.connected)
    @rule(code=st.sampled_from([0, 0, 0x8E, 0x95]), keeps=st.booleans(), is_noticed=st.booleans())
    def lose_connection(self, code: int, keeps: bool, is_noticed: bool) -> None:
        """What the broker already has may still reach the console. The agent may see only the next connection."""
        if self.link.up:
            largest = max(self.link.up, key=len)
            self.link.complain(code, len(largest), ended=True, topic=largest.topic)
        if not keeps:
            self.link.up.clear()
        self.link.connected = False
        if is_noticed:
            self.uploader.lost()
        else:
            self.connect()

    @precondition(lambda self: self.link.up)
    @rule(data=st.data(), fate=st.sampled_from(["arrive", "arrive", "arrive", "lost", "twice"]))
    def deliver_up(self, data: st.DataObject, fate: str) -> None:
        raw = self.link.up.pop(data.draw(st.integers(0, len(self.link.up) - 1)))
        if fate == "twice":
            self.link.up.append(raw)
        if fate != "lost":
            self.arrive(raw)

    @precondition(lambda self: self.link.up)
    @rule()
    def deliver_all_in_order(self) -> None:
        self.arrive(*self.link.up)
        self.link.up.clear()

    def arrive(self, *messages: Payload) -> None:
        """A console that knows no bundles refuses them."""
        for message in messages:
            if self.takes or not message.is_bundle:
                self.console.inbox += message.chunks

    @precondition(lambda self: self.link.up)
    @rule(data=st.data(), code=st.sampled_from([0x97, 0x87, 0x95, 0x99, 0x80]))
    def broker_refuses(self, data: st.DataObject, code: int) -> None:
        raw = self.link.up.pop(data.draw(st.integers(0, len(self.link.up) - 1)))
        self.link.complain(code, len(raw), topic=raw.topic)

    @rule(limit=st.sampled_from([ROOMY, ROOMY, 250]))
    def broker_names_a_limit(self, limit: int) -> None:
        self.link.limit = limit

    @rule(owes=st.booleans())
    def broker_confirms_late(self, owes: bool) -> None:
        self.link.owes = owes

    @precondition(lambda self: self.down)
    @rule(data=st.data(), fate=st.sampled_from(["arrive", "arrive", "arrive", "lost", "twice"]))
    def deliver_down(self, data: st.DataObject, fate: str) -> None:
        ack = self.down.pop(data.draw(st.integers(0, len(self.down) - 1)))
        if fate == "twice":
            self.down.append(ack)
        if fate != "lost":
            self.hear(ack)

    def hear(self, ack: Ack) -> None:
        self.told = ack.bundle
        self.uploader.acknowledge(encode(ack), self.now_s)

    @precondition(lambda self: self.buffer.written)
    @rule(data=st.data())
    def a_stick_is_handed_in(self, data: st.DataObject) -> None:
        """As it was written some time ago: what is on it may be sent, stored, evicted or dropped by now."""
        numbers = st.integers(0, len(self.buffer.written) - 1)
        first, last = sorted((data.draw(numbers), data.draw(numbers)))
        for chunk in self.buffer.written[first : last + 1]:
            message = ChunkMessage(chunk.codec, 7, chunk.first_seq, chunk.n, chunk.crc, chunk.body, chunk.link)
            self.console.inbox.append(encode_chunk(message))
            self.handed_in.update(range(chunk.first_seq, chunk.last_seq + 1))

    # -- the console ------------------------------------------------------------------------------------------

    @rule(crash=st.sampled_from(["", "", "", "before commit", "before acknowledging"]))
    def console_takes(self, crash: str) -> None:
        if crash == "before commit":
            self.console.crash()
            return
        self.console.commit()
        if not crash:
            self.down.append(self.answer())

    @rule(most=st.integers(1, 5))
    def console_takes_some(self, most: int) -> None:
        """As where a transaction is full in the middle of a bundle."""
        self.console.commit(most)
        self.down.append(self.answer())

    @rule(takes=st.sampled_from([0, 2, 64]))
    def console_is_exchanged(self, takes: int) -> None:
        """By an older or a newer one with the same database."""
        self.console.crash()
        self.takes = takes

    def answer(self) -> Ack:
        return msgspec.structs.replace(self.console.ack(), bundle=self.takes)

    @rule(rounds=st.integers(1, 5), ends_well=st.booleans())
    def all_goes_well(self, rounds: int, *, ends_well: bool) -> None:
        """For some round trips, which open the window; the last one may be under way."""
        self.connect()
        for number in range(rounds):
            self.step()
            if ends_well or number < rounds - 1:
                self.deliver_all_in_order()
                self.console.commit()
                self.hear(self.answer())

    @rule(seq=st.integers(0, 100), epoch=st.sampled_from([6, 8]))
    def a_stranger_acknowledges(self, seq: int, epoch: int) -> None:
        before = self.uploader.acked_seq
        self.uploader.acknowledge(encode(Ack(epoch, seq)), self.now_s)
        assert self.uploader.acked_seq == before

    @precondition(lambda self: self.session is not None)
    @rule(beyond=st.integers(1, 100), ahead=st.integers(0, 100))
    def a_liar_would_not_be_believed(self, beyond: int, ahead: int) -> None:
        """Of what was never sent nothing is taken as stored, whatever a console says, unless it has that from a stick
        and has told so before."""
        session = copy.deepcopy(self.session)
        assert session is not None
        lie = session.through_seq + beyond
        session.acknowledge(Ack(7, lie, highest=lie + ahead), self.now_s)
        arrived = {seq for seq in self.handed_in if self.console.ledger.is_settled(seq)}
        assert session.acked_seq <= self.link.sent_through(besides=arrived)

    # -- what must hold ---------------------------------------------------------------------------------------

    @invariant()
    def only_what_is_committed_counts_as_acknowledged(self) -> None:
        assert self.session is None or self.uploader.acked_seq >= max(self.acked, self.db.acknowledged(7))
        self.acked = self.uploader.acked_seq
        assert max(self.db.acknowledged(7), self.uploader.acked_seq) <= self.console.ledger.contiguous

    @invariant()
    def each_number_holds_its_own_result(self) -> None:
        assert all(seq == found for seq, found in self.console.stored.items())
        assert len(self.console.stored) == self.console.ledger.stored

    @invariant()
    def the_window_is_kept(self) -> None:
        session = self.session
        if session is not None:
            assert session.in_flight <= CONFIG.window * CONFIG.bundle + 1
            assert session.acked_seq <= session.through_seq <= session.sent_seq <= self.buffer.made

    def teardown(self) -> None:
        """With a good network from now on everything arrives; and on a new connection it does so without a single
        wait for silence, though some of the first messages on it are lost."""
        self.link.owes = False
        self.heal(patience=100)
        self.buffer.append([0] * 3, RESULTS)
        self.buffer.append([0] * 2, EVENTS)
        for _ in range(2 * CONFIG.window):
            self.buffer.append([0], RESULTS)
        self.link.connected = False
        self.uploader = self.new_uploader()
        self.heal(patience=0)
        ledger = self.console.ledger
        assert ledger.contiguous == self.buffer.made == ledger.stored + ledger.evicted
        assert (ledger.missing, ledger.undecodable, ledger.ranges) == (0, 0, ())
        assert set(range(1, self.buffer.made + 1)) - set(self.console.stored) <= self.buffer.evicted | self.buffer.large
        self.console.close()

    def heal(self, *, patience: int) -> None:
        """Until all is acknowledged; time passes, and with it silences, only where there is `patience`."""
        self.connect()
        lost = self.lost_at_first
        for number in itertools.count():
            if self.uploader.acked_seq == self.buffer.made and self.session is not None:
                return
            assert number < 100 + 4 * self.buffer.made, self.in_words()
            self.uploader.step(self.now_s)
            if not patience:
                self.link.up, lost = self.link.up[lost:], 0
            self.arrive(*self.link.up)
            self.link.up.clear()
            self.console.commit()
            self.hear(self.answer())
            self.now_s += (0.5 if number % 10 else 70.0) if patience else 0.001

    def in_words(self) -> str:
        session = self.session
        assert session is not None
        return (
            f"stuck in {session.state} at {session.acked_seq} of {self.buffer.made}; console has "
            f"{self.console.ledger.contiguous} {self.console.ledger.ranges}; {session.in_flight} in flight"
        )


class DeliveryToDatabase(Delivery):
    """The same, to the console's own transactions."""

    def new_console(self) -> DatabaseConsole:
        return DatabaseConsole()


TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(max_examples=400, stateful_step_count=50, deadline=None)
TestDeliveryToDatabase = DeliveryToDatabase.TestCase
TestDeliveryToDatabase.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
