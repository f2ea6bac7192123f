"""What size the model's input has where the model leaves it open: the package's declaration says so."""

import math

import msgspec

from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import AudioPre, ImagePre, Preprocess, TensorSpec, WindowPre

__all__ = ["concrete_shape", "resolve_input"]

_COLORS = 3


def concrete_shape(spec: TensorSpec) -> tuple[int, ...]:
    """The tensor's shape with 1 for what the model leaves open."""
    return tuple(1 if size < 0 else size for size in spec.shape)


def resolve_input(declared: Preprocess, spec: TensorSpec) -> TensorSpec:
    """The input with the sizes that the declaration gives to what the model leaves open; the batch is 1.

    Sizes are taken place by place where the declaration has as many as the model; one that is open alone follows from
    the number of values. Raises ModelError where they cannot be told, or the model has other ones.
    """
    if not any(size < 0 for size in spec.shape):
        return spec
    batch, *sizes = (1 if spec.shape[0] < 0 else spec.shape[0]), *spec.shape[1:]
    if any(size < 0 for size in sizes):
        sizes = _fill(sizes, _declared_sizes(declared), spec)
    return msgspec.structs.replace(spec, shape=(batch, *sizes))


def _declared_sizes(declared: Preprocess) -> tuple[int, ...]:
    """The sizes after the batch that the declaration makes, -1 for what it does not know."""
    match declared:
        case ImagePre(width=width, height=height, color=color):
            channels = 1 if color == "gray" else _COLORS
            return (height, width, channels) if declared.layout == "nhwc" else (channels, height, width)
        case WindowPre():
            named = max(len(declared.channels), len(declared.mean), len(declared.std))
            return (declared.length, len(declared.channels) or (named if named > 1 else -1))
        case AudioPre():
            return declared.shape
    return declared.shape


def _fill(sizes: list[int], declared: tuple[int, ...], spec: TensorSpec) -> list[int]:
    """`sizes` without -1."""
    if len(declared) == len(sizes):
        filled = [size if size >= 0 else given for size, given in zip(sizes, declared, strict=True)]
        sizes = filled
    elif sizes.count(-1) == 1 and -1 not in declared and declared:
        known = math.prod(size for size in sizes if size >= 0)
        rest, remainder = divmod(math.prod(declared), max(known, 1))
        sizes = [size if size >= 0 else (-1 if remainder else rest) for size in sizes]
    if any(size < 1 for size in sizes):
        raise ModelError(
            f"the model leaves sizes of its input {spec.name!r} open, {spec.shape}; the package declares {declared}",
            hint="declare what the input holds: length and channels of a window, shape of a tensor",
        )
    return sizes
