"""The agent's part of timing a package here for the console: fetches it, hands the order to the daemon, brings back
what came of it.

The signed command goes on to the daemon as it came, which checks everything itself (`edgeinfer.runtime.bench_order`).
One at a time; each ends with an answer, at the latest when the command expires.
"""

import logging
from pathlib import Path

import msgspec

from edgeinfer.runtime.bench_order import BENCH_NOTE, BENCH_SUFFIX
from edgeinfer.runtime.handoff import Download, SyncDb
from edgeinfer.runtime.hashing import sha256
from edgeinfer.sync.allowance import Allowance, Priority
from edgeinfer.sync.daemon_view import DaemonView
from edgeinfer.sync.download import BlobFile
from edgeinfer.sync.messages import Command, CommandResult, decode_blob_range, encode, topic
from edgeinfer.sync.mqtt import MqttLink
from edgeinfer.sync.settings import SyncConfig

__all__ = ["Benches"]

_log = logging.getLogger(__name__)

# A daemon that runs looks twice a second; one that has just been started is given the time for it.
_TAKE_UP_S = 30.0
_LOOK_S = 0.5
# The console waits as long as the command is good: the answer has to be there by then.
_MARGIN_S = 3.0


class _Unkept:
    """A download whose progress is not worth a commit: a command does not outlive the agent's process."""

    def download(self, sha256: str) -> Download | None:
        del sha256
        return None

    def set_download(self, download: Download) -> None:
        """Nothing is kept."""

    def forget_downloads(self, *, keep: str = "") -> None:
        """Nothing was kept."""


class _Task(msgspec.Struct):
    """One command under way. `handed_s`: since when the daemon has it, None while it is downloaded; `order` is what the
    daemon calls it."""

    command: Command
    envelope: bytes
    order: str
    deadline_s: float
    handed_s: float | None = None
    looked_s: float = float("-inf")


class Benches:
    """`begin` a command whose signature is good, then `step` at each turn while the link is up."""

    def __init__(self, config: SyncConfig, db: SyncDb, link: MqttLink, view: DaemonView, allowance: Allowance) -> None:
        self._config = config
        self._db = db
        self._link = link
        self._view = view
        self._allowance = allowance
        self._incoming = Path(config.runtime_dir) / "models" / "incoming"
        self._get_topic = topic(config.tenant, config.device, "up/get")
        self._task: _Task | None = None
        self._blob: BlobFile | None = None
        self._clean_up()

    @property
    def under_way(self) -> str:
        """The id of the command that is being carried out; empty without one."""
        return "" if self._task is None else self._task.command.id

    @property
    def downloading(self) -> bool:
        return self._blob is not None and not self._blob.ended

    @property
    def verifying(self) -> bool:
        """Whether the package is being hashed: there is work to do without any message."""
        return self._blob is not None and self._blob.verifying

    def begin(self, command: Command, envelope: bytes, now_s: float) -> str:
        """Take up a command; why not, or empty."""
        if self._task is not None:
            return "another package is being timed here"
        wanted_s = max(1.0, command.expires_s - command.issued_s - _MARGIN_S)
        self._task = _Task(command, envelope, sha256(envelope).hexdigest(), now_s + wanted_s)
        self._blob = BlobFile(
            self._incoming, _Unkept(), self._config.download,
            sha256=command.blob_sha256, size=command.blob_bytes, suffix=BENCH_SUFFIX,
        )  # fmt: skip
        return ""

    def data(self, raw: bytes, now_s: float) -> None:
        """Take the payload of `down/data`, whose bytes are accounted for already. Raises MessageError."""
        if self._blob is not None:
            self._blob.receive(decode_blob_range(raw), now_s)

    def connected(self) -> None:
        if self._blob is not None:
            self._blob.forget_requests()

    def step(self, now_s: float) -> CommandResult | None:
        """Go on; the answer, once there is one. Raises BufferStorageError where `sync.db` cannot be written."""
        task = self._task
        if task is None:
            return None
        answer = self._late(task, now_s) or self._downloaded(task, now_s) or self._measured(task, now_s)
        if answer is not None:
            _log.info("event=bench_ended id=%s ok=%s detail=%r", answer.id, answer.ok, answer.detail)
            self.close()
        return answer

    def cancel(self, id_: str) -> CommandResult | None:
        """End the command `id_`; its answer, or None where it is not under way."""
        task = self._task
        if task is None or task.command.id != id_:
            return None
        _log.info("event=bench_cancelled id=%s", id_)
        self.close()
        return _refusal(task, "it was called off")

    def close(self) -> None:
        """Withdraw the order, and remove what was fetched for it."""
        blob, self._blob, self._task = self._blob, None, None
        if blob is not None:
            blob.close()
        self._clean_up()

    def _late(self, task: _Task, now_s: float) -> CommandResult | None:
        if now_s < task.deadline_s:
            return None
        doing = "downloading" if task.handed_s is None else "timing"
        return _refusal(task, f"the time that it was given is over, while {doing} the package")

    def _downloaded(self, task: _Task, now_s: float) -> CommandResult | None:
        """Fetch the package; once it is there, hand the order over."""
        blob = self._blob
        if blob is None:
            return None
        if blob.error:
            return _refusal(task, f"the package cannot be downloaded: {blob.error}")
        if blob.verifying:
            blob.verify()
        elif blob.done:
            self._blob = None
            task.handed_s = now_s
            self._db.set_note(BENCH_NOTE, task.envelope)
        else:
            self._ask(blob, now_s)
        return None

    def _ask(self, blob: BlobFile, now_s: float) -> None:
        for request in blob.requests(now_s, room=self._allowance.room(Priority.UPDATES, now_s)):
            raw = encode(request)
            if not self._link.publish(self._get_topic, raw, qos=1):
                return
            self._allowance.spent(Priority.CONTROL, len(raw), now_s)

    def _measured(self, task: _Task, now_s: float) -> CommandResult | None:
        if task.handed_s is None or now_s - task.looked_s < _LOOK_S:
            return None
        task.looked_s = now_s
        found = self._view.bench()
        if found is None or found.order != task.order:
            if now_s - task.handed_s < _TAKE_UP_S:
                return None
            return _refusal(
                task, f"the daemon has not taken it up in {_TAKE_UP_S:.0f} s: is it running, with [trust] console_keys?"
            )
        if not found.done:
            return None
        if found.error:
            return _refusal(task, found.error)
        return CommandResult(task.command.id, ok=True, detail="timed", document=found.document)

    def _clean_up(self) -> None:
        if self._db.note(BENCH_NOTE):
            self._db.set_note(BENCH_NOTE, b"")
        for left in self._incoming.glob(f"*{BENCH_SUFFIX}*"):
            try:
                left.unlink(missing_ok=True)
            except OSError as error:
                _log.warning("event=bench_not_removed file=%s reason=%r", left.name, str(error))


def _refusal(task: _Task, reason: str) -> CommandResult:
    return CommandResult(task.command.id, ok=False, detail=reason[:500])
