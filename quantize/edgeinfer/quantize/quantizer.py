"""The whole search: from a float model and labelled samples to a measured package."""

import hashlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeinfer.quantize import search
from edgeinfer.quantize.candidate import Candidate, float_candidates, make_candidates
from edgeinfer.quantize.dataset import Samples, fit_to_model, load_samples, split
from edgeinfer.quantize.evaluate import METRICS, threshold
from edgeinfer.quantize.fit import check_fit
from edgeinfer.quantize.measure import Measurement, measure_candidates
from edgeinfer.quantize.modelfile import ModelFile, open_model
from edgeinfer.quantize.pack import Contents, Identity, check_identity, read_labels, write_variants
from edgeinfer.quantize.postprocessing import declare_post, named_arrays
from edgeinfer.quantize.preprocessing import Declared, declare, model_inputs
from edgeinfer.quantize.progress import Progress, silent
from edgeinfer.quantize.reference import typical
from edgeinfer.quantize.report import table as report
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import UsageError
from edgeinfer.runtime.manifest import AnomalyPost, DetectPost, DistancePost, ForecastPost, Postprocess

__all__ = ["Outcome", "Request", "search_package"]

# Shares of the time that the steps take, for the progress bar.
_MADE, _MEASURED = 0.2, 0.95


@dataclass(frozen=True, slots=True)
class Request:
    """What to quantize: one model, or an ONNX and a TFLite file of the same one. `max_drop` is in points."""

    models: Sequence[Path]
    data: Path
    identity: Identity
    max_drop: float = 1.0
    preprocess: str = ""
    postprocess: str = ""
    labels: Path | None = None
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """`package` is None where nothing kept the budget. `document` is what `--json` prints; `inferred` says
    which preprocessing was inferred, "" where it was declared."""

    package: Path | None
    document: dict[str, Any]
    table: str
    inferred: str


def search_package(request: Request, *, progress: Progress = silent) -> Outcome:
    """Make candidates, measure them, and write the package of the best one, unless the budget refuses all.

    Raises UsageError, SamplesError, ConfigError, ModelError, DependencyError.
    """
    started = time.monotonic()
    _check_numbers(request)
    _check_task(request)
    key = check_identity(request.identity)
    labels = read_labels(request.labels)
    models = _open_models(request)
    floats = float_candidates(models)
    # The threshold of an anomaly model follows from the scores: none is needed to make them.
    post = declare_post(request.postprocess, request.identity.task, models[0].outputs, threshold=0.0)
    _check_measurable(request, post)
    declared, samples = _prepare_samples(request, models)
    for model in models:
        check_fit(model.path, model, declared.preprocess, post, labels=labels)
    with tempfile.TemporaryDirectory(prefix="edgeinfer-quantize-") as folder:
        candidates = [*floats, *_make(models, samples, Path(folder), progress)]
        measured = measure_candidates(
            candidates,
            samples,
            task=request.identity.task,
            post=post,
            threads=request.threads,
            progress=lambda step, done: progress(step, _MADE + (_MEASURED - _MADE) * done),
        )
        decision = search.decide([m.figures for m in measured], reference=floats[0].id, max_drop=request.max_drop)
        document = _document(decision, request, samples, seconds=time.monotonic() - started)
        progress("writing the package", _MEASURED)
        if decision.chosen is not None:
            packed = [m for name in search.variants_to_pack(decision) for m in measured if m.candidate.id == name]
            contents = Contents(
                variants=[m.candidate for m in packed],
                preprocess=declared.preprocess,
                postprocess=_postprocess(
                    post, request, models[0], first=packed[0], reference=measured[0], samples=samples
                ),
                x=samples.x,
                sources=request.models,
                labels=labels,
                report=document,
                metrics={m.candidate.id: _metrics(m, document["metric"]) for m in packed},
                calibration_sha256=hashlib.sha256(_calibration(samples).tobytes()).hexdigest(),
                evaluation_sha256=samples.sha256,
                typical=typical(samples, task=request.identity.task),
            )
            write_variants(request.identity, contents, key=key, threads=request.threads)
    progress("done", 1.0)
    package = request.identity.output if decision.chosen is not None else None
    shown = report.table(decision, metric=document["metric"], package=package)
    return Outcome(package, {"package": str(package) if package else None, **document}, shown, declared.inferred)


