"""What came of a damaged buffer: a document beside it."""

from contextlib import suppress
from pathlib import Path

import msgspec

from edgeinfer.runtime.buffer_file.aside import report_of
from edgeinfer.runtime.buffer_file.salvage_job import Job
from edgeinfer.runtime.durable import write_durably

__all__ = ["Report", "report", "reports", "write_report"]


class Report(msgspec.Struct, frozen=True):
    """What was moved of the damaged buffer `file`, and why it was set aside.

    `salvaged` results were moved, `renumbered` of them under new numbers; `lost` is exact where `numbering_goes_on`,
    else nobody knows (null). `unreadable_chunks` were there and did not fit their checksum.
    """

    file: str
    why: str
    epoch: int
    numbering_goes_on: bool
    salvaged: int
    renumbered: int
    lost: int | None
    unreadable_chunks: int
    counters_kept: bool


def report(job: Job) -> Report:
    goes_on = job.start > 1
    return Report(
        file=job.source,
        why=job.why,
        epoch=job.epoch,
        numbering_goes_on=goes_on,
        salvaged=job.kept + job.renumbered,
        renumbered=job.renumbered,
        lost=job.lost if goes_on else None,
        unreadable_chunks=job.unreadable_chunks,
        counters_kept=job.has_counters,
    )


def write_report(folder: Path, found: Report) -> None:
    """Beside the damaged file. Raises OSError."""
    write_durably(report_of(folder / found.file), msgspec.json.format(msgspec.json.encode(found)) + b"\n")


def reports(path: Path) -> list[Report]:
    """Of what was set aside of the buffer at `path` and salvaged. One that cannot be read is left out."""
    found = []
    for part in sorted(path.parent.glob(f"{path.name}.damaged-*.report.json")):
        with suppress(OSError, msgspec.MsgspecError):
            found.append(msgspec.json.decode(part.read_bytes(), type=Report))
    return found
