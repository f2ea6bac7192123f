"""The values that the daemon and the agent hand each other through their databases. No I/O."""

import msgspec

__all__ = ["Desired", "Download", "UpdateRow", "Upload"]


class Desired(msgspec.Struct, frozen=True):
    """What the console last asked for: its monotonic `version` and the signed envelope as it came."""

    version: int
    envelope: bytes


class Download(msgspec.Struct, frozen=True):
    """A blob on its way into `models/incoming/{sha256}.edgepkg`. `error` is empty unless it cannot be had."""

    sha256: str
    bytes: int
    offset: int
    done: bool
    error: str = ""


class Upload(msgspec.Struct, frozen=True):
    """A file of the device that goes up, told by its path below the daemon's folder, its size and its time. `ended` is
    empty while it is on its way, `done` once the console has it, else why it will not be sent again."""

    file: str
    bytes: int
    mtime_ns: int
    sha256: str
    ended: str = ""


class UpdateRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """The update machine's one row; `state` is a name of `edgeinfer.runtime.update.State`.

    `desired_version` is the assignment that it works on, `job` the console's name for it. `blob_sha256` and
    `blob_bytes` name what the agent has to download while `state` is DOWNLOADING. `reason` says why a
    FAILED or ROLLED_BACK update ended so. `swap_ms` is the time between the last result of the old version
    and the first of the new one. `finished` maps the latest jobs to the state that they ended in.
    """

    state: str = "IDLE"
    desired_version: int = 0
    job: str = ""
    model: str = ""
    version: str = ""
    digest: str = ""
    blob_sha256: str = ""
    blob_bytes: int = 0
    attempts: int = 0
    reason: str = ""
    swap_ms: float = 0.0
    finished: dict[str, str] = {}
