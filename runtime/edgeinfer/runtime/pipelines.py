"""The running pipelines of a device: started from the configuration, changed by a reload, swapped by updates."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from edgeinfer.runtime.errors import ConfigError, PackageError
from edgeinfer.runtime.model import LoadedModel
from edgeinfer.runtime.package import PackageFile
from edgeinfer.runtime.pipeline import Pipeline
from edgeinfer.runtime.results import Result
from edgeinfer.runtime.settings import PipelineConfig
from edgeinfer.runtime.slots import ACTIVE, Slots
from edgeinfer.runtime.store import Store

__all__ = ["PipelineSet"]


class PipelineSet:
    """All pipelines by name. Every method may be called from any thread."""

    def __init__(
        self, *, store: Store, slots: Slots, append: Callable[[str, Result], None], until_end: bool = False
    ) -> None:
        self._store = store
        self._slots = slots
        self._append = append
        self._until_end = until_end
        self._lock = threading.RLock()
        self._pipelines: dict[str, Pipeline] = {}

    def all(self) -> list[Pipeline]:
        with self._lock:
            return list(self._pipelines.values())

    def start(self, configs: Sequence[PipelineConfig]) -> None:
        """Load every model, then start every pipeline. Raises where a package or model is not usable."""
        with self._lock:
            _check_one_package_a_model(configs)
            made = {config.name: self._make(config) for config in configs}
            self._pipelines.update(made)
            for pipeline in made.values():
                pipeline.start()

    def apply(self, configs: Sequence[PipelineConfig]) -> None:
        """Change to a new configuration: what is the same goes on undisturbed. Raises before anything is
        changed where a new pipeline cannot be made."""
        with self._lock:
            _check_one_package_a_model(configs)
            wanted = {config.name: config for config in configs}
            same = {name for name, pipeline in self._pipelines.items() if wanted.get(name) == pipeline.config}
            made = {name: self._make(config) for name, config in wanted.items() if name not in same}
            for name in [name for name in self._pipelines if name not in same]:
                self._pipelines.pop(name).stop()
            self._pipelines.update(made)
            for pipeline in made.values():
                pipeline.start()

    def stop(self, timeout_s: float = 1.5) -> None:
        """Stop all of them at once, so that the waits do not add up."""
        threads = [threading.Thread(target=pipeline.stop, args=(timeout_s,), name="stopper") for pipeline in self.all()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def ended(self) -> bool:
        """Whether every source has come to its end."""
        return all(pipeline.ended for pipeline in self.all())

    def stuck_s(self) -> float:
        """How long the slowest engine call that is under way has taken, in seconds."""
        began = [pipeline.status.engine_busy_since_s for pipeline in self.all()]
        busy = [since for since in began if since]
        return time.monotonic() - min(busy) if busy else 0.0

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
        pipelines = self._of(model)
        loaded = [
            LoadedModel(package, variant=pipeline.config.variant, threads=pipeline.config.threads)
            for pipeline in pipelines
        ]
        for pipeline, replacement in zip(pipelines, loaded, strict=True):
            pipeline.swap(replacement)

    def _of(self, model: str) -> list[Pipeline]:
        return [pipeline for pipeline in self.all() if pipeline.model.name == model]

    def _make(self, config: PipelineConfig) -> Pipeline:
        if config.package:
            try:
                package = self._slots.from_config(Path(config.package))
            except ConfigError as error:
                raise ConfigError(f"pipeline {config.name!r}: {error.message}", hint=error.hint) from error
        elif self._slots.of(config.model).get(ACTIVE):
            package = self._slots.active(config.model)
        else:
            raise ConfigError(
                f"pipeline {config.name!r}: no package of model {config.model!r} is installed",
                hint="name a package file in the pipeline, or deploy one",
            )
        variants = [variant.id for variant in package.manifest.variants]
        if config.variant and config.variant not in variants:
            raise ConfigError(
                f"pipeline {config.name!r}: expected a variant of {', '.join(variants)}, found {config.variant!r}"
            )
        model = LoadedModel(package, variant=config.variant, threads=config.threads)
        return Pipeline(config, model, self._append, until_end=self._until_end)


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
