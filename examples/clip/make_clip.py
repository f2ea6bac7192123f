"""Makes the demo's video: handwritten digits that come, move and go, and a label for every frame.

    pip install scikit-learn opencv-python-headless
    python examples/clip/make_clip.py --output quantize/edgeinfer/quantize/examples

Writes `digits.avi` (Motion JPEG, 192 x 192, 12.5 frames/s, 24 s) and `digits.csv` (`frame,label`; -1 while no
digit is bright enough to be read). The digits are those held out from training.
"""

import argparse
import csv
import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "digits"))
from pictures import draw, load_digits, shift

SIZE = 192
FRAMES_PER_S = 12.5
FRAMES_PER_DIGIT = 20
ORDER = "314159265358979"
FADE_FRAMES = 4
READABLE = 0.5
JPEG_QUALITY = 80
SEED = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path())
    output = parser.parse_args().output
    frames, labels = make_frames()
    video = output / "digits.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), FRAMES_PER_S, (SIZE, SIZE))
    writer.set(cv2.VIDEOWRITER_PROP_QUALITY, JPEG_QUALITY)
    for frame in frames:
        writer.write(frame)
    writer.release()
    with (output / "digits.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("frame", "label"))
        table.writerows(enumerate(labels))
    print(
        f"{video.name}: {len(frames)} frames, {video.stat().st_size} bytes, {sum(n >= 0 for n in labels)} with a digit"
    )


def make_frames() -> tuple[list[np.ndarray], list[int]]:
    random = np.random.default_rng(SEED)
    digits, known = load_digits(held_out=True)
    frames, labels = [], []
    for character in ORDER:
        label = int(character)
        digit = digits[random.choice(np.flatnonzero(known == label))]
        start, end = random.uniform(-22.0, 22.0, (2, 2))
        height = random.uniform(0.62, 0.8) * SIZE
        tint = random.uniform(0.75, 1.0, 3)
        for index in range(FRAMES_PER_DIGIT):
            part = index / (FRAMES_PER_DIGIT - 1)
            right, down = start + (end - start) * part
            strength = min(1.0, (index + 0.5) / FADE_FRAMES, (FRAMES_PER_DIGIT - index - 0.5) / FADE_FRAMES)
            field = strength * shift(draw(digit, size=SIZE, height=height), right, down)
            frames.append(colored(field, tint, random))
            labels.append(label if strength > READABLE else -1)
    return frames, labels


def colored(field: np.ndarray, tint: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A field of 0..1 as a picture (192, 192, 3) uint8 BGR: a tinted digit on a dim background."""
    glow = 28.0 + 12.0 * np.linspace(0.0, 1.0, SIZE)[:, np.newaxis]
    grey = glow + (240.0 - glow) * field + random.normal(0.0, 2.5, field.shape)
    return np.clip(grey[..., np.newaxis] * tint, 0, 255).astype(np.uint8)


if __name__ == "__main__":
    main()
