"""The gate: does a package do on this device what it did when it was made?"""

import io
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.engines.base import Engine, dequantize, load_engine, quantize_input
from edgeinfer.runtime.errors import GateError
from edgeinfer.runtime.manifest import Golden, Variant
from edgeinfer.runtime.model import LoadedModel, choose_variant
from edgeinfer.runtime.preprocess import concrete_shape
from edgeinfer.runtime.store import InstalledPackage
from edgeinfer.runtime.verify import GateAnswer

__all__ = ["run_gate"]

Array = npt.NDArray[Any]


def run_gate(package: InstalledPackage, *, variant: str = "", threads: int = 1) -> GateAnswer:
    """Load the variant that would be used and compare its outputs with the golden ones.

    Raises GateError where they differ by more than the package's tolerance, ModelError where it cannot be
    loaded or run.
    """
    chosen = choose_variant(package.manifest, wanted=variant)
    engine = load_engine(chosen.engine, package.folder / chosen.file, threads=threads)
    _check_tensors(chosen, engine)
    # As a pipeline loads it: the declared pre- and postprocessing have to fit, and the first call to succeed.
    LoadedModel(package, variant=chosen.id, threads=threads)
    golden = package.manifest.golden
    if golden is None:
        return GateAnswer(chosen.id, 0.0, 0)
    return _compare(package, chosen, engine, golden)


def _check_tensors(variant: Variant, engine: Engine) -> None:
    for what, declared, found in (
        ("input", variant.inputs, engine.inputs),
        ("output", variant.outputs, engine.outputs),
    ):
        wanted = [(spec.shape, spec.dtype) for spec in declared]
        actual = [(spec.shape, spec.dtype) for spec in found]
        if wanted != actual:
            raise GateError(f"variant {variant.id}: the manifest declares {what}s {wanted}, the model has {actual}")


def _compare(package: InstalledPackage, variant: Variant, engine: Engine, golden: Golden) -> GateAnswer:
    raw = (package.folder / golden.file).read_bytes()
    try:
        vectors = dict(np.load(io.BytesIO(raw), allow_pickle=False))
        inputs = vectors["input"]
        expected = [vectors[f"{variant.id}/{i}"] for i in range(len(engine.outputs))]
    except (ValueError, KeyError, OSError) as error:
        raise GateError(f"{golden.file}: expected an .npz with input and {variant.id}/0: {error}") from error
    tolerance = golden.tolerance[variant.id]
    worst, latencies = 0.0, []
    for row, one in enumerate(inputs):
        began_ns = time.perf_counter_ns()
        outputs = engine.run([_as_input(one, engine)])
        latencies.append((time.perf_counter_ns() - began_ns) // 1000)
        for index, output in enumerate(outputs):
            real = dequantize(output, engine.outputs[index]).astype(np.float64)
            wanted = np.asarray(expected[index][row], dtype=np.float64).reshape(real.shape)
            worst = max(worst, _distance(variant, real, wanted, tolerance.max_abs, tolerance.mean_abs))
    return GateAnswer(variant.id, worst, int(np.median(latencies)) if latencies else 0)


def _as_input(one: Array, engine: Engine) -> Array:
    spec = engine.inputs[0]
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
