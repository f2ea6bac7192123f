"""Two files that are said to be of one model: compared on samples."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeinfer.quantize.intake import check_same, take_in
from edgeinfer.quantize.modelfile import ModelFile, open_model
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import UsageError
from odd_models import INPUTS, dense, save, value


@dataclass
class Given:
    x: Array

    def __len__(self) -> int:
        return len(self.x)

    def row(self, index: int) -> Array:
        row: Array = self.x[index : index + 1].astype(np.float32)
        return row


ROWS = Given(np.random.default_rng(2).normal(size=(40, INPUTS)))


def opened(folder: Path, name: str, change: Callable[[onnx.ModelProto], None] = lambda _model: None) -> ModelFile:
    return open_model(save(dense(change=change), folder / f"{name}.onnx"))


def _softmax(model: onnx.ModelProto) -> None:
    model.graph.node[0].output[0] = "logits"
    model.graph.node.append(helper.make_node("Softmax", ["logits"], ["y"]))


def _two_outputs(*names: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node("Neg", ["y"], ["minus"]))
        del model.graph.output[:]
        model.graph.output.extend(value(name, [1, 3]) for name in names)

    return change


def _other_shape(model: onnx.ModelProto) -> None:
    model.graph.input[0].CopyFrom(value("x", [1, 1, INPUTS, 1]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, INPUTS]), "flat"))
    model.graph.node.insert(0, helper.make_node("Reshape", ["x", "flat"], ["row"]))
    model.graph.node[1].input[0] = "row"


def _turned(model: onnx.ModelProto, shape: tuple[int, int]) -> None:
    model.graph.input[0].CopyFrom(value("x", [1, *shape]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, INPUTS]), "flat"))
    model.graph.node.insert(0, helper.make_node("Reshape", ["x", "flat"], ["row"]))
    model.graph.node[1].input[0] = "row"


def test_one_model_and_no_samples_are_nothing_to_compare(tmp_path: Path) -> None:
    model = opened(tmp_path, "a")
    check_same([model], ROWS)
    check_same([model, opened(tmp_path, "b", _softmax)], Given(np.zeros((0, INPUTS))))


def test_the_same_model_in_another_shape_or_order(tmp_path: Path) -> None:
    check_same([opened(tmp_path, "a"), opened(tmp_path, "b"), opened(tmp_path, "c", _other_shape)], ROWS)
    there, back = opened(tmp_path, "d", _two_outputs("y", "minus")), opened(tmp_path, "e", _two_outputs("minus", "y"))
    check_same([there, back], ROWS)


def test_another_model_is_refused_with_how_far_off_it_is(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        weights = numpy_helper.to_array(model.graph.initializer[0])
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights[:, ::-1].copy(), "weight"))

    with pytest.raises(UsageError, match=r"a\.onnx and .*b\.onnx differ by up to .* on 1[0-9] of 16 samples") as caught:
        check_same([opened(tmp_path, "a"), opened(tmp_path, "b", change)], ROWS)
    assert "a pair of the same training?" in caught.value.hint


def test_a_softmax_more_is_another_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"largest on 0 of 16 samples.*softmax"):
        check_same([opened(tmp_path, "a"), opened(tmp_path, "b", _softmax)], ROWS)


def test_values_that_are_not_numbers_differ(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[0].output[0] = "product"
        model.graph.node.append(helper.make_node("Sqrt", ["product"], ["y"]))

    with pytest.raises(UsageError, match="differ by up to"):
        check_same([opened(tmp_path, "a"), opened(tmp_path, "b", change)], ROWS)
    check_same([opened(tmp_path, "c", change), opened(tmp_path, "d", change)], ROWS)


def test_shapes_that_do_not_fit(tmp_path: Path) -> None:
    first = opened(tmp_path, "a", lambda model: _turned(model, (2, 3)))
    with pytest.raises(UsageError, match=r"input \(2, 3\) and .*input \(3, 2\).*another order.*onnx2tf -kat"):
        check_same([first, opened(tmp_path, "b", lambda model: _turned(model, (3, 2)))], ROWS)


def test_outputs_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has an output 'minus' of shape \(1, 3\) and .* has outputs of \(1, 3\)"):
        check_same([opened(tmp_path, "a", _two_outputs("y", "minus")), opened(tmp_path, "b")], ROWS)


PAIRS = {"ic": ("ic_float", 1.0, 0.0), "kws": ("kws_float", 0.5847, 83.0), "vww": ("vww_float", 1 / 255, 0.0)}


@pytest.mark.data
@pytest.mark.parametrize("name", [*PAIRS, "ad"])
def test_the_right_pairs_pass(data_dir: Path, tmp_path: Path, name: str) -> None:
    tiny = data_dir / "tiny"
    with np.load(tiny / f"{name}_samples.npz") as archive:
        if name == "ad":
            partner, x = "ad_float", archive["frames"][:, :5].reshape(-1, 640)
        else:
            partner, scale, zero = PAIRS[name]
            x = (archive["x"].astype(np.float32) - zero) * scale
    models = take_in([tiny / f"{name}.onnx", tiny / f"{partner}.tflite"], tmp_path)
    check_same(models, Given(x))


@pytest.mark.data
def test_the_wrong_pairs_are_refused(data_dir: Path, tmp_path: Path) -> None:
    tiny = data_dir / "tiny"
    with pytest.raises(UsageError, match=r"kws_dynrange\.tflite: .*quantized already: 5 of its weight tensors"):
        take_in([tiny / "kws.onnx", tiny / "kws_dynrange.tflite"], tmp_path)
    models = take_in([tiny / "ic.onnx", tiny / "vww_float.tflite"], tmp_path)
    with pytest.raises(UsageError, match=r"ic\.onnx with input \(32, 32, 3\) and .*\(96, 96, 3\)"):
        check_same(models, Given(np.zeros((2, 32, 32, 3))))
