"""The files that a device sent, beside the events that they show."""

from pathlib import PurePosixPath
from typing import Any

from edgeinfer.console.documents import Documents
from edgeinfer.console.repository import Repository
from edgeinfer.console.repository.base import DeviceBlob, StoredResult, kind_bit
from edgeinfer.runtime.results import Kind

__all__ = ["SentFiles"]

_PICTURES = (".jpg", ".jpeg", ".png")
_CHUNKS_SEARCHED = 4
_REMEMBERED = 1000


class SentFiles:
    """Reads only; the event of a file is looked for until it is found, and then remembered. Safe from any thread."""

    def __init__(self, repository: Repository, documents: Documents) -> None:
        self._repository = repository
        self._documents = documents
        self._events: dict[tuple[str, str], StoredResult] = {}

    def newest(self, device: str, limit: int) -> list[dict[str, Any]]:
        """The newest by when they were made, each with its event, or None where that has not come."""
        blobs = self._repository.device_blobs(device, limit=4 * limit)
        blobs.sort(key=lambda blob: blob.t_ns, reverse=True)
        return [self._document(blob, self._event(blob)) for blob in blobs[:limit]]

    def _event(self, blob: DeviceBlob) -> StoredResult | None:
        """What names it as its snapshot: made at the same time, from the same frame."""
        place = (blob.device, blob.sha256)
        known = self._events.get(place)
        if known is not None or not blob.t_ns:
            return known
        events = self._repository.results_at(blob.device, blob.t_ns, kinds=kind_bit(Kind.EVENT), limit=_CHUNKS_SEARCHED)
        for event in events:
            if PurePosixPath(str((event.extra or {}).get("snapshot", ""))).name == blob.name:
                if len(self._events) >= _REMEMBERED:
                    self._events.clear()
                self._events[place] = event
                return event
        return None

    def _document(self, blob: DeviceBlob, event: StoredResult | None) -> dict[str, Any]:
        return {
            "name": blob.name,
            "kind": blob.kind,
            "pipeline": blob.pipeline,
            "t_s": blob.t_ns / 1e9,
            "bytes": blob.total_bytes,
            "path": f"/api/v1/devices/{blob.device}/blobs/{blob.sha256}",
            "is_picture": blob.name.lower().endswith(_PICTURES),
            "event": None if event is None else self._documents.results([event])[0],
        }
