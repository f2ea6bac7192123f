"""A candidate in shadow in every pipeline of its model, and what came of it in all of them together."""

from collections.abc import Sequence

from edgeinfer.runtime.learn.settings import ShadowConfig
from edgeinfer.runtime.learn.shadow import ShadowRun, disagreement_hook
from edgeinfer.runtime.model import LoadedModel
from edgeinfer.runtime.pipeline import Pipeline

__all__ = ["Shadows"]


class Shadows:
    """`candidates` are the new version, loaded once for each of the `pipelines`. Begins at once."""

    def __init__(
        self, digest: str, pipelines: Sequence[Pipeline], candidates: Sequence[LoadedModel], config: ShadowConfig
    ) -> None:
        self.digest = digest
        self._runs: list[tuple[Pipeline, ShadowRun]] = []
        for pipeline, candidate in zip(pipelines, candidates, strict=True):
            labels = pipeline.model.package.labels()
            run = ShadowRun(candidate, config, labels=labels, disagreed=disagreement_hook(pipeline.observers))
            self._runs.append((pipeline, run))
        for pipeline, run in self._runs:
            pipeline.add_observer(run)

    def cover(self, pipelines: Sequence[Pipeline]) -> bool:
        """Whether these are the pipelines that it runs in: a reload makes others."""
        return {id(pipeline) for pipeline, _ in self._runs} == {id(pipeline) for pipeline in pipelines}

    def agreement(self) -> float | None:
        """On how many of the frames both versions agree, 0..1, in the pipeline where it is fewest; None while it is
        under way. 1.0 where no frame has come any more."""
        if not all(run.finished or pipeline.ended for pipeline, run in self._runs):
            return None
        return min((run.report.agreement for _, run in self._runs if run.report.frames), default=1.0)

    def failure(self) -> str:
        """Why the new version is not to be used whatever it agreed on: it hung, or could not be compared."""
        return next((run.report.failed for _, run in self._runs if run.report.failed), "")

    def end(self) -> None:
        for pipeline, run in self._runs:
            pipeline.remove_observer(run)
