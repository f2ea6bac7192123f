"""How the end of a job is told: until the console acknowledges it, at growing intervals."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from edgeinfer.runtime.errors import MessageError
from edgeinfer.runtime.handoff import SyncDb, UpdateRow
from edgeinfer.sync.jobs import JobReporter
from edgeinfer.sync.messages import JobAck, JobStatus, decode, encode
from edgeinfer.sync.mqtt import MqttLink
from edgeinfer.sync.settings import SyncConfig

ROW = UpdateRow(state="FAILED", job="j-2", desired_version=4, reason="gate", finished={"j-1": "COMMITTED"})


class Line:
    """The part of a link that is used here."""

    def __init__(self) -> None:
        self.up = True
        self.said: list[tuple[str, str]] = []

    def publish(self, _topic: str, payload: bytes, *, qos: int, retain: bool = False) -> bool:
        assert (qos, retain) == (1, False)
        status = decode(payload, JobStatus)
        if self.up:
            self.said.append((status.job, status.state))
        return self.up


class Jobs:
    def __init__(self, folder: Path) -> None:
        self.line = Line()
        self.db = SyncDb(folder / "sync.db")
        self.reporter = JobReporter(SyncConfig(device="dev-1"), self.db, cast("MqttLink", self.line))
        self.reporter.connected()

    def step(self, now_s: float, row: UpdateRow = ROW) -> list[tuple[str, str]]:
        """What is said in one step."""
        self.line.said.clear()
        self.reporter.step(row, offset=0, now_s=now_s)
        return sorted(self.line.said)

    def ack(self, job: str, state: str) -> None:
        self.reporter.acknowledge(encode(JobAck(job, state)))


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(tmp_path)
    yield made
    made.db.close()


def test_only_the_consoles_word_counts(jobs: Jobs) -> None:
    assert jobs.step(0.0) == [("j-1", "COMMITTED"), ("j-2", "FAILED")]
    assert not jobs.reporter.idle
    jobs.ack("j-2", "COMMITTED")
    jobs.ack("j-9", "FAILED")
    assert (jobs.db.counter("job:j-2"), jobs.db.counter("job:j-9"), jobs.reporter.acknowledged) == (0, 0, 0)
    jobs.ack("j-2", "FAILED")
    jobs.ack("j-2", "FAILED")
    assert (jobs.db.counter("job:j-2"), jobs.db.counter("reported_version"), jobs.reporter.acknowledged) == (1, 4, 1)
    assert jobs.reporter.unacknowledged == "j-1"
    jobs.ack("j-1", "COMMITTED")
    assert jobs.reporter.unacknowledged == ""
    assert jobs.step(10_000.0) == []


def test_an_end_is_said_again_at_growing_intervals(jobs: Jobs) -> None:
    told = [now_s for now_s in range(600) if ("j-1", "COMMITTED") in jobs.step(float(now_s))]
    waits = [later - earlier for earlier, later in itertools.pairwise(told)]
    assert told[0] == 0
    assert 10 <= waits[0] <= 21
    assert all(30 <= wait <= 61 for wait in waits[2:])


def test_a_new_connection_says_it_at_once_and_starts_the_intervals_anew(jobs: Jobs) -> None:
    for now_s in (0.0, 30.0, 90.0):
        jobs.step(now_s)
    jobs.reporter.connected()
    assert jobs.step(91.0) == [("j-1", "COMMITTED"), ("j-2", "FAILED")]
    assert jobs.step(112.0) != []


def test_a_console_that_is_back_hears_it_at_once(jobs: Jobs) -> None:
    jobs.step(0.0)
    jobs.reporter.console_spoke()
    assert jobs.step(0.1) == [("j-1", "COMMITTED"), ("j-2", "FAILED")]


def test_what_the_link_does_not_take_stays_due(jobs: Jobs) -> None:
    jobs.line.up = False
    assert jobs.step(0.0) == []
    assert not jobs.reporter.idle
    jobs.line.up = True
    assert jobs.step(0.1) == [("j-1", "COMMITTED"), ("j-2", "FAILED")]


def test_what_an_earlier_process_told_is_not_awaited(jobs: Jobs) -> None:
    jobs.db.set_counter("job:j-1", 1)
    jobs.db.set_counter("job:j-2", 1)
    assert jobs.step(0.0) == [("j-2", "FAILED")]  # the current job is said at each connection
    assert jobs.reporter.idle


def test_an_end_is_told_after_the_next_job_has_begun(jobs: Jobs) -> None:
    jobs.step(0.0)
    row = UpdateRow(state="GATE", job="j-3", desired_version=5, finished={"j-1": "COMMITTED", "j-2": "FAILED"})
    assert jobs.step(1.0, row) == [("j-3", "GATE")]
    assert jobs.step(60.0, row) == [("j-1", "COMMITTED"), ("j-2", "FAILED")]


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"job": 5}', b"\xff"])
def test_what_is_no_acknowledgement_is_refused(jobs: Jobs, raw: bytes) -> None:
    with pytest.raises(MessageError):
        jobs.reporter.acknowledge(raw)
