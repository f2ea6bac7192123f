"""A loaded model: one variant of an installed package with its engine, preprocessing and postprocessing."""

import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.engines.base import Engine, load_engine
from edgeinfer.runtime.feed import Feed
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.postprocess import compile_postprocess, read_arrays, result_kind
from edgeinfer.runtime.preprocess import Region, compile_preprocess, resolve_input
from edgeinfer.runtime.results import Item
from edgeinfer.runtime.store import InstalledPackage
from edgeinfer.runtime.variants import choose_variant

__all__ = ["Inferred", "LoadedModel", "Prepared", "Ran"]

Array = npt.NDArray[Any]
# As many as a channel may hold, and those that are in work.
_POOL = 40


class Prepared(NamedTuple):
    """A frame on its way to the engine: the input array, and the model that it was prepared for. `is_first`: of its
    source, so that what a model remembers of the last one is forgotten."""

    frame: Frame
    model: "LoadedModel"
    target: Array
    region: Region
    is_first: bool = False


class Ran(NamedTuple):
    """What one call of the engine gave: its outputs as they are, and how long it took, in microseconds."""

    outputs: list[Array]
    latency_us: int


class Inferred(NamedTuple):
    """What one inference gave; `latency_us` is the engine's own call; `outputs` are as the engine gave them."""

    items: tuple[Item, ...]
    latency_us: int
    outputs: list[Array]


class LoadedModel:
    """`prepare` is called from the capturing thread, `run` and `interpret` from an inference thread.

    Input arrays come from a pool and go back to it, so that a running pipeline allocates none. A frame keeps
    the model that it was prepared for: after a swap, frames in flight end on the old one. What a model remembers
    from frame to frame (state tensors, smoothing) is this object's own, also where pipelines share its `engines`.
    There are several of them where frames are inferred at once, one a thread.

    `inferred` counts the inferences of this very model, so that no frame in flight speaks for its successor.
    """

    def __init__(
        self, package: InstalledPackage, *, variant: str = "", threads: int = 1, engines: Sequence[Engine] = ()
    ) -> None:
        manifest = package.manifest
        self.package = package
        self.name = manifest.name
        self.version = manifest.version
        self.digest = package.digest
        self.kind = result_kind(manifest.postprocess)
        self.variant = choose_variant(manifest, wanted=variant)
        path = package.folder / self.variant.file
        self.engines: tuple[Engine, ...] = tuple(engines) or (load_engine(self.variant.engine, path, threads=threads),)
        self._feeds = [Feed(engine, self.variant, about=str(self)) for engine in self.engines]
        engine = self.engines[0]
        self.input = resolve_input(manifest.preprocess, engine.inputs[self._feeds[0].slot])
        self._prepare = compile_preprocess(manifest.preprocess, self.input)
        self._interpret = compile_postprocess(
            manifest.postprocess,
            model_input=self.input,
            outputs=engine.outputs,
            arrays=read_arrays(package.arrays),
        )
        self._pool: deque[Array] = deque(maxlen=_POOL)
        self._warm_up()
        self.inferred = 0
        # Each is written by one thread alone, so that none is lost.
        self._prepare_failures = 0
        self._infer_failures = 0
        self._failures_before = 0  # the last inference that did not fail

    def _warm_up(self) -> None:
        """Engines take their memory at the first call: better here than at a frame, or at the first after a swap."""
        target = self._prepare.new_target()
        for engine, feed in zip(self.engines, self._feeds, strict=True):
            engine.run(feed.inputs(target))
        self._pool.append(target)

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.variant.id})"

    def prepare(self, frame: Frame, *, is_first: bool = False) -> Prepared:
        """Raises SourceError for a frame that does not fit the package's declaration."""
        try:
            target = self._pool.pop() if self._pool else self._prepare.new_target()
            region = self._prepare(frame.data, target)
        except BaseException:
            self._prepare_failures += 1
            raise
        return Prepared(frame, self, target, region, is_first)

    def infer(self, prepared: Prepared) -> Inferred:
        """Run the engine and read its outputs. Raises ModelError where the engine fails."""
        ran = self.run(prepared)
        return Inferred(self.interpret(prepared, ran.outputs), ran.latency_us, ran.outputs)

    def run(self, prepared: Prepared, engine: int = 0) -> Ran:
        """The engine's call, on the given one of the `engines`. Raises ModelError."""
        feed = self._feeds[engine]
        try:
            if prepared.is_first:
                feed.reset()
            inputs = feed.inputs(prepared.target)
            began_ns = time.perf_counter_ns()
            outputs = self.engines[engine].run(inputs)
            latency_us = (time.perf_counter_ns() - began_ns) // 1000
        except BaseException:
            self._infer_failures += 1
            raise
        if feed.remembers:
            feed.remember(outputs)
        return Ran(outputs, latency_us)

    def interpret(self, prepared: Prepared, outputs: list[Array]) -> tuple[Item, ...]:
        """What the outputs say. To be called in the order of the frames, by one thread at a time."""
        try:
            if prepared.is_first:
                self.forget_interpretation()
            items = self._interpret(prepared.target, outputs, prepared.region)
        except BaseException:
            self._infer_failures += 1
            raise
        self.inferred += 1
        self._failures_before = self._prepare_failures + self._infer_failures
        return items

    def engine_inputs(self, target: Array) -> list[Array]:
        """What the engine is run with where `target` is the frame's input: states and constants are added."""
        return self._feeds[0].inputs(target)

    def time_call_us(self, calls: int) -> int:
        """The median of some calls of the engine on an input of zeros, in microseconds."""
        inputs, times = self._feeds[0].inputs(self._prepare.new_target()), []
        for _ in range(calls):
            began_ns = time.perf_counter_ns()
            self.engines[0].run(inputs)
            times.append((time.perf_counter_ns() - began_ns) // 1000)
        return int(np.median(times))

    def reset(self) -> None:
        """Forget what was remembered of earlier frames: a source begins."""
        for feed in self._feeds:
            feed.reset()
        self.forget_interpretation()

    def forget_interpretation(self) -> None:
        """Forget what was remembered of earlier frames' results. As `interpret`, by one thread at a time."""
        reset = getattr(self._interpret, "reset", None)
        if reset is not None:
            reset()

    def close(self) -> None:
        """Let go of the engines: nobody runs it any more."""
        self.engines, self._feeds = (), []
        self._pool.clear()

    @property
    def failures_in_a_row(self) -> int:
        """Frames that this model has failed on since the last one that it has inferred."""
        return self._prepare_failures + self._infer_failures - self._failures_before

    def release(self, prepared: Prepared) -> None:
        """Take the input array back into the pool."""
        self._pool.append(prepared.target)
