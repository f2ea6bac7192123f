"""The daemon's status document: what it shows of itself to the agent, the local commands, the page and the metrics.

Two forms of one document. The one in `runtime.db` is read by the agent, which passes `models` and `pipelines` on: what
changes with every frame is kept out of the former, and short in the latter. The one that is made when somebody asks
(the control socket, the local page) has the latest events, too.

    t_ns, device, uptime_s, rss_bytes, temperature_c, profile, engines
    models     by name: version, digest, variant
    model_bytes  by name: what is loaded of it, where that is known
    pipelines  by name: model, package, variant, source, error, captured, frames, results, events, fps, frame_rate,
               latency_us, age_us, swap_ms, restarts
    buffer     epoch, durable_seq, pending, bytes, max_bytes, error
    last       by pipeline: the newest result: kind, t_ns, frame, items (name, score)
    governor   where there is one: its last step, and level: how far down the pipeline is that is furthest (0: none is)
    drift      by pipeline: what was measured last
    recent     newest first: t_ns, pipeline, kind, and what it says
"""

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from edgeinfer.runtime.buffer import Buffer
from edgeinfer.runtime.errors import EdgeInferError
from edgeinfer.runtime.handoff import RuntimeDb
from edgeinfer.runtime.logs import masked
from edgeinfer.runtime.memory import resident_bytes
from edgeinfer.runtime.pipeline import Pipeline
from edgeinfer.runtime.recent import Recent
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.runtime.shared_engine import SharedEngine
from edgeinfer.runtime.store import InstalledPackage

__all__ = ["StatusBoard", "final_document", "label_name"]

# Each status that is written costs flash 4 kB, though no sync.
_INTERVAL_S = 5.0
_STEADY = ("model", "package", "variant", "source", "error")
_ITEMS = 3
_THERMAL = Path("/sys/class/thermal")


class StatusBoard:
    """Writes the status document into `runtime.db`: every five seconds, and at once when more than a count has
    changed. `has_governor`: level 0 is worth saying."""

    def __init__(self, db: RuntimeDb, recent: Recent | None = None, *, has_governor: bool = False) -> None:
        self._db = db
        self._recent = recent or Recent()
        self._has_governor = has_governor
        self._began_s = time.monotonic()
        self._labels = _Labels()
        self._steady: object = None
        self._written_s = float("-inf")

    def show(
        self, pipelines: Sequence[Pipeline], buffer: Buffer, *, about: dict[str, Any], always: bool = False
    ) -> None:
        """`about` is what does not change while the daemon runs. Raises BufferStorageError."""
        shown = [[_model(p), p.status.source, p.status.error] for p in pipelines]
        steady = (shown, buffer.error, tuple(about))
        now_s = time.monotonic()
        if always or steady != self._steady or now_s - self._written_s >= _INTERVAL_S:
            self._db.set_status(msgspec.json.encode(self.document(pipelines, buffer, about=about)))
            self._steady, self._written_s = steady, now_s

    def fresh(self, pipelines: Sequence[Pipeline], buffer: Buffer, *, about: dict[str, Any]) -> dict[str, Any]:
        """The document as of now, with what was said lately."""
        labels = {p.config.name: self._labels.of(p.model.package) for p in pipelines}
        recent = [
            _noted(pipeline, result, labels.get(pipeline, ())) for pipeline, result in self._recent.newest_first()
        ]
        return {**self.document(pipelines, buffer, about=about), "recent": recent}

    def document(self, pipelines: Sequence[Pipeline], buffer: Buffer, *, about: dict[str, Any]) -> dict[str, Any]:
        return {
            "t_ns": time.time_ns(),
            "uptime_s": round(time.monotonic() - self._began_s, 1),
            "models": {p.model.name: _model(p) for p in pipelines},
            "model_bytes": _model_bytes(pipelines),
            "pipelines": {p.config.name: _pipeline(p) for p in pipelines},
            "last": {p.config.name: self._last(p, r) for p in pipelines if (r := p.status.last_result) is not None},
            "governor": self._governor(pipelines),
            "drift": {name: dict(result.extra or {}) for name, result in self._recent.last(Kind.DRIFT).items()},
            "buffer": _buffer(buffer),
            "rss_bytes": resident_bytes(),
            "temperature_c": _temperature_c(_THERMAL),
            **about,
        }

    def _governor(self, pipelines: Sequence[Pipeline]) -> dict[str, Any]:
        running = {pipeline.config.name for pipeline in pipelines}
        steps = {name: step for name, step in self._recent.last(Kind.STEP).items() if name in running}
        if not steps:
            return {"level": 0} if self._has_governor else {}
        pipeline, newest = list(steps.items())[-1]  # as they came: the wall clock may have been set meanwhile
        level = max((step.extra or {}).get("level", 0) for step in steps.values())
        return {**(newest.extra or {}), "pipeline": pipeline, "t_ns": newest.t_ns, "level": level}

    def _last(self, pipeline: Pipeline, result: Result) -> dict[str, Any]:
        labels = self._labels.of(pipeline.model.package)
        return {
            "kind": result.kind.name.lower(),
            "t_ns": result.t_ns,
            "frame": result.frame,
            "found": len(result.items),
            "items": _items(result, labels),
        }


