"""Moves chunks from the buffer to the broker, and acknowledgements into `sync.db`.

The decisions are `UploadSession`'s; this is the part with a database on either side. What was acknowledged is
made durable every few seconds, not each time: a commit costs flash, and all that a crash costs is to send again
what the console then ignores.
"""

import logging
from pathlib import Path

import msgspec

from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.chunk import EVENTS, NO_LINK, RESULTS, StoredChunk
from edgeinfer.runtime.errors import BufferStorageError, MessageError
from edgeinfer.runtime.handoff import SyncDb
from edgeinfer.runtime.watched import Watched
from edgeinfer.sync.allowance import UNLIMITED, Allowance, Priority
from edgeinfer.sync.backlog import Backlog
from edgeinfer.sync.bundle import BUNDLE, SENT_BYTES, Bundling, Parcel
from edgeinfer.sync.first_sent import FirstSent
from edgeinfer.sync.fitting import Fitting
from edgeinfer.sync.held import audit_counts, durable_seq
from edgeinfer.sync.loglimit import LogLimit
from edgeinfer.sync.messages import MAX_CHUNK_BYTES, Ack, ChunkMessage, decode, encode_chunk, topic
from edgeinfer.sync.mqtt import Complaint, MqttLink
from edgeinfer.sync.reasons import FAILURE, PACKET_TOO_LARGE, After, Refusal, after, describe, refusal
from edgeinfer.sync.session import AckVerdict, State, UploadSession, Want
from edgeinfer.sync.settings import SyncConfig
from edgeinfer.sync.sizing import SizeLimit

__all__ = ["Uploader"]

_log = logging.getLogger(__name__)

_STUCK_HINT = (
    "is a console listening, and does the broker take messages of some kB? Smaller ones are not tried: raise its limit"
    " (mosquitto: max_packet_size, message_size_limit)"
)
_PRIORITY = {EVENTS: Priority.EVENTS, RESULTS: Priority.RESULTS}
# An acknowledgement that was overtaken looks like a setback; once in a while is enough for either.
_SETBACK_INTERVAL_S = 5.0


