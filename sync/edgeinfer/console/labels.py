"""Names for class indices: from the package that a device says its pipeline runs, where the registry knows it."""

import threading
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from edgeinfer.console.repository import Repository
from edgeinfer.console.repository.base import Package
from edgeinfer.runtime.results import Kind

__all__ = ["Labels", "pipeline_digest"]

_FRESH_S = 2.0
_ANOMALY = ("normal", "anomaly")


class _Naming(msgspec.Struct, frozen=True):
    names: tuple[str, ...]
    offset: int


class Labels:
    """Looks names up; what it found is used for two seconds, so that a page does not ask for each result."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._lock = threading.Lock()
        self._by_device: dict[str, dict[str, _Naming]] = {}
        self._read_s = 0.0

    def name(self, device: str, pipeline: str, *, kind: int, label: int) -> str:
        """The label's name; `class 7` where nobody knows it."""
        if kind == Kind.ANOMALY:
            return _ANOMALY[1 if label else 0]
        naming = self._namings(device).get(pipeline)
        index = label + naming.offset if naming is not None else -1
        if naming is not None and 0 <= index < len(naming.names):
            return naming.names[index]
        return f"class {label}"

    def _namings(self, device: str) -> dict[str, _Naming]:
        with self._lock:
            if time.monotonic() - self._read_s > _FRESH_S:
                self._by_device.clear()
                self._read_s = time.monotonic()
            if device not in self._by_device:
                self._by_device[device] = self._read(device)
            return self._by_device[device]

    def _read(self, device: str) -> dict[str, _Naming]:
        known = self._repository.device(device)
        if known is None:
            return {}
        packages = {package.digest: package for package in self._repository.packages()}
        pipelines = known.reported.get("pipelines", {})
        return {
            name: _naming(packages[digest])
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


def _naming(package: Package) -> _Naming:
    return _Naming(package.labels, package.label_offset)
