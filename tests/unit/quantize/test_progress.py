"""Who is told how far a search is, and what a person in front of a terminal sees."""

import io

import pytest
from rich.console import Console

from edgeinfer.quantize.progress import Progress, Seen, listening, scaled, silent, terminal_display
from edgeinfer.quantize.scoreboard import Scoreboard


class Recorder:
    def __init__(self) -> None:
        self.steps: list[tuple[str, float]] = []
        self.seen: list[Seen] = []
        self.bests: list[str] = []

    def __call__(self, step: str, done: float, /) -> None:
        self.steps.append((step, done))

    def tried(self, seen: Seen, /) -> None:
        self.seen.append(seen)

    def best(self, variant: str, text: str, /) -> None:
        self.bests.append(f"{variant}: {text}")


def _tell(progress: Progress) -> None:
    progress("half", 0.5)
    progress.tried(Seen("a", "made"))
    progress.best("a", "fast")


def test_silence_and_plain_functions_take_everything() -> None:
    _tell(silent)
    steps: list[tuple[str, float]] = []
    _tell(listening(lambda step, done: steps.append((step, done))))
    assert steps == [("half", 0.5)]
    assert listening(silent) is silent


def test_parts_of_parts_are_scaled() -> None:
    recorder = Recorder()
    _tell(scaled(scaled(recorder, 0.0, 0.5), 0.2, 1.0))
    assert [(step, round(done, 9)) for step, done in recorder.steps] == [("half", 0.3)]
    assert [seen.variant for seen in recorder.seen] == ["a"]
    assert recorder.bests == ["a: fast"]


def test_no_terminal_no_word(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal_display("quantizing") as progress:
        _tell(progress)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def _board(tried: int = 12) -> Scoreboard:
    times = iter([0.0] + [75.0] * 99)
    board = Scoreboard("quantizing kws 1.0.0", clock=lambda: next(times))
    board("evaluating", 0.6)
    for number in range(tried):
        board.tried(Seen(f"variant-{number}", "screened", agreement=0.99, bytes=43 << 10, ratio=0.7))
        refused = number % 3 == 0
        board.tried(
            Seen(
                f"variant-{number}",
                "evaluated",
                metric_value=0.9163,
                verdict="refused" if refused else "accepted",
                reason="loses 12 points" if refused else "",
            )
        )
    board.best("variant-1", "1.43 times as fast")
    return board


def _shown(board: Scoreboard, width: int, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(board)
    return capture.get().splitlines()


def test_display_shows_the_last_tried_with_figures_and_the_best() -> None:
    lines = _shown(_board(), 100, 24)
    assert "60%" in lines[0]
    assert "1:15" in lines[0]
    assert "12 tried, 4 refused" in lines[2]
    assert [line.split()[1] for line in lines[3:11]] == [f"variant-{number}" for number in range(4, 12)]
    # Figures of earlier stages stay.
    assert lines[-2].split()[2:6] == ["0.9163", "0.9900", "43", "0.70"]
    assert lines[-1].split("best so far")[1].split() == ["variant-1", "1.43", "times", "as", "fast"]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 15), (40, 8), (20, 4), (10, 2)])
def test_display_fits(width: int, height: int) -> None:
    lines = _shown(_board(), width, height)
    assert max(len(line) for line in lines) <= width
    assert len(lines) <= max(height - 1, 4)


def test_what_is_done_does_not_go_back_and_names_do_not_steer_the_terminal() -> None:
    board = _board(1)
    board("step back \x1b[2J", 0.1)
    board.tried(Seen("\x1b]0;evil\x07[red]markup[/red]", "made"))
    lines = _shown(board, 80, 24)
    assert "60%" in lines[0]
    assert "\x1b" not in "".join(lines)
    assert "[red]markup[/red]" in "".join(lines)
