"""The running pipelines of a device: started from the configuration, changed by a reload, swapped by updates."""

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer.runtime.assembly import Surroundings, make_gates, make_observers
from edgeinfer.runtime.backing import Backing
from edgeinfer.runtime.errors import ConfigError, ModelError, PackageError
from edgeinfer.runtime.model import LoadedModel
from edgeinfer.runtime.models import ModelPool
from edgeinfer.runtime.package import PackageFile
from edgeinfer.runtime.pipeline import Pipeline
from edgeinfer.runtime.relay import Inbox, RelayHub, RelayObserver, RelaySource, check_cascades, check_labels
from edgeinfer.runtime.results import Result
from edgeinfer.runtime.settings import PipelineConfig
from edgeinfer.runtime.slots import ACTIVE, Slots
from edgeinfer.runtime.sources.base import is_recorded
from edgeinfer.runtime.sources.named_channels import check_same_channels
from edgeinfer.runtime.sources.settings import PipelineSource, SensorSource
from edgeinfer.runtime.stages import Observer
from edgeinfer.runtime.store import InstalledPackage, Store
from edgeinfer.runtime.variants import choose_variant, fastest_variant

if TYPE_CHECKING:
    from edgeinfer.runtime.governed import GovernedPipeline
    from edgeinfer.runtime.learn.shadows import Shadows

__all__ = ["PipelineSet"]

# How long a change waits for another one, which may be loading a model.
_CHANGE_WAIT_S = 20.0


