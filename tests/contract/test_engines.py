"""What every engine promises, tried on each with the same models."""

import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from awkward_models import awkward, awkward_model
from edgeinfer.runtime.engines import Engine, available_engines, dequantize, load_engine, quantize_input
from edgeinfer.runtime.errors import DependencyError, ModelError
from edgeinfer.runtime.manifest import TensorSpec
from edgeinfer.runtime.preprocess import concrete_shape
from edgeinfer.runtime.preprocess.tensor import TensorPrepare
from packages import linear_model
from waiting import wait_until

Array = npt.NDArray[Any]
INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"]

# The same network for each engine, and the same one in int8 where there is one; in this process and in its own.
MODELS = [
    (name, model, isolate)
    for name, model in [
        ("onnx", "ic.onnx"),
        ("openvino", "ic.onnx"),
        ("litert", "ic_float.tflite"),
        ("litert", "ic_int8.tflite"),
    ]
    for isolate in (False, True)
]


@pytest.fixture
def loaded(request: pytest.FixtureRequest, data_dir: Path) -> Iterator[tuple[Engine, str]]:
    name, model, isolate = request.param
    if name not in available_engines():
        pytest.skip(f"the {name} engine is not installed")
    engine = load_engine(name, data_dir / "tiny" / model, isolate=isolate)
    yield engine, model
    engine.close()


@pytest.mark.data
@pytest.mark.parametrize("loaded", MODELS, indirect=True)
class TestEveryEngine:
    def test_it_says_what_it_takes_and_gives(self, loaded: tuple[Engine, str]) -> None:
        engine, model = loaded
        (given_,), (made,) = engine.inputs, engine.outputs
        assert concrete_shape(given_) == (1, 32, 32, 3)
        assert concrete_shape(made) == (1, 10)
        assert given_.dtype == made.dtype == ("int8" if "int8" in model else "float32")
        assert (given_.scale is not None) == (made.scale is not None) == ("int8" in model)
        assert engine.version

    def test_it_computes_what_was_measured(self, loaded: tuple[Engine, str], data_dir: Path) -> None:
        engine, model = loaded
        with np.load(data_dir / "tiny" / "ic_samples.npz") as samples:
            x = samples["x"][:20]
        with np.load(data_dir / "tiny" / "expected_outputs.npz") as expected:
            key = next(key for key in expected if key.startswith(f"{model}|") and "tflite-runtime" not in key)
            wanted = expected[key][:20]
        spec = engine.inputs[0]
        rows = []
        for one in x:
            (output,) = engine.run([quantize_input(one[None].astype(np.float32), spec)])
            assert output.shape == (1, 10)
            assert output.dtype == engine.outputs[0].dtype
            rows.append(dequantize(output, engine.outputs[0])[0])
        # int8 kernels are not the same on every CPU.
        assert np.abs(np.stack(rows) - wanted).max() < (1e-4 if "int8" not in model else 0.3)

    def test_outputs_belong_to_the_caller(self, loaded: tuple[Engine, str]) -> None:
        engine, _ = loaded
        spec = engine.inputs[0]
        zeros = np.zeros(concrete_shape(spec), dtype=spec.dtype)
        (first,) = engine.run([zeros])
        kept = first.copy()
        engine.run([np.full_like(zeros, 100)])
        assert np.array_equal(first, kept)

    @pytest.mark.parametrize("wrong", ["shape", "dtype", "number"])
    def test_wrong_inputs_are_a_model_error_and_do_no_harm(self, loaded: tuple[Engine, str], wrong: str) -> None:
        engine, _ = loaded
        spec = engine.inputs[0]
        good = np.zeros(concrete_shape(spec), dtype=spec.dtype)
        choices: dict[str, list[Array]] = {
            "shape": [np.zeros((1, 3, 3, 3), dtype=spec.dtype)],
            "dtype": [good.astype(np.float64)],
            "number": [good, good],
        }
        with pytest.raises(ModelError):
            engine.run(choices[wrong])
        assert len(engine.run([good])) == 1

    def test_more_threads_give_the_same(self, loaded: tuple[Engine, str], data_dir: Path) -> None:
        engine, model = loaded
        spec = engine.inputs[0]
        x = quantize_input(np.random.default_rng(0).uniform(0, 255, concrete_shape(spec)).astype(np.float32), spec)
        other = load_engine(engine.name, data_dir / "tiny" / model, threads=2, spin=True)
        assert np.allclose(engine.run([x])[0], other.run([x])[0], atol=1e-5)
        other.close()


@pytest.mark.parametrize("name", ["onnx", "litert", "openvino"])
@pytest.mark.parametrize("isolate", [False, True], ids=["in_process", "isolated"])
class TestBadFiles:
    @pytest.fixture(autouse=True)
    def _installed(self, name: str) -> None:
        if name not in available_engines():
            pytest.skip(f"the {name} engine is not installed")

    def test_a_file_that_is_not_there(self, tmp_path: Path, name: str, isolate: bool) -> None:
        with pytest.raises(ModelError, match="no such model"):
            load_engine(name, tmp_path / "none", isolate=isolate)

    @pytest.mark.parametrize(
        "content", [b"", b"no model", bytes(4000), b"\xff" * 4000, b"\x1c\0\0\0TFL3" + b"\xff" * 99]
    )
    def test_what_is_no_model(self, tmp_path: Path, name: str, content: bytes, isolate: bool) -> None:
        (tmp_path / "m").write_bytes(content)
        with pytest.raises(ModelError):
            load_engine(name, tmp_path / "m", isolate=isolate)


