"""Packs existing model files as they are: models that were quantized elsewhere, and detectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgeinfer.quantize.arrays import load_arrays, normal_arrays
from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.dataset import Loaded, SampleOptions, Samples, load_samples, prepared
from edgeinfer.quantize.evaluate import score_rows, threshold
from edgeinfer.quantize.feeding import FED_ALONE, Feeding
from edgeinfer.quantize.fit import check_fit
from edgeinfer.quantize.golden import GOLDEN_COUNT
from edgeinfer.quantize.modelfile import ModelFile, is_integer, open_model, with_sizes
from edgeinfer.quantize.pack import Contents, Identity, check_identity, read_labels, write_variants
from edgeinfer.quantize.postprocessing import declare_post, named_arrays
from edgeinfer.quantize.preprocessing import Declared, declare, noise
from edgeinfer.quantize.reference import typical
from edgeinfer.quantize.rows import ArrayRows, Rows, fit_to_model, spread
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import ConfigError, UsageError
from edgeinfer.runtime.manifest import AnomalyPost, ClassifyPost, DistancePost, KeywordsPost, Postprocess
from edgeinfer.runtime.package import parse_labels

__all__ = ["CreateRequest", "Created", "pack_models"]

_SEED = 20240501
# Of the normal samples every third is held back: a threshold is set by what the centres have not seen.
_HELD_BACK = 3
_ENOUGH_HELD_BACK = 20


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """`models` in order of preference; `data` gives golden inputs, else they are random in the declared range."""

    models: Sequence[Path]
    identity: Identity
    labels: Path | None = None
    preprocess: str = ""
    postprocess: str = ""
    data: Path | None = None
    threads: int = 1
    feeding: Feeding = FED_ALONE
    options: SampleOptions = field(default_factory=SampleOptions)


@dataclass(frozen=True, slots=True)
class Created:
    """The package's digest, and what preprocessing was inferred for it, "" where it was declared."""

    digest: str
    inferred: str


def pack_models(request: CreateRequest) -> Created:
    """Write the package. Raises UsageError, SamplesError, ConfigError, ModelError, DependencyError."""
    if not request.models:
        raise UsageError("expected a model file, found none")
    key = check_identity(request.identity)
    labels = read_labels(request.labels)
    models = [
        open_model(path, threads=request.threads, feeding=request.feeding, open_sizes=bool(request.preprocess))
        for path in request.models
    ]
    loaded = _loaded(request, labels)
    declared = declare(request.preprocess, models[0].inputs[0], samples=loaded.hint if loaded is not None else None)
    models = [with_sizes(model, declared.preprocess) for model in models]
    variants = _as_variants(models, request.feeding)
    samples = _samples(models, declared, loaded, where=str(request.data))
    x = _inputs(models, declared, samples)
    post = declare_post(
        request.postprocess,
        request.identity.task,
        models[0].outputs,
        threshold=0.0 if samples is not None else None,
    )
    arrays = _arrays(request, post, variants[0], x, samples)
    for model in models:
        check_fit(model.path, model, declared.preprocess, post, labels=labels, arrays=arrays)
    contents = Contents(
        variants=variants,
        preprocess=declared.preprocess,
        postprocess=_postprocess(post, request, models[0], variants[0], x, samples, arrays),
        x=x,
        sources=request.models,
        labels=labels,
        arrays=arrays,
        evaluation_sha256=samples.sha256 if samples is not None else "",
        typical=typical(samples, task=request.identity.task) if samples is not None else None,
    )
    return Created(write_variants(request.identity, contents, key=key, threads=request.threads), declared.inferred)


def _loaded(request: CreateRequest, labels: bytes | None) -> Loaded | None:
    if request.data is None:
        return None
    names = tuple(parse_labels(labels)) if labels is not None else ()
    return load_samples(request.data, task=request.identity.task, options=request.options, labels=names)


def _as_variants(models: list[ModelFile], feeding: Feeding) -> list[Candidate]:
    variants = [_as_variant(model, feeding) for model in models]
    names = [variant.id for variant in variants]
    if len(set(names)) != len(names):
        raise UsageError(f"expected models that differ in engine or precision, found {', '.join(names)}")
    return variants


