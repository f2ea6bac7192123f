"""The daemon's status document: what it shows of itself to the agent, the local commands and the console."""

import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from edgeinfer.runtime.buffer import Buffer
from edgeinfer.runtime.handoff import RuntimeDb
from edgeinfer.runtime.pipeline import Pipeline

__all__ = ["StatusBoard", "final_document", "resident_bytes"]

# Each status that is written costs flash 4 kB, though no sync.
_INTERVAL_S = 5.0
_STEADY = ("model", "package", "variant", "source", "error")


class StatusBoard:
    """Writes the status document into `runtime.db`: every five seconds, and at once when more than a count has
    changed."""

    def __init__(self, db: RuntimeDb) -> None:
        self._db = db
        self._steady: object = None
        self._written_s = float("-inf")

    def show(
        self, pipelines: Sequence[Pipeline], buffer: Buffer, *, about: dict[str, Any], always: bool = False
    ) -> None:
        """`about` is what does not change while the daemon runs. Raises BufferStorageError."""
        document = _document(pipelines, buffer, about)
        shown = [{key: pipeline[key] for key in _STEADY} for pipeline in document["pipelines"].values()]
        steady = (document["models"], shown, buffer.error, tuple(about))
        now_s = time.monotonic()
        if always or steady != self._steady or now_s - self._written_s >= _INTERVAL_S:
            self._db.set_status(msgspec.json.encode(document))
            self._steady, self._written_s = steady, now_s


def _document(pipelines: Sequence[Pipeline], buffer: Buffer, about: dict[str, Any]) -> dict[str, Any]:
    return {
        "t_ns": time.time_ns(),
        "models": {p.model.name: _model(p) for p in pipelines},
        "pipelines": {p.config.name: _pipeline(p) for p in pipelines},
        "buffer": {"epoch": buffer.epoch, "durable_seq": buffer.durable_seq, "error": buffer.error},
        "rss_bytes": resident_bytes(),
        **about,
    }


def final_document(pipelines: Sequence[Pipeline], buffer: Buffer) -> dict[str, Any]:
    """What `run --until-end --json` prints."""
    return {"pipelines": [_final(pipeline, buffer) for pipeline in pipelines]}


def resident_bytes() -> int:
    """The resident set of this process now; its peak where /proc is not mounted."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - a kernel file, read every second
            return int(file.read().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _model(pipeline: Pipeline) -> dict[str, str]:
    model = pipeline.model
    return {"version": model.version, "digest": model.digest, "variant": model.variant.id}


def _pipeline(pipeline: Pipeline) -> dict[str, Any]:
    status, model = pipeline.status, pipeline.model
    return {
        "model": model.name,
        "package": f"{model.name} {model.version}",
        "variant": model.variant.id,
        "captured": pipeline.counts.captured,
        "frames": pipeline.counts.totals(),
        "results": status.results,
        "events": status.events,
        "fps": _rate(status.results, status.seconds()),
        "latency_us": status.latency_us(),
        "swap_ms": round(status.swap_ms, 3),
        "source": status.source,
        "error": status.error,
    }


def _final(pipeline: Pipeline, buffer: Buffer) -> dict[str, Any]:
    seconds = pipeline.status.seconds()
    return {
        "name": pipeline.config.name,
        **{key: value for key, value in _pipeline(pipeline).items() if key not in {"model", "source", "swap_ms"}},
        "durable_seq": buffer.durable_seq,
        "seconds": round(seconds, 6),
    }


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 3) if seconds > 0 else 0.0
