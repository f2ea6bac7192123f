"""Measures candidates side by side: accuracy and agreement on the held-back samples, then latency."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from edgeinfer.quantize import latency
from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.dataset import Samples
from edgeinfer.quantize.evaluate import Scored, agreement, metric_value, score_rows
from edgeinfer.quantize.latency import Latency
from edgeinfer.quantize.progress import Progress
from edgeinfer.quantize.search import Measured
from edgeinfer.runtime.engines import Engine, load_engine
from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import Postprocess, Task

__all__ = ["Measurement", "measure_candidates"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """A candidate with its figures; `scored` is None for one that was refused before it ran."""

    candidate: Candidate
    scored: Scored | None
    figures: Measured


def measure_candidates(
    candidates: Sequence[Candidate],
    samples: Samples,
    *,
    task: Task,
    post: Postprocess,
    threads: int,
    progress: Progress,
) -> list[Measurement]:
    """Measure each; the first one is the float model that the others are held against.

    A quantized candidate that its engine cannot run is refused with what the engine said; a float model that
    cannot be run raises ModelError. `post` is as for `score_rows`.
    """
    scored: dict[str, Scored] = {}
    refused = {c.id: c.refused for c in candidates if c.refused}
    for index, candidate in enumerate(candidates):
        if candidate.id in refused:
            continue
        start, share = 0.8 * index / len(candidates), 0.8 / len(candidates)
        step = f"evaluating {candidate.id}"
        progress(step, start)

        def tick(done: float, step: str = step, start: float = start, share: float = share) -> None:
            progress(step, start + share * done)

        try:
            scored[candidate.id] = score_rows(candidate, samples.x, post=post, threads=threads, tick=tick)
        except ModelError as error:
            if not candidate.quantized:
                raise
            refused[candidate.id] = error.message
    progress("measuring latency", 0.8)
    runnable = [c for c in candidates if c.id in scored]
    timed = _time(runnable, samples, threads=threads)
    reference = scored[candidates[0].id]
    return [
        _measurement(c, scored.get(c.id), reference, samples, task=task, timed=timed, refused=refused)
        for c in candidates
    ]


def _time(candidates: Sequence[Candidate], samples: Samples, *, threads: int) -> dict[str, Latency]:
    engines: dict[str, Engine] = {}
    with ExitStack() as stack:
        for candidate in candidates:
            engine = load_engine(candidate.engine, candidate.path, threads=threads)
            stack.callback(engine.close)
            engines[candidate.id] = engine
        return latency.measure(engines, samples.x[:1], reference=candidates[0].id)


def _measurement(
    candidate: Candidate,
    scored: Scored | None,
    reference: Scored,
    samples: Samples,
    *,
    task: Task,
    timed: dict[str, Latency],
    refused: dict[str, str],
) -> Measurement:
    size = candidate.path.stat().st_size if candidate.path.is_file() else 0
    if scored is None:
        figures = _figures(candidate, size, refused=refused[candidate.id])
        return Measurement(candidate, None, figures)
    time = timed[candidate.id]
    figures = Measured(
        variant=candidate.id,
        engine=candidate.engine,
        precision=candidate.precision,
        quantized=candidate.quantized,
        bytes=size,
        metric_value=metric_value(scored, reference, samples, task=task),
        agreement=agreement(scored, reference, samples, task=task),
        latency_us=round(time.latency_us, 2),
        latency_ratio=round(time.ratio, 4),
    )
    return Measurement(candidate, scored, figures)


def _figures(candidate: Candidate, size: int, *, refused: str) -> Measured:
    return Measured(
        variant=candidate.id,
        engine=candidate.engine,
        precision=candidate.precision,
        quantized=candidate.quantized,
        bytes=size,
        refused=refused,
    )
