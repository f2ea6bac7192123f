"""ONNX schemes on models that are built here: what the files hold, that they run, and what is refused."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeinfer.quantize.schemes.base import Plan, Precision, Scheme
from edgeinfer.quantize.schemes.onnx import layers, may_saturate, quantized_nodes, schemes
from edgeinfer.quantize.schemes.onnx.preparation import prepared
from edgeinfer.quantize.schemes.onnx.weighted import weighted_operations
from edgeinfer.runtime.engines import load_engine
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import ModelError

_ALWAYS = {"onnx-int8-weights", "onnx-int4-weights", "onnx-u8s8", "onnx-u8s8-full", "onnx-u8u8", "onnx-s8s8"}


class _Rows:
    """Calibration of one input, made up anew for each row."""

    def __init__(self, shape: tuple[int, ...], count: int = 12) -> None:
        self._shape, self._count = shape, count
        self.gone_through = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list[Array]]:
        self.gone_through += 1
        random = np.random.default_rng(0)
        return ([random.standard_normal(self._shape).astype(np.float32)] for _ in range(self._count))


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """float32 (1, 3, 8, 8) to (1, 5): a convolution with batch norm, a depthwise one, a Gemm and a Softmax, whose
    nodes have no names, and whose constants are inputs too."""
    random = np.random.default_rng(3)

    def constant(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(random.standard_normal(shape).astype(np.float32) * 0.3, name)

    constants = [
        constant("w1", 16, 3, 3, 3),
        *(constant(name, 16) for name in ("gain", "shift", "mean")),
        numpy_helper.from_array(np.full(16, 0.7, np.float32), "variance"),
        constant("w2", 16, 1, 3, 3),
        constant("w3", 5, 16 * 64),
        constant("b3", 1, 5),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c1", "gain", "shift", "mean", "variance"], ["n1"]),
        helper.make_node("Relu", ["n1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1], group=16),
        helper.make_node("Flatten", ["c2"], ["f"], axis=1),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["g"], transB=1),
        helper.make_node("Softmax", ["g"], ["y"], axis=1),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])]
    inputs += [helper.make_tensor_value_info(one.name, TensorProto.FLOAT, list(one.dims)) for one in constants]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])]
    graph = helper.make_graph(nodes, "network", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=4)
    path = tmp_path / "network.onnx"
    onnx.save(model, str(path))
    return path


_SHAPE = (1, 3, 8, 8)


def _scheme(model: Path, name: str) -> Scheme:
    return next(scheme for scheme in schemes(model) if scheme.id == name)


def _made(model: Path, name: str, target: Path, *, plan: Plan | None = None) -> onnx.ModelProto:
    assert _scheme(model, name).make(model, target, _Rows(_SHAPE), plan or {}) == ""
    return onnx.load(str(target))


def _run(path: Path, *inputs: Array) -> Array:
    engine = load_engine("onnx", path)
    try:
        return engine.run(inputs)[0]
    finally:
        engine.close()


def _kinds(model: onnx.ModelProto) -> Counter[int]:
    """How many constants of two or more dimensions there are of each type."""
    return Counter(one.data_type for one in model.graph.initializer if len(one.dims) > 1)


def test_every_scheme_runs_near_the_float_model(network: Path, tmp_path: Path) -> None:
    sample = next(iter(_Rows(_SHAPE)))[0]
    wanted = _run(network, sample)
    rows = _Rows(_SHAPE)
    offered = schemes(network)
    assert {scheme.id for scheme in offered} >= _ALWAYS
    assert [scheme.rung for scheme in offered] == sorted(scheme.rung for scheme in offered)
    for scheme in offered:
        target = tmp_path / f"{scheme.id}.onnx"
        assert scheme.make(network, target, rows, {}) == "", scheme.id
        assert np.abs(_run(target, sample) - wanted).max() < (0.5 if scheme.own is Precision.INT4 else 0.1), scheme.id
        if not scheme.calibrates and scheme.quantizes:
            assert target.stat().st_size < network.stat().st_size, scheme.id
    assert rows.gone_through == 2, "ranges and histograms are learnt once, for all schemes"


def test_the_slim_model_has_fewer_operations_and_computes_the_same(network: Path, tmp_path: Path) -> None:
    made = _made(network, "onnx-fp32-slim", tmp_path / "slim.onnx")
    assert "BatchNormalization" not in {node.op_type for node in made.graph.node}
    assert {node.domain for node in made.graph.node} <= {"", "ai.onnx"}
    sample = next(iter(_Rows(_SHAPE)))[0]
    np.testing.assert_allclose(_run(tmp_path / "slim.onnx", sample), _run(network, sample), rtol=1e-4, atol=1e-6)


def test_a_model_that_cannot_be_slimmed_is_said_to_be_so(network: Path, tmp_path: Path) -> None:
    slim = tmp_path / "slim.onnx"
    _made(network, "onnx-fp32-slim", slim)
    said = _scheme(slim, "onnx-fp32-slim").make(slim, tmp_path / "again.onnx", _Rows(_SHAPE), {})
    assert said.startswith("nothing was slimmed: it has the same")


def test_layers_have_names_that_preparing_again_keeps(network: Path, tmp_path: Path) -> None:
    found = layers(network)
    assert [(layer.op, layer.weights) for layer in found] == [("Conv", 432), ("Conv", 144), ("Gemm", 5120)]
    assert len({layer.name for layer in found}) == 3
    _made(network, "onnx-fp32-slim", tmp_path / "slim.onnx")
    assert layers(tmp_path / "slim.onnx") == found


def test_a_model_is_prepared_once_until_its_file_changes(network: Path) -> None:
    first = prepared(network)
    assert prepared(network) is first
    model = onnx.load(str(network))
    model.graph.node[2].op_type = "Sigmoid"
    onnx.save(model, str(network))
    assert prepared(network) is not first
    assert "Sigmoid" in {node.op_type for node in prepared(network).model.graph.node}


@pytest.mark.parametrize(
    ("name", "kinds", "largest"),
    [
        ("onnx-u8s8", {TensorProto.INT8: 3}, 64),
        ("onnx-u8s8-full", {TensorProto.INT8: 3}, 127),
        ("onnx-u8u8", {TensorProto.UINT8: 3}, 255),
        ("onnx-s8s8", {TensorProto.INT8: 3}, 127),
        ("onnx-u8s8-tensor", {TensorProto.INT8: 3}, 64),
        ("onnx-int8-weights", {TensorProto.INT8: 3, TensorProto.FLOAT: 3}, 127),
        ("onnx-int4-weights", {TensorProto.INT4: 3, TensorProto.FLOAT: 3}, 8),
        ("onnx-fp16-weights", {TensorProto.FLOAT16: 3}, None),
        ("onnx-fp16", {TensorProto.FLOAT16: 3}, None),
    ],
)
def test_what_the_weights_are(
    network: Path, tmp_path: Path, name: str, kinds: dict[int, int], largest: int | None
) -> None:
    made = _made(network, name, tmp_path / "q.onnx")
    assert _kinds(made) == kinds
    if largest is None:
        return
    small = [one for one in made.graph.initializer if len(one.dims) > 1 and one.data_type != TensorProto.FLOAT]
    values = [np.abs(numpy_helper.to_array(one).astype(np.int16)).max() for one in small]
    assert max(values) == largest


def test_eight_bit_weights_may_saturate_and_seven_bit_ones_may_not(network: Path, tmp_path: Path) -> None:
    """255 * 127 twice is more than 16 bits hold: what kernels without VNNI add up in."""
    target = tmp_path / "q.onnx"
    _made(network, "onnx-u8s8-full", target)
    assert may_saturate(target).startswith("may saturate on CPUs without VNNI: weight 127 in")
    for name in ("onnx-u8s8", "onnx-u8u8", "onnx-int8-weights"):
        _made(network, name, target)
        assert may_saturate(target) == "", name


def test_reduced_weights_that_are_not_are_refused(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxruntime.quantization import base_quantizer, qdq_quantizer

    def without_reduce_range(self: object, model: object, per_channel: bool, _reduced: bool, *others: object) -> None:
        init(self, model, per_channel, False, *others)

    init = base_quantizer.BaseQuantizer.__init__
    monkeypatch.setattr(qdq_quantizer.BaseQuantizer, "__init__", without_reduce_range)
    said = _scheme(network, "onnx-u8s8").make(network, tmp_path / "q.onnx", _Rows(_SHAPE), {})
    assert said.startswith("may saturate on CPUs without VNNI: weight 127 in")


@pytest.mark.parametrize("name", sorted(_ALWAYS | {"onnx-int8-dynamic", "onnx-int8-blocks", "onnx-u8s8-mse"}))
def test_a_plan_leaves_the_layers_that_it_names_float(network: Path, tmp_path: Path, name: str) -> None:
    scheme = _scheme(network, name)
    assert Precision.FLOAT in scheme.mixes
    for layer in layers(network):
        made = _made(network, name, tmp_path / "q.onnx", plan={layer.name: Precision.FLOAT})
        left = {operation.name for operation in weighted_operations(made.graph)}
        assert left == {layer.name}
        load_engine("onnx", tmp_path / "q.onnx").close()


def test_a_plan_mixes_four_and_eight_bits(network: Path, tmp_path: Path) -> None:
    first = layers(network)[0].name
    made = _made(network, "onnx-int8-weights", tmp_path / "q.onnx", plan={first: Precision.INT4})
    kinds = _kinds(made)
    assert (kinds[TensorProto.INT4], kinds[TensorProto.INT8]) == (1, 2)
    made = _made(network, "onnx-int4-weights", tmp_path / "q.onnx", plan={first: Precision.INT8})
    kinds = _kinds(made)
    assert (kinds[TensorProto.INT4], kinds[TensorProto.INT8]) == (2, 1)
    made = _made(network, "onnx-int8-blocks", tmp_path / "q.onnx", plan={layers(network)[2].name: Precision.INT4})
    bits = [entry.i for node in made.graph.node for entry in node.attribute if entry.name == "bits"]
    assert bits == [4]


def test_a_plan_of_all_layers_is_refused_as_a_no_op(network: Path, tmp_path: Path) -> None:
    plan = {layer.name: Precision.FLOAT for layer in layers(network)}
    for name in ("onnx-u8s8", "onnx-int8-weights", "onnx-int8-dynamic", "onnx-int8-blocks"):
        said = _scheme(network, name).make(network, tmp_path / "q.onnx", _Rows(_SHAPE), plan)
        assert said == "nothing was quantized: 0 of 3 operations with weights have integer ones", name


def test_depthwise_layers_are_spared_where_asked(network: Path, tmp_path: Path) -> None:
    made = _made(network, "onnx-u8s8-dense", tmp_path / "q.onnx")
    assert [operation.depthwise for operation in weighted_operations(made.graph)] == [True]


def test_the_end_of_a_network_is_not_rounded(network: Path, tmp_path: Path) -> None:
    made = _made(network, "onnx-u8s8", tmp_path / "q.onnx")
    makers = {output: node.op_type for node in made.graph.node for output in node.output}
    softmax = next(node for node in made.graph.node if node.op_type == "Softmax")
    assert makers[softmax.input[0]] == "Gemm"


def test_a_model_without_weights_is_refused(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [value], [result])
    path = tmp_path / "relu.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    assert layers(path) == ()
    for scheme in schemes(path):
        said = scheme.make(path, tmp_path / "q.onnx", _Rows((1, 4)), {})
        assert said.startswith(("nothing was quantized", "nothing was slimmed")), scheme.id


def test_what_lies_in_the_bodies_of_if_is_left_alone(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32) * 3, "w")
    inner = numpy_helper.from_array(np.eye(4, dtype=np.float32) * 2, "inner")
    result = helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 4])
    yes = helper.make_graph([helper.make_node("MatMul", ["m", "inner"], ["z"])], "yes", [], [result], [inner])
    no = helper.make_graph([helper.make_node("Identity", ["m"], ["z"])], "no", [], [result])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="outer"),
        helper.make_node("If", ["flag"], ["y"], then_branch=yes, else_branch=no),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4]),
        helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])]
    graph = helper.make_graph(nodes, "branches", inputs, outputs, [weight])
    path, target = tmp_path / "if.onnx", tmp_path / "q.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    assert [layer.name for layer in layers(path)] == ["outer"]
    x, rows = np.array([[0.5, -1.0, 0.25, 1.0]], np.float32), [[np.ones((1, 4), np.float32), np.array(True)]]
    for name in ("onnx-u8s8", "onnx-int8-weights", "onnx-int8-dynamic"):
        assert _scheme(path, name).make(path, target, rows, {}) == "", name
        np.testing.assert_allclose(_run(target, x, np.array(True)), np.clip(x, -2, 1) * 6, atol=6, err_msg=name)
        if name == "onnx-int8-weights":
            np.testing.assert_allclose(_run(target, x, np.array(True)), x * 6, atol=0.05)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "expected rows to learn ranges from, found none"),
        ([[np.zeros((1, 3), np.float32)]], "ONNX quantization failed"),
        ([[np.zeros(_SHAPE, np.float32)] * 2], "expected 1 inputs a row, found 2"),
        ([[np.full(_SHAPE, np.nan, np.float32)]], "expected finite values"),
    ],
)
def test_rows_that_do_not_fit(network: Path, tmp_path: Path, rows: list[list[Array]], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        _scheme(network, "onnx-u8s8").make(network, tmp_path / "q.onnx", rows, {})


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"no model"])
def test_bytes_that_are_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError):
        schemes(path)


def test_nothing_is_printed_on_stdout(network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for scheme in schemes(network):
        scheme.make(network, tmp_path / "q.onnx", _Rows(_SHAPE), {})
    assert capsys.readouterr().out == ""


def test_quantized_nodes_are_counted(network: Path, tmp_path: Path, make_model: Callable[..., Path]) -> None:
    assert quantized_nodes(make_model()) == 0
    for name in ("onnx-u8s8", "onnx-int8-dynamic", "onnx-int8-blocks"):
        _made(network, name, tmp_path / "q.onnx")
        assert quantized_nodes(tmp_path / "q.onnx") > 0, name
