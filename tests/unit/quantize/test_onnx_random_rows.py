"""Random nets over rows, rewritten for the engine's fastest kernels: every result stays what it was."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeinfer.quantize.schemes.onnx.convolutions import fill_channels, make_planes
from edgeinfer.quantize.schemes.onnx.leftovers import take_away
from edgeinfer.quantize.schemes.onnx.modelproto import copied, open_session
from edgeinfer.quantize.schemes.onnx.shapes import forget_gone, with_shapes
from edgeinfer.runtime.engines.base import Array

_LENGTH = 16


@dataclass
class _Net:
    """Grows by one operation at a time: `rows` are the tensors (1, channels, length) that the next may take."""

    draw: st.DrawFn
    length: int | str
    channels: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    rows: list[tuple[str, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.draw(st.integers(0, 1000)))
        self.rows.append(("x", self.channels, _LENGTH))

    def choose(self, *values: Any) -> Any:
        return self.draw(st.sampled_from(values))

    def constant(self, values: Any, dtype: type = np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), f"c{len(self.constants)}"))
        return self.constants[-1].name

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [f"t{len(self.nodes)}"], **attributes))
        return str(self.nodes[-1].output[0])

    def grow(self) -> None:
        taken = self.rows[self.draw(st.integers(max(0, len(self.rows) - 3), len(self.rows) - 1))]
        kinds = (self._pool, self._alike, self._two, self._normal, self._slice, self._power, self._nothing)
        self.choose(self._convolution, self._convolution, *kinds)(*taken)

    def _convolution(self, name: str, channels: int, length: int) -> None:
        groups = self.choose(1, 1, channels)
        outputs = channels if groups > 1 else self.choose(3, 16, 17, 38)
        kernel, stride, dilation = self.choose(1, 2, 3), self.choose(1, 2), self.choose(1, 1, 2)
        wide = (kernel - 1) * dilation
        weight = self.constant(0.3 * self.random.standard_normal((outputs, channels // groups, kernel)))
        bias = [self.constant(self.random.standard_normal(outputs))] if self.draw(st.booleans()) else []
        attributes: dict[str, Any] = {"strides": [stride], "group": groups}
        if dilation == 1 and self.draw(st.booleans()):
            attributes["auto_pad"] = self.choose("SAME_UPPER", "SAME_LOWER")
        else:
            attributes |= {"pads": [wide // 2, wide - wide // 2], "dilations": [dilation]}
        self.rows.append((self.node("Conv", name, weight, *bias, **attributes), outputs, -(-length // stride)))

    def _pool(self, name: str, channels: int, length: int) -> None:
        """Halves the length, rounded up."""
        attributes = self.choose({"ceil_mode": 1}, {"auto_pad": "SAME_UPPER"}, {"pads": [0, length % 2]})
        pooled = self.node(self.choose("MaxPool", "AveragePool"), name, kernel_shape=[2], strides=[2], **attributes)
        self.rows.append((pooled, channels, -(-length // 2)))
        self.rows.append((self.node("GlobalAveragePool", pooled), channels, 1))

    def _alike(self, name: str, channels: int, length: int) -> None:
        """What does to each element what it does to any, and what only seems to."""
        made = self.node(self.choose("Relu", "Tanh", "Softsign", "Neg", "Identity", "Softmax"), name)
        self.rows.append((made, channels, length))

    def _two(self, name: str, channels: int, length: int) -> None:
        other = self.choose(*(one for one in self.rows if one[1:] in {(channels, length), (channels, 1)}))[0]
        pair = self.draw(st.permutations([name, other]))
        self.rows.append((self.node(self.choose("Add", "Mul", "Sub"), *pair), channels, length))

    def _normal(self, name: str, channels: int, length: int) -> None:
        values = [self.constant(self.random.standard_normal(channels)) for _ in range(3)]
        spread = self.constant(self.random.uniform(0.2, 1.0, channels))
        self.rows.append((self.node("BatchNormalization", name, *values, spread), channels, length))

    def _slice(self, name: str, channels: int, length: int) -> None:
        """One of an axis, or all of the only one there is."""
        axis = self.choose(0, 1, 2)
        taken = self.node("Gather", name, self.constant(self.choose(0, -1), np.int64), axis=axis)
        back = self.node("Unsqueeze", taken, self.constant([axis], np.int64))
        self.rows.append((back, 1 if axis == 1 else channels, 1 if axis == 2 else length))

    def _power(self, name: str, channels: int, length: int) -> None:
        exponent = self.constant(np.full(self.choose((), (1,), (1, 1)), self.choose(2, 3)))
        self.rows.append((self.node("Pow", self.node("Tanh", name), exponent), channels, length))

    def _nothing(self, name: str, channels: int, length: int) -> None:
        """Times zero, or one, and added; and a batch of one that goes and comes back."""
        number = self.node("Mul", "n", self.constant(self.choose(0, 1), np.int64))
        added = self.node("Add", name, self.node("Cast", number, to=TensorProto.FLOAT))
        batch = self.constant([0], np.int64)
        self.rows.append((self.node("Unsqueeze", self.node("Squeeze", added, batch), batch), channels, length))


@st.composite
def _nets(draw: st.DrawFn) -> onnx.ModelProto:
    lengths: list[int | str] = [_LENGTH, _LENGTH, "length"]
    net = _Net(draw, draw(st.sampled_from(lengths)), draw(st.sampled_from([1, 4, 16, 33])))
    for _ in range(draw(st.integers(2, 9))):
        net.grow()
    made = [name for name, _, _ in net.rows[1:]] or [net.node("Relu", "x")]
    results = dict.fromkeys([made[-1], *draw(st.lists(st.sampled_from(made), max_size=2))])
    graph = helper.make_graph(
        net.nodes,
        "rows",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, net.channels, net.length]),
            helper.make_tensor_value_info("n", TensorProto.INT64, []),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in results],
        net.constants,
    )
    return with_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def _said(model: onnx.ModelProto) -> list[Array]:
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    x = np.random.default_rng(3).standard_normal((1, channels, _LENGTH)).astype(np.float32)
    said: list[Array] = open_session(model).run(None, {"x": x, "n": np.array(7)})
    return said


@given(_nets())
def test_a_rewritten_net_says_the_same(model: onnx.ModelProto) -> None:
    made = copied(model)
    make_planes(made.graph)
    forget_gone(made.graph)
    made = with_shapes(made)
    fill_channels(made.graph)
    take_away(made.graph)
    forget_gone(made.graph)
    onnx.checker.check_model(made, full_check=True)
    assert [value.name for value in made.graph.input] == ["x", "n"]
    assert [value.name for value in made.graph.output] == [value.name for value in model.graph.output]
    for one, other in zip(_said(made), _said(model), strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3 * float(np.abs(other).max(initial=1.0)))
