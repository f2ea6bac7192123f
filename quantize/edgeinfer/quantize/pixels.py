"""Whether arrays of pictures are what a declaration makes, or what it makes it of: a model that is fed with 0..255
where it was trained on 0..1 still says something, and every candidate agrees with it."""

import numpy as np

from edgeinfer.quantize.modelfile import is_integer
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import SamplesError
from edgeinfer.runtime.manifest import ImagePre, Preprocess, TensorSpec

__all__ = ["ASSUMED", "are_pixels", "check_range"]

ASSUMED = "uint8 samples are pictures before the declared mean and std (else say --preprocess raw=false)"
"""What is said where `are_pixels`."""
# Of the range that pictures have: resizing with some filters overshoots.
_MARGIN = 0.1


def are_pixels(samples: Array | None, preprocess: Preprocess, model_input: TensorSpec) -> bool:
    """Whether samples (N, height, width, ...) can only be pictures before the arithmetic: what comes after it has
    fractions, but for 0 and 1, as in drawings of black and white. Channels first, they have been through something."""
    if samples is None or samples.dtype != np.uint8 or not isinstance(preprocess, ImagePre) or is_integer(model_input):
        return False
    if samples.shape[1:3] != (preprocess.height, preprocess.width) or int(samples.max(initial=0)) <= 1:
        return False
    return any(mean != 0.0 for mean in preprocess.mean) or any(std != 1.0 for std in preprocess.std)


def check_range(x: Array, preprocess: Preprocess, *, where: str) -> None:
    """Raises SamplesError for pictures as the model takes them that the declared arithmetic cannot have made: a device
    would feed the model with others."""
    if not isinstance(preprocess, ImagePre):
        return
    mean, std = np.array(preprocess.mean), np.array(preprocess.std)
    low, high = float(((0.0 - mean) / std).min()), float(((255.0 - mean) / std).max())
    least, most, margin = float(x.min()), float(x.max()), _MARGIN * (high - low)
    if low - margin <= least and most <= high + margin:
        return
    made, found = f"{low:g} to {high:g}", f"{least:g} to {most:g}"
    raise SamplesError(
        f"{where}: expected pictures as --preprocess makes them, with values of {made}, found {found}",
        hint="--preprocess raw=true says that they are pictures (N, height, width, channels) before its mean and std; "
        "else mend mean and std",
    )
