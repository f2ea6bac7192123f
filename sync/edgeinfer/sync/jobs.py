"""Tells the console how each assignment fares, and the daemon that the console has been told.

Assignments that came to an end are in the daemon's row until the broker has confirmed the message that says
so; then `sync.db` gets the counter `job:{job}`, which lets the daemon's machine go on to REPORTED.
"""

from edgeinfer.runtime.handoff import SyncDb, UpdateRow
from edgeinfer.sync.messages import JobStatus, encode, is_name, topic
from edgeinfer.sync.mqtt import MqttLink, Ticket
from edgeinfer.sync.settings import SyncConfig

__all__ = ["FINAL_STATES", "JobReporter", "job_status"]

FINAL_STATES = frozenset({"COMMITTED", "ROLLED_BACK", "FAILED"})
# States after which the job has long ended: the console is told how it ended instead.
_AFTERWARDS = frozenset({"IDLE", "REPORTED"})
_PROGRESS_INTERVAL_S = 0.5


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


class JobReporter:
    def __init__(self, config: SyncConfig, db: SyncDb, link: MqttLink) -> None:
        self._config = config
        self._db = db
        self._link = link
        self._published: JobStatus | None = None
        self._published_s = float("-inf")
        self._told: set[str] = set()
        self._unconfirmed: list[tuple[str, int, Ticket]] = []

    @property
    def idle(self) -> bool:
        """Whether everything that was said has been confirmed."""
        return not self._unconfirmed

    def connected(self) -> None:
        """A new connection: say the current job again."""
        self._published = None
        self._unconfirmed.clear()
        self._published_s = float("-inf")

    def step(self, row: UpdateRow | None, *, offset: int, now_s: float) -> None:
        """Publish what changed. Raises BufferStorageError."""
        if row is None:
            return
        self._take_confirmations()
        status = job_status(row, offset=offset)
        if status is not None and self._is_news(status, now_s) and self._say(status):
            self._published, self._published_s = status, now_s
        for job, state in row.finished.items():
            if job != row.job and is_name(job) and self._is_untold(job):
                self._say(JobStatus(job=job, desired_version=row.desired_version, state=state))

    def _is_news(self, status: JobStatus, now_s: float) -> bool:
        last = self._published
        if last is None or (status.job, status.state, status.reason) != (last.job, last.state, last.reason):
            return True
        return status != last and now_s - self._published_s >= _PROGRESS_INTERVAL_S

    def _say(self, status: JobStatus) -> bool:
        name = topic(self._config.tenant, self._config.device, f"up/job/{status.job}")
        if not self._link.publish(name, encode(status), qos=1):
            return False
        if status.state in FINAL_STATES:
            self._unconfirmed.append((status.job, status.desired_version, self._link.ticket()))
        return True

    def _is_untold(self, job: str) -> bool:
        if job in self._told or any(job == waiting for waiting, _, _ in self._unconfirmed):
            return False
        if self._db.counter(f"job:{job}"):
            self._told.add(job)
            return False
        return True

    def _take_confirmations(self) -> None:
        confirmed = [entry for entry in self._unconfirmed if self._link.is_confirmed(entry[2])]
        for entry in confirmed:
            job, version, _ = entry
            self._unconfirmed.remove(entry)
            if job not in self._told:
                self._db.set_counter(f"job:{job}", 1)
                self._told.add(job)
            if version > self._db.counter("reported_version"):
                self._db.set_counter("reported_version", version)