@pytest.mark.parametrize("isolate", [False, True], ids=["in_process", "isolated"])
def test_a_call_that_is_asked_to_end_raises_and_the_next_one_works(tmp_path: Path, isolate: bool) -> None:
    """Where the engine is a process, asking ends it: then there is no next one."""
    engine = load_engine("onnx", awkward_model(tmp_path / "m.onnx"), isolate=isolate)
    errors: list[ModelError] = []

    def call() -> None:
        with pytest.raises(ModelError) as caught:
            engine.run(awkward(hang=True))
        errors.append(caught.value)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    # Asked before the call has begun it ends nothing; nobody can see from outside whether it has.
    wait_until(lambda: engine.interrupt() and not thread.is_alive(), what="the call's end")
    assert len(errors) == 1
    if not isolate:
        assert engine.run(awkward(3))[0] == 6
        assert engine.interrupt(), "nothing is under way"
        assert engine.run(awkward(3))[0] == 6
    engine.close()


@pytest.mark.parametrize("isolate", [False, True], ids=["in_process", "isolated"])
@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_model_of_any_batch_takes_any_batch(tmp_path: Path, name: str, isolate: bool) -> None:
    if name not in available_engines():
        pytest.skip(f"the {name} engine is not installed")
    engine = load_engine(name, linear_model(tmp_path / "m.onnx", features=4), isolate=isolate)
    for rows in (1, 7, 100_000, 0, 3):
        (output,) = engine.run([np.ones((rows, 4), np.float32)])
        assert output.shape == (rows, 3)
        assert rows == 0 or np.allclose(output.sum(axis=1), 1)
    engine.close()


def test_a_cut_model_is_refused(tmp_path: Path) -> None:
    content = linear_model(tmp_path / "m.onnx").read_bytes()
    for length in range(1, len(content) - 1, 7):
        (tmp_path / "cut.onnx").write_bytes(content[:length])
        with pytest.raises(ModelError):
            load_engine("onnx", tmp_path / "cut.onnx")


@pytest.mark.data
def test_an_unknown_operator_is_refused(data_dir: Path) -> None:
    with pytest.raises(ModelError, match=r"custom op|prepare"):
        load_engine("litert", data_dir / "models" / "invalid_custom_op.tflite")


def test_an_unknown_engine_is_refused(tmp_path: Path) -> None:
    path = linear_model(tmp_path / "m.onnx")
    with pytest.raises(DependencyError, match="expected an engine"):
        load_engine("abacus", path)


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20),
    st.floats(1e-3, 10),
    st.integers(-128, 127),
    st.sampled_from(["int8", "uint8"]),
)
def test_quantization_is_off_by_half_a_step_at_most(values: list[float], scale: float, zero: int, dtype: str) -> None:
    limits = np.iinfo(dtype)
    zero_point = zero if dtype == "int8" else zero + 128
    spec = TensorSpec("x", (len(values),), dtype, scale, zero_point)
    reals = np.array(values, dtype=np.float32)
    quantized = quantize_input(reals, spec)
    assert quantized.dtype == dtype
    lowest, highest = ((limit - zero_point) * scale for limit in (limits.min, limits.max))
    wanted = np.clip(reals.astype(np.float64), lowest, highest)
    assert np.abs(dequantize(quantized, spec) - wanted).max() <= scale * (0.5 + 1e-3) + 1e-4


def test_an_onnx_model_of_texts_is_refused(tmp_path: Path) -> None:
    import onnx

    text, real = onnx.TensorProto.STRING, onnx.TensorProto.FLOAT
    ends = [onnx.helper.make_tensor_value_info(name, kind, [1]) for name, kind in (("x", text), ("y", real))]
    node = onnx.helper.make_node("Cast", ["x"], ["y"], to=real)
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(tmp_path / "m.onnx"))
    with pytest.raises(ModelError, match=r"input 'x': expected a tensor of numbers, found tensor\(string\)"):
        load_engine("onnx", tmp_path / "m.onnx")


@given(st.lists(st.floats(-(2**100), 2**100, width=32), min_size=1, max_size=9), st.sampled_from(INTEGERS))
def test_integers_that_are_not_quantized_hold_the_nearest_they_can(values: list[float], dtype: str) -> None:
    spec = TensorSpec("x", (len(values),), dtype)
    limits, reals = np.iinfo(dtype), np.array(values, dtype=np.float32)
    wanted = [min(max(math.trunc(value), limits.min), limits.max) for value in reals.tolist()]
    slack = [abs(value) * 2**-24 + 1 for value in wanted]  # float32 has not every large integer
    prepare = TensorPrepare(spec)
    target = prepare.new_target()
    prepare(reals, target)
    for found in (quantize_input(reals, spec), target):
        assert found.dtype == dtype
        assert all(abs(a - b) <= c for a, b, c in zip(found.tolist(), wanted, slack, strict=True)), found


@pytest.mark.parametrize("name", available_engines())
def test_an_engine_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    """No identifier for a maker's telemetry, in a process that has loaded nothing before."""
    folders = {where: tmp_path / where for where in ("temporary", "home")}
    for folder in folders.values():
        folder.mkdir()
    program = (
        "import sys\nfrom pathlib import Path\nfrom edgeinfer.devices import doctor\n"
        "from edgeinfer.runtime.engines import load_engine\n"
        "folder = Path(doctor.__file__).parent / 'canary'\n"
        "load_engine(sys.argv[1], folder / ('canary.tflite' if sys.argv[1] == 'litert' else 'canary.onnx')).close()\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    environment |= {"TMPDIR": str(folders["temporary"]), "HOME": str(folders["home"])}
    environment |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    subprocess.run([sys.executable, "-c", program, name], env=environment, check=True, timeout=240)
    assert {where: list(folder.iterdir()) for where, folder in folders.items()} == {"temporary": [], "home": []}
