"""Makes and measures what the search asks for: the hands of `edgeinfer.quantize.search`.

Each order of the search is one method here. `making` writes the files, `looking` runs them on a few samples, `probing`
tries their layers one by one, a judge runs them on all samples, and the target says how fast they are.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.guarding import Guards
from edgeinfer.quantize.judging import Judge
from edgeinfer.quantize.looking import Looks
from edgeinfer.quantize.making import Maker
from edgeinfer.quantize.offers import Material
from edgeinfer.quantize.probing import probe
from edgeinfer.quantize.progress import Progress, Seen
from edgeinfer.quantize.schemes.base import Layer, Plan, Precision, Scheme
from edgeinfer.quantize.search.entry import Entry, Leads, Screened, Timing
from edgeinfer.quantize.search.mixing import LayerCost
from edgeinfer.quantize.search.orders import Answer, Evaluate, Make, Mix, Order, Probe, Screen, Sketch, Time
from edgeinfer.quantize.targets.base import Target
from edgeinfer.quantize.targets.local import LocalTarget
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import ModelError

__all__ = ["Workbench"]


@dataclass(slots=True)
class Workbench:
    """`materials` by engine. `candidates` are all that exist, by id; `said` is what those that were judged said of each
    sample, as `Judge.said` keeps it. `started_s`: of the monotonic clock, when the search began."""

    materials: Mapping[str, Material]
    judge: Judge
    guards: Guards
    target: Target
    folder: Path
    progress: Progress
    threads: int = 1
    candidates: dict[str, Candidate] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    said: dict[str, Array] = field(default_factory=dict)
    started_s: float = field(default_factory=time.monotonic)
    _maker: Maker = field(init=False)
    _looks: Looks = field(init=False)

    def __post_init__(self) -> None:
        self._maker = Maker(self.materials, self.folder)
        self._looks = Looks(self.materials, self.judge.few, self.threads)
        for material in self.materials.values():
            candidate = material.float_model
            self.candidates[candidate.id] = candidate
            self.entries[candidate.id] = _entry(candidate, about="the float model as it was given")

    def do(self, order: Order) -> Answer:
        """Carry out an order. Raises ModelError where a float model cannot be run, StorageError where the disk is full,
        and what the target raises."""
        match order:
            case Sketch(ids, until_s, timed_s):
                return replace(self._answer([]), sketches=self._sketch(ids, until_s, timed_s))
            case Make(ids):
                for name in ids:
                    self._make(name, self._scheme(name), {})
                return self._answer(ids)
            case Screen(ids, until_s):
                self._screen(ids, until_s)
                return self._answer(ids)
            case Evaluate(name):
                self._evaluate(name)
                return self._answer([name])
            case Probe(scheme, precision, until_s):
                costs = self._probe(self._scheme(scheme), Precision(precision), until_s)
                return replace(self._answer([scheme]), layers=costs)
            case Mix(name, scheme, layers, precision):
                self._make(name, self._scheme(scheme), dict.fromkeys(layers, Precision(precision)))
                self._screen([name])
                return self._answer([name])
            case Time(ids, until_s):
                self._time(ids, until_s)
                return replace(self._answer(ids), leads=self._leads(ids))

    @property
    def floats(self) -> list[str]:
        """The user's own models, the reference first."""
        # OpenVINO has none of its own: it runs the ONNX one.
        return list(dict.fromkeys(material.float_model.id for material in self.materials.values()))

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started_s

    def _answer(self, ids: Sequence[str]) -> Answer:
        return Answer({name: self.entries[name] for name in ids}, self.elapsed_s)

    def _scheme(self, name: str) -> Scheme:
        return next(material.schemes[name] for material in self.materials.values() if name in material.schemes)

    # Making

    def _sketch(self, ids: Sequence[str], until_s: float, timed_s: float) -> dict[str, Timing]:
        """Nothing where the target is asked once only: that is kept for what is really made."""
        if not self.target.repeats:
            return {}
        there: dict[str, Candidate] = {}
        for name in ids:
            if self.elapsed_s >= until_s:
                break
            self.progress(f"a first look at how fast {name} would be", self._share())
            sketched = self._maker.sketch(name, self._scheme(name))
            if sketched is not None:
                there[name] = sketched
        reference = self.candidates[self.floats[0]]
        self.progress("a first look at latency", self._share())
        timings = self.target.time(
            [reference, *there.values()],
            sample=self.judge.few.row(0),
            reference=reference.id,
            rough=True,
            time_s=timed_s - self.elapsed_s,
        )
        for one in there.values():
            one.path.unlink(missing_ok=True)
        return {name: timings[one.id] for name, one in there.items() if not timings[one.id].error}

    def _make(self, name: str, scheme: Scheme, plan: Plan) -> None:
        if name in self.candidates:
            return
        self.progress(f"making {name}", self._share())
        candidate = self._maker.make(name, scheme, plan)
        self.candidates[name] = candidate
        entry = _entry(candidate, about=scheme.about)
        planned = {layer: str(kind) for layer, kind in plan.items()}
        self.entries[name] = replace(entry, refused=candidate.refused, plan=planned)
        if candidate.refused:
            candidate.path.unlink(missing_ok=True)  # it is not read again
        self._tell(name, "made")

    # Screening

    def _screen(self, ids: Sequence[str], until_s: float = math.inf) -> None:
        for name in ids:
            if self.entries[name].refused:
                continue
            self.progress(f"screening {name}", self._share())
            candidate = self.candidates[name]
            try:
                agreement, divergence = self.judge.agreement_on_few(candidate), self._looks.divergence(candidate)
            except ModelError as error:
                if candidate.id in self.floats:
                    raise
                self._refuse(name, error.message)
                continue
            screened = Screened(agreement, divergence, len(self.judge.few))
            self.entries[name] = replace(self.entries[name], screened=screened)
        self._rough([name for name in ids if not self.entries[name].refused], until_s)
        for name in ids:
            self._tell(name, "screened")

    def _rough(self, ids: Sequence[str], until_s: float) -> None:
        """First looks at latency. A target that is asked once only is asked for all of them now."""
        wanted = [name for name in ids if self.entries[name].timing is None]
        if wanted:
            self.progress("a first look at latency", self._share())
            self._put(self._ask_target(wanted, until_s, rough=True))

    def _ask_target(self, ids: Sequence[str], until_s: float, *, rough: bool) -> dict[str, Timing]:
        reference = self.floats[0]
        named = [self.candidates[name] for name in dict.fromkeys([reference, *ids])]
        sample, left_s = self.judge.few.row(0), until_s - self.elapsed_s
        return self.target.time(named, sample=sample, reference=reference, rough=rough, time_s=left_s)

    def _put(self, timings: Mapping[str, Timing]) -> None:
        for name, timing in timings.items():
            self.entries[name] = replace(self.entries[name], timing=timing)

    # Judging

    def _evaluate(self, name: str) -> None:
        self.progress(f"evaluating {name}", self._share())
        try:
            judged, self.said[name] = self.judge.judge(self.candidates[name])
        except ModelError as error:
            if name in self.floats:
                raise
            self._refuse(name, error.message)
        else:
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
                outputs=self._looks.outputs(candidate),
                reference=self._looks.expected(candidate.engine),
                calibration=material.few,
            )
        except ModelError as error:
            refused, warnings = error.message, ()
        self.entries[name] = replace(self.entries[name], refused=refused, warnings=warnings)

    def _probe(self, scheme: Scheme, precision: Precision, until_s: float) -> tuple[LayerCost, ...]:
        def go_on(layer: Layer) -> bool:
            self.progress(f"{scheme.id}: {layer.name} in {precision}", self._share())
            return self.elapsed_s < until_s

        layers = self.materials[scheme.engine].layers()
        own = self.candidates[scheme.id]
        return probe(scheme, own, precision, layers, maker=self._maker, looks=self._looks, go_on=go_on)

    # Latency

    def _time(self, ids: Sequence[str], until_s: float) -> None:
        self.progress("latency, side by side", self._share())
        self._put(self._ask_target(ids, until_s, rough=False))
        for name in ids:
            self._tell(name, "timed")

    def _leads(self, ids: Sequence[str]) -> Leads:
        """Nothing of a target that is not asked again: what it said of each stands."""
        return self.target.leads(ids) if isinstance(self.target, LocalTarget) else {}

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
