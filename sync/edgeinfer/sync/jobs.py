"""Tells the console how each assignment fares, and the daemon that the console has been told.

An end is told until the console says that it has stored it (`down/job/{id}`): at once, after each reconnect, and
now and then in between. A broker's PUBACK proves nothing. Only then `sync.db` gets the counter `job:{job}`, which
lets the daemon's machine go on to REPORTED.
"""

import msgspec

from edgeinfer.runtime.backoff import Backoff
from edgeinfer.runtime.handoff import SyncDb, UpdateRow
from edgeinfer.sync.allowance import UNLIMITED, Allowance, Priority
from edgeinfer.sync.messages import JobAck, JobStatus, decode, encode, is_name, topic
from edgeinfer.sync.mqtt import MqttLink
from edgeinfer.sync.settings import SyncConfig

__all__ = ["FINAL_STATES", "JobReporter", "job_status"]

FINAL_STATES = frozenset({"COMMITTED", "ROLLED_BACK", "FAILED"})
# States after which the job has long ended: the console is told how it ended instead.
_AFTERWARDS = frozenset({"IDLE", "REPORTED"})
_PROGRESS_INTERVAL_S = 0.5
# A console that is there answers within a second; one that is away for days must not be shouted at.
_REPEAT_S = 20.0
_REPEAT_MAX_S = 60.0


def job_status(row: UpdateRow, *, offset: int) -> JobStatus | None:
    """What to say of the row's job; None when there is none, or its name cannot be part of a topic."""
    state = row.finished.get(row.job, "") if row.state in _AFTERWARDS else row.state
    if not state or not is_name(row.job):
        return None
    return JobStatus(
        job=row.job,
        desired_version=row.desired_version,
        state=state,
        model=row.model,
        version=row.version,
        offset=offset if row.state == "DOWNLOADING" else 0,
        bytes=row.blob_bytes,
        reason=row.reason[:512],
        swap_ms=row.swap_ms,
    )


class _End(msgspec.Struct):
    """An end that the console has not acknowledged, and when to say it again."""

    status: JobStatus
    due_s: float
    waits: Backoff


class JobReporter:
    """`acknowledged` counts the ends that the console has acknowledged to this object."""

    def __init__(self, config: SyncConfig, db: SyncDb, link: MqttLink, allowance: Allowance = UNLIMITED) -> None:
        self._config = config
        self._db = db
        self._link = link
        self._allowance = allowance
        self._published: JobStatus | None = None
        self._published_s = float("-inf")
        self._told: set[str] = set()
        self._ends: dict[str, _End] = {}
        self.acknowledged = 0

    @property
    def idle(self) -> bool:
        """Whether the console has acknowledged every end."""
        return not self._ends

    @property
    def unacknowledged(self) -> str:
        """The jobs whose end the console has not acknowledged, for a person to read."""
        return ", ".join(self._ends)

    def connected(self) -> None:
        """A new connection: say the current job again, and every end that was not acknowledged."""
        self._published = None
        self._published_s = float("-inf")
        self.console_spoke()

    def console_spoke(self) -> None:
        """The console says its wishes when it has come back: every end that it has not acknowledged is due."""
        for end in self._ends.values():
            end.due_s = float("-inf")
            end.waits.reset()

    def step(self, row: UpdateRow | None, *, offset: int, now_s: float) -> None:
        """Publish what changed, and what is due again. Raises BufferStorageError."""
        if row is None:
            return
        status = job_status(row, offset=offset)
        self._collect_ends(row, status)
        self._say_ends(row.job, now_s)
        if status is None or status.job in self._ends:
            return
        if self._is_news(status, now_s) and self._say(status, now_s):
            self._published, self._published_s = status, now_s

    def acknowledge(self, raw: bytes) -> None:
        """Take the payload of `down/job/{id}`. Raises MessageError and BufferStorageError."""
        ack = decode(raw, JobAck)
        end = self._ends.get(ack.job)
        if end is None or end.status.state != ack.state:
            return
        self._db.set_counter(f"job:{ack.job}", 1)
        if end.status.desired_version > self._db.counter("reported_version"):
            self._db.set_counter("reported_version", end.status.desired_version)
        self._told.add(ack.job)
        del self._ends[ack.job]
        self.acknowledged += 1

    def _collect_ends(self, row: UpdateRow, current: JobStatus | None) -> None:
        if current is not None and current.state in FINAL_STATES:
            self._expect(current)
        for job, state in row.finished.items():
            if job != row.job and is_name(job) and state in FINAL_STATES:
                self._expect(JobStatus(job=job, desired_version=row.desired_version, state=state))

    def _expect(self, status: JobStatus) -> None:
        if status.job in self._ends or self._is_told(status.job):
            return
        self._ends[status.job] = _End(status, float("-inf"), Backoff(first_s=_REPEAT_S, cap_s=_REPEAT_MAX_S))

    def _say_ends(self, current: str, now_s: float) -> None:
        for end in self._ends.values():
            if now_s >= end.due_s and self._say(end.status, now_s):
                end.due_s = now_s + end.waits.next()
                if end.status.job == current:
                    self._published, self._published_s = end.status, now_s

    def _is_news(self, status: JobStatus, now_s: float) -> bool:
        last = self._published
        if last is None or (status.job, status.state, status.reason) != (last.job, last.state, last.reason):
            return True
        return status != last and now_s - self._published_s >= _PROGRESS_INTERVAL_S

    def _say(self, status: JobStatus, now_s: float) -> bool:
        name, raw = topic(self._config.tenant, self._config.device, f"up/job/{status.job}"), encode(status)
        if not self._link.publish(name, raw, qos=1):
            return False
        self._allowance.spent(Priority.CONTROL, len(raw), now_s)
        return True

    def _is_told(self, job: str) -> bool:
        if job not in self._told and self._db.counter(f"job:{job}"):
            self._told.add(job)
        return job in self._told
