"""The gate: does a package do on this device what it did when it was made, in the time and memory that it may take?

It runs in a process of its own (`edgeinfer.runtime.verify`), whose growth is the model's memory.
"""

import io
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.engines.base import Engine, dequantize, load_engine, quantize_input
from edgeinfer.runtime.errors import GateError
from edgeinfer.runtime.manifest import Golden, Variant
from edgeinfer.runtime.memory import peak_bytes
from edgeinfer.runtime.model import LoadedModel
from edgeinfer.runtime.preprocess import concrete_shape
from edgeinfer.runtime.store import InstalledPackage
from edgeinfer.runtime.variants import choose_variant
from edgeinfer.runtime.verify import GateAnswer

__all__ = ["run_gate"]

Array = npt.NDArray[Any]
_TIMED_CALLS = 10
_MOST_CALLS = 1000
_BLOCK_US = 50_000


def run_gate(
    package: InstalledPackage,
    *,
    variant: str = "",
    threads: int = 1,
    max_latency_us: int = 0,
    max_bytes: int = 0,
    bench_s: float = 0.0,
) -> GateAnswer:
    """Load the variant that would be used and compare its outputs with the golden ones.

    `max_latency_us` bounds the median call, `max_bytes` what loading and running adds to this process; 0: no bound.
    With `bench_s` the call is timed for so long, not just a few times.
    Raises GateError where they differ by more than the package's tolerance or a bound is passed, ModelError where it
    cannot be loaded or run.
    """
    before_bytes = peak_bytes()
    chosen = choose_variant(package.manifest, wanted=variant)
    engine = load_engine(chosen.engine, package.folder / chosen.file, threads=threads)
    _check_tensors(chosen, engine)
    # As a pipeline loads it: the declared pre- and postprocessing have to fit, and the first call to succeed.
    model = LoadedModel(package, variant=chosen.id, engines=[engine])
    worst = _compare(package, chosen, model, package.manifest.golden) if package.manifest.golden else 0.0
    latency_us = _time_us(model, bench_s)
    answer = GateAnswer(chosen.id, worst, latency_us, max(0, peak_bytes() - before_bytes))
    _check_bounds(answer, max_latency_us=max_latency_us, max_bytes=max_bytes)
    return answer


def _time_us(model: LoadedModel, bench_s: float) -> int:
    """The median call of the quickest block: on a device that is at work, that is the one least disturbed."""
    deadline_s = time.monotonic() + bench_s
    quickest_us = model.time_call_us(_TIMED_CALLS)
    calls = min(_MOST_CALLS, max(_TIMED_CALLS, _BLOCK_US // max(1, quickest_us)))
    while time.monotonic() < deadline_s:
        quickest_us = min(quickest_us, model.time_call_us(calls))
    return quickest_us


def _check_bounds(answer: GateAnswer, *, max_latency_us: int, max_bytes: int) -> None:
    if 0 < max_latency_us < answer.latency_us:
        raise GateError(
            f"variant {answer.variant}: an inference takes {answer.latency_us} us here, allowed are {max_latency_us} us"
        )
    if 0 < max_bytes < answer.bytes:
        raise GateError(f"variant {answer.variant}: takes {answer.bytes} bytes of memory here, allowed are {max_bytes}")


def _check_tensors(variant: Variant, engine: Engine) -> None:
    for what, declared, found in (
        ("input", variant.inputs, engine.inputs),
        ("output", variant.outputs, engine.outputs),
    ):
        wanted = [(spec.shape, spec.dtype) for spec in declared]
        actual = [(spec.shape, spec.dtype) for spec in found]
        if wanted != actual:
            raise GateError(f"variant {variant.id}: the manifest declares {what}s {wanted}, the model has {actual}")


def _compare(package: InstalledPackage, variant: Variant, model: LoadedModel, golden: Golden) -> float:
    """The largest distance of an output from its golden one."""
    engine = model.engines[0]
    raw = (package.folder / golden.file).read_bytes()
    try:
        vectors = dict(np.load(io.BytesIO(raw), allow_pickle=False))
        inputs = vectors["input"]
        expected = [vectors[f"{variant.id}/{i}"] for i in range(len(engine.outputs))]
    except (ValueError, KeyError, OSError) as error:
        raise GateError(f"{golden.file}: expected an .npz with input and {variant.id}/0: {error}") from error
    tolerance = golden.tolerance[variant.id]
    worst = 0.0
    for row, one in enumerate(inputs):
        model.reset()
        outputs = engine.run(model.engine_inputs(_as_input(one, model)))
        for index, output in enumerate(outputs):
            real = dequantize(output, engine.outputs[index]).astype(np.float64)
            wanted = np.asarray(expected[index][row], dtype=np.float64).reshape(real.shape)
            worst = max(worst, _distance(variant, real, wanted, tolerance.max_abs, tolerance.mean_abs))
    return worst


def _as_input(one: Array, model: LoadedModel) -> Array:
    spec = model.input
    return np.ascontiguousarray(quantize_input(one.reshape(concrete_shape(spec)), spec))


def _distance(variant: Variant, real: Array, wanted: Array, max_abs: float, mean_abs: float) -> float:
    difference = np.abs(real - wanted)
    worst, mean = float(difference.max(initial=0.0)), float(difference.mean()) if difference.size else 0.0
    # Written so that NaN fails too.
    if not (worst <= max_abs and mean <= mean_abs):
        raise GateError(
            f"variant {variant.id}: golden outputs differ by at most {worst:.4g} and {mean:.4g} on average, "
            f"allowed are {max_abs:.4g} and {mean_abs:.4g}",
            hint="this device's engine computes something else: choose another variant, or make the package for it",
        )
    return worst
