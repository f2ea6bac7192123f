"""What a signed assignment says, as the runtime reads it."""

from typing import Annotated

import msgspec

from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import RefusedError

__all__ = ["AssignedPackage", "AssignmentDocument", "next_assignment", "read_assignment"]

Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Short = Annotated[str, msgspec.Meta(max_length=512)]
Count = Annotated[int, msgspec.Meta(ge=0, le=4 << 30)]


class AssignedPackage(msgspec.Struct, frozen=True):
    """One model that the device is to run; both digest and blob must be right for it to be installed."""

    job: Short
    model: Short
    version: Short
    digest: Sha256
    blob_sha256: Sha256
    blob_bytes: Count


class AssignmentDocument(msgspec.Struct, frozen=True):
    """The payload of the console's signed wish. `version` only ever grows; `device` is who it is for."""

    version: Annotated[int, msgspec.Meta(ge=0)]
    device: Short
    assignments: tuple[AssignedPackage, ...]


def read_assignment(payload: bytes, *, device: str, at_least: int = 0) -> AssignmentDocument:
    """Raises RefusedError for another device's assignment, one older than version `at_least`, and anything
    that is none."""
    try:
        document = msgspec.json.decode(payload, type=AssignmentDocument)
    except MALFORMED as error:
        raise RefusedError(f"the signed assignment cannot be read: {error}") from error
    if document.device != device:
        raise RefusedError(f"expected an assignment for device {device!r}, found one for {document.device!r}")
    if document.version < at_least:
        raise RefusedError(f"expected an assignment of version {at_least} or newer, found {document.version}")
    return document


def next_assignment(document: AssignmentDocument, finished: dict[str, str]) -> AssignedPackage | None:
    """The first assignment whose job has not come to an end here."""
    return next((wanted for wanted in document.assignments if wanted.job not in finished), None)
