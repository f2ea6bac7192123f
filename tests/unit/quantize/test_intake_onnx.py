"""ONNX files on their way in: what is cleaned, and what is refused with which words."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeinfer.quantize.feeding import Feeding
from edgeinfer.quantize.intake.exchange import Found, Job
from edgeinfer.quantize.intake.worker import look
from edgeinfer.runtime.engines import load_engine
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import ModelError, UsageError
from edgeinfer.runtime.manifest import Constant, StateTensor
from odd_models import CLASSES, INPUTS, dense, save, value

ALONE = Feeding()


def taken(
    model: onnx.ModelProto, folder: Path, *, feeding: Feeding = ALONE, shape: tuple[int, ...] = ()
) -> tuple[Found, onnx.ModelProto]:
    """What was found, and the clean model. In this process, for speed: none of these models crashes anything."""
    source, target = save(model, folder / "m.onnx"), folder / "clean.onnx"
    found = look(Job(str(source), str(target), "onnx", feeding, shape))
    return found, onnx.load(str(target)) if target.exists() else onnx.ModelProto()


def sizes(info: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in info.type.tensor_type.shape.dim]


@pytest.mark.parametrize("batch", [1, "batch", None, -1])
def test_the_batch_is_fixed_to_one(tmp_path: Path, batch: int | str | None) -> None:
    found, model = taken(dense(batch=batch), tmp_path)
    assert found.inputs[0].shape == (1, INPUTS)
    assert found.outputs[0].shape == (1, CLASSES)
    assert sizes(model.graph.input[0]) == [1, INPUTS]
    assert bool(found.notes) == (batch != 1)
    assert found.unquantizable == ""


def test_a_model_that_is_clean_stays_what_it_is(tmp_path: Path) -> None:
    found, model = taken(dense(), tmp_path)
    assert found.notes == ()
    assert model.graph == dense().graph


def test_open_sizes_are_told_and_closed(tmp_path: Path) -> None:
    model = dense(batch="batch", features="features")
    found, _ = taken(model, tmp_path)
    assert found.open_input is not None
    assert found.open_input.shape == (-1, -1)
    assert found.open_names == ("'features'",)
    found, clean = taken(model, tmp_path, shape=(1, INPUTS))
    assert sizes(clean.graph.input[0]) == [1, INPUTS]
    assert "features of x fixed to 6" in found.notes


def test_constants_are_no_inputs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = dense(change=lambda model: model.graph.input.append(value("weight", [INPUTS, CLASSES])))
    found, clean = taken(model, tmp_path)
    assert [info.name for info in clean.graph.input] == ["x"]
    assert found.notes == ("1 constants taken out of the inputs",)
    assert "weight" not in capfd.readouterr().err


def test_constants_that_nothing_reads_are_dropped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spare = numpy_helper.from_array(np.zeros(3, np.float32), "spare")
    _, clean = taken(dense(change=lambda model: model.graph.initializer.append(spare)), tmp_path)
    assert [tensor.name for tensor in clean.graph.initializer] == ["weight"]
    onnxruntime.InferenceSession(str(tmp_path / "clean.onnx"), providers=["CPUExecutionProvider"])
    assert "spare" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("node", "flat"),
    [
        (helper.make_node("Add", ["product", "bias"], ["y"]), True),
        (helper.make_node("Add", ["bias", "product"], ["y"]), True),
        (helper.make_node("Mul", ["product", "bias"], ["y"]), False),
        (helper.make_node("Gemm", ["product", "square", "bias"], ["y"]), True),
    ],
)
def test_biases_of_one_row_become_flat(tmp_path: Path, node: onnx.NodeProto, *, flat: bool) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.ones((1, CLASSES), np.float32), "bias"))
        model.graph.initializer.append(numpy_helper.from_array(np.eye(CLASSES, dtype=np.float32), "square"))
        model.graph.node[0].output[0] = "product"
        model.graph.node.append(node)

    found, clean = taken(dense(change=change), tmp_path)
    dims = {tensor.name: list(tensor.dims) for tensor in clean.graph.initializer}
    assert dims["bias"] == ([CLASSES] if flat else [1, CLASSES])
    assert found.notes == (("1 bias made flat",) if flat else ())
    x = np.arange(INPUTS, dtype=np.float32)[None]
    np.testing.assert_array_equal(_run(tmp_path / "clean.onnx", x), _run(tmp_path / "m.onnx", x))


def _run(path: Path, x: Array) -> Array:
    engine = load_engine("onnx", path)
    try:
        return engine.run([x])[0]
    finally:
        engine.close()


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_become_float32(tmp_path: Path, dtype: type) -> None:
    found, clean = taken(dense(dtype=dtype), tmp_path)
    assert {spec.dtype for spec in (*found.inputs, *found.outputs)} == {"float32"}
    assert found.notes == (f"{np.dtype(dtype).name} tensors made float32",)
    weights = numpy_helper.to_array(clean.graph.initializer[0])
    expected = numpy_helper.to_array(dense().graph.initializer[0])
    np.testing.assert_allclose(weights, expected, atol=1e-3)


def test_float16_inside_casts_and_constants(tmp_path: Path) -> None:
    half = numpy_helper.from_array(np.full(INPUTS, 0.5, np.float16), "half")
    nodes = [
        helper.make_node("Cast", ["x"], ["x16"], to=TensorProto.FLOAT16),
        helper.make_node("Constant", [], ["half"], value=half),
        helper.make_node("Mul", ["x16", "half"], ["y16"]),
        helper.make_node("Cast", ["y16"], ["y"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(nodes, "g", [value("x", [1, INPUTS])], [value("y", [1, INPUTS])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    taken(model, tmp_path)
    x = np.linspace(0, 1, INPUTS, dtype=np.float32)[None]
    np.testing.assert_allclose(_run(tmp_path / "clean.onnx", x), x / 2)


def test_integer_input_stays(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node.insert(0, helper.make_node("Cast", ["x"], ["real"], to=TensorProto.FLOAT))
        model.graph.node[1].input[0] = "real"
        model.graph.input[0].CopyFrom(value("x", [1, INPUTS], TensorProto.INT64))

    found, _ = taken(dense(change=change), tmp_path)
    assert found.inputs[0].dtype == "int64"


def test_other_inputs_are_fed(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[0].output[0] = "product"
        model.graph.node.append(helper.make_node("Mul", ["product", "factor"], ["scaled"]))
        model.graph.node.append(helper.make_node("Add", ["scaled", "before"], ["y"]))
        model.graph.input.append(value("before", ["n", CLASSES]))
        model.graph.input.append(value("factor", []))

    model = dense(batch="n", change=change)
    with pytest.raises(UsageError, match=r"expected a model with one input for the frame, found 3: x, before, factor"):
        taken(model, tmp_path)
    feeding = Feeding((StateTensor("before", "y"),), (Constant("factor", 2.0),))
    found, clean = taken(model, tmp_path, feeding=feeding)
    assert [spec.name for spec in found.inputs] == ["x"]
    assert [sizes(info) for info in clean.graph.input] == [[1, INPUTS], [1, CLASSES], []]


def test_names_with_odd_characters(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].name = model.graph.node[0].input[0] = "serving/é x:0;\n\"'="

    found, _ = taken(dense(change=change), tmp_path)
    assert found.inputs[0].name == "serving/é x:0;\n\"'="


def test_control_flow_is_kept(tmp_path: Path) -> None:
    branches = [
        helper.make_graph([helper.make_node(op, ["x"], [f"y{op}"])], op, [], [value(f"y{op}", [1, INPUTS])])
        for op in ("Neg", "Abs")
    ]

    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
        node = helper.make_node("If", ["yes"], ["chosen"], then_branch=branches[0], else_branch=branches[1])
        model.graph.node.insert(0, node)
        model.graph.node[1].input[0] = "chosen"

    found, _ = taken(dense(change=change), tmp_path)
    assert found.notes == ("control flow (If) kept: what is inside stays float in most schemes",)


def test_functions_of_the_model_are_put_in_place(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        body = [helper.make_node("MatMul", ["a", "b"], ["c"])]
        opsets = [helper.make_opsetid("", 17)]
        model.functions.append(helper.make_function("mine", "Linear", ["a", "b"], ["c"], body, opsets))
        model.opset_import.append(helper.make_opsetid("mine", 1))
        model.graph.node[0].CopyFrom(helper.make_node("Linear", ["x", "weight"], ["y"], domain="mine"))

    found, clean = taken(dense(change=change), tmp_path)
    assert [node.op_type for node in clean.graph.node] == ["MatMul"]
    assert found.notes == ("1 functions of the model's own put in place",)


def _foreign(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.acme"
    model.opset_import.append(helper.make_opsetid("com.acme", 1))


def _declares_terabytes(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [10**6, 10**6]


def _two_makers(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Neg", ["x"], ["y"], name="again"))


def _disordered(model: onnx.ModelProto) -> None:
    model.graph.node[0].output[0] = "late"
    model.graph.node.insert(0, helper.make_node("Neg", ["late"], ["y"], name="early"))


def _quantized(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.1, np.float32), "scale"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(3, np.uint8), "zero"))
    model.graph.node.insert(0, helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]))
    model.graph.node.insert(1, helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]))
    model.graph.node[2].input[0] = "d"


def _in_domain(domain: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[0].domain = domain

    return change


def _renamed(kind: str, name: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        getattr(model.graph, kind)[0].name = name

    return change


def _typed(kind: str, type_: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        getattr(model.graph, kind)[0].type.tensor_type.elem_type = type_

    return change


def _operator(name: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[0].op_type = name

    return change


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (_foreign, ModelError, r"custom operator MatMul of the domain 'com\.acme' in the node 'dense'"),
        (_in_domain("ai.onnx.ml"), ModelError, r"MatMul 'dense' is of the domain 'ai\.onnx\.ml', of which the model"),
        (_in_domain("com.microsoft"), ModelError, r"m\.onnx: .*MatMul"),
        (_operator("MatMull"), ModelError, r"unknown operator MatMull in the node 'dense' .*opset 17"),
        (_declares_terabytes, ModelError, r"'weight' of sizes \(1000000, 1000000\) should have 4000000000000 bytes"),
        (_two_makers, ModelError, r"two nodes make 'y', one of them Neg 'again'"),
        (_disordered, ModelError, r"not in order: Neg 'early' reads 'late', which MatMul 'dense' makes later"),
        (_renamed("initializer", "w"), ModelError, r"reads 'weight', which no node, input or constant gives"),
        (_renamed("initializer", ""), ModelError, r"constants with a name of their own each"),
        (_renamed("input", ""), ModelError, r"inputs with a name of their own each"),
        (_renamed("output", "z"), ModelError, r"nothing makes the output 'z'"),
        (_typed("input", TensorProto.STRING), ModelError, r"tensors of numbers, found 'x' of strings"),
        (_typed("input", 77), ModelError, r"'x' has the unknown type 77"),
        (
            _typed("output", TensorProto.STRING),
            ModelError,
            r"expected an output that is a tensor of numbers.*\(string\)",
        ),
        (_typed("output", TensorProto.INT64), ModelError, r"m\.onnx: .*type"),
        (_quantized, UsageError, r"quantized already: it holds 2 quantization nodes"),
        (lambda model: model.graph.ClearField("node"), ModelError, "found 0 and 1"),
        (lambda model: model.graph.ClearField("output"), ModelError, "found 1 and 0"),
        (lambda model: model.graph.ClearField("input"), ModelError, r"reads 'x', which no node"),
        (lambda model: model.ClearField("graph"), ModelError, "it has no graph"),
        (lambda model: model.ClearField("opset_import"), ModelError, "found opset 0"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        taken(dense(change=change), tmp_path)
    assert "m.onnx" in str(caught.value)
    assert "clean.onnx" not in str(caught.value)


@pytest.mark.parametrize("opset", [6, 999])
def test_opsets_that_are_too_old_or_too_new(tmp_path: Path, opset: int) -> None:
    with pytest.raises(ModelError, match=f"expected operators of opset 7 to [0-9]+, found opset {opset}"):
        taken(dense(opset=opset), tmp_path)


@pytest.mark.parametrize(
    ("shape", "error", "said"),
    [
        ([1, 0], ModelError, r"hold something, found 'x' of shape \(1, 0\)"),
        ([0, INPUTS], ModelError, "hold something"),
        ([8, INPUTS], UsageError, r"a batch of 1 \(or open\), found 'x' of shape \(8, 6\)"),
        ([], UsageError, "a batch of 1"),
        ([1, 10**12], ModelError, "."),
    ],
)
def test_inputs_of_no_use(tmp_path: Path, shape: list[int], error: type[Exception], said: str) -> None:
    model = dense(change=lambda model: model.graph.input[0].CopyFrom(value("x", shape)))
    with pytest.raises(error, match=said):
        taken(model, tmp_path)


def test_several_outputs_are_kept(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node("ArgMax", ["y"], ["best"], axis=1))
        model.graph.output.append(value("best", [1, 1], TensorProto.INT64))

    found, _ = taken(dense(change=change), tmp_path)
    assert [spec.name for spec in found.outputs] == ["y", "best"]