def _check_numbers(request: Request) -> None:
    if not np.isfinite(request.max_drop) or request.max_drop < 0:
        raise UsageError(f"expected --max-drop of 0 points or more, found {request.max_drop}")
    if request.threads < 1:
        raise UsageError(f"expected --threads of 1 or more, found {request.threads}")
    if not request.models:
        raise UsageError("expected a model file, found none")


def _check_task(request: Request) -> None:
    """Before anything is opened: what a task needs beyond a metric cannot mend that there is none."""
    if request.identity.task not in METRICS:
        raise UsageError(
            f"expected --task {', '.join(METRICS)}, found {request.identity.task}: there is no measure for how well a "
            "quantized model keeps it",
            hint="edgeinfer package create packs such a model as it is",
        )


def _check_measurable(request: Request, post: Postprocess) -> None:
    """Raises UsageError for what a sample alone, or a sample without more of the package, says nothing of."""
    if isinstance(post, ForecastPost | DistancePost) or named_arrays(request.postprocess) is not None:
        raise UsageError(
            f"--postprocess: candidates cannot be measured with {request.postprocess}",
            hint="edgeinfer package create packs such a model as it is",
        )


def _open_models(request: Request) -> list[ModelFile]:
    """The models, ONNX first: it is what latency ratios refer to."""
    models = [open_model(path, threads=request.threads) for path in request.models]
    return sorted(models, key=lambda model: model.engine != "onnx")


def _prepare_samples(request: Request, models: list[ModelFile]) -> tuple[Declared, Samples]:
    """Samples as the float model takes them, with calibration samples set apart."""
    task, where = request.identity.task, str(request.data)
    samples = load_samples(request.data, task=task)
    spec = models[0].inputs[0]
    declared = declare(request.preprocess, spec, samples=samples.x)
    x = model_inputs(samples.x, declared, spec, where=where)
    for model in models[1:]:
        # One package has one preprocessing: its variants take the same input.
        fit_to_model(x, model.input_shape, where=f"{where} for {model.path}")
    calibration = samples.calibration
    if calibration is not None:
        calibration = model_inputs(calibration, declared, spec, where=f"{where}: x_calibration")
    return declared, split(replace(samples, x=x, calibration=calibration), task=task)


def _make(models: list[ModelFile], samples: Samples, folder: Path, progress: Progress) -> list[Candidate]:
    made: list[Candidate] = []
    for index, model in enumerate(models):
        start = index / len(models)

        def step(what: str, done: float, start: float = start) -> None:
            progress(what, _MADE * (start + done / len(models)))

        made += make_candidates(model, _calibration(samples), folder, progress=step)
    return made


def _calibration(samples: Samples) -> Array:
    assert samples.calibration is not None  # noqa: S101 - split() has set it
    return samples.calibration


def _document(decision: search.Decision, request: Request, samples: Samples, *, seconds: float) -> dict[str, Any]:
    return report.document(
        decision,
        metric=METRICS[request.identity.task],
        max_drop=request.max_drop,
        samples=samples.examples,
        calibration=len(_calibration(samples)),
        seconds=seconds,
    )


def _postprocess(
    scoring: Postprocess,
    request: Request,
    model: ModelFile,
    *,
    first: Measurement,
    reference: Measurement,
    samples: Samples,
) -> Postprocess:
    """What the package declares: with the threshold that its first variant's scores give."""
    assert first.scored is not None  # noqa: S101 - what is packed was measured
    assert reference.scored is not None  # noqa: S101 - the float model always is
    task, spec = request.identity.task, request.postprocess
    if isinstance(scoring, DetectPost):
        return scoring
    if isinstance(scoring, AnomalyPost):
        return declare_post(spec, task, model.outputs, threshold=threshold(first.scored, samples))
    return declare_post(spec, task, model.outputs, scores=reference.scored.rows)


def _metrics(measurement: Measurement, metric: str) -> dict[str, float]:
    figures = measurement.figures
    values = {
        metric: figures.metric_value,
        "agreement": figures.agreement,
        "latency_us": figures.latency_us,
        "latency_ratio": figures.latency_ratio,
    }
    return {name: value for name, value in values.items() if value is not None}
