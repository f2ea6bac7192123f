"""Picture files for tests, written with OpenCV.

write_picture(tmp_path / "cat" / "a.png", (255, 0, 0))
"""

from pathlib import Path

import numpy as np

__all__ = ["write_picture"]


def write_picture(
    path: Path, color: tuple[int, int, int] = (0, 0, 0), *, size: tuple[int, int] = (8, 8), noise: int | None = None
) -> Path:
    """A picture of one BGR colour, (height, width) of `size`; with `noise` a seed of random pixels instead."""
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*size, 3), color, np.uint8)
    if noise is not None:
        pixels = np.random.default_rng(noise).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), pixels)
    return path
