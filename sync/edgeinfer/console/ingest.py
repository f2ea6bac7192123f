"""Ingest: one thread that takes messages from the broker, stores what they say, and only then acknowledges.

Messages that wait are taken together into one transaction. The order is always: decode, write, COMMIT, then
publish the acknowledgements; a kill between the last two makes devices send again, and what they send again
is found to be there already. Nothing that arrives can end this thread: what cannot be read is counted and
refused. What cannot be stored is kept and tried again with growing waits; meanwhile nothing more is taken, so
that the broker and the devices hold back.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from edgeinfer.console.batch import Batch, Passed
from edgeinfer.console.blobs import BlobStore
from edgeinfer.console.deliveries import Deliveries, Delivery, Message
from edgeinfer.console.deployer import Deployer
from edgeinfer.console.intake import Inbound, Results, read_message, unbundled
from edgeinfer.console.known import Known
from edgeinfer.console.live import LiveFeed
from edgeinfer.console.repository import Repository
from edgeinfer.console.second_look import SecondLook
from edgeinfer.console.series import FINE_KEPT_S, RESOLUTIONS_S
from edgeinfer.console.settings import LimitsConfig
from edgeinfer.runtime.backoff import Backoff
from edgeinfer.runtime.errors import BufferStorageError
from edgeinfer.sync.bundle import MAX_BUNDLE_CHUNKS
from edgeinfer.sync.messages import Ack, encode, encode_blob_range, topic

__all__ = ["Ingest", "Link"]

_log = logging.getLogger(__name__)

# One transaction's worth; the bytes bound what is held in memory at once.
_MAX_BATCH = 256
_MAX_BATCH_BYTES = 8 << 20
# Of results, 17 bytes each while they wait for the commit: a few bytes may make very many.
_MAX_BATCH_RESULTS = 1 << 18
_IDLE_S = 0.25
_STORAGE_WAIT_S = 0.5
# SQLite itself waits five seconds for a lock, and the watchdog wants a turn every fifteen.
_STORAGE_WAIT_MAX_S = 5.0
_TIDY_EVERY_S = 600.0
_LOG_EVERY_S = 1.0


class Link(Protocol):
    """The part of MqttLink that ingest needs."""

    connected: bool
    generation: int

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> bool: ...

    def receive(self, timeout_s: float) -> tuple[str, bytes] | None: ...

    def wake(self) -> None: ...


class _Taken(msgspec.Struct, frozen=True):
    """A message, and what it says where it has been read and could be."""

    topic: str
    payload: bytes
    message: Inbound | None = None

    @property
    def results(self) -> int:
        """That are held in memory with it."""
        return self.message.body.chunk.n if self.message is not None and isinstance(self.message.body, Results) else 0


def _read(topic: str, payload: bytes, tenant: str) -> Inbound | None:
    """None for what cannot be read: the batch says why, and survives it."""
    try:
        return read_message(topic, payload, tenant=tenant)
    except Exception:  # the batch will meet it again, and has a place for it
        return None


class Ingest:
    """Start it once; `stop()` returns when everything that was taken is durable.

    `pass_on` is called with what devices send that is neither stored nor answered here, and must return at once.
    `storage_error` is empty unless the last messages could not be stored; `turns` grows while the thread is alive.
    """

    def __init__(
        self,
        link: Link,
        repository: Repository,
        *,
        deployer: Deployer,
        blobs: BlobStore,
        feed: LiveFeed,
        tenant: str,
        limits: LimitsConfig,
        pass_on: Callable[[str, Passed], object] = lambda _device, _message: None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._link = link
        self._repository = repository
        self._deployer = deployer
        self._blobs = blobs
        self._feed = feed
        self._pass_on = pass_on
        self._tenant = tenant
        self._clock_ns = clock_ns
        self._known = Known(repository, limits)
        self._stopping = threading.Event()
        self._lost = threading.Event()
        self._generation = 0
        self._held: list[_Taken] = []  # and not committed yet
        self._unbundled: deque[Message] = deque()  # of the last bundle
        self._deliveries = Deliveries(link.wake)
        self._delivery: Delivery | None = None  # whose messages are held; None: the link's
        self._delivered_last = False
        self._waits = Backoff(first_s=_STORAGE_WAIT_S, cap_s=_STORAGE_WAIT_MAX_S)
        self._tidied = self._logged = 0.0
        self._unlogged = 0
        self._thread = threading.Thread(target=self._run, name="ingest", daemon=True)
        self.storage_error = ""
        self.turns = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 1.0) -> None:
        self._stopping.set()
        self._deliveries.close()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def deliver(self, messages: Sequence[Message], timeout_s: float) -> dict[str, tuple[Ack, ...]]:
        """Have `messages` (topic, payload) stored as if they had come from the broker. Returns after COMMIT, with the
        acknowledgements of each device that they were about; what is wrong with one is remembered as a refusal.

        May be called from any thread but ingest's. Raises StorageError (nothing of the piece that failed is stored;
        pieces before it are) and BusyError (not in time), after both of which the same may be delivered again, and
        ConsoleError once the console has been stopped.
        """
        return self._deliveries.deliver(messages, timeout_s)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def link_changed(self) -> None:
        """To be called by the link when its `connected` changed."""
        if not self._link.connected:
            self._lost.set()

    def turn(self, timeout_s: float) -> int:
        """Take what waits, for at most `timeout_s` where that is nothing; returns how many messages it was.

        Raises StorageError; what was taken is then kept for the next turn, which takes nothing else.
        """
        self.turns += 1
        if not self._held:
            self._held = self._take(timeout_s)
        taken = len(self._held)
        self._follow_link()
        try:
            self._store()
        except BufferStorageError as error:
            self._give_back(error)
            raise
        self._give_back(None)
        self._deployer.publish_pending()
        self._tidy()
        return taken

    def _run(self) -> None:
        # This console may read what the one before it could not.
        second_look = SecondLook(self._repository, self._batch, tenant=self._tenant)
        is_looking = True
        while not self._stopping.is_set():
            is_looking = is_looking and self._look_again(second_look)
            try:
                if self.turn(0 if is_looking else _IDLE_S) or (self.storage_error and self._try_storage()):
                    self.storage_error = ""
                    self._waits.reset()
            except BufferStorageError as error:
                self._known.forget()
                if error.message != self.storage_error:
                    _log.error("event=storage_error error=%r", error.message)
                self.storage_error = error.message
                self._stopping.wait(self._waits.next())
            except Exception:  # the top of this thread
                self._known.forget()
                _log.exception("event=ingest_bug")
                if not self._held:
                    self._give_back(None)
                self._stopping.wait(_STORAGE_WAIT_S)

    def _look_again(self, second_look: SecondLook) -> bool:
        """A few more; whether there are others. What comes now does not wait for it."""
        try:
            return second_look.go_on()
        except BufferStorageError as error:
            self._known.forget()
            _log.warning("event=no_second_look error=%r", error.message)
            return False  # the next start looks at the rest
        except Exception:  # of one chunk, which stays as it is
            self._known.forget()
            _log.exception("event=second_look_bug")
            return True

    def _try_storage(self) -> bool:
        """Whether the database takes something again: what failed may have gone back to who delivered it, and nothing
        else may come. Raises StorageError."""
        with self._repository.transaction():
            self._repository.drop_buckets(resolution_s=RESOLUTIONS_S[0], before_s=0)
        return True

    def _give_back(self, error: BufferStorageError | None) -> None:
        """Tell whoever delivered. They still have what could not be stored, so it is not kept here."""
        if self._delivery is not None:
            self._delivery.finish(error)
            self._delivery = None
            self._held.clear()

    def _take(self, timeout_s: float) -> list[_Taken]:
        """What was delivered and what the link has take turns."""
        self._delivered_last = not self._delivered_last and len(self._deliveries) > 0
        if self._delivered_last:
            self._delivery = self._deliveries.take()
            return [_Taken(*message) for message in self._delivery.messages] if self._delivery is not None else []
        message = self._next(0 if self._deliveries else timeout_s)
        found: list[_Taken] = []
        size = results = 0
        while message is not None:
            # Read before the transaction, which others wait for, and while more comes, which then shares its commit.
            one = _Taken(*message, _read(*message, self._tenant))
            found.append(one)
            size += len(one.payload)
            results += one.results
            is_much = len(found) >= _MAX_BATCH or size >= _MAX_BATCH_BYTES or results >= _MAX_BATCH_RESULTS
            message = None if is_much else self._next(0)
        return found

    def _next(self, timeout_s: float) -> Message | None:
        """The next message of the link, those of a bundle one after the other."""
        if not self._unbundled and (message := self._link.receive(timeout_s)) is not None:
            self._unbundled.extend(unbundled(*message))
        return self._unbundled.popleft() if self._unbundled else None

    def _store(self) -> None:
        """All that is held in one transaction; where one message breaks it, each on its own."""
        if not self._held:
            return
        try:
            self._commit(len(self._held))
        except BufferStorageError:
            raise
        except Exception:
            _log.debug("event=batch_broken messages=%d", len(self._held), exc_info=True)
            self._known.forget()
            while self._held:
                self._store_one()

    def _store_one(self) -> None:
        try:
            self._commit(1)
        except BufferStorageError:
            raise
        except Exception as error:
            self._known.forget()
            message = self._held[0]
            _log.exception("event=message_bug topic=%r bytes=%d", message.topic[:120], len(message.payload))
            self._commit_refusal(message, error)
            del self._held[0]

    def _commit(self, n: int) -> None:
        """Commit the first `n` of what is held, let go of them, and answer."""
        batch = self._batch()
        with self._repository.transaction():
            for one in self._held[:n]:
                batch.add(one.topic, one.payload, one.message)
            batch.write()
        del self._held[:n]
        self._publish(batch)

    def _commit_refusal(self, message: _Taken, error: Exception) -> None:
        batch = self._batch()
        with self._repository.transaction():
            batch.refuse(message.topic, message.payload, f"internal error: {type(error).__name__}")
            batch.write()

    def _batch(self) -> Batch:
        return Batch(self._repository, self._known, self._deployer, tenant=self._tenant, t_ns=self._clock_ns())

    def _publish(self, batch: Batch) -> None:
        """After COMMIT: acknowledge, answer, show."""
        for device, ack in batch.acks():
            if self._delivery is not None:
                self._delivery.answer(device, ack)
            self._acknowledge(device, ack)
        for device, job in batch.job_acks:
            self._link.publish(topic(self._tenant, device, f"down/job/{job.job}"), encode(job), qos=1)
        self._feed.results(batch.chunks, batch.counts)
        self._feed.devices(batch.changed_devices)
        for deployment in batch.deployments:
            self._feed.deployment(deployment)
        self._log_refusals(batch)
        for device, message in batch.passed:
            self._pass_on(device, message)
        for device, request in batch.requests:
            answer = self._blobs.read(request)
            if answer is not None:
                self._link.publish(topic(self._tenant, device, "down/data"), encode_blob_range(answer), qos=0)

    def _acknowledge(self, device: str, ack: Ack) -> None:
        """Over the broker, where bundles are taken."""
        told = msgspec.structs.replace(ack, bundle=MAX_BUNDLE_CHUNKS)
        self._link.publish(topic(self._tenant, device, "down/ack"), encode(told), qos=1)

    def _follow_link(self) -> None:
        """Lost: nobody is known to be online. Found again: say what devices need to go on."""
        if self._lost.is_set():
            self._repository.all_offline()
            self._lost.clear()
        if self._link.connected and self._link.generation != self._generation:
            generation = self._link.generation
            self._deployer.publish_all()
            for device, ledgers in self._repository.all_ledgers().items():
                newest = next(reversed(ledgers))
                self._acknowledge(device, self._known.ack(device, newest, ledgers[newest]))
            self._generation = generation

    def _tidy(self) -> None:
        if time.monotonic() - self._tidied < _TIDY_EVERY_S and self._tidied:
            return
        self._tidied = time.monotonic()
        before_s = self._clock_ns() // 1_000_000_000 - FINE_KEPT_S
        self._repository.drop_buckets(resolution_s=1, before_s=before_s)

    def _log_refusals(self, batch: Batch) -> None:
        """One line a second at most: a hostile client must not fill the journal."""
        self._unlogged += len(batch.refusals)
        if not self._unlogged or time.monotonic() - self._logged < _LOG_EVERY_S:
            return
        last = batch.refusals[-1] if batch.refusals else None
        detail = msgspec.json.encode(last).decode() if last is not None else ""
        _log.warning("event=messages_refused n=%d last=%s", self._unlogged, detail)
        self._unlogged, self._logged = 0, time.monotonic()
