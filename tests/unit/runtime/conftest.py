"""What tests of the runtime share."""

import pytest

from edgeinfer.runtime import quota_folder
from edgeinfer.runtime.quota_folder import QuotaFolder


@pytest.fixture
def patient_writers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow disk is not one that hangs: what was taken is written before a test looks for it."""
    close = QuotaFolder.close

    def close_when_written(folder: QuotaFolder, timeout_s: float = 60.0) -> None:
        close(folder, max(timeout_s, 60.0))

    monkeypatch.setattr(quota_folder, "_HANGS_S", 60.0)
    monkeypatch.setattr(QuotaFolder, "close", close_when_written)
