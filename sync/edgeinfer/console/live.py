"""What just happened, on its way from the ingest thread to whoever watches the page.

Watching must never slow ingest down: results are remembered in short queues whose oldest entries fall off, and
counted, so that a busy fleet shows a sample and a true rate.
"""

import threading
from collections import Counter, deque
from collections.abc import Iterable

import msgspec

from edgeinfer.console.repository.base import Deployment, StoredResult

__all__ = ["Happened", "LiveFeed"]

_RECENT = 100
_SAMPLE = 24


class Happened(msgspec.Struct, frozen=True):
    """Everything since the last look: a sample of the newest results, how many there were by device and pipeline,
    the devices and deployments that changed."""

    results: tuple[StoredResult, ...] = ()
    counts: dict[tuple[str, str], int] = {}
    devices: frozenset[str] = frozenset()
    deployments: tuple[Deployment, ...] = ()


class LiveFeed:
    """Written by any thread, emptied by one reader."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: deque[StoredResult] = deque(maxlen=_RECENT)
        self._sample: deque[StoredResult] = deque(maxlen=_SAMPLE)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._devices: set[str] = set()
        self._deployments: dict[str, Deployment] = {}

    def results(self, results: Iterable[StoredResult]) -> None:
        with self._lock:
            for result in results:
                self._recent.append(result)
                self._sample.append(result)
                self._counts[result.device, result.pipeline] += 1

    def devices(self, names: Iterable[str]) -> None:
        with self._lock:
            self._devices.update(names)

    def deployment(self, deployment: Deployment) -> None:
        with self._lock:
            self._deployments[f"{deployment.rollout}/{deployment.device}"] = deployment

    def recent(self, limit: int) -> list[StoredResult]:
        """The newest results since the console was started, newest first."""
        with self._lock:
            return list(self._recent)[: -limit - 1 : -1]

    def take(self) -> Happened:
        with self._lock:
            happened = Happened(
                tuple(self._sample), dict(self._counts), frozenset(self._devices), tuple(self._deployments.values())
            )
            self._sample.clear()
            self._counts.clear()
            self._devices.clear()
            self._deployments.clear()
        return happened
