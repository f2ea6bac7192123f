"""The newest inferred frame of each pipeline, for whoever looks. Costs a pipeline two assignments a frame.

board = LiveBoard()
observer = board.observe("door", labels)     # one of the pipeline's observers
board.newest("door")                         # what it saw last, or None
"""

from collections.abc import Iterable
from typing import NamedTuple

from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.results import Result
from edgeinfer.runtime.stages import Seen

__all__ = ["LiveBoard", "LiveView", "Look"]


class Look(NamedTuple):
    """A frame with what was found in it; `labels` names the classes. The frame's data may be the source's own memory,
    so what is read from it may be part of the next picture."""

    frame: Frame
    result: Result
    labels: tuple[str, ...]


class LiveView:
    """An observer that keeps the last frame, and nothing else."""

    def __init__(self, board: "LiveBoard", pipeline: str, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self.seen: tuple[Frame, Result] | None = None
        self._board = board
        self._pipeline = pipeline
        self._is_shown = False

    def __call__(self, seen: Seen) -> Iterable[Result]:
        self.seen = (seen.frame, seen.result)
        if not self._is_shown:
            self._is_shown = True
            self._board.show(self._pipeline, self)
        return ()

    def close(self) -> None:
        self._board.forget(self._pipeline, self)


class LiveBoard:
    """The views of all pipelines. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._views: dict[str, LiveView] = {}

    def observe(self, pipeline: str, labels: tuple[str, ...]) -> LiveView:
        """A view that takes the place of the pipeline's earlier one with its first frame: a pipeline that never comes
        to run shows nothing."""
        return LiveView(self, pipeline, labels)

    def show(self, pipeline: str, view: LiveView) -> None:
        self._views[pipeline] = view

    def forget(self, pipeline: str, view: LiveView) -> None:
        if self._views.get(pipeline) is view:
            del self._views[pipeline]

    def newest(self, pipeline: str) -> Look | None:
        """None for a pipeline that has inferred nothing yet, or is not there."""
        view = self._views.get(pipeline)
        seen = view.seen if view is not None else None
        return Look(*seen, view.labels) if view is not None and seen is not None else None
