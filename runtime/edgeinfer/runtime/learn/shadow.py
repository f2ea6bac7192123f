"""A candidate in shadow: it runs beside the active version on the same frames, and only its answers are compared.

    run = ShadowRun(candidate, config.shadow)     # an observer of the pipeline, from now on
    run.finished, run.report                      # from any thread

The candidate runs in a thread of its own, on one frame at a time: frames that come meanwhile are not compared, and the
pipeline never waits. What the candidate said of a frame is looked at when the next one comes. `every` says how often
it is asked at most. One that hangs, or cannot be compared, ends the run as failed, and so does an error of the run
itself: an update waits for it.
"""

import functools
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec
import numpy as np

from edgeinfer.runtime.errors import EdgeInferError
from edgeinfer.runtime.frame import NO_DATA
from edgeinfer.runtime.learn.aside import Aside
from edgeinfer.runtime.learn.comparison import agree, is_finite, top_score
from edgeinfer.runtime.learn.settings import ShadowConfig
from edgeinfer.runtime.model import LoadedModel
from edgeinfer.runtime.results import Item, Kind, Result
from edgeinfer.runtime.stages import Observer, Seen

__all__ = ["ShadowReport", "ShadowRun", "disagreement_hook"]

logger = logging.getLogger(__name__)

_MAX_SCORES = 10_000
# What no engine needs for one frame: it hangs. The watchdog of a whole daemon is of this order.
_CALL_LIMIT_S = 30.0
_OF_CLASSES = {Kind.CLASSIFICATION, Kind.DETECTION, Kind.SEGMENTATION}
Hook = Callable[[Seen], None]


class ShadowReport(NamedTuple):
    """`agreement` is the share of `frames` on which both versions said the same; a failure of the candidate is none.
    `psi` of the two spreads of scores and the median latency of the candidate's engine are there once it finished.
    `failed` says why a run ended early: its agreement is 0 then, and the candidate is not to be used."""

    frames: int = 0
    agreement: float = 0.0
    psi: float = 0.0
    latency_us_p50: int = 0
    failures: int = 0
    failed: str = ""


class _Answer(NamedTuple):
    """What came of one frame. `items` is None and `error` says why where the candidate failed; `seen` has no tensors:
    they are the pipeline's."""

    seen: Seen
    items: tuple[Item, ...] | None = None
    same: bool = False
    latency_us: int = 0
    error: Exception | None = None


