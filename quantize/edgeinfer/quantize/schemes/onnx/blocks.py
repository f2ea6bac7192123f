"""Matrices in blocks of 8 or 4 bits that the engine multiplies as they are (MatMulNBits).

Memory holds the small weights too, not only the file, and large matrices run faster where it is memory that a run
waits for. Convolutions have no such kernel: they are stored in 8 bits (`storage`).

The operation and its packing: onnxruntime, docs/ContribOperators.md, com.microsoft.MatMulNBits.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.quantize.schemes.base import Calibration, Plan, Precision
from edgeinfer.quantize.schemes.onnx.census import no_op
from edgeinfer.quantize.schemes.onnx.modelproto import copied, save, wrapped_errors
from edgeinfer.quantize.schemes.onnx.preparation import prepared
from edgeinfer.quantize.schemes.onnx.storage import fitted, store
from edgeinfer.quantize.schemes.onnx.weighted import Weighted, split_gemm, weighted_operations
from edgeinfer.runtime.engines.base import Array

if TYPE_CHECKING:
    import onnx

__all__ = ["BlockedWeights"]

_DOMAIN = "com.microsoft"
# Activations are rounded to 8 bits for each block: without, 8-bit weights ran 13 times slower than float.
_ACCURACY_LEVEL = 4
# 128 is fastest; 4 bits need smaller blocks to stay near the float weights.
_BLOCK = {Precision.INT8: 128, Precision.INT4: 32}
_MATRIX_OPS = {"Gemm", "MatMul"}
_BITS = {Precision.INT8: 8, Precision.INT4: 4}


@dataclass(frozen=True, slots=True)
class BlockedWeights:
    """Matrices in blocks of `own`, or of a plan's precision; a `Make`. Needs no calibration."""

    own: Precision

    def __call__(self, source: Path, target: Path, calibration: Calibration, plan: Plan) -> str:
        del calibration
        with wrapped_errors():
            made = copied(prepared(source).model)
            split_gemm(made)
            stored: list[tuple[Weighted, Precision]] = []
            matrices = packed = 0
            for operation in weighted_operations(made.graph):
                precision = plan.get(operation.name, self.own)
                matrices += operation.node.op_type in _MATRIX_OPS and precision in _BITS
                if operation.node.op_type != "MatMul" or len(operation.initializer.dims) != 2:
                    stored.append((operation, Precision.INT8 if precision in _BITS else precision))
                elif precision in _BITS:
                    _pack(made.graph, operation, precision)
                    packed += 1
            store(made.graph, stored)
            if packed and all(entry.domain != _DOMAIN for entry in made.opset_import):
                made.opset_import.add(domain=_DOMAIN, version=1)
        save(made, target)
        if matrices and not packed:
            return f"nothing was quantized: 0 of {matrices} matrices are multiplied in blocks"
        return no_op(made.graph)


def _pack(graph: "onnx.GraphProto", operation: Weighted, precision: Precision) -> None:
    """Make a MatMul with a weight (K, N) a MatMulNBits."""
    from onnx import helper, numpy_helper

    bits, block = _BITS[precision], _BLOCK[precision]
    weight = operation.array()
    whole, scale = _blocks(weight, bits=bits, block=block)
    name = f"{operation.initializer.name}~{precision}~blocks"
    node = operation.node
    node.op_type, node.domain = "MatMulNBits", _DOMAIN
    del node.input[1:]
    node.input.extend([name, f"{name}~scale"])
    figures = {"K": weight.shape[0], "N": weight.shape[1], "bits": bits, "block_size": block}
    for key, value in {**figures, "accuracy_level": _ACCURACY_LEVEL}.items():
        node.attribute.append(helper.make_attribute(key, value))
    if all(initializer.name != name for initializer in graph.initializer):
        graph.initializer.extend(
            [numpy_helper.from_array(whole, name), numpy_helper.from_array(scale, f"{name}~scale")]
        )


def _blocks(weight: Array, *, bits: int, block: int) -> tuple[Array, Array]:
    """uint8 (N, blocks, bytes a block), its middle standing for 0, and float32 scales (N, blocks)."""
    rows, columns = weight.shape
    count = -(-rows // block)
    padded = np.zeros((count * block, columns), np.float32)
    padded[:rows] = weight
    blocks = padded.T.reshape(columns, count, block)
    middle = 1 << (bits - 1)
    if bits == 4:
        scale = fitted(blocks, (2,))
    else:
        largest = np.abs(blocks).max(axis=2, keepdims=True) / np.float32(middle - 1)
        scale = np.where(largest > 0, largest, np.float32(1)).astype(np.float32)
    whole: Array = (np.clip(np.rint(blocks / scale), -middle, middle - 1) + middle).astype(np.uint8)
    if bits == 4:
        whole = whole[..., 0::2] | (whole[..., 1::2] << 4)
    return np.ascontiguousarray(whole), scale[..., 0]
