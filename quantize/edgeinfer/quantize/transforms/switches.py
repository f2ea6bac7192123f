"""Transforms as switches of a scheme: a scheme that prunes, equalizes or corrects, with an id that says so."""

import hashlib
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edgeinfer.quantize.schemes.base import Calibration, Plan, Precision, Scheme
from edgeinfer.quantize.transforms.bias import correct_bias
from edgeinfer.quantize.transforms.equalize import equalize
from edgeinfer.quantize.transforms.prune import check_share, prune
from edgeinfer.quantize.transforms.prune_litert import prune_litert
from edgeinfer.runtime.errors import UsageError

__all__ = ["pruned_float", "with_switches"]

# A channel that is the same on fewer samples than this may well change on the next.
_FEWEST_ROWS = 20
_Step = Callable[[Path, Path, Calibration], str]
# One model of each engine.
_REMEMBERED = 2


@dataclass(frozen=True, slots=True)
class _Pruned:
    """A model without its channels, which many schemes begin with. The calibration is held so that its identity stays
    its own."""

    calibration: Calibration
    refused: str
    content: bytes


_memory: OrderedDict[tuple[str, float, bytes, int], _Pruned] = OrderedDict()


def with_switches(
    scheme: Scheme, *, equalize: bool = False, correct_bias: bool = False, prune: float | None = None
) -> Scheme:
    """`scheme` made from a model that was pruned (0: of dead channels only, else of this share of all), then equalized,
    with its biases corrected afterwards. Equalizing and correcting need an ONNX scheme that calibrates.

    Where a step has nothing to do, `make` says so and makes nothing: it would be the file of the scheme without it.
    Raises UsageError for a scheme that a switch does not fit.
    """
    if (equalize or correct_bias) and not (scheme.engine == "onnx" and scheme.calibrates):
        raise UsageError(f"expected a static ONNX scheme to equalize or to correct the biases of, found {scheme.id}")
    steps = [_pruning(scheme.engine, prune)] if prune is not None else []
    suffix = f"-pruned{f'{prune * 100:g}' if prune else ''}" if prune is not None else ""
    about = ["channels pruned"] if prune is not None else []
    if equalize:
        steps.append(_equalized)
        suffix, about = f"{suffix}-cle", [*about, "layers equalized"]
    if correct_bias:
        suffix, about = f"{suffix}-bc", [*about, "biases corrected"]
    if not suffix:
        return scheme

    def make(source: Path, target: Path, calibration: Calibration, plan: Plan) -> str:
        return _make(scheme, steps, source, target, calibration, plan, corrects=correct_bias)

    # What equalizes or corrects runs the same kernels as the scheme without.
    dead_only = prune == 0.0 and len(steps) == 1 and not correct_bias
    return replace(
        scheme,
        id=scheme.id + suffix,
        about=f"{scheme.about}; {', '.join(about)}",
        make=make,
        calibrates=scheme.calibrates or prune is not None,
        sketch=(scheme.sketch or scheme.make) if dead_only else None,
        begins=f"{scheme.engine}-fp32-pruned" if dead_only else "",
    )


def pruned_float(engine: str) -> Scheme:
    """The float model without its dead channels, for `onnx` or `litert`: the same results, from less."""
    step = _pruning(engine, 0.0)

    def make(source: Path, target: Path, calibration: Calibration, plan: Plan) -> str:
        del plan
        return step(source, target, calibration)

    about = "channels that never change removed: exact on the calibration samples, faster in every engine"
    return Scheme(
        f"{engine}-fp32-pruned", engine, "fp32", about, make, calibrates=True, own=Precision.FLOAT, quantizes=False
    )


def _pruning(engine: str, share: float) -> _Step:
    check_share(share)
    run = prune if engine == "onnx" else prune_litert

    def step(source: Path, target: Path, calibration: Calibration) -> str:
        if len(calibration) < _FEWEST_ROWS:
            few = f"{len(calibration)} samples are too few to tell that a channel never changes"
            return f"{few}: {_FEWEST_ROWS} are needed"
        content = source.read_bytes()
        key = (engine, share, hashlib.sha256(content).digest(), id(calibration))
        known = _memory.get(key)
        if known is None:
            refused = run(source, target, calibration, share=share).refused
            known = _memory[key] = _Pruned(calibration, refused, b"" if refused else target.read_bytes())
            while len(_memory) > _REMEMBERED:
                _memory.popitem(last=False)
        elif not known.refused:
            target.write_bytes(known.content)
        return known.refused

    return step


def _equalized(source: Path, target: Path, calibration: Calibration) -> str:
    del calibration
    return equalize(source, target).refused


def _make(
    scheme: Scheme,
    steps: list[_Step],
    source: Path,
    target: Path,
    calibration: Calibration,
    plan: Plan,
    *,
    corrects: bool,
) -> str:
    with tempfile.TemporaryDirectory(prefix=".transformed-", dir=target.parent) as folder:
        for index, step in enumerate(steps):
            transformed = Path(folder) / f"{index}{source.suffix}"
            refused = step(source, transformed, calibration)
            if refused:
                return refused
            source = transformed
        made = Path(folder) / target.name
        refused = scheme.make(source, made, calibration, plan)
        if not refused and corrects:
            refused = correct_bias(source, made, calibration)
        if not refused:
            made.replace(target)
        return refused
