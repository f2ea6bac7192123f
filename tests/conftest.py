"""What all tests share: where the labelled sample data lies, and that an interrupt means what it says."""

import os
import signal
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# A shell that runs the tests in the background has them ignore interrupts, and so every program that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real models and labelled samples; the test is skipped where there is none."""
    folder = Path(os.environ.get("EDGEINFER_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "models.json").is_file():
        pytest.skip(f"no labelled sample data at {folder}: set EDGEINFER_DATA")
    return folder


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY
