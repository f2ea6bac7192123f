"""Files on their way in, through a process of their own: external data, sizes from outside, broken files, real ones."""

import hashlib
import random
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeinfer.quantize.intake import Limits, take_in
from edgeinfer.quantize.modelfile import ModelFile
from edgeinfer.runtime.engines import load_engine
from edgeinfer.runtime.errors import ConfigError, EdgeInferError, ModelError, StorageError, UsageError
from odd_models import CLASSES, INPUTS, dense, forever, save, value


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where clean files go."""
    folder = tmp_path / "clean"
    folder.mkdir()
    return folder


def external(folder: Path, *, location: str = "m.onnx.data", offset: int = 64) -> Path:
    """The dense model with its weights in a file beside it, after some bytes that belong to nothing."""
    model = dense()
    tensor = model.graph.initializer[0]
    data = folder / "m.onnx.data"
    data.write_bytes(bytes(64) + tensor.raw_data)
    length = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=text)
    return save(model, folder / "m.onnx")


def answer(model: ModelFile) -> np.ndarray:
    engine = load_engine(model.engine, model.path)
    try:
        return engine.run([np.arange(INPUTS, dtype=np.float32)[None]])[0]
    finally:
        engine.close()


def test_what_is_known_of_a_file(tmp_path: Path, folder: Path) -> None:
    path = save(dense(batch="batch"), tmp_path / "m.onnx")
    (model,) = take_in([path], folder)
    assert (model.engine, model.original, model.path.parent) == ("onnx", path, folder)
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.notes == ("batch of x fixed to 1",)
    assert model.input_shape == (INPUTS,)
    assert model.library


def test_external_data_is_brought_in(tmp_path: Path, folder: Path) -> None:
    path = external(tmp_path)
    (model,) = take_in([path], folder)
    assert model.notes == ("external data m.onnx.data brought in",)
    (tmp_path / "m.onnx.data").unlink()
    (plain,) = take_in([save(dense(), tmp_path / "plain.onnx")], tmp_path)
    np.testing.assert_array_equal(answer(model), answer(plain))


@pytest.mark.parametrize(
    ("location", "offset", "said"),
    [
        ("gone.data", 0, r"'weight' lies in 'gone\.data', which is not in .*copy gone\.data beside the model"),
        ("../secret", 0, r"lies in '\.\./secret', expected a file in the model's folder"),
        ("/etc/passwd", 0, r"lies in '/etc/passwd', expected a file in the model's folder"),
        ("link.data", 0, r"lies in 'link\.data', expected a file in the model's folder"),
        ("", 0, "expected a file in the model's folder"),
        ("m.onnx.data", 65, r"at byte 65 to 137 of m\.onnx\.data, which has 136"),
        ("m.onnx.data", -1, "expected a number as offset of external data, found '-1'"),
    ],
)
def test_external_data_that_is_not_taken(tmp_path: Path, folder: Path, location: str, offset: int, said: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "secret").write_bytes(bytes(200))
    (home / "link.data").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match=said):
        take_in([external(home, location=location, offset=offset)], folder)


def test_open_sizes_from_the_declaration_or_the_samples(tmp_path: Path, folder: Path) -> None:
    path = save(dense(batch="n", features="features"), tmp_path / "m.onnx")
    for preprocess, rows in ((f"kind=tensor,shape={INPUTS}", None), ("", (INPUTS,)), ("", (1, INPUTS, 1))):
        (model,) = take_in([path], folder, preprocess=preprocess, rows=rows)
        assert model.inputs[0].shape == (1, INPUTS)
        assert "features of x fixed to 6" in model.notes


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (None, r"found 'x' of shape \(-1, -1\) that leaves 'features' open \(declare them, as in --preprocess"),
        ((2, 3), r"open; the samples have \(2, 3\)"),
    ],
)
def test_open_sizes_that_nothing_closes(tmp_path: Path, folder: Path, rows: tuple[int, ...] | None, said: str) -> None:
    path = save(dense(batch="n", features="features"), tmp_path / "m.onnx")
    with pytest.raises(UsageError, match=said):
        take_in([path], folder, rows=rows)


def test_a_declaration_that_does_not_close_them(tmp_path: Path, folder: Path) -> None:
    path = save(dense(batch="n", features=None), tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="dimension 1 open"):
        take_in([path], folder)
    with pytest.raises(ModelError, match=r"\(with an input of \(1, 24\)\)"):
        take_in([path], folder, preprocess="kind=tensor,shape=2,3,4")
    with pytest.raises(ConfigError):
        take_in([path], folder, preprocess="kind=nonsense")


def test_a_wrong_size_from_the_samples_is_told_by_the_engine(tmp_path: Path, folder: Path) -> None:
    path = save(dense(batch="n", features="features"), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"m\.onnx: "):
        take_in([path], folder, rows=(INPUTS + 1,))


def _huge() -> onnx.ModelProto:
    """What it makes of its input would fill 32 TB."""
    nodes = [helper.make_node("Expand", ["x", "sizes"], ["wide"]), helper.make_node("ReduceSum", ["wide"], ["y"])]
    sizes = numpy_helper.from_array(np.array([10**6, 10**6, INPUTS]), "sizes")
    graph = helper.make_graph(nodes, "huge", [value("x", [1, INPUTS])], [value("y", None)], [sizes])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("model", "limits", "said"),
    [
        (forever, Limits(timeout_s=4.0), r"was not loaded and run once within 4 s"),
        (_huge, Limits(), r"m\.onnx: "),
        (dense, Limits(memory_bytes=48 << 20), r"m\.onnx: "),
    ],
)
def test_what_ends_the_other_process_ends_not_this_one(
    tmp_path: Path, folder: Path, model: Callable[[], onnx.ModelProto], limits: Limits, said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        take_in([save(model(), tmp_path / "m.onnx")], folder, limits=limits)


@pytest.mark.parametrize(
    ("name", "content", "error", "said"),
    [
        ("m.onnx", b"", ModelError, "found an empty file"),
        ("m.tflite", b"", ModelError, "found an empty file"),
        ("m.onnx", b"<html>not found</html>", ModelError, "is no ONNX model"),
        ("m.tflite", b"<html>not found</html>", ModelError, "is no TFLite model: expected TFL3"),
        ("m.tflite", b"\x1c\x00\x00\x00TFL3", ModelError, "cut short"),
        ("m.tflite", b"\x1c\x00\x00\x00TFL3" + bytes(100), ModelError, r"m\.tflite: "),
        ("m.pb", b"x", UsageError, r"expected a model file of .*found '\.pb'"),
        ("m", b"x", UsageError, "no suffix"),
    ],
)
def test_files_that_are_no_models(
    tmp_path: Path, folder: Path, name: str, content: bytes, error: type[Exception], said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(error, match=said):
        take_in([path], folder)


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written: No such file or directory"):
        take_in([save(dense(), tmp_path / "m.onnx")], tmp_path / "gone")


def test_modules_where_the_user_stands_are_not_taken_for_ours(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnx.py").write_text("raise RuntimeError")
    monkeypatch.chdir(tmp_path)
    assert take_in([save(dense(), tmp_path / "m.onnx")], folder)[0].engine == "onnx"


def test_a_file_that_is_not_there_or_too_large(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="no such model file"):
        take_in([tmp_path / "gone.onnx"], folder)
    with (tmp_path / "large.onnx").open("wb") as file:
        file.truncate(3 << 30)  # takes no room
    with pytest.raises(ModelError, match=r"below 2 GB, found 3\.2 GB"):
        take_in([tmp_path / "large.onnx"], folder)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("invalid_custom_op.tflite", ModelError, "unresolved custom op: fake-op-double.*without custom operations"),
        ("hello_world_int8.tflite", UsageError, "quantized already: its input is int8"),
    ],
)
def test_models_of_the_data_folder_that_are_refused(
    data_dir: Path, folder: Path, name: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        take_in([data_dir / "models" / name], folder)


@pytest.mark.data
def test_what_is_wrong_with_a_part_of_a_model(data_dir: Path, folder: Path) -> None:
    """The speech detector of the data folder lacks nodes, where it is not the file that its list describes."""
    path = data_dir / "models" / "silero_vad_16k_op15.onnx"
    if hashlib.sha256(path.read_bytes()).hexdigest().startswith("7ed98ddb"):
        pytest.skip("this data folder has the whole file")
    with pytest.raises(ModelError, match=r"in If '/model/decoder/If_1': Shape .* reads .*: a part is missing"):
        take_in([path], folder, rows=(576,))


@pytest.mark.data
def test_constants_listed_as_inputs_on_a_real_model(
    data_dir: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = data_dir / "models" / "mnist.onnx"
    if not hashlib.sha256(path.read_bytes()).hexdigest().startswith("2f06e72d"):
        pytest.skip("this data folder has another file")
    (model,) = take_in([path], folder)
    assert "8 constants taken out of the inputs" in model.notes
    load_engine("onnx", model.path).close()
    assert "appears in graph inputs" not in capfd.readouterr().err


def _damaged(content: bytes, chance: random.Random) -> bytes:
    """Cut short, a piece taken out, or single bytes changed, mostly where the structure lies."""
    kind = chance.randrange(3)
    if kind == 0:
        return content[: chance.randrange(len(content))]
    place = chance.randrange(len(content))
    if kind == 1:
        return content[:place] + content[place + chance.randrange(1, 64) :]
    changed = bytearray(content)
    for _ in range(8):
        changed[chance.choice([chance.randrange(len(changed)), chance.randrange(64)])] = chance.randrange(256)
    return bytes(changed)


def _outcome(path: Path) -> str:
    """What becomes of a file: taken, or refused in our words. Anything else is a failure of the test."""
    folder = path.with_suffix(".out")
    folder.mkdir()
    try:
        (model,) = take_in([path], folder)
    except EdgeInferError as error:
        is_ours = str(path) in error.message and not re.search(r"Traceback|File \"", error.message)
        return "refused" if is_ours else error.message
    return "taken" if model.path.exists() else "lost"


def test_damaged_onnx_files_are_refused_or_run(tmp_path: Path) -> None:
    content, chance = dense().SerializeToString(), random.Random(11)
    _fuzz(tmp_path, content, chance, ".onnx", count=16)


@pytest.mark.data
def test_damaged_tflite_files_are_refused_or_run(tmp_path: Path, data_dir: Path) -> None:
    content = (data_dir / "models" / "hello_world_float.tflite").read_bytes()
    _fuzz(tmp_path, content, random.Random(12), ".tflite", count=16)


def _fuzz(folder: Path, content: bytes, chance: random.Random, suffix: str, *, count: int) -> None:
    paths = [folder / f"{index}{suffix}" for index in range(count)]
    for path in paths:
        path.write_bytes(_damaged(content, chance) or b"\0")
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(_outcome, paths))
    assert "refused" in outcomes
    assert set(outcomes) <= {"refused", "taken"}


BATCHES: tuple[str | int, ...] = ("n", 1)


def test_several_files_keep_their_order(tmp_path: Path, folder: Path) -> None:
    paths = [save(dense(batch=batch), tmp_path / f"{index}.onnx") for index, batch in enumerate(BATCHES)]
    models = take_in(paths, folder)
    assert [model.original for model in models] == paths
    assert len({model.path for model in models}) == 2
    assert all(model.outputs[0].shape == (1, CLASSES) for model in models)
