"""What goes on inside of an ONNX model: chosen tensors of each calibration sample, one sample in memory at a time."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.quantize.schemes.base import Calibration
from edgeinfer.quantize.schemes.onnx.modelproto import open_session
from edgeinfer.quantize.transforms.channels import ChannelRange, merge, range_of
from edgeinfer.quantize.transforms.graph import load_model
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import DependencyError, ModelError

if TYPE_CHECKING:
    import onnx

__all__ = ["channel_ranges", "tapped"]


def tapped(
    model: "Path | onnx.ModelProto", names: Sequence[str], calibration: Calibration
) -> Iterator[dict[str, Array]]:
    """Of each calibration sample: the tensors `names`. Graph optimization is off, so that every tensor is there and
    quantized layers compute in float what their integers mean.

    Raises ModelError where ONNX Runtime cannot load or run it.
    """
    try:
        session = open_session(_cut(model, names), level="ORT_DISABLE_ALL")
        inputs = [node.name for node in session.get_inputs()]
        for sample in calibration:
            values = session.run(list(names), dict(zip(inputs, sample, strict=True)))
            yield dict(zip(names, values, strict=True))
    except (ModelError, DependencyError):
        raise
    except Exception as error:  # ONNX Runtime's own exception classes share no public base
        first = (str(error).strip() or type(error).__name__).split("\n", maxsplit=1)[0][:300]
        raise ModelError(f"ONNX Runtime cannot run the model on calibration samples: {first}") from error


def _cut(model: "Path | onnx.ModelProto", names: Sequence[str]) -> "onnx.ModelProto":
    """The model with the outputs `names` only, and without what they do not need."""
    import onnx

    cut = onnx.ModelProto()
    cut.CopyFrom(load_model(model) if isinstance(model, Path) else model)
    known = {value.name: value for value in cut.graph.output}
    del cut.graph.output[:]
    cut.graph.output.extend(
        known.get(name, onnx.helper.make_empty_tensor_value_info(name)) for name in dict.fromkeys(names)
    )
    nodes = list(cut.graph.node)
    if not any(item.HasField("g") for node in nodes for item in node.attribute):  # a body reads what it likes
        needed, kept = set(names), []
        for node in reversed(nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        del cut.graph.node[:]
        cut.graph.node.extend(reversed(kept))
    return cut


def channel_ranges(
    model: "onnx.ModelProto", axes: Mapping[str, tuple[int, int]], calibration: Calibration
) -> dict[str, ChannelRange]:
    """The ranges of each tensor of `axes`, which gives its channel axis and how many entries a channel has there."""
    found: dict[str, ChannelRange] = {}
    for values in tapped(model, tuple(axes), calibration):
        for name, (axis, block) in axes.items():
            rows = np.moveaxis(values[name], axis, 0)
            seen = range_of(rows.reshape(rows.shape[0] // block, -1))
            found[name] = merge(found[name], seen) if name in found else seen
    return found
