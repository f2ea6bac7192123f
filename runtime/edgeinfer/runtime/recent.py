"""What the pipelines said lately beside their results of frames: events, swaps, restarts, steps, drift.

recent = Recent()
append = recent.listening(buffer.append)
"""

import threading
from collections import deque
from collections.abc import Callable

from edgeinfer.runtime.results import OF_A_FRAME, Kind, Result

__all__ = ["Noted", "Recent"]

Append = Callable[[str, Result], None]
Noted = tuple[str, Result]  # pipeline, what it said

_KEPT = 32
_ROUTINE = OF_A_FRAME | {Kind.FRAMES}


class Recent:
    """Written by the pipelines' threads, one at a time, and read by others at any moment."""

    def __init__(self) -> None:
        self._noted: deque[Noted] = deque(maxlen=_KEPT)
        self._last: dict[tuple[str, Kind], Result] = {}  # never changed, but replaced; the newest comes last
        self._writing = threading.Lock()

    def listening(self, append: Append) -> Append:
        """`append`, with an ear on what passes. A result of a frame costs one look at a field."""

        def listen(pipeline: str, result: Result) -> None:
            append(pipeline, result)
            if result.extra is not None and result.kind not in _ROUTINE:
                self._note(pipeline, result)

        return listen

    def _note(self, pipeline: str, result: Result) -> None:
        key = (pipeline, result.kind)
        with self._writing:
            self._noted.append((pipeline, result))
            self._last = {**{other: last for other, last in self._last.items() if other != key}, key: result}

    def newest_first(self) -> list[Noted]:
        return list(self._noted.copy())[::-1]

    def last(self, kind: Kind) -> dict[str, Result]:
        """The newest of a kind by pipeline, in the order in which they came."""
        return {pipeline: result for (pipeline, found), result in self._last.items() if found is kind}
