"""Reports of searches for tests: like those of real models, with figures that were made up where it matters."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from edgeinfer.quantize.report.document import (
    Confusion,
    LayerRow,
    Report,
    Row,
    Sensitivity,
    Step,
    TargetRow,
)
from edgeinfer.runtime.manifest import TensorPre
from edgeinfer.runtime.package import PackageFile, encode_manifest, write_package
from packages import linear_model, make_package

__all__ = ["carrying_package", "hostile_report", "kws_report", "many_classes", "refused_report", "row"]

KWS_LABELS = ("Down", "Go", "Left", "No", "Off", "On", "Right", "Stop", "Up", "Yes", "Silence", "Unknown")
_NEXT_TO = {1: 3, 3: 1, 4: 8, 8: 4, 0: 1, 11: 2}


def row(variant: str, metric: float | None, ratio: float | None, kib: float, **more: Any) -> Row:
    """A candidate against a float model of 0.9163 top-1, 127 us and 94 KiB."""
    figures: dict[str, Any] = {"verdict": "accepted", "reason": "", "samples": 392, "about": ""}
    if metric is not None:
        drop = round((0.9163 - metric) * 100, 2)
        figures |= {"metric_value": metric, "drop": drop, "agreement": max(0.0, 0.998 - abs(drop) / 100)}
        figures |= {"drop_low": drop - 0.9, "drop_high": drop + 0.8, "p_value": 0.62, "significant": False}
    if ratio is not None:
        figures |= {"latency_ratio": ratio, "latency_us": 127 * ratio, "cpu_us": 126 * ratio}
        figures |= {"ratio_low": ratio * 0.985, "ratio_high": ratio * 1.02}
    engine, _, precision = variant.partition("-")
    fixed = {"variant": variant, "engine": engine, "precision": precision, "quantized": precision != "fp32"}
    return Row(**{**fixed, "bytes": round(kib * 1024), **figures, **more})


def kws_report(**changes: Any) -> Report:
    """Keyword spotting: a chosen variant, others that would do, and refusals before and after measuring."""
    reference = row("onnx-fp32", 0.9163, 1.0, 94, reason="the float model itself", agreement=1.0, drop_low=None,
                    drop_high=None, significant=None, p_value=None, drop=0.0)  # fmt: skip
    chosen = row("litert-int8-weights", 0.9143, 0.64, 42.4, verdict="chosen", agreement=0.9960,
                 reason="fastest within the budget, no significant difference to the float model")  # fmt: skip
    candidates = (
        chosen,
        reference,
        row("litert-fp32", 0.9163, 0.76, 97.7, reason="slower than litert-int8-weights by 1.19"),
        row("litert-int8-weights-mixed4-3", 0.9112, 0.655, 36.1, agreement=0.9898,
            reason="as fast as litert-int8-weights, and agrees less with the float model"),
        row("onnx-u8s8-reduce-range", 0.9071, 1.03, 55, reason="slower than litert-int8-weights by 1.61"),
        row("litert-int8-mse", 0.9107, 1.68, 49, reason="slower than litert-int8-weights by 2.62"),
        row("onnx-u8s8", 0.0842, 1.02, 55.1, verdict="refused", p_value=1e-9, significant=True, drop_low=79.1,
            drop_high=86.6, agreement=0.0893,
            reason="loses 83.21 points, more than the 1 allowed: 16-bit sums saturate on this CPU (its output differs "
            "from that of the same file run without graph optimization on 91 % of the samples)"),
        row("litert-int4-weights", 0.8801, 2.01, 36, verdict="refused", p_value=0.0004, significant=True,
            drop_low=2.0, drop_high=5.4, reason="loses 3.62 points, more than the 1 allowed"),
        row("onnx-int8-dynamic", 0.9163, 5.9, 49, reason="slower than litert-int8-weights by 9.22"),
        row("onnx-weights4", None, None, 0, verdict="refused", reason="nothing was quantized: it holds no MatMul"),
        row("openvino-int8", None, None, 0, verdict="refused", reason="openvino is not installed"),
    )  # fmt: skip
    fields: dict[str, Any] = {
        "metric": "top-1", "higher_is_better": True, "unit": "points", "max_drop": 1.0, "min_agreement": None,
        "max_bytes": None, "objective": "latency", "reference": reference, "chosen": chosen,
        "target": TargetRow(name="local", measured=True, machine="AMD EPYC 7R13, AVX2, no VNNI, 2 cores",
                            detail="1 thread, blocks of 60 calls in turn, 11 rounds"),
        "answer": "Yes: ship litert-int8-weights. It runs 1.56 times as fast as the float model (1.53 to 1.59) in 45 % "
        "of its size and loses 0.20 points of top-1 (-0.70 to 1.00), no significant difference.",
        "candidates": candidates, "samples": 392, "calibration_samples": 110, "seconds": 38.2,
        "warnings": ("392 samples cannot tell a drop of 1 point from none: about 1,570 are needed.",),
        "notes": ("The faster engine differs from model to model: both files were given, both competed.",),
        "sensitivity": (_sensitivity("onnx-u8s8-reduce-range", "float", 0.004, "no number of its 12 layers helps"),
                        _sensitivity("litert-int8-weights", "int4", 0.03,
                                     "litert-int8-weights-mixed4-3: 3 of 12 layers have weights of 4 bits")),
        "confusion": _confusion(),
        "steps": (Step(name="float models", seconds=2.1, looked_at=2, left=2),
                  Step(name="schemes, rung 0", seconds=9.8, looked_at=5, left=3),
                  Step(name="schemes, rung 1", seconds=12.3, looked_at=3, left=1, detail="two cannot be made"),
                  Step(name="weights of 4 bits", seconds=8.0, looked_at=1, left=1),
                  Step(name="latency, settled", seconds=6.0, looked_at=4, left=1, detail="after 3 timings")),
        "labels": KWS_LABELS,
    }  # fmt: skip
    return Report(**{**fields, **changes})


def _sensitivity(scheme: str, lower: str, scale: float, outcome: str) -> Sensitivity:
    names = ["conv2d"] + [f"separable_{i}/{part}" for i in range(1, 6) for part in ("depthwise", "pointwise")] + ["fc"]
    layers = tuple(
        LayerRow(
            name=f"functional_1/{name}/Conv2D",
            op="DepthwiseConv2D" if "depthwise" in name else "Conv2D" if name != "fc" else "MatMul",
            weights=576 if "depthwise" in name else 4096,
            divergence=scale * (12 - index) ** 2 / 144 * (0.3 if index % 2 else 1.0),
            bytes_saved=288 if "depthwise" in name else 2048,
            latency_gain=0.002 * index,
            precision="int4" if lower == "int4" and index in (7, 9, 11) else "int8",
        )
        for index, name in enumerate(names)
    )
    return Sensitivity(scheme=scheme, lower=lower, layers=layers, outcome=outcome)


def _confusion() -> Confusion:
    size = len(KWS_LABELS)
    reference = [[30 if i == j else int(_NEXT_TO.get(i) == j) * 2 for j in range(size)] for i in range(size)]
    chosen = [list(counts) for counts in reference]
    for i, j in ((1, 3), (4, 8), (11, 2)):
        chosen[i][i] -= 1
        chosen[i][j] += 1
    chosen[8][4] -= 1
    chosen[8][8] += 1
    return Confusion(labels=KWS_LABELS, reference=_frozen(reference), chosen=_frozen(chosen))


def many_classes(count: int = 1001) -> Confusion:
    """Of an ImageNet model: nearly all on the diagonal."""
    reference = [[0] * count for _ in range(count)]
    for i in range(count):
        reference[i][i] = 3
    chosen = [list(counts) for counts in reference]
    for i in range(0, count, 9):
        chosen[i][i] -= 1 + i % 2
        chosen[i][(i * 7 + 3) % count] += 1 + i % 2
    labels = tuple(f"class {i}, with a rather long name of several words" for i in range(count))
    return Confusion(labels=labels, reference=_frozen(reference), chosen=_frozen(chosen))


def _frozen(matrix: list[list[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(counts) for counts in matrix)


def refused_report() -> Report:
    """Nothing kept the budget."""
    base = kws_report()
    refused = [
        msgspec.structs.replace(one, verdict="refused", reason="loses more than the 0.1 allowed")
        for one in base.candidates if one.quantized
    ]  # fmt: skip
    return msgspec.structs.replace(
        base, chosen=None, candidates=(base.reference, *refused), max_drop=0.1, sensitivity=(), confusion=None,
        answer="No: no quantized candidate loses at most 0.1 points.", warnings=(), notes=(), steps=(),
    )  # fmt: skip


def hostile_report() -> Report:
    """Names that come from files, of somebody who means ill: markup, escape sequences, other scripts, mathematics."""
    evil = "<script>document.title='hacked'</script>"
    base = kws_report()
    nasty = msgspec.structs.replace(
        base.candidates[2], variant="$\\frac{1$ \x1b[31m" + evil, reason=f"\x1b]0;x\x07{evil}", about=evil
    )
    layer = msgspec.structs.replace(base.sensitivity[0].layers[0], name=f'"><img src=x onerror=alert(1)>{evil}')
    sensitivity = msgspec.structs.replace(base.sensitivity[0], layers=(layer, *base.sensitivity[0].layers[1:]))
    assert base.confusion is not None
    labels = (evil, "前進 مرحبا", *base.confusion.labels[2:])
    return msgspec.structs.replace(
        base, candidates=(*base.candidates, nasty), sensitivity=(sensitivity,), metric=f"top-1 {evil}",
        confusion=msgspec.structs.replace(base.confusion, labels=labels), labels=labels, warnings=(evil,),
        answer=evil, command=f"edgeinfer quantize '{evil}'",
    )  # fmt: skip


def carrying_package(path: Path, report: bytes) -> Path:
    """A package of a small model that carries `report`, whatever it is."""
    model = linear_model(path.with_suffix(".onnx"))
    make_package(path, model, name="kws", pre=TensorPre())
    with PackageFile(path) as package:
        named = ("report.json", hashlib.sha256(report).hexdigest())
        manifest = encode_manifest(msgspec.structs.replace(package.manifest, report=named))
    write_package(path, manifest, {model.name: model, "report.json": report})
    return path
