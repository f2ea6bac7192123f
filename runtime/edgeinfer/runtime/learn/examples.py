"""The stage that keeps hard examples: inputs that are worth to be labelled, for the next version of the model.

    <state_dir>/examples/{pipeline}/{number}-{reason}-{frame}.jpg (or .npz) and .json

The JSON beside a picture or window says what the model made of it and why it was kept. An `.npz` has one row `x`, as
recorded inputs have (`[pipeline.source] kind = "tensors"`).
"""

import io
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.learn.hardness import Hardness, Spans, margin_of, novelty
from edgeinfer.runtime.learn.settings import ExamplesConfig
from edgeinfer.runtime.learn.statistics import InputStatistics, frame_inputs, score_statistics
from edgeinfer.runtime.manifest import Manifest, Reference
from edgeinfer.runtime.postprocess import result_kind
from edgeinfer.runtime.quota_folder import QuotaFolder
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.runtime.stages import Seen

__all__ = ["HardExamples"]

# Inputs are measured on one frame in so many: it takes some tens of microseconds.
_INPUT_EVERY = 8
# As a part of the reference's width; one value in a hundred lies just outside of its quantiles anyway.
_NOVEL_FROM = 0.1
_DAY_S = 86_400.0
_PICTURE_AXES = (2, 3)


class _Held(NamedTuple):
    """The hardest input of the span so far: a copy."""

    worth: float
    hardness: Hardness
    frame: Frame
    result: Result


class _Waiting(NamedTuple):
    """Of an input that is being written: what its result will say, and no array."""

    t_ns: int
    frame: int
    hardness: Hardness


