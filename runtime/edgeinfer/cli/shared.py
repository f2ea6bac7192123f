"""What commands share: options of the same meaning, and how they print.

Results go to stdout, either one JSON document or a table; nothing else goes there.
"""

import enum
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from edgeinfer.runtime.errors import UsageError

__all__ = ["JsonFlag", "TaskName", "existing", "print_json", "print_line", "print_table"]

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


class TaskName(enum.Enum):
    """The tasks of a package, as Typer wants a closed choice. A test holds it against the manifest's."""

    CLASSIFICATION = "classification"
    DETECTION = "detection"
    ANOMALY = "anomaly"
    KEYPOINTS = "keypoints"
    SEGMENTATION = "segmentation"
    EMBEDDING = "embedding"
    REGRESSION = "regression"
    RAW = "raw"


def print_json(document: object) -> None:
    """One JSON document, indented, and a newline."""
    import msgspec

    print_line(msgspec.json.format(msgspec.json.encode(document), indent=1).decode())


def print_line(text: str = "") -> None:
    sys.stdout.write(f"{text}\n")


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns padded to their widest cell; numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in [list(header), *cells]) for column in range(len(header))]
    numeric = [
        bool(rows) and all(isinstance(row[column], int | float) for row in rows) for column in range(len(header))
    ]
    for row in [list(header), *cells]:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        print_line("  ".join(padded).rstrip())


def existing(path: Path) -> Path:
    """`path`, which was named on the command line. Raises UsageError where there is no such file."""
    if not path.exists():
        raise UsageError(f"{path}: no such file")
    return path
