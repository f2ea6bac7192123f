"""ONNX schemes: a float model as it is but slimmer, in half precision, with small weights, or computed in integers.

All start from the same prepared model (`preparation`), whose operations carry the names that a plan goes by. What each
scheme does and when it wins stands in `catalog`.
"""

from edgeinfer.quantize.schemes.onnx.catalog import layers, rearranged, schemes
from edgeinfer.quantize.schemes.onnx.census import may_saturate, quantized_nodes

__all__ = ["layers", "may_saturate", "quantized_nodes", "rearranged", "schemes"]
