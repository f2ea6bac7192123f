"""Whether a quantized ONNX model computes on this CPU what its integers mean.

x86 without VNNI multiplies u8 by s8 in pairs whose sum is kept in 16 bits, and cut off where it does not fit: a model
can lose nearly all its accuracy on one machine and keep it on another. The session entry `session.x64quantprecision`
asks ONNX Runtime for kernels that do not (onnxruntime, onnxruntime_session_options_config_keys.h); the same model with
graph optimization off computes in float. Both are held against the model as it runs. What another CPU would do is
worked out in pairs.py.
"""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.quantize.guards.finding import Finding
from edgeinfer.quantize.schemes.base import Calibration
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import DependencyError, ModelError

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["NONE", "Saturation", "compare_outputs", "compare_runs", "judge"]

_PRECISE = "session.x64quantprecision"
_FATAL_ONLY = 4
# Shares of the outputs' spread. On the MLPerf Tiny models rounding in another order moves outputs by 0.1 % to 0.7 % of
# it on average, saturated sums (an emulated Haswell) by 5.6 % to 57 %.
_MEAN, _LARGEST = 0.02, 0.1
# Values that differ by more than this share of the spread are counted.
_DIFFERS = 0.01


@dataclass(frozen=True, slots=True)
class Saturation:
    """How far outputs are from what they should be. `largest` and `mean` difference are shares of the reference's
    spread (its standard deviation); `share` of values, 0 to 1, differ by more than 1 % of it; `argmax_changes` of
    `samples` have another largest output."""

    largest: float
    mean: float
    share: float
    argmax_changes: int
    samples: int


NONE = Saturation(0.0, 0.0, 0.0, 0, 0)


def compare_outputs(found: Sequence[Array], expected: Sequence[Array]) -> Saturation:
    """Of two runs over the same samples: (N, ...) of each output. The largest figures of all outputs."""
    worst = NONE
    for one, other in zip(found, expected, strict=True):
        compared = _compare(one.reshape(len(one), -1), other.reshape(len(other), -1))
        worst = Saturation(
            max(worst.largest, compared.largest),
            max(worst.mean, compared.mean),
            max(worst.share, compared.share),
            max(worst.argmax_changes, compared.argmax_changes),
            compared.samples,
        )
    return worst


def _compare(found: Array, expected: Array) -> Saturation:
    if not expected.size or not np.issubdtype(expected.dtype, np.number):
        return NONE
    real = expected.astype(np.float64)
    spread = max(float(real.std()), float(np.finfo(np.float32).tiny))
    apart = np.nan_to_num(np.abs(found.astype(np.float64) - real) / spread, nan=np.inf)
    changes = int((found.argmax(axis=1) != expected.argmax(axis=1)).sum())
    differing = float((apart > _DIFFERS).mean())
    return Saturation(float(apart.max()), float(apart.mean()), differing, changes, len(found))


def judge(found: Saturation) -> str:
    """Why the difference is more than the noise of another order of rounding, "" where it is not."""
    if found.mean <= _MEAN or found.largest <= _LARGEST:
        return ""
    return (
        f"saturates on this CPU: outputs are {found.mean:.0%} of their spread from what the integers mean on average, "
        f"{found.largest:.0%} at most; {found.argmax_changes} of {found.samples} samples get another answer"
    )


def compare_runs(path: Path, samples: Calibration) -> tuple[Saturation, Finding | None]:
    """Run the model as a device would, and precisely; the difference and, where it is too large, what is wrong.

    Where the CPU is x86 and precise kernels give the very same outputs, nothing saturates; else the model is run in
    float too, and held against that. Outputs of all samples are held in memory. Raises ModelError, DependencyError.
    """
    plain = _outputs(path, samples)
    if platform.machine().lower() in {"x86_64", "amd64"}:
        precise = _outputs(path, samples, precise=True)
        if all(np.array_equal(one, other) for one, other in zip(plain, precise, strict=True)):
            return compare_outputs(plain, precise), None
    found = compare_outputs(plain, _outputs(path, samples, optimized=False))
    text = judge(found)
    return found, Finding("saturation", "refuse", text) if text else None


def _outputs(path: Path, samples: Calibration, *, precise: bool = False, optimized: bool = True) -> list[Array]:
    session = _session(path, precise=precise, optimized=optimized)
    names = [node.name for node in session.get_inputs()]
    rows: list[list[Array]] = []
    try:
        for sample in samples:
            rows.append(session.run(None, dict(zip(names, sample, strict=True))))  # noqa: PERF401 - what fails is caught
    except Exception as error:  # ONNX Runtime's own exception classes share no public base
        raise ModelError(f"{path}: ONNX Runtime failed: {_first_line(error)}") from error
    return [np.concatenate([np.asarray(one)[None] for one in column]) for column in zip(*rows, strict=True)]


def _session(path: Path, *, precise: bool, optimized: bool) -> "onnxruntime.InferenceSession":
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise DependencyError("onnxruntime is not installed", hint="pip install 'edgeinfer[quantize]'") from error
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY
    if precise:
        options.add_session_config_entry(_PRECISE, "1")
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise ModelError(f"{path}: ONNX Runtime cannot load it: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n", maxsplit=1)[0][:300]
