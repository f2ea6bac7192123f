"""What all tests share: where the labelled sample data and temporary files lie, how random examples are drawn, and that
an interrupt means what it says."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parent.parent

# A shell that runs the tests in the background has them ignore interrupts, and so every program that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# New examples are tried wherever somebody is there to mend what they find: each run on a developer's machine draws
# others. CI draws the same ones each time, so that a change fails there by what it changes. Neither is timed.
_UNTIMED = settings(
    deadline=None,
    derandomize=False,
    print_blob=True,
    # All examples of a test share its folder, on purpose: each writes its files anew.
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("explore", _UNTIMED)
settings.register_profile("ci", _UNTIMED, derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "explore")


@pytest.fixture(scope="session", autouse=True)
def _temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests, and the programs that they start, make in the folder for temporary files lies among pytest's own:
    later runs remove it, also where a run was ended."""
    folder = str(tmp_path_factory.mktemp("t"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


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
