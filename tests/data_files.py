"""Files of the sample data that a test needs as they were published."""

import hashlib
import json
from pathlib import Path

import pytest

__all__ = ["is_published", "published"]


def is_published(data_dir: Path, file: str) -> bool:
    """Whether `file` is the one that the data's own list names: a copy may have been cut or written anew."""
    listed = json.loads((data_dir / "models.json").read_text())
    wanted: str = next(entry["sha256"] for entry in listed if entry["file"] == file)
    return hashlib.sha256((data_dir / file).read_bytes()).hexdigest() == wanted


def published(data_dir: Path, file: str) -> Path:
    """The file; the test is skipped where it is another one."""
    if not is_published(data_dir, file):
        pytest.skip(f"{file} is not the file that models.json names: its sha256 is another")
    return data_dir / file
