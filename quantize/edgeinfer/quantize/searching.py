"""The whole search: from a float model and labelled samples to a measured package and its report."""

import hashlib
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from edgeinfer.quantize.candidate import Candidate, float_candidates
from edgeinfer.quantize.carrying import calibration_of
from edgeinfer.quantize.converter import convert_onnx
from edgeinfer.quantize.dataset import Loaded, Samples, load_samples, prepared, split
from edgeinfer.quantize.destinations import check_destinations
from edgeinfer.quantize.evaluate import Scored, threshold
from edgeinfer.quantize.feeding import FED_ALONE
from edgeinfer.quantize.fit import check_fit
from edgeinfer.quantize.guarding import Guards
from edgeinfer.quantize.intake import check_same, take_in
from edgeinfer.quantize.judging import Judge
from edgeinfer.quantize.metrics import Metric, choose_metric
from edgeinfer.quantize.modelfile import ModelFile
from edgeinfer.quantize.offers import Material, for_openvino, gather, offers_of
from edgeinfer.quantize.pack import Contents, check_identity, read_labels, write_variants
from edgeinfer.quantize.plausible import check_plausible
from edgeinfer.quantize.postprocessing import declare_post, named_arrays
from edgeinfer.quantize.preprocessing import Declared, declare
from edgeinfer.quantize.progress import Progress, silent
from edgeinfer.quantize.reference import typical
from edgeinfer.quantize.report.document import Report, Row
from edgeinfer.quantize.reporting import Told, make_report
from edgeinfer.quantize.request import Request, check_numbers
from edgeinfer.quantize.rows import Rows, fit_to_model, spread
from edgeinfer.quantize.search.goal import Goal
from edgeinfer.quantize.search.ladder import Found, climb
from edgeinfer.quantize.search.verdicts import choose, judge, variants_to_pack
from edgeinfer.quantize.targets.base import Target
from edgeinfer.quantize.targets.choose import open_target
from edgeinfer.quantize.workbench import Workbench
from edgeinfer.runtime.errors import ModelError, UsageError
from edgeinfer.runtime.manifest import AnomalyPost, DetectPost, DistancePost, ForecastPost, Postprocess, Provenance
from edgeinfer.runtime.package import PackageFile, parse_labels
from edgeinfer.runtime.scratch import scratch_folder
from edgeinfer.runtime.trust import SigningKey

__all__ = ["Outcome", "Prepared", "prepare", "search_package"]

# Kernels that compute something else do so on any sample.
_GUARDED_ROWS = 32


