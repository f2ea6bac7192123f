"""What exporters leave behind: taken away where the result stays the same, and left where that is not known."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeinfer.quantize.schemes.onnx.leftovers import take_away
from edgeinfer.quantize.schemes.onnx.modelproto import copied, open_session
from edgeinfer.quantize.schemes.onnx.shapes import forget_gone, with_shapes
from edgeinfer.runtime.engines.base import Array

_CONSTANTS: dict[str, Array] = {
    "axis0": np.array([0], np.int64),
    "axis1": np.array([1], np.int64),
    "last": np.array([-1], np.int64),
    "one": np.array(1, np.int64),
    "flat": np.array([-1], np.int64),
    "six": np.array([1, 6, 1], np.int64),
    "two": np.array(2, np.float32),
    "twos": np.full((1, 1, 1, 1), 2, np.float32),
    "three": np.array(3, np.float32),
    "nothing": np.array(0, np.int64),
    "zero": np.zeros(1, np.float32),
    "zeros": np.zeros((2, 1, 1), np.float32),
}


def _model(nodes: Sequence[onnx.NodeProto], *, size: int | str = 6) -> onnx.ModelProto:
    """x float32 (1, 1, size) and n int64 () to y, with the constants above."""
    graph = helper.make_graph(
        nodes,
        "leftovers",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, size]),
            helper.make_tensor_value_info("n", TensorProto.INT64, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in _CONSTANTS.items()],
    )
    return with_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def _node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attributes)


def _check(model: onnx.ModelProto, ops: list[str]) -> onnx.ModelProto:
    """Without its leftovers it has these operations, and says the same."""
    made = copied(model)
    changed = take_away(made.graph)
    assert [node.op_type for node in made.graph.node] == ops
    assert bool(changed) == (made != model)
    forget_gone(made.graph)
    onnx.checker.check_model(with_shapes(made), full_check=True)
    given = {"x": np.random.default_rng(0).standard_normal((1, 1, 6)).astype(np.float32), "n": np.array(7)}
    one, other = (open_session(each).run(None, given)[0] for each in (model, made))
    np.testing.assert_array_equal(other, one)
    assert other.shape == one.shape
    assert take_away(with_shapes(made).graph) == 0, "what was taken away is gone"
    return made


def test_shapes_given_one_after_the_other_are_one() -> None:
    nodes = [_node("Squeeze", "x axis0", "a"), _node("Unsqueeze", "a last", "b"), _node("Transpose", "b", "c")]
    made = _check(_model([*nodes, _node("Sin", "c", "y")]), ["Reshape", "Sin"])
    assert made.graph.node[0].input[0] == "x"


def test_a_shape_that_comes_back_is_none() -> None:
    nodes = [_node("Squeeze", "h axis0", "a"), _node("Reshape", "a flat", "b"), _node("Unsqueeze", "b axis0", "c")]
    ends = [_node("Unsqueeze", "c axis0", "d"), _node("Exp", "d", "y")]
    _check(_model([_node("Sin", "x", "h"), *nodes, *ends]), ["Sin", "Exp"])


def test_a_result_of_the_model_keeps_its_name() -> None:
    nodes = [_node("Sin", "x", "h"), _node("Squeeze", "h axis0", "a"), _node("Unsqueeze", "a axis0", "y")]
    made = _check(_model(nodes), ["Sin"])
    assert list(made.graph.node[0].output) == ["y"]


def test_an_input_that_is_a_result_is_left_alone() -> None:
    _check(_model([_node("Identity", "x", "y")]), ["Identity"])


def test_a_mean_over_one_element_is_that_element_and_over_more_is_not() -> None:
    nodes = [_node("Sin", "x", "h"), _node("ReduceMean", "h", "m", axes=[1], keepdims=0)]
    _check(_model([*nodes, _node("Unsqueeze", "m axis1", "u"), _node("Exp", "u", "y")]), ["Sin", "Exp"])
    nodes = [_node("Sin", "x", "h"), _node("ReduceMean", "h", "m", axes=[2], keepdims=1)]
    _check(_model([*nodes, _node("Exp", "m", "y")]), ["Sin", "ReduceMean", "Exp"])


def test_elements_that_change_places_are_left_alone() -> None:
    nodes = [_node("Reshape", "x pair", "a"), _node("Transpose", "a", "b"), _node("Reshape", "b six", "y")]
    model = _model([])
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 3], np.int64), "pair"))
    model.graph.node.extend(nodes)
    _check(with_shapes(model), ["Reshape", "Transpose", "Reshape"])


@pytest.mark.parametrize("size", ["open", -1])
def test_open_sizes_are_left_alone(size: int | str) -> None:
    """Some exporters write -1 for them."""
    nodes = [_node("Sin", "x", "h"), _node("Squeeze", "h axis0", "a"), _node("Unsqueeze", "a axis0", "y")]
    _check(_model(nodes, size=size), ["Sin", "Squeeze", "Unsqueeze"])
    nodes = [_node("Concat", "x x", "h", axis=1), _node("Transpose", "h", "a", perm=[0, 2, 1])]
    nodes += [_node("Squeeze", "a axis0", "b"), _node("Exp", "b", "y")]
    _check(_model(nodes, size=size), ["Concat", "Transpose", "Squeeze", "Exp"])


@pytest.mark.parametrize(("axes", "ops"), [("last", ["Gather", "Exp"]), ("axis0", ["Gather", "Unsqueeze", "Exp"])])
def test_a_slice_of_one_keeps_its_axis(axes: str, ops: list[str]) -> None:
    nodes = [_node("Gather", "x one", "g", axis=2), _node("Unsqueeze", f"g {axes}", "u"), _node("Exp", "u", "y")]
    _check(_model(nodes), ops)


@pytest.mark.parametrize(("exponent", "op"), [("two", "Mul"), ("three", "Pow"), ("twos", "Pow")])
def test_a_square_is_a_product(exponent: str, op: str) -> None:
    _check(_model([_node("Pow", f"x {exponent}", "p"), _node("Exp", "p", "y")]), [op, "Exp"])


def test_nothing_times_a_whole_number_is_not_added() -> None:
    nodes = [_node("Mul", "n nothing", "none"), _node("Cast", "none", "real", to=TensorProto.FLOAT)]
    made = _check(_model([_node("Exp", "x", "h"), *nodes, _node("Add", "h real", "y")]), ["Exp"])
    assert [value.name for value in made.graph.input] == ["x", "n"]


@pytest.mark.parametrize(("factor", "ops"), [("n one", ["Mul", "Cast", "Add"]), ("n nothing", ["Add"])])
def test_what_is_added_to_an_input(factor: str, ops: list[str]) -> None:
    """There it is a copy that makes a result of it."""
    nodes = [_node("Mul", factor, "none"), _node("Cast", "none", "real", to=TensorProto.FLOAT)]
    _check(_model([*nodes, _node("Add", "x real", "y")]), ops)


def test_a_sum_that_gives_more_elements_is_left_alone() -> None:
    _check(_model([_node("Add", "x zeros", "a"), _node("Exp", "a", "y")]), ["Add", "Exp"])
    _check(_model([_node("Add", "x zero", "a"), _node("Exp", "a", "y")]), ["Exp"])


def test_zero_times_a_real_number_may_be_no_number() -> None:
    _check(_model([_node("Mul", "x zero", "a"), _node("Exp", "a", "y")]), ["Mul", "Exp"])
