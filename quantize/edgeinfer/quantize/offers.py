"""What can be tried on the given models: their schemes, and forms of these that behave better or run faster."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.schemes.base import Calibration, Layer, Scheme
from edgeinfer.quantize.search.entry import Offer

__all__ = ["Material", "for_openvino", "gather", "offers_of"]

# The rung of what no ladder climbs to.
_EXHAUSTIVE = 2
_SLIM = "onnx-fp32-slim"
# Schemes that run the same kernels as another one, with other ranges or weights: seen once, their speed is known.
_LIKE = {
    **{f"onnx-u8s8-{ranges}": "onnx-u8s8" for ranges in ("full", "percentile", "mse", "entropy")},
    **{f"onnx-{kind}-weights": "onnx-fp32" for kind in ("int8", "int4", "fp16")},
    **{f"litert-int8-{kind}": "litert-int8" for kind in ("ma", "mse", "plain")},
    "litert-int4-weights": "litert-int8-weights",
    "litert-fp16-weights": "litert-fp32",
}


@dataclass(frozen=True, slots=True)
class Material:
    """A float model with what is needed to make others of it. `mends` names for a scheme the one that it is a
    better-behaved form of; `few` are some of the calibration samples, for the guards. Where preparing a model has
    rearranged it, what computes as float does it as the slim one, not as the given one."""

    float_model: Candidate
    schemes: dict[str, Scheme]
    layers: Callable[[], Sequence[Layer]]
    calibration: Calibration
    few: Calibration
    mends: dict[str, str]
    rearranged: bool = False


def gather(
    float_model: Candidate, calibration: Calibration, *, few: Calibration, unquantizable: bool = False
) -> Material:
    """Raises ModelError for a file that no scheme can read, DependencyError."""
    if unquantizable:
        return Material(float_model, {}, tuple, calibration, few, {})
    path = float_model.path
    if float_model.engine == "onnx":
        schemes, mends, rearranged = _onnx(path)
        return Material(float_model, schemes, lambda: _onnx_layers(path), calibration, few, mends, rearranged)
    schemes, mends = _litert(path)
    return Material(float_model, schemes, lambda: _litert_layers(path), calibration, few, mends)


def for_openvino(onnx: Material) -> Material:
    """What OpenVINO can make of the ONNX model: compared with what ONNX Runtime says of that. Without schemes where its
    tools are not installed here."""
    from edgeinfer.quantize.schemes import openvino

    schemes = {scheme.id: scheme for scheme in openvino.schemes() if onnx.schemes or not scheme.quantizes}
    return replace(onnx, schemes=schemes, mends={})


def _onnx(path: Path) -> tuple[dict[str, Scheme], dict[str, str], bool]:
    """The schemes, what some of them mend, and whether they begin with a rearranged graph. What mends is tried where it
    is needed; the same of other schemes, or of two switches, is looked at by an exhaustive search."""
    from edgeinfer.quantize.schemes import onnx
    from edgeinfer.quantize.transforms.switches import with_switches

    plain = onnx.schemes(path)
    rearranged = onnx.rearranged(path)
    schemes, mends = _with_pruned("onnx", plain, first=_SLIM if rearranged else ""), {}
    for scheme in plain:
        if not scheme.calibrates:
            continue
        for equalize, correct_bias in ((False, True), (True, False), (True, True)):
            mended = with_switches(scheme, equalize=equalize, correct_bias=correct_bias)
            if scheme.rung == 0:
                mends[mended.id] = scheme.id
            pruned = with_switches(scheme, equalize=equalize, correct_bias=correct_bias, prune=0.0)
            schemes[mended.id] = mended if scheme.rung == 0 else replace(mended, rung=_EXHAUSTIVE)
            schemes[pruned.id] = replace(pruned, rung=_EXHAUSTIVE)
    return schemes, mends, rearranged


def _with_pruned(engine: str, plain: Sequence[Scheme], *, first: str = "") -> dict[str, Scheme]:
    """The schemes, and all of them also for the model without its dead channels, where it has any: after those that
    quantize on the first rung, and `first`, by an exhaustive search."""
    from edgeinfer.quantize.transforms.switches import pruned_float, with_switches

    pruned = [
        replace(
            with_switches(scheme, prune=0.0),
            rung=0 if scheme.id == first or (scheme.rung == 0 and scheme.quantizes) else _EXHAUSTIVE,
        )
        for scheme in plain
    ]
    return {scheme.id: scheme for scheme in (*plain, pruned_float(engine), *pruned)}


def _onnx_layers(path: Path) -> Sequence[Layer]:
    from edgeinfer.quantize.schemes import onnx

    return onnx.layers(path)


def _litert(path: Path) -> tuple[dict[str, Scheme], dict[str, str]]:
    from edgeinfer.quantize.schemes import litert

    return _with_pruned("litert", litert.schemes(path)), {}


def _litert_layers(path: Path) -> Sequence[Layer]:
    from edgeinfer.quantize.schemes import litert

    return litert.layers(path)


def offers_of(materials: Sequence[Material], *, engines: Sequence[str]) -> list[Offer]:
    """What the search may try where the target has these engines."""
    return [
        Offer(
            scheme.id,
            scheme.engine,
            scheme.precision,
            scheme.about,
            max(scheme.rung, 1) if scheme.id in material.mends else scheme.rung,
            frozenset(str(precision) for precision in scheme.mixes),
            material.mends.get(scheme.id, ""),
            _pruned_float(scheme),
            scheme.quantizes,
            _like(scheme, rearranged=material.rearranged),
            _unpruned(scheme),
        )
        for material in materials
        for scheme in material.schemes.values()
        if scheme.engine in engines
    ]


def _pruned_float(scheme: Scheme) -> str:
    """What has to come to something before a scheme with pruning is worth trying."""
    float_pruned = f"{scheme.engine}-fp32-pruned"
    return float_pruned if "-pruned" in scheme.id and scheme.id != float_pruned else ""


def _unpruned(scheme: Scheme) -> str:
    return scheme.id.replace("-pruned", "") if _pruned_float(scheme) else ""


def _like(scheme: Scheme, *, rearranged: bool) -> str:
    """Pruned ones are like a pruned one."""
    plain = _unpruned(scheme)
    like = _LIKE.get(plain or scheme.id, "")
    like = _SLIM if rearranged and like == "onnx-fp32" else like
    return f"{like}-pruned" if plain and like else like
