"""Names for class indices: from the package that a device says its pipeline runs, where the registry knows it."""

import threading
import time
from collections.abc import Mapping
from typing import Any

from edgeinfer.console.repository import Repository
from edgeinfer.runtime.results import Kind

__all__ = ["Labels", "pipeline_digest"]

_FRESH_S = 2.0
_ANOMALY = ("normal", "anomaly")
# What an item is where nobody has a name for it; a class, if nothing else.
_WORDS: dict[int, str] = {
    Kind.KEYPOINTS: "keypoint",
    Kind.EMBEDDING: "dimension",
    Kind.REGRESSION: "value",
    Kind.RAW: "value",
}


class Labels:
    """Looks names up; what it found is used for two seconds, so that a page does not ask for each result."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._lock = threading.Lock()
        self._by_device: dict[str, dict[str, tuple[str, ...]]] = {}
        self._read_s = 0.0

    def name(self, device: str, pipeline: str, *, kind: int, label: int) -> str:
        """The label's name; `class 7` or `keypoint 7` where nobody knows it."""
        if kind == Kind.ANOMALY:
            return _ANOMALY[1 if label else 0]
        # The device has added the package's label offset. The labels of an embedding's package are not its dimensions.
        names = self._namings(device).get(pipeline, ()) if kind != Kind.EMBEDDING else ()
        return names[label] if 0 <= label < len(names) else f"{_WORDS.get(kind, 'class')} {label}"

    def _namings(self, device: str) -> dict[str, tuple[str, ...]]:
        with self._lock:
            if time.monotonic() - self._read_s > _FRESH_S:
                self._by_device.clear()
                self._read_s = time.monotonic()
            if device not in self._by_device:
                self._by_device[device] = self._read(device)
            return self._by_device[device]

    def _read(self, device: str) -> dict[str, tuple[str, ...]]:
        known = self._repository.device(device)
        if known is None:
            return {}
        packages = {package.digest: package for package in self._repository.packages()}
        pipelines = known.reported.get("pipelines", {})
        return {
            name: packages[digest].labels
            for name in pipelines
            if (digest := pipeline_digest(known.reported, name)) in packages
        }


def pipeline_digest(reported: Mapping[str, Any], pipeline: str) -> str:
    """The digest of the package that `pipeline` runs, by the device's own report; empty where it does not say."""
    described = _mapping(_mapping(reported.get("pipelines")).get(pipeline))
    model = _mapping(_mapping(reported.get("models")).get(str(described.get("model", ""))))
    return str(model.get("digest") or described.get("digest") or described.get("package") or "")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
