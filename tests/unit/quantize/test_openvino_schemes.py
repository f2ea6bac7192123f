"""Schemes that OpenVINO runs: what NNCF's files hold, that they run, and what is refused."""

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.offers import Material, for_openvino, offers_of
from edgeinfer.quantize.schemes.base import Precision, Scheme
from edgeinfer.quantize.schemes.onnx import layers, quantized_nodes
from edgeinfer.quantize.schemes.openvino import schemes
from edgeinfer.runtime.engines import load_engine
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import ModelError

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
needs_nncf = pytest.mark.skipif(
    find_spec("openvino") is None or find_spec("nncf") is None, reason="OpenVINO and NNCF are not installed"
)


class _Rows:
    def __init__(self, count: int = 20) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list[Array]]:
        random = np.random.default_rng(0)
        return ([random.standard_normal((1, 3, 8, 8)).astype(np.float32)] for _ in range(self._count))


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """float32 (1, 3, 8, 8) to (1, 5): two convolutions and a Gemm."""
    random = np.random.default_rng(3)

    def constant(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(random.standard_normal(shape).astype(np.float32) * 0.1, name)

    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c1"], ["r1"]),
            helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
            helper.make_node("Flatten", ["c2"], ["f"], axis=1),
            helper.make_node("Gemm", ["f", "w3"], ["y"], transB=1),
        ],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        [constant("w1", 16, 3, 3, 3), constant("w2", 16, 16, 3, 3), constant("w3", 5, 16 * 64)],
    )
    path = tmp_path / "network.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def _integers() -> Scheme:
    return next(scheme for scheme in schemes() if scheme.id == "openvino-int8")


def _outputs(engine_name: str, path: Path) -> Array:
    engine = load_engine(engine_name, path)
    outputs = np.concatenate([engine.run(row)[0] for row in _Rows()])
    engine.close()
    return outputs


def test_where_a_tool_is_missing_its_schemes_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    assert {scheme.id for scheme in schemes()} <= {"openvino-fp32"}
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert schemes() == ()


@needs_nncf
def test_offers_are_those_that_the_target_can_run(network: Path) -> None:
    given = Candidate("onnx-fp32", "onnx", "fp32", network, quantized=False)
    made = for_openvino(Material(given, {_integers().id: _integers()}, tuple, _Rows(), _Rows(4), {}))
    assert made.float_model is given
    offered = offers_of([made], engines=("onnx", "openvino"))
    assert [offer.id for offer in offered] == ["openvino-fp32", "openvino-int8"]
    assert offers_of([made], engines=("onnx", "litert")) == []
    unquantizable = for_openvino(Material(given, {}, tuple, _Rows(), _Rows(4), {}))
    assert list(unquantizable.schemes) == ["openvino-fp32"]


@needs_openvino
def test_the_float_one_is_the_same_file(network: Path, tmp_path: Path) -> None:
    target = tmp_path / "made.onnx"
    assert schemes()[0].make(network, target, _Rows(), {}) == ""
    assert target.read_bytes() == network.read_bytes()


@needs_nncf
def test_integers_are_close_to_the_float_model_and_say_nothing(
    network: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "made.onnx"
    assert _integers().make(network, target, _Rows(), {}) == ""
    assert capfd.readouterr() == ("", "")
    assert target.stat().st_size < 0.6 * network.stat().st_size
    expected, found = _outputs("onnx", network), _outputs("openvino", target)
    assert np.abs(found - expected).mean() < 0.05 * expected.std()


@needs_nncf
def test_weights_have_seven_bits_so_that_no_sum_saturates(network: Path, tmp_path: Path) -> None:
    target = tmp_path / "made.onnx"
    _integers().make(network, target, _Rows(), {})
    held = [numpy_helper.to_array(one) for one in onnx.load(str(target)).graph.initializer]
    weights = [one for one in held if one.ndim > 1]
    assert {one.dtype for one in weights} == {np.dtype(np.int8)}
    assert max(int(np.abs(one.astype(np.int16)).max()) for one in weights) <= 64


@needs_nncf
def test_a_plan_spares_layers(network: Path, tmp_path: Path) -> None:
    whole, spared = tmp_path / "whole.onnx", tmp_path / "spared.onnx"
    first = layers(network)[0].name
    _integers().make(network, whole, _Rows(), {})
    assert _integers().make(network, spared, _Rows(), {first: Precision.FLOAT}) == ""
    assert 0 < quantized_nodes(spared) < quantized_nodes(whole)


@needs_nncf
def test_a_float_model_that_nncf_gives_back_is_refused(network: Path, tmp_path: Path) -> None:
    """As its control of accuracy does when no layer may lose any; and it may be larger than what it was given."""
    every = {layer.name: Precision.FLOAT for layer in layers(network)}
    refused = _integers().make(network, tmp_path / "made.onnx", _Rows(), every)
    assert refused.startswith("nothing was quantized: 0 of 3")


@needs_nncf
def test_what_nncf_cannot_do_is_a_model_error(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError):
        _integers().make(tmp_path / "m.onnx", tmp_path / "made.onnx", _Rows(), {})
