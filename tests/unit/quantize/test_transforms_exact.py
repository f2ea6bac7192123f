"""Equalizing and removing dead channels give the same model, whatever its shapes, strides, groups and padding."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.quantize.transforms.channels import choose
from edgeinfer.quantize.transforms.equalize import equalize
from edgeinfer.quantize.transforms.graph import open_graph
from edgeinfer.quantize.transforms.prune import prune
from edgeinfer.quantize.transforms.spans import find_spans
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import ModelError, UsageError


class _Samples:
    def __init__(self, x: Array) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __iter__(self) -> Iterator[list[Array]]:
        return iter([[self.x[i : i + 1]] for i in range(len(self.x))])


def _run(path: Path, x: Array) -> Array:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: x[i : i + 1]})[0] for i in range(len(x))])


class _Net:
    """A chain of layers on (1, 3, 24, 24) with random weights, some channels of which are dead."""

    def __init__(self, seed: int, *, dead: float = 0.0) -> None:
        self.random = np.random.default_rng(seed)
        self.dead = dead
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.tensor, self.channels = "x", 3

    def add(self, op: str, *constants: Array, **attributes: Any) -> None:  # attributes are of any kind
        names = [f"c{len(self.constants) + i}" for i in range(len(constants))]
        self.constants.update(zip(names, constants, strict=True))
        made = f"t{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(op, [self.tensor, *names], [made], name=f"n{made}", **attributes))
        self.tensor = made

    def conv(self, out: int, kernel: int = 3, *, group: int = 1, bias: bool = True, **attributes: Any) -> None:
        weights = self.random.normal(size=(out, self.channels // group, kernel, kernel)).astype(np.float32)
        weights *= np.exp(self.random.normal(size=(out, 1, 1, 1))).astype(np.float32)
        offsets = self.random.normal(size=out).astype(np.float32)
        gone = self.random.random(out) < self.dead
        weights[gone], offsets[gone] = 0.0, -1.0
        self.add("Conv", weights, *([offsets] if bias else []), group=group, kernel_shape=[kernel] * 2, **attributes)
        self.channels = out

    def save(self, path: Path) -> Path:
        value = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            self.nodes,
            "net",
            [value("x", onnx.TensorProto.FLOAT, [1, 3, 24, 24])],
            [value(self.tensor, onnx.TensorProto.FLOAT, None)],
            [onnx.numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
        onnx.save(onnx.shape_inference.infer_shapes(model), str(path))
        return path


def _net(seed: int, *, stride: int, pad: int, group: int, middle: Sequence[str], flat: bool, dead: float) -> _Net:
    net = _Net(seed, dead=dead)
    net.conv(8, strides=[stride] * 2, pads=[1, 1, 1, 1])
    for op in middle:
        if op == "depthwise":
            net.conv(8, group=8, pads=[pad] * 4)
        elif op == "Mul":
            net.add("Mul", np.exp(net.random.normal(size=(1, 8, 1, 1))).astype(np.float32))
        else:
            net.add(op, **({"kernel_shape": [2, 2]} if op.endswith("Pool") else {}))
    net.add("Relu")
    net.conv(8, group=group, pads=[pad] * 4)
    net.add("Relu")
    net.conv(4, 1, bias=False)
    if flat:
        net.add("Relu")
        net.add("GlobalAveragePool")
        net.add("Flatten")
        net.add("Gemm", net.random.normal(size=(4, 5)).astype(np.float32), np.zeros(5, np.float32))
    return net


_NETS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10_000),
        "stride": st.sampled_from([1, 2]),
        "pad": st.sampled_from([0, 1]),
        "group": st.sampled_from([1, 2, 8]),
        "middle": st.lists(
            st.sampled_from(["depthwise", "Relu", "MaxPool", "AveragePool", "LeakyRelu", "Mul"]), max_size=3
        ),
        "flat": st.booleans(),
    }
)
_X = np.random.default_rng(1).normal(size=(6, 3, 24, 24)).astype(np.float32)


@settings(deadline=None, max_examples=40)
@given(parts=_NETS)
def test_equalizing_keeps_the_function(tmp_path_factory: pytest.TempPathFactory, parts: dict[str, Any]) -> None:
    folder = tmp_path_factory.mktemp("equalize")
    source = _net(dead=0.0, **parts).save(folder / "source.onnx")
    done = equalize(source, folder / "target.onnx")
    assert done.refused == ""
    assert done.pairs >= 1
    expected = _run(source, _X)
    np.testing.assert_allclose(_run(folder / "target.onnx", _X), expected, atol=2e-4 * float(np.abs(expected).max()))


@settings(deadline=None, max_examples=40)
@given(parts=_NETS, multiple=st.sampled_from([1, 4]))
def test_removing_dead_channels_keeps_the_function(
    tmp_path_factory: pytest.TempPathFactory, parts: dict[str, Any], multiple: int
) -> None:
    folder = tmp_path_factory.mktemp("prune")
    source = _net(dead=0.5, **parts).save(folder / "source.onnx")
    target = folder / "target.onnx"
    pruned = prune(source, target, _Samples(_X), multiple=multiple)
    assert target.exists() == (pruned.refused == "") == (pruned.channels > 0)
    if pruned.refused:
        return
    assert target.stat().st_size < source.stat().st_size + 4096  # names and shapes may add a little
    expected = _run(source, _X)
    np.testing.assert_allclose(_run(target, _X), expected, atol=1e-4 * max(float(np.abs(expected).max()), 1.0))


def _two_layers(path: Path, *, between: Sequence[tuple[str, tuple[Array, ...]]] = ()) -> Path:
    net = _Net(3)
    net.conv(8)
    for op, constants in between:
        net.add(op, *constants)
    net.conv(4, 1)
    return net.save(path)


def test_equalized_ranges_are_equal(tmp_path: Path) -> None:
    source = _two_layers(tmp_path / "a.onnx", between=[("Relu", ())])
    equalize(source, tmp_path / "b.onnx")
    graph = open_graph(tmp_path / "b.onnx", tmp_path)
    (span,) = find_spans(graph, through_depthwise=False)
    out = np.abs(span.source.weights()).reshape(8, -1).max(axis=1)
    np.testing.assert_allclose(out, np.abs(span.sinks[0].layer.weights()).max(axis=(0, 2, 3)), rtol=1e-2)


def test_a_bounded_clip_blocks_equalization_unless_replaced(tmp_path: Path) -> None:
    bounds = np.float32(0.0), np.float32(6.0)
    source = _two_layers(tmp_path / "a.onnx", between=[("Clip", (np.array(bounds[0]), np.array(bounds[1])))])
    target = tmp_path / "b.onnx"
    assert equalize(source, target).refused.startswith("nothing to equalize")
    assert not target.exists()
    assert equalize(source, target, replace_clips=True).clips == 1


def test_a_residual_sum_keeps_its_channels(tmp_path: Path) -> None:
    net = _Net(4)
    net.conv(8, pads=[1] * 4)
    net.add("Relu")
    first = net.tensor
    net.conv(8, pads=[1] * 4)
    net.nodes.append(onnx.helper.make_node("Add", [first, net.tensor], ["sum"], name="sum"))
    net.tensor = "sum"
    net.conv(4, 1)
    source = net.save(tmp_path / "a.onnx")
    assert prune(source, tmp_path / "b.onnx", _Samples(_X), share=0.5).refused.startswith("no channel to remove")
    assert equalize(source, tmp_path / "b.onnx").refused


def test_the_smallest_filters_go_and_blocks_are_kept(tmp_path: Path) -> None:
    source = _two_layers(tmp_path / "a.onnx", between=[("Relu", ())])
    assert prune(source, tmp_path / "b.onnx", _Samples(_X), share=0.5, multiple=1).channels == 4
    shape = onnx.load(str(tmp_path / "b.onnx")).graph.initializer
    assert sorted(tuple(item.dims)[:2] for item in shape if len(item.dims) == 4) == [(4, 3), (4, 4)]
    assert prune(source, tmp_path / "c.onnx", _Samples(_X), share=0.5, multiple=8).refused
    with pytest.raises(UsageError, match="share of channels"):
        prune(source, tmp_path / "c.onnx", _Samples(_X), share=1.0)


@given(
    dead=st.lists(st.booleans(), min_size=1, max_size=40),
    share=st.floats(0.0, 0.99),
    multiple=st.integers(1, 16),
)
def test_what_is_chosen_leaves_a_multiple(dead: list[bool], share: float, multiple: int) -> None:
    norms = np.arange(len(dead), dtype=np.float64)
    gone = choose(np.array(dead), norms, share=share, multiple=multiple)
    left = int((~gone).sum())
    assert left >= 1
    assert left % multiple == 0 or left == len(dead)
    assert gone.sum() <= max(sum(dead), int(share * len(dead)))


def test_an_index_that_is_a_scalar_stays_one(tmp_path: Path) -> None:
    """As a list of one it would give the result one axis more."""
    nodes = [onnx.helper.make_node("Gather", ["x", "index"], ["first"], axis=1)]
    graph = onnx.helper.make_graph(
        [*nodes, onnx.helper.make_node("Relu", ["first"], ["y"])],
        "slice",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 4])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4])],
        [onnx.numpy_helper.from_array(np.array(1, np.int64), "index")],
    )
    source, target = tmp_path / "m.onnx", tmp_path / "saved.onnx"
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8), str(source)
    )
    open_graph(source, tmp_path).save(target)
    x = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    assert _run(target, x).tolist() == _run(source, x).tolist() == [[4, 5, 6, 7]]


def test_no_model_is_refused_as_such(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"no model at all")
    with pytest.raises(ModelError):
        equalize(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]