class Uploader:
    """Uploads the buffer's present epoch: the `Way` by the broker. `sent_results`, `acknowledged_results` and
    `sent_bytes` count since the start of this object; resent chunks count in bytes only."""

    local_address = ""  # the link's, which has an address of its own

    def __init__(self, config: SyncConfig, db: SyncDb, link: MqttLink, allowance: Allowance = UNLIMITED) -> None:
        self._config = config
        self._db = db
        self._link = link
        self._allowance = allowance
        self._buffer = Watched(Path(config.runtime_dir) / "buffer.db", BufferReader)
        self._device_topics = topic(config.tenant, config.device, "")
        self._topics = self._device_topics + "up/res/"
        self._bundles = self._device_topics + BUNDLE
        self._bundling = Bundling(config.upload.bundle)
        self._backlog: Backlog | None = None
        self._links: dict[int, bytes] = {}  # after the last number of each chunk that is on its way
        self._session: UploadSession | None = None
        self._sizes = SizeLimit(MAX_CHUNK_BYTES)
        self._fitting = Fitting(link, self._sizes, topics=self._topics)
        self._quota = 0
        self._persisted = (0, 0, 0)
        self.setbacks = 0
        self._setback_s = float("-inf")
        self._duplicates = 0  # of what was sent, refused by the console as being there already
        self._persisted_s = 0.0
        self._floor: dict[str, int] | None = None
        self._limit = LogLimit()
        self._refused = ""
        self._is_stuck = False  # and that has been said
        self._made = self._made_persisted = 0  # in the session's epoch
        self._first_sent = FirstSent()
        self.sent_results = 0
        self.acknowledged_results = 0
        self.sent_bytes = 0

    @property
    def acked_seq(self) -> int:
        return 0 if self._session is None else self._session.acked_seq

    @property
    def conflict(self) -> int:
        """A number under which the console has another result than this buffer; 0 for none."""
        return 0 if self._session is None else self._session.conflict

    @property
    def busy(self) -> bool:
        """Whether something is on its way and not acknowledged."""
        return self._session is not None and self._session.in_flight > 0

    @property
    def trouble(self) -> str:
        """Why the broker takes no results, or nothing."""
        held = self._session is not None and self._session.state is State.HELD
        return f"the broker takes no results: {self._refused}" if held else ""

    def connected(self, now_s: float) -> None:
        """A new connection: send again from what is acknowledged."""
        self._quota = self._link.send_quota
        self._floor = None
        self._bundling.connected()
        if self._session is not None:
            self._session.connected(now_s, quota=self._quota)

    def lost(self) -> None:
        self._quota = 0
        self._links.clear()
        if self._session is not None:
            self._session.lost()

    def step(self, now_s: float) -> None:
        """Send what the window has room for, and keep progress durable."""
        reader = self._buffer.current()
        self._floor = None
        if reader is not None:
            try:
                backlog = self._look(reader, now_s)
                session = self._follow_epoch(backlog, now_s)
                self._made = backlog.settled_seq
                self._send(session, backlog, now_s)
            except BufferStorageError as error:
                self._buffer.failed(error)
        self.persist(now_s)

    def acknowledge(self, raw: bytes, now_s: float) -> None:
        """Take the payload of `down/ack`. Raises MessageError."""
        ack = decode(raw, Ack)
        session = self._session
        if session is None:
            return
        if ack.epoch == session.epoch:
            self._duplicates = max(self._duplicates, ack.duplicates)
            self._bundling.told(ack.bundle)
            self._look_for_setback(ack, session.acked_seq, now_s)
        before, conflict = session.acked_seq, session.conflict
        verdict = session.acknowledge(self._of_this_buffer(ack, session), now_s)
        self.acknowledged_results += session.acked_seq - before
        if verdict is AckVerdict.PROGRESS:
            self._sizes.progress()
            self._is_stuck = False
            self._links = {seq: link for seq, link in self._links.items() if seq > session.acked_seq}
        if session.loses_bundles:
            self._rest_bundles("they get lost", now_s)
        if verdict is AckVerdict.BEYOND and (held := self._limit.admit("beyond", now_s)) is not None:
            _log.warning("event=ack_beyond_sent acked=%d sent=%d held_back=%d", ack.seq, session.through_seq, held)
        if session.conflict and not conflict:
            _log.error(
                "event=conflict epoch=%d seq=%d reason='the console has another result under this number: two devices "
                "send under one name'",
                session.epoch, session.conflict,
            )  # fmt: skip

    def _look_for_setback(self, ack: Ack, acked_seq: int, now_s: float) -> None:
        """A console that was put back to an older copy waits for what was acknowledged, and will never come."""
        if ack.seq < acked_seq and now_s - self._setback_s >= _SETBACK_INTERVAL_S:
            self.setbacks += 1
            self._setback_s = now_s
            _log.warning("event=console_set_back epoch=%d seq=%d acked=%d", ack.epoch, ack.seq, acked_seq)

    def _of_this_buffer(self, ack: Ack, session: UploadSession) -> Ack:
        """`ack` as far as it speaks of this buffer's results. A copy of this device, or an image of its card that was
        put back, has the same numbers for others: the console's link of the hash chain tells. Where it is another than
        here, nothing new is acknowledged, and it counts as a conflict."""
        if ack.epoch != session.epoch or ack.seq <= session.acked_seq:
            return ack
        if not ack.link:
            conflict = session.conflict or ack.conflict
            return msgspec.structs.replace(ack, seq=min(ack.seq, conflict - 1)) if conflict else ack
        return ack if self._is_here(ack) else Ack(ack.epoch, session.acked_seq, conflict=ack.conflict or ack.seq)

    def _is_here(self, ack: Ack) -> bool:
        """Whether the chain may have this link after this number: it has, or that is not known any more."""
        try:
            theirs = bytes.fromhex(ack.link)
            ours = self._links.get(ack.seq)
            if ours is None:
                reader = self._buffer.current()
                if reader is None or reader.durable_seq() < ack.seq:
                    return False
                ours = reader.link_before(ack.seq + 1)
        except BufferStorageError as error:
            self._buffer.failed(error)
            return False
        except ValueError as error:
            raise MessageError(f"expected a link of the hash chain in hex, found {ack.link[:40]!r}") from error
        return ours in {NO_LINK, theirs}

    def stored(self, epoch: int, seq: int, now_s: float) -> None:
        """As `Way.stored`. The upload begins anew from there; what is in flight is sent again at worst."""
        self.persist(now_s, at_once=True)
        self._db.set_acknowledged(epoch, seq)
        if self._session is not None and self._session.epoch == epoch:
            self._session = None

    def persist(self, now_s: float, *, at_once: bool = False) -> None:
        """Make progress durable when it is time to. Raises BufferStorageError."""
        session = self._session
        if session is None or not (at_once or now_s - self._persisted_s >= self._config.upload.persist_interval_s):
            return
        progress = (session.acked_seq, session.through_seq, session.sent_seq)
        # What was made meanwhile is worth no commit of its own but the last one.
        if progress == self._persisted and not (at_once and self._made > self._made_persisted):
            return
        self._persisted_s = now_s
        self._db.set_upload_progress(
            session.epoch, session.acked_seq, sent_through=progress[1], sent=progress[2], refused=self._duplicates,
            made=self._made,
        )  # fmt: skip
        self._persisted, self._made_persisted = progress, self._made

    def close(self, now_s: float) -> None:
        """Raises BufferStorageError when progress could not be made durable."""
        try:
            self.persist(now_s, at_once=True)
        finally:
            self._buffer.close()

    def floor(self) -> dict[str, int]:
        """The present epoch, and the lowest sequence number that can still come of it."""
        reader, session = self._buffer.current(), self._session
        if reader is None or session is None:
            return {}
        if self._floor is None:
            try:
                first_seq = reader.first_seq()
            except BufferStorageError as error:
                self._buffer.failed(error)
                return {}
            self._floor = {str(session.epoch): max(first_seq, session.acked_seq + 1)}
        return self._floor

    def audit(self) -> dict[str, int]:
        session = self._session
        if session is None:
            return {}
        return audit_counts(self._buffer, epoch=session.epoch, sent=session.sent_seq, acknowledged=session.acked_seq)

    def durable_seq(self) -> int | None:
        return durable_seq(self._buffer)

    def _look(self, reader: BufferReader, now_s: float) -> Backlog:
        """What the buffer has."""
        if self._backlog is None or self._backlog.reader is not reader:
            self._backlog = Backlog(reader)
        self._backlog.look(now_s, cursor=0 if self._session is None else self._session.cursor)
        return self._backlog

    def _follow_epoch(self, backlog: Backlog, now_s: float) -> UploadSession:
        """A new buffer begins a new epoch; what the old one held is gone with it."""
        epoch = backlog.epoch
        if self._session is not None and self._session.epoch == epoch:
            return self._session
        self.persist(now_s, at_once=True)
        acked = self._db.acknowledged(epoch)
        is_known = self._db.counter("sent_epoch") == epoch
        sent = self._db.counter("sent") if is_known else 0
        self._links.clear()
        self._session = session = UploadSession(
            self._config.upload,
            epoch=epoch,
            acked_seq=acked,
            through_seq=min(sent, self._db.counter("sent_through")),
            sent_seq=sent,
        )
        self._first_sent = FirstSent(session.through_seq)
        self._duplicates = self._db.counter("refused") if is_known else 0
        if not is_known:
            self._db.set_upload_progress(epoch, acked, sent_through=acked, sent=acked)
        self._persisted, self._made_persisted = (acked, session.through_seq, session.sent_seq), 0
        durable = backlog.reader.durable_seq()
        _log.info("event=upload_epoch epoch=%d acknowledged=%d durable=%d", epoch, acked, durable)
        if acked > durable:
            _log.error("event=buffer_behind_acknowledged acknowledged=%d durable=%d", acked, durable)
        if self._quota:
            session.connected(now_s, quota=self._quota)
        return session

    def _send(self, session: UploadSession, backlog: Backlog, now_s: float) -> None:
        if not self._quota:
            return
        for complaint in self._link.complaints():
            self._take_complaint(session, complaint, now_s)
        self._judge_silence(session, now_s)
        session.widen(self._bundling.chunks(now_s))
        while (lanes := self._open_lanes(now_s)) and (want := session.want(backlog.settled_seq, lanes)) is not None:
            if not self._send_wanted(session, backlog, want, now_s):
                break
        self._link.push()

    def _open_lanes(self, now_s: float) -> frozenset[int]:
        """Whose turn it is, as far as the line allows."""
        return frozenset(lane for lane, priority in _PRIORITY.items() if self._allowance.room(priority, now_s) > 0)

    def _send_wanted(self, session: UploadSession, backlog: Backlog, want: Want, now_s: float) -> bool:
        """False where nothing more goes for now."""
        is_event = want.lane == EVENTS
        read = backlog.events if is_event else backlog.chunks
        chunks = read(want.after_seq, limit=want.limit)
        parcel = Parcel(want.lane)
        for chunk in chunks:
            for part in self._fitting.parts(chunk, now_s):
                if not session.lacks(part.first_seq, part.last_seq):
                    continue
                raw = self._encoded(session, part)
                if not self._goes_along(session, parcel, part, raw, now_s):
                    if not self._publish(session, parcel, now_s):
                        return False
                    if self._allowance.room(_PRIORITY[want.lane], now_s) <= 0:
                        return True
                parcel.add(part, raw)
                if session.room(want.lane) <= len(parcel):
                    return self._publish(session, parcel, now_s)
            parcel.through = chunk.last_seq
        if not self._publish(session, parcel, now_s):
            return False
        if is_event and len(chunks) < want.limit:
            session.passed(EVENTS, backlog.settled_seq)
        return bool(chunks) or is_event

    def _encoded(self, session: UploadSession, chunk: StoredChunk) -> bytes:
        return encode_chunk(
            ChunkMessage(chunk.codec, session.epoch, chunk.first_seq, chunk.n, chunk.crc, chunk.body, chunk.link)
        )

    def _goes_along(self, session: UploadSession, parcel: Parcel, chunk: StoredChunk, raw: bytes, now_s: float) -> bool:
        """Whether `chunk` may go in one message with what is in the parcel."""
        if not parcel:
            return True
        size = parcel.size_with(chunk, raw)
        return (
            size <= SENT_BYTES
            and len(parcel) < session.bundle(parcel.lane)
            and size <= self._allowance.spare(_PRIORITY[parcel.lane], now_s)
            and self._sizes.allows(size, now_s)
            and self._link.fits(self._bundles, size)
        )

    def _publish(self, session: UploadSession, parcel: Parcel, now_s: float) -> bool:
        """Send what is in the parcel. False: the link does not take it."""
        lane = parcel.lane
        if parcel:
            rest, raw = parcel.message()
            if not self._link.publish(self._device_topics + rest, raw, qos=1, alias=True, more=True):
                return False
            self._allowance.spent(_PRIORITY[lane], len(raw), now_s)
            self.sent_bytes += len(raw)
            for chunk, alone in parcel.chunks:
                self._links[chunk.last_seq] = chunk.link
                self.sent_results += self._first_sent.count(chunk, lane)
                session.sent(chunk.first_seq, chunk.n, size=len(alone), now_s=now_s, lane=lane, bundled=len(parcel) > 1)
            parcel.clear()
        if parcel.through:
            session.passed(lane, parcel.through)
        return True

    def _judge_silence(self, session: UploadSession, now_s: float) -> None:
        """What the broker has not confirmed yet is on its way there, and sending it again would only make it later."""
        if self._link.owed_s(now_s) > self._config.upload.ack_timeout_s / 2 and session.state is not State.HELD:
            return
        deadline_s = session.deadline_s()
        if deadline_s is None or now_s < deadline_s:
            return
        largest, bundled = session.largest, session.bundled
        if not session.tick(now_s):
            return
        nobody = " subscriber=none" if self._link.unheard else ""
        _log.warning("event=no_acknowledgement acked=%d state=%s%s", session.acked_seq, session.state.value, nobody)
        if bundled:
            self._rest_bundles("no acknowledgement", now_s)
        elif self._sizes.trouble(largest):
            _log.warning("event=smaller_messages largest=%d reason='no acknowledgement'", largest)
        if not self._link.unheard:
            self._say_stuck()

    def _say_stuck(self) -> None:
        """Once, until something gets through: a broker that drops what is too large for it says nothing over 3.1.1."""
        if self._sizes.is_stuck and not self._is_stuck:
            self._is_stuck = True
            _log.error("event=nothing_gets_through largest=%d hint=%r", self._sizes.smallest_in_trouble, _STUCK_HINT)

    def _take_complaint(self, session: UploadSession, complaint: Complaint, now_s: float) -> None:
        """The broker did not take something, or went while something was on its way."""
        code, size = complaint.code, complaint.size
        if not complaint.topic.startswith(self._topics):
            return
        why = refusal(code)
        is_about_it = not complaint.ended or after(code) is After.AGAIN or why is Refusal.FORBIDDEN
        if complaint.topic == self._bundles and is_about_it:
            self._rest_bundles(
                describe(code) if code else "the connection ends",
                now_s,
                long=code >= FAILURE and why is not Refusal.BUSY,
            )
            why = Refusal.BUSY if why is Refusal.BUSY else Refusal.TOO_LARGE  # its chunks are tried alone
        elif code == PACKET_TOO_LARGE and self._sizes.refused(size, now_s):
            _log.warning("event=smaller_messages largest=%d reason=%r", size, describe(code))
        elif code == PACKET_TOO_LARGE:
            why = Refusal.FORBIDDEN
        elif complaint.ended and after(code) is After.AGAIN and self._sizes.trouble(size):
            _log.warning("event=smaller_messages largest=%d reason='the connection ends'", size)
        if complaint.ended:
            self._say_stuck()
        hold_s = 0.0 if complaint.ended else session.refused(why, now_s)
        if not hold_s:
            return
        self._refused = describe(code)
        if why is not Refusal.TOO_LARGE and (held := self._limit.admit(f"refused {why}", now_s)) is not None:
            _log.error("event=results_refused reason=%r wait_s=%.1f held_back=%d", self._refused, hold_s, held)

    def _rest_bundles(self, reason: str, now_s: float, *, long: bool = False) -> None:
        if self._bundling.rest(now_s, long=long):
            _log.warning("event=chunks_go_alone reason=%r", reason)