class _Labels:
    """The labels of packages, read once each."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, ...]] = {}

    def of(self, package: InstalledPackage) -> tuple[str, ...]:
        known = self._known.get(package.digest)
        if known is None:
            known = ()
            with suppress(EdgeInferError, OSError, ValueError):  # names are a courtesy: without them there are numbers
                known = package.labels()
            self._known[package.digest] = known
        return known


def label_name(kind: Kind, label: int, labels: Sequence[str]) -> str:
    """The name of an item's label, or its number where it has none: the dimensions of an embedding have none."""
    is_named = 0 <= label < len(labels) and kind is not Kind.EMBEDDING
    return labels[label] if is_named else str(label)


def final_document(pipelines: Sequence[Pipeline], buffer: Buffer) -> dict[str, Any]:
    """What `run --until-end --json` prints."""
    return {"pipelines": [_final(pipeline, buffer) for pipeline in pipelines]}


def _temperature_c(folder: Path) -> float | None:
    """The hottest thermal zone of the kernel, in degrees Celsius; None where there is none."""
    readings: list[float] = []
    for zone in folder.glob("thermal_zone*"):
        with suppress(OSError, ValueError):
            readings.append(int((zone / "temp").read_text(encoding="ascii")) / 1000)
    return max(readings, default=None)


def _model(pipeline: Pipeline) -> dict[str, str]:
    model = pipeline.model
    return {"version": model.version, "digest": model.digest, "variant": model.variant.id}


def _model_bytes(pipelines: Sequence[Pipeline]) -> dict[str, int]:
    """Pipelines share engines: each counts once."""
    shared = {id(e): (p.model.name, e) for p in pipelines for e in p.model.engines if isinstance(e, SharedEngine)}
    found: dict[str, int] = {}
    for name, engine in shared.values():
        found[name] = found.get(name, 0) + (engine.bytes if engine.loaded else 0)
    return found


def _trouble(pipeline: Pipeline) -> str:
    """What a gate has to say of the source, such as a frozen picture."""
    return next((said for gate in pipeline.gates if (said := getattr(gate, "trouble", ""))), "")


def _pipeline(pipeline: Pipeline) -> dict[str, Any]:
    status, model, captured = pipeline.status, pipeline.model, pipeline.counts.captured
    return {
        "model": model.name,
        "package": f"{model.name} {model.version}",
        "variant": model.variant.id,
        "captured": captured,
        "frames": pipeline.counts.totals(),
        "results": status.results,
        "events": status.events,
        "fps": _rate(status.results, status.seconds()),
        "frame_rate": round(status.frame_rate(captured), 1),
        "latency_us": status.latency_us(),
        "age_us": status.age_us(),
        "swap_ms": round(status.swap_ms, 3),
        "restarts": sum(engine.restarts for engine in model.engines if isinstance(engine, SharedEngine)),
        "source": status.source,
        "error": masked(status.error or status.trouble or _trouble(pipeline)),
    }


def _buffer(buffer: Buffer) -> dict[str, Any]:
    return {
        "epoch": buffer.epoch,
        "durable_seq": buffer.durable_seq,
        "pending": buffer.pending,
        **buffer.size(),
        "error": buffer.error,
    }


def _noted(pipeline: str, result: Result, labels: Sequence[str]) -> dict[str, Any]:
    extra = {key: masked(value) if isinstance(value, str) else value for key, value in (result.extra or {}).items()}
    return {
        "t_ns": result.t_ns,
        "pipeline": pipeline,
        "kind": result.kind.name.lower(),
        "items": _items(result, labels),
        "extra": extra,
    }


def _items(result: Result, labels: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"name": label_name(result.kind, item.label, labels), "score": _number(item.score)}
        for item in result.items[:_ITEMS]
    ]


def _number(value: float) -> float | None:
    """JSON has no infinity."""
    return round(value, 4) if math.isfinite(value) else None


def _final(pipeline: Pipeline, buffer: Buffer) -> dict[str, Any]:
    seconds = pipeline.status.seconds()
    left_out = {"model", "source", "swap_ms", "frame_rate"}
    return {
        "name": pipeline.config.name,
        **{key: value for key, value in _pipeline(pipeline).items() if key not in left_out},
        "durable_seq": buffer.durable_seq,
        "seconds": round(seconds, 6),
    }


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 3) if seconds > 0 else 0.0
