"""Packs existing model files as they are: models that were quantized elsewhere, and detectors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.dataset import Samples, fit_to_model, load_samples
from edgeinfer.quantize.evaluate import score_rows, threshold
from edgeinfer.quantize.fit import check_fit
from edgeinfer.quantize.golden import GOLDEN_COUNT, pick_inputs
from edgeinfer.quantize.modelfile import ModelFile, is_integer, open_model
from edgeinfer.quantize.pack import Contents, Identity, check_identity, read_labels, write_variants
from edgeinfer.quantize.postprocessing import declare_post
from edgeinfer.quantize.preprocessing import Declared, declare, model_inputs
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import UsageError
from edgeinfer.runtime.manifest import AnomalyPost, ClassifyPost, ImagePre, Postprocess

__all__ = ["CreateRequest", "Created", "pack_models"]

_SEED = 20240501


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
    models = [open_model(path, threads=request.threads) for path in request.models]
    variants = [_as_variant(model) for model in models]
    names = [variant.id for variant in variants]
    if len(set(names)) != len(names):
        raise UsageError(f"expected models that differ in engine or precision, found {', '.join(names)}")
    samples = load_samples(request.data, task=request.identity.task) if request.data is not None else None
    declared = declare(request.preprocess, models[0].inputs[0], samples=samples.x if samples is not None else None)
    x = _inputs(models, declared, samples, where=str(request.data))
    post = declare_post(
        request.postprocess,
        request.identity.task,
        models[0].outputs,
        threshold=0.0 if samples is not None else None,
    )
    for model in models:
        check_fit(model.path, model, declared.preprocess, post, labels=labels)
    contents = Contents(
        variants=variants,
        preprocess=declared.preprocess,
        postprocess=_postprocess(post, request, models[0], variants[0], x, samples),
        x=x,
        sources=request.models,
        labels=labels,
        evaluation_sha256=samples.sha256 if samples is not None else "",
    )
    return Created(write_variants(request.identity, contents, key=key, threads=request.threads), declared.inferred)


def _as_variant(model: ModelFile) -> Candidate:
    precision = _precision(model)
    return Candidate(f"{model.engine}-{precision}", model.engine, precision, model.path, quantized=precision != "fp32")


def _precision(model: ModelFile) -> str:
    if is_integer(model.inputs[0]):
        return "int8"
    if model.engine == "litert":
        from edgeinfer.quantize.schemes.litert import integer_weights

        return "int8-weights" if integer_weights(model.path.read_bytes()) else "fp32"
    from edgeinfer.quantize.schemes.onnx import quantized_nodes

    return "int8" if quantized_nodes(model.path) else "fp32"


def _inputs(models: list[ModelFile], declared: Declared, samples: Samples | None, *, where: str) -> Array:
    spec = models[0].inputs[0]
    x = _random_inputs(models[0], declared) if samples is None else model_inputs(samples.x, declared, spec, where=where)
    for model in models:
        fit_to_model(x, model.input_shape, where=f"{where if samples is not None else 'random input'} for {model.path}")
    return x


def _random_inputs(model: ModelFile, declared: Declared) -> Array:
    """Seeded noise in the range that the declared preprocessing gives, as the float model takes it."""
    preprocess = declared.preprocess
    low, high = -1.0, 1.0
    if isinstance(preprocess, ImagePre):
        low = (0.0 - max(preprocess.mean)) / max(preprocess.std)
        high = (255.0 - min(preprocess.mean)) / min(preprocess.std)
    random = np.random.default_rng(_SEED)
    return random.uniform(low, high, (GOLDEN_COUNT, *model.input_shape)).astype(np.float32)


def _postprocess(
    post: Postprocess,
    request: CreateRequest,
    model: ModelFile,
    variant: Candidate,
    x: Array,
    samples: Samples | None,
) -> Postprocess:
    """`post` completed by what the first variant says of `x`."""
    task, spec = request.identity.task, request.postprocess
    if isinstance(post, ClassifyPost):
        scored = score_rows(variant, pick_inputs(x), post=post, threads=request.threads)
        return declare_post(spec, task, model.outputs, scores=scored.rows)
    if isinstance(post, AnomalyPost) and samples is not None:
        scored = score_rows(variant, x, post=post, threads=request.threads)
        return declare_post(spec, task, model.outputs, threshold=threshold(scored, replace(samples, x=x)))
    return post
