"""The stage that watches a pipeline for drift, and keeps what it has learned of its first frames.

<state_dir>/learn/{pipeline}@{key}.json    the reference of a package that brings none; key: the package's
"""

import logging
import threading
from collections.abc import Iterable
from pathlib import Path

import msgspec

from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.durable import write_durably
from edgeinfer.runtime.hashing import sha256
from edgeinfer.runtime.learn.drift import DriftWatch, Learner
from edgeinfer.runtime.learn.settings import DriftConfig
from edgeinfer.runtime.learn.statistics import InputStatistics, Values, frame_inputs, score_statistics
from edgeinfer.runtime.manifest import Manifest, Reference
from edgeinfer.runtime.postprocess import result_kind
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.runtime.stages import Seen

__all__ = ["DriftObserver", "LearnedReference", "package_reference"]

logger = logging.getLogger(__name__)

_KEPT_PER_PIPELINE = 4
_MAX_BYTES = 1 << 20
_NS = 1_000_000_000
_CLOSE_S = 0.5


class DriftObserver:
    """Yields a result of kind DRIFT every `interval_s`, by the frames' own monotonic time."""

    def __init__(self, config: DriftConfig, manifest: Manifest, *, pipeline: str, state_dir: Path) -> None:
        self._config = config
        self._scores_of = score_statistics(result_kind(manifest.postprocess))
        self._inputs_of = InputStatistics(manifest.preprocess, frame_inputs(manifest.variants))
        self._learned = LearnedReference(state_dir / "learn", pipeline, manifest)
        self._learner: Learner | None = None
        self._watch: DriftWatch | None = None
        reference = package_reference(config, manifest) or self._learned.load(config)
        if reference is None:
            self._learner = Learner(config.learn)
        else:
            self._watch = DriftWatch(config, reference)
        self._next_sample_ns = 0
        self._next_report_ns = 0

    def __call__(self, seen: Seen) -> Iterable[Result]:
        now_ns = seen.frame.mono_ns
        if now_ns < self._next_sample_ns:
            return ()
        self._next_sample_ns = now_ns + int(self._config.sample_s * _NS)
        self._add(self._scores_of(seen.result.items), self._inputs_of(seen.target))
        if now_ns < self._next_report_ns or self._watch is None:
            return ()
        report = self._watch.report()
        if report is None:
            return ()
        self._next_report_ns = now_ns + int(self._config.interval_s * _NS)
        return (Result(Kind.DRIFT, seen.result.t_ns, seen.result.frame, extra=report.extra()),)

    def close(self) -> None:
        self._learned.close()

    def _add(self, scores: Values, inputs: Values) -> None:
        if self._watch is not None:
            self._watch.add(scores, inputs)
        elif self._learner is not None:
            reference = self._learner.add(scores, inputs)
            if reference is not None:
                self._learner, self._watch = None, DriftWatch(self._config, reference)
                self._learned.save(self._config, reference)


def package_reference(config: DriftConfig, manifest: Manifest) -> Reference | None:
    """The package's own reference, where the configuration wants it and the package has one."""
    if config.reference == "own":
        return None
    if config.reference == "package" and manifest.reference is None:
        logger.warning("event=no_reference package=%s-%s uses=own", manifest.name, manifest.version)
    return manifest.reference


class _Kept(msgspec.Struct, frozen=True):
    """`learn` and `sample_s` are those that the reference was learned with: with others it is learned anew."""

    learn: int
    sample_s: float
    reference: Reference


class LearnedReference:
    """What was learned of a pipeline and a package, on disk. What cannot be read is learned again."""

    def __init__(self, folder: Path, pipeline: str, manifest: Manifest) -> None:
        key = sha256(msgspec.json.encode(manifest)).hexdigest()[:16]
        self._path = folder / f"{pipeline}@{key}.json"
        self._pattern = f"{pipeline}@*.json"
        self._thread: threading.Thread | None = None

    def load(self, config: DriftConfig) -> Reference | None:
        try:
            if self._path.stat().st_size > _MAX_BYTES:
                return None
            kept = msgspec.json.decode(self._path.read_bytes(), type=_Kept)
        except (OSError, *MALFORMED):
            return None
        return kept.reference if (kept.learn, kept.sample_s) == (config.learn, config.sample_s) else None

    def save(self, config: DriftConfig, reference: Reference) -> None:
        """In a thread of its own: a disk may take its time, and the inference thread has none."""
        content = msgspec.json.encode(_Kept(config.learn, config.sample_s, reference))
        thread = threading.Thread(target=self._write, args=(content,), name="learn-save", daemon=True)
        thread.start()
        self._thread = thread  # once it can be joined: another thread may close meanwhile

    def close(self, timeout_s: float = _CLOSE_S) -> None:
        """Wait for what is being written, a little: a disk that hangs must not hold up who ends."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)

    def _write(self, content: bytes) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(self._path, content)
            self._forget_old()
        except OSError as error:
            logger.warning("event=reference_not_saved path=%s error=%s", self._path, error)

    def _forget_old(self) -> None:
        """Keep those of the last packages, so that a roll-back need not learn again."""
        others = [path for path in self._path.parent.glob(self._pattern) if path != self._path]
        others.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in others[_KEPT_PER_PIPELINE - 1 :]:
            path.unlink(missing_ok=True)
