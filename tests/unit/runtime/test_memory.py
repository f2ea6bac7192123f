"""What the process takes in memory."""

import sys
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.runtime.memory import own_bytes, resident_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MEGABYTE = 1 << 20


class TestOwnBytes:
    def test_it_is_a_part_of_what_is_resident(self) -> None:
        assert 0 < own_bytes() < resident_bytes()

    def test_what_is_allocated_counts(self) -> None:
        before = own_bytes()
        block = np.ones(64 * MEGABYTE, dtype=np.uint8)
        assert own_bytes() - before > 48 * MEGABYTE
        assert block[-1] == 1

    def test_a_file_does_not_count(self, tmp_path: Path) -> None:
        path = tmp_path / "weights"
        path.write_bytes(bytes(64 * MEGABYTE))
        before, resident = own_bytes(), resident_bytes()
        mapped = np.memmap(path, dtype=np.uint8, mode="r")
        assert mapped.sum() == 0
        assert resident_bytes() - resident > 48 * MEGABYTE
        assert own_bytes() - before < 16 * MEGABYTE
