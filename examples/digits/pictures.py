"""Handwritten digits as small grey pictures: the data of the digits model, its samples and the demo clip.

The digits are those that ship with scikit-learn: 1797 pictures of 8 x 8, from the test set of the "Optical
Recognition of Handwritten Digits" data set (E. Alpaydin, C. Kaynak; UCI, CC BY 4.0). The last 360 come from
other writers than the rest, by the data set's order: they are held out from all training.
"""

import cv2
import numpy as np
import numpy.typing as npt

SIZE = 32
HELD_OUT = 360

Picture = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def load_digits(*, held_out: bool) -> tuple[Floats, npt.NDArray[np.int64]]:
    """The digits (N, 8, 8) in 0..1 and their labels: those to train with, or those held out."""
    from sklearn.datasets import load_digits as load

    data = load()
    images = (data.images / 16.0).astype(np.float32)
    labels = data.target.astype(np.int64)
    part = slice(-HELD_OUT, None) if held_out else slice(0, -HELD_OUT)
    return images[part], labels[part]


def draw(digit: Floats, *, size: int, height: float) -> Floats:
    """A digit (8, 8) in the middle of a `size` x `size` field, `height` pixels high, 0..1."""
    side = max(8, round(height))
    grown = np.clip(cv2.resize(digit, (side, side), interpolation=cv2.INTER_CUBIC), 0.0, 1.0)
    field = np.zeros((size, size), np.float32)
    start = (size - side) // 2
    field[start : start + side, start : start + side] = grown
    return field


def shift(field: Floats, right: float, down: float) -> Floats:
    """The field moved by parts of a pixel; what enters is 0."""
    matrix = np.array([[1.0, 0.0, right], [0.0, 1.0, down]], np.float32)
    moved = cv2.warpAffine(field, matrix, field.shape[::-1], flags=cv2.INTER_LINEAR)
    return np.asarray(moved, np.float32)


def picture(digit: Floats, random: np.random.Generator) -> Picture:
    """One digit as a camera may see it: anywhere near the middle, of any size, brightness and noise."""
    height = random.uniform(17.0, 28.0)
    room = (SIZE - height) / 2 + 1.5
    field = shift(draw(digit, size=SIZE, height=height), *random.uniform(-room, room, 2))
    dark = random.uniform(0.0, 70.0)
    light = random.uniform(dark + 70.0, 255.0)
    noisy = dark + (light - dark) * field + random.normal(0.0, random.uniform(0.0, 10.0), field.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def pictures(digits: Floats, random: np.random.Generator) -> Picture:
    """One picture of each digit, uint8 (N, 1, 32, 32)."""
    return np.stack([picture(digit, random) for digit in digits])[:, np.newaxis]
