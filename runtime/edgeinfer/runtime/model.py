"""A loaded model: one variant of an installed package with its engine, preprocessing and postprocessing."""

import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.engines.base import Engine, available_engines, load_engine
from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.manifest import Manifest, TensorSpec, Variant
from edgeinfer.runtime.postprocess import compile_postprocess, read_arrays, result_kind
from edgeinfer.runtime.preprocess import Region, compile_preprocess, concrete_shape, resolve_input
from edgeinfer.runtime.results import Item
from edgeinfer.runtime.store import InstalledPackage

__all__ = ["Inferred", "LoadedModel", "Prepared", "Ran", "choose_variant"]

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


def choose_variant(manifest: Manifest, *, wanted: str = "") -> Variant:
    """The variant named `wanted`, or the first that an installed engine can run. Raises ModelError."""
    if wanted:
        for variant in manifest.variants:
            if variant.id == wanted:
                return variant
        known = ", ".join(variant.id for variant in manifest.variants)
        raise ModelError(f"package {manifest.name} {manifest.version} has no variant {wanted!r}: it has {known}")
    engines = available_engines()
    for variant in manifest.variants:
        if variant.engine in engines:
            return variant
    needed = sorted({variant.engine for variant in manifest.variants})
    raise ModelError(
        f"package {manifest.name} {manifest.version} needs one of the engines {needed}, found {list(engines)}",
        hint=f"pip install 'edgeinfer[{needed[0]}]'",
    )


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
        self._feeds = [_Feed(engine, self.variant, about=str(self)) for engine in self.engines]
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


class _Feed:
    """The engine's inputs: the frame at `slot`, and what the variant declares as states and constants.

    Raises ModelError where the model has other inputs or outputs than are declared.
    """

    def __init__(self, engine: Engine, variant: Variant, *, about: str) -> None:
        self._about = about
        if not engine.outputs:
            raise ModelError(f"{about}: expected a model with some output, found none")
        input_places = {spec.name: place for place, spec in enumerate(engine.inputs)}
        output_places = {spec.name: place for place, spec in enumerate(engine.outputs)}
        self._inputs: list[Array] = [_zeros(spec) for spec in engine.inputs]
        self._states: list[tuple[int, int]] = []
        for state in variant.states:
            self._states.append((self._place(state.input, input_places), self._place(state.output, output_places)))
        constants = []
        for constant in variant.constants:
            constants.append(self._place(constant.input, input_places))
            self._inputs[constants[-1]].fill(constant.value)
        free = set(range(len(engine.inputs))) - {place for place, _ in self._states} - set(constants)
        if len(free) != 1:
            raise ModelError(
                f"{about}: expected one input for the frame, found {len(free)} of {sorted(input_places)}",
                hint="the package declares the other inputs of the variant as states or constants",
            )
        self.slot = free.pop()
        self.remembers = bool(self._states)

    def inputs(self, target: Array) -> list[Array]:
        self._inputs[self.slot] = target
        return self._inputs

    def remember(self, outputs: list[Array]) -> None:
        for place, output in self._states:
            self._inputs[place] = outputs[output]

    def reset(self) -> None:
        for place, _ in self._states:
            self._inputs[place] = np.zeros_like(self._inputs[place])

    def _place(self, name: str, places: dict[str, int]) -> int:
        if name not in places:
            raise ModelError(f"{self._about}: declares the tensor {name!r}, the model has {', '.join(places)}")
        return places[name]


def _zeros(spec: TensorSpec) -> Array:
    return np.zeros(concrete_shape(spec), dtype=spec.dtype)
