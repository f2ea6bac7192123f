"""The agent's part of an update: keeps what the console wants, and fetches the blob that the daemon asks for.

The agent can neither check nor install: it passes the signed wish on as it came, and puts bytes into
`models/incoming`. The daemon verifies both.
"""

import logging
from pathlib import Path

from edgeinfer.runtime.errors import BufferStorageError, MessageError
from edgeinfer.runtime.handoff import Desired, SyncDb, UpdateRow
from edgeinfer.runtime.trust import Envelope
from edgeinfer.sync.allowance import Allowance, Priority
from edgeinfer.sync.daemon_view import DaemonView
from edgeinfer.sync.download import BlobFile
from edgeinfer.sync.messages import DesiredState, decode, decode_blob_range, encode, topic
from edgeinfer.sync.mqtt import MqttLink
from edgeinfer.sync.settings import SyncConfig

__all__ = ["Updates", "is_wanted"]

_log = logging.getLogger(__name__)

# No device of this kind has a disk that a larger model would be meant for.
_MAX_BLOB_BYTES = 4 << 30
# A wish costs a commit, and nobody here can tell a forged one: thousands a second would wear out the flash.
_WISH_S = 1.0


def is_wanted(version: int, *, stored: Desired | None, row: UpdateRow | None) -> bool:
    """Whether a wish of `version` takes the place of the stored one: only when it is newer.

    A stored wish counts only once the daemon has accepted it: otherwise a forged one with a huge version,
    which the daemon refuses, would shut out every true one after it.
    """
    if stored is None:
        return True
    if row is None or row.desired_version >= stored.version:
        return version > stored.version
    return version > row.desired_version


class Updates:
    def __init__(self, config: SyncConfig, db: SyncDb, link: MqttLink, view: DaemonView, allowance: Allowance) -> None:
        self._db = db
        self._link = link
        self._view = view
        self._allowance = allowance
        self._config = config
        self._incoming = Path(config.runtime_dir) / "models" / "incoming"
        self._get_topic = topic(config.tenant, config.device, "up/get")
        self._blob: BlobFile | None = None
        self._key = ("", "")
        self._wish: Desired | None = None  # came, and is not kept yet
        self._kept_s = float("-inf")

    @property
    def offset(self) -> int:
        """How far the present download has come."""
        return 0 if self._blob is None else self._blob.offset

    @property
    def verifying(self) -> bool:
        """Whether a whole blob is being hashed: there is work to do without any message."""
        return self._blob is not None and self._blob.verifying

    @property
    def verified_bytes(self) -> int:
        return 0 if self._blob is None else self._blob.verified_bytes

    @property
    def downloading(self) -> bool:
        return self._blob is not None and not self._blob.ended

    def connected(self) -> None:
        if self._blob is not None:
            self._blob.forget_requests()

    def close(self) -> None:
        """Keep what has been downloaded so far."""
        if self._blob is not None:
            self._blob.close()
        self._blob, self._key = None, ("", "")

    def desired(self, raw: bytes, now_s: float) -> None:
        """Take the payload of `down/desired`. Raises MessageError for what is no envelope around a wish."""
        if not raw:
            return  # a cleared retained message
        wish = decode(decode(raw, Envelope).payload, DesiredState)
        if wish.device != self._config.device:
            raise MessageError(f"expected a wish for {self._config.device}, found one for {wish.device[:80]!r}")
        stored = self._db.desired()
        if stored is not None and stored.envelope == raw:
            return
        self._view.poll(0.0, at_once=True)
        if not is_wanted(wish.version, stored=stored, row=self._view.row):
            return
        self._wish = Desired(wish.version, raw)
        self._keep_wish(now_s)

    def data(self, raw: bytes, now_s: float) -> None:
        """Take the payload of `down/data`. Raises MessageError."""
        self._allowance.spent(Priority.UPDATES, len(raw), now_s)
        answer = decode_blob_range(raw)
        if self._blob is not None:
            self._blob.receive(answer, now_s)

    def step(self, now_s: float, *, online: bool) -> None:
        """Begin, go on with, or leave a download, as the daemon's row says; ask for ranges while `online`.

        Hashes one slice of what is complete.
        """
        self._keep_wish(now_s)
        row = self._view.row
        if row is None or row.state != "DOWNLOADING" or not _is_downloadable(row):
            self.close()
            return
        if self._key != (row.job, row.blob_sha256) or self._is_gone(now_s):
            self.close()
            self._blob = BlobFile(
                self._incoming, self._db, self._config.download, sha256=row.blob_sha256, size=row.blob_bytes
            )
            self._key = (row.job, row.blob_sha256)
            _log.info(
                "event=download job=%s sha256=%s bytes=%d offset=%d",
                row.job, row.blob_sha256[:12], row.blob_bytes, self._blob.offset,
            )  # fmt: skip
        if self.verifying and self._blob is not None:
            try:
                self._blob.verify()
            except BufferStorageError:
                self.close()  # what is on the disk is looked at afresh in the next turn
                raise
        elif online:
            self._ask(now_s)

    def _keep_wish(self, now_s: float) -> None:
        """The newest, once a second at most."""
        wish = self._wish
        if wish is None or now_s - self._kept_s < _WISH_S:
            return
        self._kept_s = now_s
        if not self.downloading and (self._blob is None or self._blob.error):
            # What failed for an older wish may succeed for this one, and must not be taken for its failure.
            self._db.forget_downloads()
        self._db.set_desired(wish)
        self._wish = None
        _log.info("event=desired version=%d", wish.version)

    def _ask(self, now_s: float) -> None:
        if self._blob is None:
            return
        room = self._allowance.room(Priority.UPDATES, now_s)
        for request in self._blob.requests(now_s, room=room):
            raw = encode(request)
            if not self._link.publish(self._get_topic, raw, qos=1):
                return
            self._allowance.spent(Priority.CONTROL, len(raw), now_s)

    def _is_gone(self, now_s: float) -> bool:
        """The blob had arrived, was taken away, and is asked for again (the daemon was started anew)."""
        if self._blob is None or not self._blob.done or (self._incoming / f"{self._blob.sha256}.edgepkg").is_file():
            return False
        self._view.poll(now_s, at_once=True)
        row = self._view.row
        return row is not None and row.state == "DOWNLOADING"


def _is_downloadable(row: UpdateRow) -> bool:
    """The row comes from a signed document, yet its hash becomes a file name here: look at it."""
    is_hash = len(row.blob_sha256) == 64 and not set(row.blob_sha256) - set("0123456789abcdef")
    return is_hash and 0 < row.blob_bytes <= _MAX_BLOB_BYTES