@dataclass(frozen=True, slots=True)
class Outcome:
    """`package` is None where nothing kept the budget. `inferred` says which preprocessing was inferred, "" where it
    was declared."""

    package: Path | None
    report: Report
    inferred: str
    provenance: Provenance | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that the search is made with."""

    models: tuple[ModelFile, ...]
    declared: Declared
    post: Postprocess
    samples: Samples
    metric: Metric
    labels: bytes | None


def search_package(request: Request, *, progress: Progress = silent) -> Outcome:
    """Make candidates, measure them, and write the package of the best one, unless the budget refuses all.

    Raises UsageError, SamplesError, ConfigError, ModelError, DependencyError, and what the target raises.
    """
    started_s = time.monotonic()
    check_numbers(request)
    key = check_identity(request.identity)
    check_destinations(request.identity.output, request.page, inputs=_given(request))
    with (
        scratch_folder("edgeinfer-quantize-") as folder,
        closing(_open(request)) as target,
    ):
        progress("looking at the model and the samples", 0.0)
        ready = prepare(request, folder)
        bench, goal = _set_up(request, ready, target, folder, progress)
        ready = _with_warnings(ready, check_plausible(bench.judge.reference, ready.samples, task=request.identity.task))
        bench.started_s = started_s
        found = _search(bench, goal, request, progress)
        report = _report(request, ready, bench, found, goal, seconds=time.monotonic() - started_s)
        if report.chosen is not None:
            progress("writing the package", 1.0)
            _write(request, ready, bench, report, key)
    progress("done", 1.0)
    if report.chosen is None:
        return Outcome(None, report, ready.declared.inferred)
    with PackageFile(request.identity.output) as written:
        return Outcome(written.path, report, ready.declared.inferred, written.manifest.provenance)


def _given(request: Request) -> list[Path]:
    """The files that the user gave."""
    optional = (request.labels, request.converter, request.identity.sign_key)
    return [*request.models, request.data, *(path for path in optional if path is not None)]


def _with_warnings(ready: Prepared, warnings: tuple[str, ...]) -> Prepared:
    return replace(ready, samples=replace(ready.samples, warnings=(*ready.samples.warnings, *warnings)))


def _open(request: Request) -> Target:
    return open_target(request.target, threads=request.threads, fleet=request.fleet, sign_key=request.identity.sign_key)


def prepare(request: Request, folder: Path) -> Prepared:
    """Look at everything that the user gave, before anything is made."""
    labels = read_labels(request.labels)
    names = tuple(parse_labels(labels)) if labels is not None else ()
    task = request.identity.task
    loaded = load_samples(request.data, task=task, options=request.options, labels=names)
    models = _take_in(request, loaded, folder)
    # The threshold of an anomaly model follows from the scores: none is needed to make them.
    post = declare_post(request.postprocess, task, models[0].outputs, threshold=0.0)
    _check_measurable(request, post)
    declared = declare(request.preprocess, models[0].inputs[0], samples=loaded.hint)
    samples = _samples(request, models, declared, loaded)
    check_same(models, samples.x, feeding=request.feeding, threads=request.threads)
    models = (*models, *_converted(request, models, samples.x, folder))
    for model in models:
        check_fit(model.original or model.path, model, declared.preprocess, post, labels=labels)
    metric = choose_metric(request.metric, task, samples)
    return Prepared(models, declared, post, samples, metric, labels)


def _take_in(request: Request, loaded: Loaded, folder: Path) -> tuple[ModelFile, ...]:
    """The models, ONNX first: it is what latency ratios refer to."""
    shape = loaded.hint.shape[1:] if loaded.hint is not None else None
    models = take_in(
        request.models,
        folder,
        feeding=request.feeding,
        preprocess=request.preprocess,
        rows=shape,
        threads=request.threads,
    )
    return tuple(sorted(models, key=lambda model: model.engine != "onnx"))


def _check_measurable(request: Request, post: Postprocess) -> None:
    """Raises UsageError for what a sample alone, or a sample without more of the package, says nothing of."""
    if isinstance(post, ForecastPost | DistancePost) or named_arrays(request.postprocess) is not None:
        raise UsageError(
            f"--postprocess: candidates cannot be measured with {request.postprocess}",
            hint="edgeinfer package create packs such a model as it is",
        )


def _samples(request: Request, models: Sequence[ModelFile], declared: Declared, loaded: Loaded) -> Samples:
    """Samples as the float model takes them, with calibration samples set apart."""
    where = str(request.data)
    samples = prepared(loaded, declared, models[0].inputs[0], where=where)
    for model in models[1:]:
        # One package has one preprocessing: its variants take the same input.
        fit_to_model(
            np.zeros((1, *samples.x.shape)), model.input_shape, where=f"{where} for {model.original or model.path}"
        )
    return split(samples, task=request.identity.task, in_sequence=bool(request.feeding.states))


def _converted(request: Request, models: Sequence[ModelFile], rows: Rows, folder: Path) -> tuple[ModelFile, ...]:
    """An ONNX model that came alone as a TFLite file too, where the converter is at hand."""
    if len(models) != 1 or models[0].engine != "onnx" or request.feeding != FED_ALONE:
        return ()
    inside = folder / "converted"
    inside.mkdir()
    try:
        conversions = convert_onnx(models[0].path, inside, converter=request.converter) or ()
    except ModelError:
        if request.converter is not None:
            raise
        return ()  # what lies on the PATH is tried; nobody has asked for it
    for conversion in sorted(conversions, key=lambda one: one.kept_layout):
        try:
            (model,) = take_in([conversion.path], inside, rows=rows.shape)
            check_same([models[0], model], rows, threads=request.threads)
        except (ModelError, UsageError):
            continue  # a conversion that says something else, which its tool does not tell
        return (replace(model, notes=(*model.notes, f"converted from ONNX by onnx2tf {conversion.version}")),)
    return ()


def _set_up(
    request: Request, ready: Prepared, target: Target, folder: Path, progress: Progress
) -> tuple[Workbench, Goal]:
    floats = float_candidates(ready.models, feeding=request.feeding)
    _check_engines(floats, target)
    judge = Judge(ready.samples, request.identity.task, ready.post, ready.metric, request.threads)
    progress(f"evaluating {floats[0].id}", 0.0)
    judge.open(floats[0])
    materials = {
        candidate.engine: _material(candidate, model, ready.samples)
        for candidate, model in zip(floats, ready.models, strict=True)
    }
    if "onnx" in materials and "openvino" in target.engines:
        materials["openvino"] = for_openvino(materials["onnx"])
    guards = Guards(cuts_pairs=target.cuts_pairs)
    bench = Workbench(materials, judge, guards, target, folder, progress, request.threads)
    goal = Goal(
        max_drop=request.max_drop,
        min_agreement=request.min_agreement,
        max_bytes=request.max_bytes,
        objective=request.objective,
        time_s=request.time_s,
        percent=ready.metric.unit == "percent",
        base=judge.base,
    )
    return bench, goal


def _check_engines(floats: Sequence[Candidate], target: Target) -> None:
    """Raises UsageError where the target has no engine for any of the models: it has none for what is made of them."""
    if any(one.engine in target.engines for one in floats):
        return
    found = " and ".join(one.path.suffix for one in floats)
    suffixes = {"onnx": ".onnx", "litert": ".tflite"}
    hint = " or ".join(suffix for engine, suffix in suffixes.items() if engine in target.engines)
    raise UsageError(
        f"--target {target.name} has no engine for {found}, but for {', '.join(target.engines) or 'nothing'}",
        hint=f"give the model as a {hint} file" if hint else "install one there",
    )


def _material(candidate: Candidate, model: ModelFile, samples: Samples) -> Material:
    assert samples.calibration is not None  # noqa: S101 - split() has set it
    rows, group = samples.calibration, samples.calibration_group
    calibration = calibration_of(candidate, rows, group=group)
    # Rows alone: what few samples show does not depend on what came before them.
    few = calibration_of(candidate, rows.picked(spread(_GUARDED_ROWS, len(rows))))
    return gather(candidate, calibration, few=few, unquantizable=bool(model.unquantizable))


def _search(bench: Workbench, goal: Goal, request: Request, progress: Progress) -> Found:
    """Let the search give its orders, and the bench carry them out."""
    floats = list(bench.entries.values())
    offers = offers_of(list(bench.materials.values()), engines=bench.target.engines)
    search = climb(goal, offers, floats, exhaustive=request.exhaustive)
    try:
        order = next(search)
        while True:
            answer = bench.do(order)
            best = choose(bench.entries, goal, given=[entry.id for entry in floats])
            if best is not None and best.timing is not None and best.timing.ratio:
                progress.best(best.id, f"{1.0 / best.timing.ratio:.2f} times as fast as the float model")
            order = search.send(answer)
    except StopIteration as stop:
        found: Found = stop.value
        return found


def _report(request: Request, ready: Prepared, bench: Workbench, found: Found, goal: Goal, *, seconds: float) -> Report:
    given = bench.floats
    chosen = choose(found.entries, goal, given=given, leads=found.leads, cut_short=found.cut_short)
    verdicts = judge(found.entries, goal, chosen=chosen, given=given, leads=found.leads)
    notes = [
        f"{model.path.name if model.original is None else model.original.name}: {note}"
        for model in ready.models
        for note in model.notes
    ]
    notes += [f"{model.engine}: {model.unquantizable}" for model in ready.models if model.unquantizable]
    notes += [ready.declared.assumed] if ready.declared.assumed else []
    told = Told(
        goal=goal,
        metric=ready.metric,
        target=bench.target,
        samples=ready.samples,
        task=request.identity.task,
        given=given,
        classes=bench.judge.reference.rows.shape[-1],
        labels=tuple(parse_labels(ready.labels)) if ready.labels is not None else ready.samples.labels,
        notes=tuple(notes),
        command=request.command,
    )
    return make_report(found, verdicts, told, bench.said, seconds=seconds)


def _write(request: Request, ready: Prepared, bench: Workbench, report: Report, key: SigningKey | None) -> None:
    assert report.chosen is not None  # noqa: S101 - the caller has looked
    names = variants_to_pack(report.chosen, report.candidates, given=bench.floats, measured=bench.target.measured)
    rows = {row.variant: row for row in report.candidates}
    calibration = ready.samples.calibration
    assert calibration is not None  # noqa: S101 - split() has set it
    contents = Contents(
        variants=[bench.candidates[name] for name in names],
        preprocess=ready.declared.preprocess,
        postprocess=_postprocess(request, ready, bench, names[0]),
        x=ready.samples.x,
        sources=request.models,
        labels=ready.labels,
        report=msgspec.to_builtins(report),
        metrics={name: _metrics(rows[name], report.metric) for name in names},
        calibration_sha256=_digest(calibration),
        evaluation_sha256=ready.samples.sha256,
        typical=typical(ready.samples, task=request.identity.task),
        choose="first" if bench.target.measured else "measured",
    )
    write_variants(request.identity, contents, key=key, threads=request.threads)


def _postprocess(request: Request, ready: Prepared, bench: Workbench, first: str) -> Postprocess:
    """What the package declares: with the threshold that its first variant's scores give."""
    task, spec, outputs = request.identity.task, request.postprocess, ready.models[0].outputs
    if isinstance(ready.post, DetectPost):
        return ready.post
    if isinstance(ready.post, AnomalyPost):
        return declare_post(spec, task, outputs, threshold=threshold(Scored(bench.said[first]), ready.samples))
    return declare_post(spec, task, outputs, scores=bench.judge.reference.rows)


def _metrics(row: Row, metric: str) -> dict[str, float]:
    values = {
        metric: row.metric_value,
        "agreement": row.agreement,
        "latency_us": row.latency_us,
        "latency_ratio": row.latency_ratio,
    }
    return {name: value for name, value in values.items() if value is not None}


def _digest(rows: Rows) -> str:
    digest = hashlib.sha256()
    for index in range(len(rows)):
        digest.update(rows.row(index).tobytes())
    return digest.hexdigest()
