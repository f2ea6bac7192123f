"""A candidate in shadow: it runs beside the active version on the same frames, and only its answers are compared.

    run = ShadowRun(candidate, config.shadow)     # an observer of the pipeline, from now on
    run.finished, run.report                      # from any thread

The candidate runs in the pipeline's inference thread, after the active version's result was appended: a result is
never later for it, but the next frame waits for both. `every` says how often.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from edgeinfer.runtime.errors import EdgeInferError
from edgeinfer.runtime.learn.comparison import agree, top_score
from edgeinfer.runtime.learn.settings import ShadowConfig
from edgeinfer.runtime.model import LoadedModel
from edgeinfer.runtime.results import Item, Kind, Result
from edgeinfer.runtime.stages import Observer, Seen

__all__ = ["ShadowReport", "ShadowRun", "disagreement_hook"]

logger = logging.getLogger(__name__)

_MAX_SCORES = 10_000
_OF_CLASSES = {Kind.CLASSIFICATION, Kind.DETECTION, Kind.SEGMENTATION}
Hook = Callable[[Seen], None]


class ShadowReport(NamedTuple):
    """`agreement` is the share of `frames` on which both versions said the same; a failure of the candidate is none.
    `psi` of the two spreads of scores and the median latency of the candidate's engine are there once it finished."""

    frames: int = 0
    agreement: float = 0.0
    psi: float = 0.0
    latency_us_p50: int = 0
    failures: int = 0


class ShadowRun:
    """Compares on every `every`-th frame until `frames` were; then yields one result of kind SHADOW.

    `labels` are those of the active version: where the candidate's are others, classes are compared by name.
    `disagreed` is called with each frame that the two disagree on.
    """

    def __init__(
        self,
        candidate: LoadedModel,
        config: ShadowConfig,
        *,
        labels: tuple[str, ...] = (),
        disagreed: Hook | None = None,
    ) -> None:
        self._candidate = candidate
        self._config = config
        self._disagreed = disagreed
        self._translated = None
        if candidate.kind in _OF_CLASSES:
            self._translated = _translation(candidate.package.labels(), labels)
        self._seen = 0
        self._agreed = 0
        self._scores: tuple[deque[float], deque[float]] = (deque(maxlen=_MAX_SCORES), deque(maxlen=_MAX_SCORES))
        self._latencies: deque[int] = deque(maxlen=_MAX_SCORES)
        # Replaced as a whole, by the inference thread alone: other threads read one or the other.
        self.report = ShadowReport()
        self.finished = False

    def __call__(self, seen: Seen) -> Iterable[Result]:
        self._seen += 1
        if self.finished or (self._seen - 1) % self._config.every:
            return ()
        items = self._infer(seen)
        failures = self.report.failures + (items is None)
        self._agreed += items is not None and self._compare(seen, items)
        frames = self.report.frames + 1
        self.report = self.report._replace(frames=frames, agreement=self._agreed / frames, failures=failures)
        return self._finish(seen) if frames >= self._config.frames else ()

    def close(self) -> None:
        """Nothing is kept open: the candidate belongs to whoever loaded it."""

    def _infer(self, seen: Seen) -> tuple[Item, ...] | None:
        """What the candidate says; None where it fails, in whatever way."""
        candidate = self._candidate
        try:
            prepared = candidate.prepare(seen.frame, is_first=not self.report.frames)
            try:
                inferred = candidate.infer(prepared)
            finally:
                candidate.release(prepared)
        except Exception as error:
            if not self.report.failures:
                logger.warning(
                    "event=shadow_failed candidate=%s error=%s", candidate, error, exc_info=not _foreseen(error)
                )
            return None
        self._latencies.append(inferred.latency_us)
        return inferred.items

    def _compare(self, seen: Seen, items: tuple[Item, ...]) -> bool:
        ours, kind = seen.result.items, seen.result.kind
        if self._translated is not None:
            items = tuple(
                msgspec.structs.replace(item, label=self._translated.get(item.label, item.label)) for item in items
            )
        pair = top_score(kind, ours), top_score(kind, items)
        for scores, score in zip(self._scores, pair, strict=True):
            if score is not None:
                scores.append(score)
        same = kind is self._candidate.kind and agree(kind, ours, items)
        if not same:
            self._tell(seen)
        return same

    def _tell(self, seen: Seen) -> None:
        if self._disagreed is None:
            return
        try:
            self._disagreed(seen)
        except Exception:  # an update waits for this run: who listens may not end it
            logger.exception("event=hook_crashed candidate=%s", self._candidate)
            self._disagreed = None

    def _finish(self, seen: Seen) -> Iterable[Result]:
        latencies = sorted(self._latencies)
        self.report = self.report._replace(
            psi=_psi(*self._scores), latency_us_p50=latencies[len(latencies) // 2] if latencies else 0
        )
        self.finished = True
        report, candidate = self.report, self._candidate
        extra: dict[str, int | float | str] = {
            "candidate": f"{candidate.name} {candidate.version}",
            "frames": report.frames,
            "agreement": round(report.agreement, 6),
            "psi": round(report.psi, 6),
            "latency_us_p50": report.latency_us_p50,
            "latency_us_active": seen.result.latency_us,
            "failures": report.failures,
        }
        logger.info("event=shadow_finished %s", " ".join(f"{key}={value}" for key, value in extra.items()))
        return (Result(Kind.SHADOW, seen.result.t_ns, seen.result.frame, extra=extra),)


def disagreement_hook(observers: Iterable[Observer]) -> Hook:
    """Tells those of the observers that want to know (`disagreed`) of each frame that is disagreed on."""
    hooks = [observer.disagreed for observer in observers if hasattr(observer, "disagreed")]

    def tell(seen: Seen) -> None:
        for hook in hooks:
            hook(seen)

    return tell


def _translation(theirs: tuple[str, ...], ours: tuple[str, ...]) -> dict[int, int] | None:
    """Class index of the candidate to that of the active version; None where they are the same, or nameless. A class
    that the active version does not know gets a number that it does not have."""
    if not theirs or not ours or theirs == ours:
        return None
    places = {name: place for place, name in reversed(list(enumerate(ours)))}
    return {place: places.get(name, len(ours) + place) for place, name in enumerate(theirs)}


def _psi(ours: deque[float], theirs: deque[float]) -> float:
    if not ours or not theirs:
        return 0.0
    import numpy as np

    from edgeinfer.runtime.learn.distribution import describe, psi

    return psi(describe(np.asarray(ours)), np.asarray(theirs))


def _foreseen(error: Exception) -> bool:
    return isinstance(error, EdgeInferError)
