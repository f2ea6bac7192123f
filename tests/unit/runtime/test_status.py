"""The status document: what it says of the governor."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edgeinfer.runtime.handoff import RuntimeDb
from edgeinfer.runtime.recent import Recent
from edgeinfer.runtime.results import Kind, Result
from edgeinfer.runtime.status import StatusBoard


def governor(folder: Path, steps: list[tuple[str, int, int]], *running: str) -> dict[str, Any]:
    """What is shown after `steps`: pipeline, its level, and the time on the wall clock."""
    recent = Recent()
    append = recent.listening(lambda *_: None)
    for pipeline, level, t_ns in steps:
        append(pipeline, Result(Kind.STEP, t_ns, extra={"step": "frame_rate", "level": level}))
    db = RuntimeDb(folder / "runtime.db")
    board = StatusBoard(db, recent, has_governor=True)
    pipelines: Any = [SimpleNamespace(config=SimpleNamespace(name=name)) for name in running]
    try:
        return board._governor(pipelines)
    finally:
        db.close()


def test_the_level_is_that_of_the_pipeline_that_is_furthest_down(tmp_path: Path) -> None:
    shown = governor(tmp_path, [("door", 1, 10), ("yard", 1, 20), ("yard", 3, 30), ("door", 2, 40)], "door", "yard")
    assert shown == {"step": "frame_rate", "level": 3, "pipeline": "door", "t_ns": 40}


def test_the_last_step_is_the_one_that_came_last_whatever_the_clock_says(tmp_path: Path) -> None:
    shown = governor(tmp_path, [("door", 1, 900), ("yard", 1, 1000), ("door", 2, 5)], "door", "yard")
    assert (shown["pipeline"], shown["t_ns"], shown["level"]) == ("door", 5, 2)


def test_pipelines_that_are_gone_and_steps_that_were_never_taken_count_for_nothing(tmp_path: Path) -> None:
    assert governor(tmp_path, [("door", 4, 1)], "yard") == {"level": 0}
    assert governor(tmp_path, [], "yard") == {"level": 0}