class ShadowRun:
    """Compares on every `every`-th frame until `frames` were; then yields one result of kind SHADOW, and is finished.
    One that was closed is finished too.

    `labels` are those of the active version: where the candidate's are others, classes are compared by name.
    `disagreed` is called with each frame that the two disagree on, by the thread that calls the run. A call of the
    candidate that takes longer than `limit_s` is taken for one that hangs.
    """

    def __init__(
        self,
        candidate: LoadedModel,
        config: ShadowConfig,
        *,
        labels: tuple[str, ...] = (),
        disagreed: Hook | None = None,
        limit_s: float = _CALL_LIMIT_S,
    ) -> None:
        self._candidate = candidate
        self._config = config
        self._disagreed = disagreed
        self._limit_s = limit_s
        self._translated = None
        if candidate.kind in _OF_CLASSES:
            self._translated = _translation(candidate.package.labels(), labels)
        self._aside = Aside[_Answer](f"shadow-{candidate.name}")
        self.idle = self._aside.idle  # set while the candidate is asked nothing
        self._seen = 0
        self._agreed = 0
        self._is_first = True
        self._scores: tuple[deque[float], deque[float]] = (deque(maxlen=_MAX_SCORES), deque(maxlen=_MAX_SCORES))
        self._latencies: deque[int] = deque(maxlen=_MAX_SCORES)
        # Replaced as a whole, by the inference thread alone: other threads read one or the other.
        self.report = ShadowReport()
        self.finished = False

    def __call__(self, seen: Seen) -> Iterable[Result]:
        if self.finished:
            return ()
        try:
            return self._step(seen)
        except Exception as error:
            logger.exception("event=shadow_crashed candidate=%s", self._candidate)
            return self._end(seen, failed=f"internal error: {error}")

    def close(self) -> None:
        """Waits for nothing: the candidate's thread ends after the call that it is in, and what it says is not heard.
        The candidate belongs to whoever loaded it."""
        self.finished = True
        self._aside.close()

    def _step(self, seen: Seen) -> Iterable[Result]:
        answer = self._aside.take()
        if answer is not None:
            self._count(answer)
        if self._aside.busy_s() > self._limit_s:
            return self._end(seen, failed=f"a call of the candidate took longer than {self._limit_s:.3g} s")
        if self.report.frames >= self._config.frames:
            return self._end(seen)
        self._seen += 1
        if (self._seen - 1) % self._config.every == 0 and self.idle.is_set():
            # A copy: the source may read its next picture into the same memory.
            frame = msgspec.structs.replace(seen.frame, data=np.array(seen.frame.data))
            kept = Seen(frame, seen.result, NO_DATA, ())
            self._aside.offer(functools.partial(self._ask, kept, is_first=self._is_first))
            self._is_first = False
        return ()

    def _ask(self, seen: Seen, *, is_first: bool) -> _Answer:
        """What the candidate says, in whatever way it fails. Called in its own thread."""
        candidate = self._candidate
        try:
            prepared = candidate.prepare(seen.frame, is_first=is_first)
            try:
                inferred = candidate.infer(prepared)
            finally:
                candidate.release(prepared)
            items = self._by_our_labels(inferred.items)
            kind = seen.result.kind
            same = kind is candidate.kind and is_finite(items) and agree(kind, seen.result.items, items)
        except Exception as error:
            return _Answer(seen, error=error)
        return _Answer(seen, items, same, inferred.latency_us)

    def _by_our_labels(self, items: tuple[Item, ...]) -> tuple[Item, ...]:
        names = self._translated
        if names is None:
            return items
        return tuple(msgspec.structs.replace(item, label=names.get(item.label, item.label)) for item in items)

    def _count(self, answer: _Answer) -> None:
        report = self.report
        if answer.items is None:
            if not report.failures:
                error = answer.error
                trace = None if isinstance(error, EdgeInferError) else error
                logger.warning("event=shadow_failed candidate=%s error=%s", self._candidate, error, exc_info=trace)
        else:
            self._latencies.append(answer.latency_us)
            self._spread(answer.seen.result, answer.items)
        self._agreed += answer.same
        frames, failures = report.frames + 1, report.failures + (answer.items is None)
        self.report = report._replace(frames=frames, agreement=self._agreed / frames, failures=failures)
        if answer.items is not None and not answer.same:
            self._tell(answer.seen)

    def _spread(self, result: Result, items: tuple[Item, ...]) -> None:
        pair = top_score(result.kind, result.items), top_score(result.kind, items)
        for scores, score in zip(self._scores, pair, strict=True):
            if score is not None and math.isfinite(score):  # what is no number has no place in a spread
                scores.append(score)

    def _tell(self, seen: Seen) -> None:
        if self._disagreed is None:
            return
        try:
            self._disagreed(seen)
        except Exception:  # an update waits for this run: who listens may not end it
            logger.exception("event=hook_crashed candidate=%s", self._candidate)
            self._disagreed = None

    def _end(self, seen: Seen, *, failed: str = "") -> Iterable[Result]:
        report = self.report
        if not failed:
            try:
                latencies = sorted(self._latencies)
                median_us = latencies[len(latencies) // 2] if latencies else 0
                report = report._replace(psi=_psi(*self._scores), latency_us_p50=median_us)
            except Exception as error:
                logger.exception("event=shadow_crashed candidate=%s", self._candidate)
                failed = f"the scores cannot be compared: {error}"
        if failed:  # a frame at least: a report of none would say nothing
            report = report._replace(
                frames=max(report.frames, 1), agreement=0.0, failures=report.failures + 1, failed=failed
            )
        self.report = report
        told = self._result(seen)
        self.close()  # after the report is there
        return (told,)

    def _result(self, seen: Seen) -> Result:
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
        if report.failed:
            extra["failed"] = report.failed
        fields = {"failed": "", **extra}
        logger.info(
            "event=shadow_finished candidate=%s frames=%d agreement=%s psi=%s failures=%d failed=%r",
            *(fields[name] for name in ("candidate", "frames", "agreement", "psi", "failures", "failed")),
        )
        return Result(Kind.SHADOW, seen.result.t_ns, seen.result.frame, extra=extra)


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
    from edgeinfer.runtime.learn.distribution import describe, psi

    return psi(describe(np.asarray(ours)), np.asarray(theirs))