class PipelineSet:
    """All pipelines by name. Every method may be called from any thread."""

    def __init__(
        self,
        *,
        store: Store,
        slots: Slots,
        append: Callable[[str, Result], None],
        around: Surroundings,
        pool: ModelPool | None = None,
        until_end: bool = False,
        backing: Backing | None = None,
        chosen: Callable[[InstalledPackage], str] = lambda _: "",
    ) -> None:
        self.pool = pool or ModelPool()
        self._store = store
        self._slots = slots
        self._append = append
        self._around = around
        self._until_end = until_end
        self._backing = backing
        self._chosen = chosen
        # Held by who changes something: a reload, a swap, the governor. Who only looks needs no lock: the mapping is
        # replaced as a whole.
        self._changing = threading.RLock()
        self._pipelines: dict[str, Pipeline] = {}
        self._inboxes: dict[str, Inbox] = {}
        self._hub = RelayHub()
        self._shadows: dict[str, Shadows] = {}

    def all(self) -> list[Pipeline]:
        return list(self._pipelines.values())

    def start(self, configs: Sequence[PipelineConfig]) -> None:
        """Load every model, then start every pipeline. Raises where a package or model is not usable."""
        self.apply(configs)

    def apply(self, configs: Sequence[PipelineConfig]) -> None:
        """Change to a new configuration: what is the same goes on undisturbed. Raises before anything is
        changed where a new pipeline cannot be made, and where another change takes too long."""
        with self._change():
            _check_one_package_a_model(configs)
            check_cascades({c.name: c.source if isinstance(c.source, PipelineSource) else None for c in configs})
            wanted = {config.name: config for config in configs}
            same = self._unchanged(wanted)
            made = self._make_all([config for name, config in wanted.items() if name not in same], beside=same)
            for name in [name for name in self._pipelines if name not in same]:
                self._retire(name)
            self._pipelines = {**self._pipelines, **made}
            for name in made:
                self._connect_source(name)
            for pipeline in self.all():
                self._connect_readers(pipeline)
            for pipeline in made.values():
                pipeline.start()

    @contextmanager
    def _change(self) -> Iterator[None]:
        """One change at a time. Loading a model may take a while, and one that hangs is given up after a while."""
        if not self._changing.acquire(timeout=_CHANGE_WAIT_S):
            raise ModelError("another change of the pipelines is under way: a model takes long to load")
        try:
            yield
        finally:
            self._changing.release()

    def _make_all(self, configs: Sequence[PipelineConfig], *, beside: set[str]) -> dict[str, Pipeline]:
        """All of them or none; `beside` are those that go on."""
        made: dict[str, Pipeline] = {}
        try:
            for config in configs:
                made[config.name] = self._make(config)
            _check_routes({name: self._pipelines[name] for name in beside} | made)
        except BaseException:
            for pipeline in made.values():
                pipeline.stop()
            raise
        return made

    def stop(self, timeout_s: float = 1.5, *, leave_s: float = math.inf) -> None:
        """Stop all of them at once, so that the waits do not add up. After `leave_s`, which is more than `timeout_s`,
        their results are all there, and what observers still write (pictures, examples) they write beside the caller.
        """
        leave_at_s = time.monotonic() + leave_s
        for inbox in list(self._inboxes.values()):  # else who finds would wait for who reads
            inbox.close()
        threads = [threading.Thread(target=pipeline.stop, args=(timeout_s,), name="stopper") for pipeline in self.all()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, min(leave_at_s - time.monotonic(), threading.TIMEOUT_MAX)))

    def ended(self) -> bool:
        """Whether every source has come to its end."""
        return all(pipeline.ended for pipeline in self.all())

    def stuck_s(self) -> float:
        """How long the slowest engine call that is under way has taken, in seconds."""
        began = [pipeline.busy_since_s() for pipeline in self.all()]
        busy = [since for since in began if since]
        return time.monotonic() - min(busy) if busy else 0.0

    def abandon_call(self, thread: int) -> None:
        """Give up the engine call that `thread` is stuck in."""
        for pipeline in self.all():
            if pipeline.abandon_call(thread):
                return

    def using(self, engine: str) -> list[Pipeline]:
        """The pipelines whose model is executed by the engine of this label."""
        return [pipeline for pipeline in self.all() if engine in {str(one) for one in pipeline.model.engines}]

    def governed(self) -> "list[GovernedPipeline]":
        """The pipelines as the governor sees them."""
        from edgeinfer.runtime.governed import GovernedPipeline

        return [GovernedPipeline(pipeline, self.use_smaller) for pipeline in self.all()]

    def runs(self, model: str) -> bool:
        return bool(self._of(model))

    def threads(self, model: str) -> int:
        return max((pipeline.config.threads for pipeline in self._of(model)), default=1)

    def variant(self, model: str) -> str:
        """The variant that the configuration insists on; empty for none."""
        return next((pipeline.config.variant for pipeline in self._of(model) if pipeline.config.variant), "")

    def inferred(self, model: str) -> int:
        """Inferences of the version that is in place, by the pipeline that has the fewest.

        Pipelines whose source has ended count only where it has ended for all of them.
        """
        counts = [(pipeline.ended, pipeline.model.inferred) for pipeline in self._of(model)]
        going = [inferred for ended, inferred in counts if not ended]
        return min(going) if going else max((inferred for _, inferred in counts), default=0)

    def idle(self, model: str) -> bool:
        """Whether every source of the model has ended: no frame will come that it could be tried on."""
        pipelines = self._of(model)
        return bool(pipelines) and all(pipeline.ended for pipeline in pipelines)

    def has_swapped(self, model: str, digest: str) -> bool:
        """Whether every pipeline of the model uses this package; a reload starts pipelines on the active one."""
        pipelines = self._of(model)
        return bool(pipelines) and all(pipeline.model.digest == digest for pipeline in pipelines)

    def failures(self, model: str) -> int:
        """Failures in a row of the version that is in place, in the pipeline that has the most."""
        return max((pipeline.model.failures_in_a_row for pipeline in self._of(model)), default=0)

    def swap_ms(self, model: str) -> float:
        return max((pipeline.status.swap_ms for pipeline in self._of(model)), default=0.0)

    def swap(self, model: str, digest: str) -> None:
        """Load another version beside the running one and change over between two frames."""
        package = self._store.open(digest)
        with self._change():
            pipelines = self._of(model)
            loaded = [self._load(package, pipeline.config, workers=pipeline.workers) for pipeline in pipelines]
            # All before the first is exchanged: a package that one pipeline's rules cannot use changes none.
            observers = self._observe_all(package, pipelines)
            for pipeline, replacement, watching in zip(pipelines, loaded, observers, strict=True):
                self._exchange(pipeline, replacement, watching)

    def use_smaller(self, pipeline: Pipeline, on: bool) -> bool:
        """Change to the fastest variant of the package, or back to the preferred one. False where there is none, or
        the fastest was measured here and runs already."""
        with self._change():
            package, config = pipeline.model.package, pipeline.config
            measured = self._chosen(package)
            if on and not measured:
                wanted = fastest_variant(package.manifest)
            else:
                wanted = choose_variant(package.manifest, wanted=measured if on else config.variant or measured)
            if wanted is None or wanted.id == pipeline.model.variant.id or pipeline not in self.all():
                return False
            loaded = self._load(package, config, variant=wanted.id, workers=pipeline.workers)
            self._exchange(pipeline, loaded, pipeline.observers)
            return True

    def _exchange(self, pipeline: Pipeline, model: LoadedModel, observers: Sequence[Observer]) -> None:
        old = pipeline.model
        pipeline.swap(model, observers)
        self.pool.release(old)

    def begin_shadow(self, model: str, digest: str) -> None:
        """Run another version beside the active one, on the same frames."""
        from edgeinfer.runtime.learn.shadows import Shadows

        self.end_shadow(model)
        package = self._store.open(digest)
        with self._change():
            pipelines = self._of(model)
            candidates = [self._load(package, pipeline.config, workers=1) for pipeline in pipelines]
            self._shadows[model] = Shadows(digest, pipelines, candidates, self._around.config.shadow)

    def in_shadow(self, model: str, digest: str) -> bool:
        """Whether this version runs beside the active one in every pipeline of the model."""
        shadows = self._shadows.get(model)
        return shadows is not None and shadows.digest == digest and shadows.cover(self._of(model))

    def shadow_agreement(self, model: str) -> float | None:
        """As `Shadows.agreement`; None where none has begun."""
        shadows = self._shadows.get(model)
        return None if shadows is None else shadows.agreement()

    def shadow_failure(self, model: str) -> str:
        """As `Shadows.failure`."""
        shadows = self._shadows.get(model)
        return "" if shadows is None else shadows.failure()

    def end_shadow(self, model: str) -> None:
        shadows = self._shadows.pop(model, None)
        if shadows is not None:
            shadows.end()

    def _of(self, model: str) -> list[Pipeline]:
        return [pipeline for pipeline in self.all() if pipeline.model.name == model]

    def _make(self, config: PipelineConfig) -> Pipeline:
        package = self._package_for(config)
        variants = [variant.id for variant in package.manifest.variants]
        if config.variant and config.variant not in variants:
            raise ConfigError(
                f"pipeline {config.name!r}: expected a variant of {', '.join(variants)}, found {config.variant!r}"
            )
        return Pipeline(
            config,
            self._load(package, config),
            self._append,
            until_end=self._until_end,
            gates=make_gates(config, self._around),
            observers=make_observers(config, package.manifest, package.labels(), self._around),
            opener=self._relay(config) if isinstance(config.source, PipelineSource) else None,
            on_end=lambda: self._hub.end(config.name),
            backing=self._backing,
        )

    def _package_for(self, config: PipelineConfig) -> InstalledPackage:
        if config.package:
            try:
                return self._slots.from_config(Path(config.package))
            except ConfigError as error:
                raise ConfigError(f"pipeline {config.name!r}: {error.message}", hint=error.hint) from error
        if self._slots.of(config.model).get(ACTIVE):
            return self._slots.active(config.model)
        raise ConfigError(
            f"pipeline {config.name!r}: no package of model {config.model!r} is installed",
            hint="name a package file in the pipeline, or deploy one",
        )

    def _load(
        self, package: InstalledPackage, config: PipelineConfig, *, variant: str = "", workers: int = 0
    ) -> LoadedModel:
        """For `workers` frames at once; 0: as many as the configuration asks for."""
        chosen = choose_variant(package.manifest, wanted=variant or config.variant or self._chosen(package))
        # Frames of a recorded source wait: each thread takes one of them. Of a live one all threads share the latest.
        workers = workers or (config.threads if is_recorded(config.source) else 1)
        if chosen.states:  # what it remembers of one frame, it needs for the next
            workers = 1
        engines = [
            self.pool.share(
                chosen.engine,
                package.folder / chosen.file,
                threads=max(1, config.threads // workers),
                config=config.engine,
                replica=replica,
            )
            for replica in range(workers)
        ]
        model = LoadedModel(package, variant=chosen.id, engines=engines)
        for engine in engines:
            engine.configure(config.engine, user=model)
        return model

    def _observe_all(self, package: InstalledPackage, pipelines: Sequence[Pipeline]) -> list[list[Observer]]:
        """The observers of pipelines that change to this package: of all of them or of none."""
        made: list[list[Observer]] = []
        try:
            for pipeline in pipelines:
                source, gives = pipeline.config.source, pipeline.gives
                if isinstance(source, SensorSource) and gives is not None:
                    check_same_channels(pipeline.config.name, source, gives, package.manifest.preprocess)
                observers = make_observers(pipeline.config, package.manifest, package.labels(), self._around)
                made.append([*observers, *self._relays(pipeline, package)])
        except BaseException:
            for observer in chain.from_iterable(made):
                observer.close()
            raise
        return made

    def _relays(self, pipeline: Pipeline, package: InstalledPackage) -> list[Observer]:
        """What hands on what it finds, if another pipeline reads it."""
        name = pipeline.config.name
        if not self._hub.of(name):
            return []
        return [RelayObserver(self._hub, name, package.labels(), live=lambda: pipeline.live)]

    def _unchanged(self, wanted: dict[str, PipelineConfig]) -> set[str]:
        """The pipelines that may go on: their configuration is the same, and so is that of what they read."""
        same = {name for name, pipeline in self._pipelines.items() if wanted.get(name) == pipeline.config}
        while True:
            sources = {name: wanted[name].source for name in same}
            torn = {
                name for name, source in sources.items() if isinstance(source, PipelineSource) and source.of not in same
            }
            if not torn:
                return same
            same -= torn

    def _retire(self, name: str) -> None:
        inbox = self._inboxes.pop(name, None)
        if inbox is not None:
            self._hub.leave(inbox)
        retired = self._pipelines[name]
        self._pipelines = {other: pipeline for other, pipeline in self._pipelines.items() if other != name}
        self.pool.release(retired.model)
        retired.stop()

    def _relay(self, config: PipelineConfig) -> Callable[[threading.Event], RelaySource]:
        return lambda stop: RelaySource(self._inboxes[config.name], stop)

    def _connect_source(self, name: str) -> None:
        """Open the inbox of a pipeline that reads another, before that one starts."""
        source = self._pipelines[name].config.source
        if isinstance(source, PipelineSource):
            self._inboxes[name] = self._hub.join(source)

    def _connect_readers(self, pipeline: Pipeline) -> None:
        """See to it that a pipeline hands on what it finds if, and only if, another reads it."""
        relays = [one for one in pipeline.observers if isinstance(one, RelayObserver)]
        wanted = self._relays(pipeline, pipeline.model.package)
        if relays and not wanted:
            pipeline.remove_observer(relays[0])
        elif wanted and not relays:
            pipeline.add_observer(wanted[0])


def _check_routes(pipelines: dict[str, Pipeline]) -> None:
    """A pipeline that reads another by labels that the other's package does not have would never get a frame."""
    for name, pipeline in pipelines.items():
        source = pipeline.config.source
        if isinstance(source, PipelineSource):
            check_labels(name, source, pipelines[source.of].model.package.labels())


def _check_one_package_a_model(configs: Iterable[PipelineConfig]) -> None:
    """A model has one active version. Two files for it would take it from each other, and from what was deployed,
    at every start. Raises ConfigError."""
    first: dict[str, tuple[str, PipelineConfig]] = {}
    for config in configs:
        if not config.package:
            continue
        try:
            with PackageFile(Path(config.package)) as package:
                model, digest = package.manifest.name, package.digest
        except PackageError:  # what becomes of it is decided where the pipeline is made
            continue
        known, other = first.setdefault(model, (digest, config))
        if known != digest:
            raise ConfigError(
                f"pipelines {other.name!r} and {config.name!r} name different packages of model {model!r}: "
                f"{other.package} and {config.package}",
                hint="one version of a model is active on a device: name the same file in both",
            )
