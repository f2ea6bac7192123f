"""A loaded model: one variant of an installed package with its engine, preprocessing and postprocessing."""

import time
from collections import deque
from typing import Any, NamedTuple

import numpy.typing as npt

from edgeinfer.runtime.engines.base import available_engines, load_engine
from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.manifest import Manifest, Variant
from edgeinfer.runtime.postprocess import compile_postprocess, result_kind
from edgeinfer.runtime.preprocess import Region, compile_preprocess
from edgeinfer.runtime.results import Item
from edgeinfer.runtime.store import InstalledPackage

__all__ = ["Inferred", "LoadedModel", "Prepared", "choose_variant"]

Array = npt.NDArray[Any]
_POOL = 8


class Prepared(NamedTuple):
    """A frame on its way to the engine: the input array, and the model that it was prepared for."""

    frame: Frame
    model: "LoadedModel"
    target: Array
    region: Region


class Inferred(NamedTuple):
    """What one inference gave; `latency_us` is the engine's own call."""

    items: tuple[Item, ...]
    latency_us: int


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
    """`prepare` is called from the capturing thread, `infer` from the inference thread.

    Input arrays come from a pool and go back to it, so that a running pipeline allocates none. A frame keeps
    the model that it was prepared for: after a swap, frames in flight end on the old one.

    `inferred` counts the inferences of this very model, so that no frame in flight speaks for its successor.
    """

    def __init__(self, package: InstalledPackage, *, variant: str = "", threads: int = 1) -> None:
        manifest = package.manifest
        self.name = manifest.name
        self.version = manifest.version
        self.digest = package.digest
        self.kind = result_kind(manifest.postprocess)
        self.variant = choose_variant(manifest, wanted=variant)
        self._engine = load_engine(self.variant.engine, package.folder / self.variant.file, threads=threads)
        if len(self._engine.inputs) != 1 or not self._engine.outputs:
            raise ModelError(f"{self}: expected a model of one input and some output, found {len(self._engine.inputs)}")
        self._prepare = compile_preprocess(manifest.preprocess, self._engine.inputs[0])
        self._interpret = compile_postprocess(
            manifest.postprocess, model_input=self._engine.inputs[0], outputs=self._engine.outputs
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
        self._engine.run([target])
        self._pool.append(target)

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.variant.id})"

    def prepare(self, frame: Frame) -> Prepared:
        """Raises SourceError for a frame that does not fit the package's declaration."""
        try:
            target = self._pool.pop() if self._pool else self._prepare.new_target()
            region = self._prepare(frame.data, target)
        except BaseException:
            self._prepare_failures += 1
            raise
        return Prepared(frame, self, target, region)

    def infer(self, prepared: Prepared) -> Inferred:
        """Raises ModelError where the engine fails."""
        try:
            began_ns = time.perf_counter_ns()
            outputs = self._engine.run([prepared.target])
            latency_us = (time.perf_counter_ns() - began_ns) // 1000
            items = self._interpret(prepared.target, outputs, prepared.region)
        except BaseException:
            self._infer_failures += 1
            raise
        self.inferred += 1
        self._failures_before = self._prepare_failures + self._infer_failures
        return Inferred(items, latency_us)

    @property
    def failures_in_a_row(self) -> int:
        """Frames that this model has failed on since the last one that it has inferred."""
        return self._prepare_failures + self._infer_failures - self._failures_before

    def release(self, prepared: Prepared) -> None:
        """Take the input array back into the pool."""
        self._pool.append(prepared.target)
