"""Candidates: the files that are measured against each other, and how they are made from the given models."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeinfer.quantize.feeding import FED_ALONE, Feeding, OneInput
from edgeinfer.quantize.modelfile import ModelFile
from edgeinfer.runtime.engines import Engine, load_engine
from edgeinfer.runtime.errors import UsageError

__all__ = ["Candidate", "float_candidates", "open_candidate"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One file to measure. `refused` says why it is none, before anything was measured; "" means it is one.

    `quantized` tells a made candidate from the float model that the user gave.
    """

    id: str
    engine: str
    precision: str
    path: Path
    quantized: bool
    refused: str = ""
    feeding: Feeding = FED_ALONE


def open_candidate(candidate: Candidate, *, threads: int = 1) -> Engine:
    """Its engine, as one of a single input. Raises ModelError, DependencyError."""
    engine = load_engine(candidate.engine, candidate.path, threads=threads)
    return engine if candidate.feeding == FED_ALONE else OneInput(engine, candidate.feeding)


def float_candidates(models: Sequence[ModelFile], *, feeding: Feeding = FED_ALONE) -> list[Candidate]:
    """The given models themselves. Raises UsageError for two of a kind."""
    engines = [model.engine for model in models]
    if len(set(engines)) != len(engines):
        twice = next(engine for engine in engines if engines.count(engine) > 1)
        files = " and ".join(str(model.original or model.path) for model in models if model.engine == twice)
        raise UsageError(f"expected at most one model of each format, found {files} for {twice}")
    return [
        Candidate(
            f"{model.engine}-fp32",
            model.engine,
            "fp32",
            model.path,
            quantized=False,
            feeding=feeding if feeding == FED_ALONE else replace(feeding, input=model.inputs[0]),
        )
        for model in models
    ]