def _as_variant(model: ModelFile, feeding: Feeding) -> Candidate:
    precision = _precision(model)
    return Candidate(
        f"{model.engine}-{precision}",
        model.engine,
        precision,
        model.path,
        quantized=precision != "fp32",
        feeding=replace(feeding, input=model.inputs[0]),
    )


def _precision(model: ModelFile) -> str:
    if is_integer(model.inputs[0]):
        return "int8"
    if model.engine == "litert":
        from edgeinfer.quantize.schemes.litert import integer_weights

        return "int8-weights" if integer_weights(model.path.read_bytes()) else "fp32"
    from edgeinfer.quantize.schemes.onnx import quantized_nodes

    return "int8" if quantized_nodes(model.path) else "fp32"


def _samples(models: list[ModelFile], declared: Declared, loaded: Loaded | None, *, where: str) -> Samples | None:
    if loaded is None:
        return None
    samples = prepared(loaded, declared, models[0].inputs[0], where=where)
    for model in models[1:]:
        fit_to_model(np.zeros((1, *samples.x.shape)), model.input_shape, where=f"{where} for {model.path}")
    return samples


def _inputs(models: list[ModelFile], declared: Declared, samples: Samples | None) -> Rows:
    """The samples, or noise where there are none."""
    if samples is not None:
        return samples.x
    made = noise(declared.preprocess, models[0].inputs[0], count=GOLDEN_COUNT, seed=_SEED)
    for model in models:
        fit_to_model(made, model.input_shape, where=f"random input for {model.path}")
    return ArrayRows(made)


def _postprocess(
    post: Postprocess,
    request: CreateRequest,
    model: ModelFile,
    variant: Candidate,
    x: Rows,
    samples: Samples | None,
    arrays: Mapping[str, Array],
) -> Postprocess:
    """`post` completed by what the first variant says of `x`."""
    task, spec = request.identity.task, request.postprocess
    if isinstance(post, ClassifyPost | KeywordsPost):
        scored = score_rows(variant, x.picked(spread(GOLDEN_COUNT, len(x))), post=post, threads=request.threads)
        return declare_post(spec, task, model.outputs, scores=scored.rows)
    if isinstance(post, AnomalyPost | DistancePost) and samples is not None:
        rows = np.arange(len(x)) if isinstance(post, AnomalyPost) else _held_back(samples)
        scored = score_rows(variant, x.picked(rows), post=post, threads=request.threads, arrays=arrays)
        judged = replace(samples, x=x.picked(rows), y=samples.y[rows])
        return declare_post(spec, task, model.outputs, threshold=threshold(scored, judged))
    return post


def _arrays(
    request: CreateRequest, post: Postprocess, variant: Candidate, x: Rows, samples: Samples | None
) -> Mapping[str, Array]:
    """Those that are named, or what is normal of the samples; none where the postprocessing needs none."""
    named = named_arrays(request.postprocess)
    if named is not None:
        return load_arrays(named)
    if not isinstance(post, DistancePost):
        return {}
    if samples is None:
        raise ConfigError(
            "--postprocess: expected the centres to measure distances from, found none",
            hint="arrays=FILE.npz with the array 'centres', or --data with samples of which the normal ones are known",
        )
    seen = np.setdiff1d(np.flatnonzero(samples.y == 0), _held_back(samples, all_where_few=False))
    # The scores of a classification are the values of an output, as they are.
    embeddings = score_rows(variant, x.picked(seen), post=ClassifyPost(post.output), threads=request.threads)
    return normal_arrays(embeddings.rows, post)


def _held_back(samples: Samples, *, all_where_few: bool = True) -> Array:
    """Places of the normal samples that set the threshold; all of them where these would be few."""
    normal = np.flatnonzero(samples.y == 0)
    held = normal[_HELD_BACK - 1 :: _HELD_BACK]
    if len(held) >= _ENOUGH_HELD_BACK:
        return held
    return normal if all_where_few else held[:0]
