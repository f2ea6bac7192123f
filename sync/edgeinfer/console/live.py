"""What just happened, on its way from the ingest thread to whoever watches the page.

Watching must never slow ingest down: it hands over chunks as they are, of which the newest of each pipeline stay, and
exact counts. They are decoded in the reader's thread, and no more than a page can show: a busy fleet shows a sample
and a true rate.
"""

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from edgeinfer.console.kept import results_of
from edgeinfer.console.repository.base import Deployment, KeptChunk, StoredResult, kind_bit
from edgeinfer.runtime.errors import CodecError
from edgeinfer.runtime.results import Kind

__all__ = ["Happened", "LiveFeed"]

_log = logging.getLogger(__name__)

_SAMPLE = 24
# Chunks that are kept: of so many pipelines, and so many bytes in all (or one).
_PIPELINES = 24
_KEPT_BYTES = 4 << 20
# Results that are decoded for one look at most, unless a single chunk has more. Some 2 us each.
_DECODED = 1000

Place = tuple[str, str, bool]


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
        self._recent: dict[Place, KeptChunk] = {}  # since the start, the newest last
        self._sample: dict[Place, KeptChunk] = {}  # since the last look
        self._counts: Counter[tuple[str, str]] = Counter()
        self._devices: set[str] = set()
        self._deployments: dict[str, Deployment] = {}

    def results(self, chunks: Sequence[KeptChunk], counts: Mapping[tuple[str, str], int]) -> None:
        with self._lock:
            for place, chunk in _last_of_each(chunks).items():
                _put(self._recent, place, chunk)
                _put(self._sample, place, chunk)
            self._counts.update(counts)

    def devices(self, names: Iterable[str]) -> None:
        with self._lock:
            self._devices.update(names)

    def deployment(self, deployment: Deployment) -> None:
        with self._lock:
            self._deployments[f"{deployment.rollout}/{deployment.device}"] = deployment

    def recent(self, limit: int) -> list[StoredResult]:
        """The newest results since the console was started, newest first."""
        with self._lock:
            chunks = list(self._recent.values())
        return _newest(chunks, limit)[::-1]

    def take(self, *, watched: bool = True) -> Happened:
        """All since the last call; without anyone who watches, no results."""
        with self._lock:
            chunks = list(self._sample.values()) if watched else []
            counts, devices = dict(self._counts), frozenset(self._devices)
            deployments = tuple(self._deployments.values())
            for emptied in (self._sample, self._counts, self._devices, self._deployments):
                emptied.clear()
        return Happened(tuple(_newest(chunks, _SAMPLE)), counts, devices, deployments)


def _last_of_each(chunks: Sequence[KeptChunk]) -> dict[Place, KeptChunk]:
    """By place, in the order of these."""
    found: dict[Place, KeptChunk] = {}
    for chunk in reversed(chunks[-_PIPELINES:]):
        # Events come in chunks of their own: a pipeline's results must not push them out.
        found.setdefault((chunk.device, chunk.pipeline, chunk.kinds == kind_bit(Kind.EVENT)), chunk)
    return dict(reversed(found.items()))


def _put(chunks: dict[Place, KeptChunk], place: Place, chunk: KeptChunk) -> None:
    """As the newest; the oldest fall off."""
    chunks.pop(place, None)
    chunks[place] = chunk
    size = sum(len(kept.body) for kept in chunks.values())
    while len(chunks) > _PIPELINES or (size > _KEPT_BYTES and len(chunks) > 1):
        size -= len(chunks.pop(next(iter(chunks))).body)


def _newest(chunks: Sequence[KeptChunk], limit: int) -> list[StoredResult]:
    """The last `limit` results of `chunks`, in the order in which they came."""
    found: list[StoredResult] = []
    decoded = 0
    for chunk in reversed(chunks):
        if len(found) >= limit or (decoded and decoded + chunk.n > _DECODED):
            break
        try:
            found = results_of(chunk)[-(limit - len(found)) :] + found
        except CodecError as error:  # it was read when it came
            _log.error("event=chunk_unreadable first_seq=%d error=%r", chunk.first_seq, error.message)
        decoded += chunk.n
    return found
