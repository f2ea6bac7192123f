"""Makes and measures what the search asks for: the hands of `edgeinfer.quantize.search`.

Each order of the search is one method here. Files are made in a folder of their own; outputs of the float models on
the screened samples are kept, since every candidate is held against them.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgeinfer.quantize.candidate import Candidate, open_candidate
from edgeinfer.quantize.evaluate import Scored, infer_one
from edgeinfer.quantize.guarding import Guards
from edgeinfer.quantize.judging import Judge
from edgeinfer.quantize.offers import Material
from edgeinfer.quantize.progress import Progress, Seen
from edgeinfer.quantize.rows import Rows
from edgeinfer.quantize.schemes.base import Plan, Precision, Scheme
from edgeinfer.quantize.search.entry import Entry, Screened, Timing
from edgeinfer.quantize.search.mixing import LayerCost
from edgeinfer.quantize.search.orders import Answer, Evaluate, Make, Mix, Order, Probe, Screen, Time
from edgeinfer.quantize.targets.base import Target
from edgeinfer.quantize.targets.local import LocalTarget
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import EdgeInferError, ModelError

__all__ = ["Workbench"]

# A file that shrank by less than this share was not quantized, whatever its tool says.
MIN_SHRINK = 0.02
# Below this size the file's own structure outweighs its weights and says nothing about them.
_TINY_BYTES = 16 << 10
# Of a model with more layers the heaviest are tried one by one.
_MAX_PROBED = 80
_SMALLEST_VARIANCE = 1e-12


@dataclass(slots=True)
class Workbench:
    """`materials` by engine. `candidates` are all that exist, by id."""

    materials: Mapping[str, Material]
    judge: Judge
    guards: Guards
    target: Target
    folder: Path
    progress: Progress
    threads: int = 1
    candidates: dict[str, Candidate] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    scored: dict[str, Scored] = field(default_factory=dict)
    _outputs: dict[str, list[list[Array]]] = field(default_factory=dict)
    _contents: dict[bytes, str] = field(default_factory=dict)
    _started_s: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        for material in self.materials.values():
            candidate = material.float_model
            self.candidates[candidate.id] = candidate
            self.entries[candidate.id] = _entry(candidate, about="the float model as it was given")

    def do(self, order: Order) -> Answer:
        """Carry out an order. Raises ModelError where a float model cannot be run."""
        match order:
            case Make(ids):
                for name in ids:
                    self._make(name, self._scheme(name), {})
                return self._answer(ids)
            case Screen(ids):
                self._screen(ids)
                return self._answer(ids)
            case Evaluate(name):
                self._evaluate(name)
                return self._answer([name])
            case Probe(scheme, precision):
                costs = self._probe(self._scheme(scheme), Precision(precision))
                return replace(self._answer([scheme]), layers=costs)
            case Mix(name, scheme, layers, precision):
                self._make(name, self._scheme(scheme), dict.fromkeys(layers, Precision(precision)))
                self._screen([name])
                return self._answer([name])
            case Time(ids, leader):
                self._time(ids)
                return replace(self._answer(ids), lead=self._lead(ids, leader))

    @property
    def floats(self) -> list[str]:
        """The user's own models, the reference first."""
        return [material.float_model.id for material in self.materials.values()]

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    def _answer(self, ids: Sequence[str]) -> Answer:
        return Answer({name: self.entries[name] for name in ids}, self.elapsed_s)

    def _scheme(self, name: str) -> Scheme:
        return next(material.schemes[name] for material in self.materials.values() if name in material.schemes)

    # Making

    def _make(self, name: str, scheme: Scheme, plan: Plan) -> None:
        if name in self.candidates:
            return
        self.progress(f"making {name}", self._share())
        source = self.materials[scheme.engine].float_model.path
        target = self.folder / f"{name}{source.suffix.lower()}"
        refused = self._written(scheme, source, target, plan)
        if not refused:
            digest = hashlib.sha256(target.read_bytes()).digest()
            first = self._contents.setdefault(digest, name)
            refused = f"is the same file as {first}" if first != name else ""
        precision = "mixed" if plan else scheme.precision
        candidate = Candidate(
            name,
            scheme.engine,
            precision,
            target,
            quantized=scheme.quantizes,
            refused=refused,
            feeding=self.materials[scheme.engine].float_model.feeding,
        )
        self.candidates[name] = candidate
        entry = _entry(candidate, about=scheme.about)
        self.entries[name] = replace(entry, refused=refused, plan={layer: str(kind) for layer, kind in plan.items()})
        self._tell(name, "made")

    def _written(self, scheme: Scheme, source: Path, target: Path, plan: Plan) -> str:
        """Why what was written is of no use; "" where it is."""
        try:
            refused = scheme.make(source, target, self.materials[scheme.engine].calibration, plan)
        except EdgeInferError as error:
            return error.message
        if refused or not scheme.quantizes:
            return refused
        before, after = source.stat().st_size, target.stat().st_size
        if before > _TINY_BYTES and after > before * (1.0 - MIN_SHRINK):
            return f"nothing was quantized: the file has {after} bytes, the float one {before}"
        return ""

    # Screening

    def _screen(self, ids: Sequence[str]) -> None:
        for name in ids:
            if self.entries[name].refused:
                continue
            self.progress(f"screening {name}", self._share())
            candidate = self.candidates[name]
            try:
                agreement, divergence = self.judge.agreement_on_few(candidate), self._divergence(candidate)
            except ModelError as error:
                if candidate.id in self.floats:
                    raise
                self._refuse(name, error.message)
                continue
            screened = Screened(agreement, divergence, len(self.judge.few))
            self.entries[name] = replace(self.entries[name], screened=screened)
        self._rough([name for name in ids if not self.entries[name].refused])
        for name in ids:
            self._tell(name, "screened")

    def _divergence(self, candidate: Candidate) -> float:
        """The mean squared difference of the outputs to the float model's of the same engine, over their variance."""
        expected = self._expected(candidate.engine)
        found = self._run(candidate, self.judge.few)
        shares = []
        for theirs, ours in zip(expected, found, strict=True):
            variance = max(float(np.var(np.stack(theirs))), _SMALLEST_VARIANCE)
            shares.append(float(np.mean((np.stack(ours) - np.stack(theirs)) ** 2)) / variance)
        return float(np.mean(shares))

    def _expected(self, engine: str) -> list[list[Array]]:
        if engine not in self._outputs:
            self._outputs[engine] = self._run(self.materials[engine].float_model, self.judge.few)
        return self._outputs[engine]

    def _run(self, candidate: Candidate, rows: Rows) -> list[list[Array]]:
        """For each output, what it was for each row. Raises ModelError."""
        engine = open_candidate(candidate, threads=self.threads)
        try:
            answers = [infer_one(engine, rows.row(index)) for index in range(len(rows))]
        finally:
            engine.close()
        return [list(output) for output in zip(*answers, strict=True)]

    def _rough(self, ids: Sequence[str]) -> None:
        """First looks at latency. A target that is asked once only is asked for all of them now."""
        wanted = [name for name in ids if self.entries[name].timing is None]
        if wanted:
            self.progress("a first look at latency", self._share())
            self._put(self._ask_target(wanted, rough=True))

    def _ask_target(self, ids: Sequence[str], *, rough: bool) -> dict[str, Timing]:
        reference = self.floats[0]
        named = [self.candidates[name] for name in dict.fromkeys([reference, *ids])]
        return self.target.time(named, sample=self.judge.few.row(0), reference=reference, rough=rough)

    def _put(self, timings: Mapping[str, Timing]) -> None:
        for name, timing in timings.items():
            self.entries[name] = replace(self.entries[name], timing=timing)

    # Judging

    def _evaluate(self, name: str) -> None:
        self.progress(f"evaluating {name}", self._share())
        try:
            judged, scored = self.judge.judge(self.candidates[name])
        except ModelError as error:
            if name in self.floats:
                raise
            self._refuse(name, error.message)
        else:
            self.scored[name] = scored
            self.entries[name] = replace(self.entries[name], judged=judged)
            self._guard(name)
        self._tell(name, "evaluated")

    def _guard(self, name: str) -> None:
        """Refuse what only seems to be good, and warn of what may not be good elsewhere."""
        candidate = self.candidates[name]
        if name in self.floats:
            return
        material = self.materials[candidate.engine]
        try:
            refused, warnings = self.guards.check(
                candidate,
                material.float_model,
                outputs=[np.stack(output) for output in self._run(candidate, self.judge.few)],
                reference=[np.stack(output) for output in self._expected(candidate.engine)],
                calibration=material.few,
            )
        except ModelError as error:
            refused, warnings = error.message, ()
        self.entries[name] = replace(self.entries[name], refused=refused, warnings=warnings)

    def _probe(self, scheme: Scheme, precision: Precision) -> tuple[LayerCost, ...]:
        """Each layer alone in `precision`, the others as the scheme has them."""
        layers = sorted(self.materials[scheme.engine].layers(), key=lambda layer: -layer.weights)[:_MAX_PROBED]
        own = self.candidates[scheme.id].path.stat().st_size
        costs = []
        for index, layer in enumerate(layers):
            self.progress(f"{scheme.id}: {layer.name} in {precision}", self._share())
            name = f"{scheme.id}-probe-{index}"
            target = self.folder / f"{name}{self.candidates[scheme.id].path.suffix}"
            if self._written(scheme, self.materials[scheme.engine].float_model.path, target, {layer.name: precision}):
                continue
            probe = replace(self.candidates[scheme.id], id=name, path=target)
            try:
                divergence = self._divergence(probe)
            except ModelError:
                continue  # an engine that cannot run it with this layer as it is
            costs.append(LayerCost(layer.name, layer.op, layer.weights, divergence, own - target.stat().st_size))
            target.unlink()
        return tuple(costs)

    # Latency

    def _time(self, ids: Sequence[str]) -> None:
        self.progress("latency, side by side", self._share())
        self._put(self._ask_target(ids, rough=False))
        for name in ids:
            self._tell(name, "timed")

    def _lead(self, ids: Sequence[str], leader: str) -> Mapping[str, tuple[float, float]]:
        if isinstance(self.target, LocalTarget):
            return self.target.lead(ids, leader=leader)
        # It will not be asked again: what it said stands.
        base = self.entries[leader].timing
        ratios = {name: timing.ratio for name in ids if (timing := self.entries[name].timing) is not None}
        return {name: (ratio / base.ratio,) * 2 for name, ratio in ratios.items() if base is not None and base.ratio}

    # Telling

    def _refuse(self, name: str, reason: str) -> None:
        self.entries[name] = replace(self.entries[name], refused=reason)

    def _share(self) -> float:
        """How much is done, as far as anybody can know: each candidate seen brings it nearer to the end."""
        return 1.0 - 1.0 / (1.0 + len(self.candidates) / 8.0)

    def _tell(self, name: str, stage: str) -> None:
        self.progress.tried(_seen(self.entries[name], stage))


def _entry(candidate: Candidate, *, about: str) -> Entry:
    size = candidate.path.stat().st_size if candidate.path.is_file() else 0
    return Entry(
        candidate.id, candidate.engine, candidate.precision, quantized=candidate.quantized, about=about, bytes=size
    )


def _seen(entry: Entry, stage: str) -> Seen:
    return Seen(
        variant=entry.id,
        stage=stage,
        metric_value=entry.judged.metric_value if entry.judged else None,
        agreement=entry.judged.agreement if entry.judged else entry.screened.agreement if entry.screened else None,
        bytes=entry.bytes,
        ratio=entry.timing.ratio if entry.timing else None,
        verdict="refused" if entry.refused else "",
        reason=entry.refused,
    )
