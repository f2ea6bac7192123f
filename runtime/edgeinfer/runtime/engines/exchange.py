"""What an isolated engine and its process say to each other: small messages over a socket, tensors in shared memory.

One packet asks, one answers. Each names the tensors by dtype, shape and offset in a region of anonymous memory that
both have mapped: one region for inputs, which the parent writes, one for outputs, which the child writes. The memory
has no name in /dev/shm and is gone with the last of the two.
"""

import fcntl
import mmap
import os
import weakref
from collections.abc import Sequence
from math import prod

import msgspec
import numpy as np

from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import TensorSpec

__all__ = ["MAX_MESSAGE_BYTES", "Answer", "Hello", "Placed", "Region"]

MAX_MESSAGE_BYTES = 128 << 10
_MAX_REGION_BYTES = 1 << 30
_ALIGNMENT = 64  # a cache line; what SIMD kernels like best
_KINDS = "biuf"  # bool, int, uint, float: dtypes whose bytes are their value


class Hello(msgspec.Struct, frozen=True):
    """The child's first message: what it has loaded, or why it could not. `is_missing`: the engine's library is."""

    version: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    error: str = ""
    is_missing: bool = False


class Placed(msgspec.Struct, frozen=True, array_like=True):
    """A tensor in a region."""

    dtype: str
    shape: tuple[int, ...]
    offset: int


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """The outputs of a call, or why there are none."""

    outputs: tuple[Placed, ...] = ()
    error: str = ""


class Region:
    """Memory that two processes share. It grows and never shrinks, so that no reader loses the ground it stands on."""

    def __init__(self, descriptor: int | None = None) -> None:
        """Attach the region that `descriptor` stands for, or make one."""
        if descriptor is None:
            descriptor = os.memfd_create("edgeinfer", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self.descriptor = descriptor
        self._close_descriptor = weakref.finalize(self, os.close, descriptor)
        self._map: mmap.mmap | None = None
        self._size = 0
        # Of the last arrays that were written: most models are given the same shapes again and again.
        self._signature: list[tuple[np.dtype[np.generic], tuple[int, ...]]] = []
        self._placed: tuple[Placed, ...] = ()
        self._views: list[Array] = []

    def put(self, arrays: Sequence[Array]) -> tuple[Placed, ...]:
        """Write `arrays` one behind the other. Raises ModelError for what cannot be shared."""
        signature = [(array.dtype, array.shape) for array in arrays]
        if signature != self._signature:
            self._lay_out(signature)
        for view, array in zip(self._views, arrays, strict=True):
            view[...] = array
        return self._placed

    def get(self, placed: Sequence[Placed]) -> list[Array]:
        """Views of what the other side wrote, valid until it writes again. Raises ModelError for what does not lie
        in the region."""
        try:
            return [self._view(one) for one in placed]
        except (ValueError, TypeError, OverflowError, OSError) as error:
            raise ModelError(f"the engine's process gave a tensor that does not fit its memory: {error}") from error

    def close(self) -> None:
        """Give the memory back. Views that are still held keep their mapping."""
        self._close_descriptor()
        self.descriptor = -1  # the number may soon be another file's
        self._map, self._size, self._views, self._signature = None, 0, [], []

    def _lay_out(self, signature: list[tuple[np.dtype[np.generic], tuple[int, ...]]]) -> None:
        placed, offset = [], 0
        for dtype, shape in signature:
            if dtype.kind not in _KINDS:
                raise ModelError(f"expected tensors of numbers, found dtype {dtype}")
            placed.append(Placed(dtype.str, shape, offset))
            offset += -(-prod(shape) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
        if offset > _MAX_REGION_BYTES:
            raise ModelError(f"expected tensors of at most {_MAX_REGION_BYTES} bytes together, found {offset}")
        if offset > self._size:
            os.ftruncate(self.descriptor, -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE)
        self._signature = []  # nothing is known where one of these fails
        self._views = [self._view(one) for one in placed]
        self._placed, self._signature = tuple(placed), signature

    def _view(self, placed: Placed) -> Array:
        dtype = np.dtype(placed.dtype)
        count = prod(placed.shape)
        if dtype.kind not in _KINDS or count < 0 or placed.offset < 0:
            raise ValueError(f"{placed}")
        if not count:
            return np.empty(placed.shape, dtype)
        if placed.offset + count * dtype.itemsize > self._size:
            self._map_again()
        if self._map is None:
            raise ValueError("nothing is there")
        return np.frombuffer(self._map, dtype, count, placed.offset).reshape(placed.shape)

    def _map_again(self) -> None:
        """The other side, or this one, has made it larger. An old mapping lives on in the views of it."""
        self._size = os.fstat(self.descriptor).st_size
        self._map = mmap.mmap(self.descriptor, self._size) if self._size else None