class HardExamples:
    """Yields a result of kind EXAMPLE once an input is safely on disk. One input is held in memory at a time."""

    def __init__(
        self, config: ExamplesConfig, manifest: Manifest, *, labels: tuple[str, ...], pipeline: str, state_dir: Path
    ) -> None:
        self._config = config
        self._kind = result_kind(manifest.postprocess)
        self._post = manifest.postprocess
        self._about = {"pipeline": pipeline, "package": manifest.name, "version": manifest.version}
        self._labels = labels
        self._state_dir = state_dir
        folder = state_dir / "examples" / pipeline
        self._folder = QuotaFolder(folder, max_bytes=config.max_bytes, thread_name=f"examples-{pipeline}")
        self._spans = Spans(config, kept_today=_kept_since(folder, time.time() - _DAY_S))
        self._reference = (manifest.reference if config.novel else None) or Reference()
        self._scores_of = score_statistics(self._kind)
        self._inputs_of = InputStatistics(manifest.preprocess, frame_inputs(manifest.variants))
        self._held: _Held | None = None
        self._waiting: dict[str, _Waiting] = {}
        self._seen = 0
        self._closed = False
        self._lock = threading.Lock()  # another thread may close while a frame is looked at

    def __call__(self, seen: Seen) -> Iterable[Result]:
        hardness = self._judge(seen)
        with self._lock:
            if hardness is not None:
                self._offer(seen, hardness)
            if self._spans.is_over(seen.frame.mono_ns):
                self._keep_held()
                self._spans.begin(seen.frame.mono_ns)
            return self._report() if self._waiting else ()

    def disagreed(self, seen: Seen) -> None:
        """A candidate in shadow said something else of this frame. Called in the same thread as the stage itself."""
        hardness = Hardness("shadow", 1.0, margin_of(self._kind, seen.result.items, self._post))
        with self._lock:
            self._offer(seen, hardness)

    def close(self) -> None:
        with self._lock:
            self._keep_held()
            self._closed, self._held = True, None
        self._folder.close()

    def _judge(self, seen: Seen) -> Hardness | None:
        """Why this input is hard, the better reason of two; None where it is not."""
        self._seen += 1
        items = seen.result.items
        margin = margin_of(self._kind, items, self._post)
        found = None
        if margin < self._config.margin:
            found = Hardness("margin", 1.0 - margin / self._config.margin, margin)
        excess, name = novelty(self._scores_of(items), self._reference.scores) if self._reference.scores else (0.0, "")
        if self._reference.inputs and self._seen % _INPUT_EVERY == 0:
            excess, name = max((excess, name), novelty(self._inputs_of(seen.target), self._reference.inputs))
        if excess < _NOVEL_FROM:
            return found
        novel = Hardness("novel", excess, margin, name)
        return novel if found is None or self._spans.worth(novel) > self._spans.worth(found) else found

    def _offer(self, seen: Seen, hardness: Hardness) -> None:
        """Hold a copy of the input, if it is harder than what is held."""
        worth = self._spans.worth(hardness)
        if self._closed or not self._spans.budget_left or (self._held is not None and worth <= self._held.worth):
            return
        frame = msgspec.structs.replace(seen.frame, data=np.array(seen.frame.data))
        self._held = _Held(worth, hardness, frame, seen.result)

    def _keep_held(self) -> None:
        held = self._held
        if held is None or not self._spans.budget_left:
            return
        frame = held.frame
        name = self._folder.put(f"{held.hardness.reason}-{frame.index}", lambda: self._files(held))
        if name:  # else it is held until the writer has caught up
            self._held = None
            self._waiting[name] = _Waiting(frame.t_ns, frame.index, held.hardness)
            self._spans.keep(held.hardness.reason)

    def _report(self) -> list[Result]:
        """Of what has become durable; what was given up is forgotten."""
        for name in self._folder.take_given_up():
            self._waiting.pop(name, None)
        results = []
        for written in self._folder.take_written():
            kept = self._waiting.pop(written.name, None)
            if kept is not None:
                results.append(self._result(kept, written.files[0]))
        return results

    def _result(self, kept: _Waiting, file: str) -> Result:
        hardness = kept.hardness
        path = (self._folder.folder / file).relative_to(self._state_dir)
        extra: dict[str, int | float | str] = {
            "file": str(path),
            "reason": hardness.reason,
            "detail": hardness.detail,
            "margin": round(hardness.margin, 6),
            "value": round(hardness.value, 6),
        }
        return Result(Kind.EXAMPLE, kept.t_ns, kept.frame, extra=extra)

    def _files(self, held: _Held) -> Mapping[str, bytes]:
        """Called in the writer's thread."""
        data = held.frame.data
        document = msgspec.json.format(msgspec.json.encode(self._document(held)), indent=1)
        if data.dtype == np.uint8 and data.ndim in _PICTURE_AXES:
            return {".jpg": _jpeg(data, self._config.jpeg_quality), ".json": document}
        return {".npz": _npz(data), ".json": document}

    def _document(self, held: _Held) -> dict[str, Any]:
        frame, result, names = held.frame, held.result, self._labels
        items = [
            {**msgspec.structs.asdict(item), "name": names[item.label] if 0 <= item.label < len(names) else ""}
            for item in result.items
        ]
        return {
            **self._about,
            "t_ns": frame.t_ns,
            "frame": frame.index,
            "kind": self._kind.name.lower(),
            **held.hardness._asdict(),
            "items": items,
            "shape": frame.data.shape,
            "origin": frame.origin,
        }


def _jpeg(picture: npt.NDArray[Any], quality: int) -> bytes:
    from edgeinfer.runtime.sources.pictures import opencv

    cv2 = opencv()
    made, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not made:
        raise OSError(f"a picture of shape {picture.shape} cannot be encoded")
    return bytes(encoded)


def _npz(window: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=window[np.newaxis])
    return buffer.getvalue()


def _kept_since(folder: Path, since_s: float) -> int:
    """How many examples a pipeline has kept since then, by their files: a restart gives no new budget."""
    try:
        return sum(1 for path in folder.glob("*.json") if path.stat().st_mtime > since_s)
    except OSError:  # unreadable, or just taken away
        return 0
