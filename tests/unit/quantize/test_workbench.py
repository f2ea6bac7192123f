"""The workbench with real engines on a tiny model: what it makes, refuses, looks into and times."""

import errno
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeinfer.quantize import latency
from edgeinfer.quantize.candidate import Candidate, float_candidates
from edgeinfer.quantize.carrying import calibration_of
from edgeinfer.quantize.guarding import Guards
from edgeinfer.quantize.judging import Judge
from edgeinfer.quantize.latency import Block, Round
from edgeinfer.quantize.offers import Material, gather
from edgeinfer.quantize.pack import Identity
from edgeinfer.quantize.progress import silent
from edgeinfer.quantize.request import Request
from edgeinfer.quantize.schemes.base import Calibration, Make, Plan, Precision, Scheme
from edgeinfer.quantize.search.orders import Evaluate, Mix, Probe, Screen, Sketch, Time
from edgeinfer.quantize.search.orders import Make as MakeOrder
from edgeinfer.quantize.searching import prepare
from edgeinfer.quantize.targets.base import Target, Timing
from edgeinfer.quantize.targets.local import LocalTarget
from edgeinfer.quantize.workbench import Workbench
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import ModelError, StorageError

OpenBench = Callable[..., Workbench]


@dataclass
class RecordedTarget:
    """Answers what it was given."""

    answers: Mapping[str, Timing]
    name: str = "recorded"
    machine: str = ""
    measured: bool = True
    repeats: bool = False
    cuts_pairs: bool = False
    engines: tuple[str, ...] = ("onnx",)

    def time(
        self,
        candidates: Sequence[Candidate],
        *,
        sample: Array,
        reference: str,
        rough: bool = False,
        time_s: float = math.inf,
    ) -> dict[str, Timing]:
        del sample, reference, rough, time_s
        return {one.id: self.answers.get(one.id, Timing(10.0, 1.0, 0.9, 1.1)) for one in candidates}

    def close(self) -> None: ...


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """Two dense layers of 64 x 64 random weights before the tiny classifier's: large enough to be quantized."""
    random = np.random.default_rng(1)
    weights = [random.normal(0, 0.2, (64, 64)).astype(np.float32) for _ in range(2)]
    columns = np.where(np.arange(64) % 8 < 4, 1.0, -1.0)
    weights[0] += np.eye(64, dtype=np.float32)
    last = (np.stack([columns, -columns]) / 8).astype(np.float32)
    nodes = [helper.make_node("Flatten", ["x"], ["a"], name="flat", axis=1)]
    for index, (source, target) in enumerate([("a", "b"), ("b", "c"), ("c", "scores")]):
        nodes.append(helper.make_node("Gemm", [source, f"w{index}"], [target], name=f"dense{index}", transB=1))
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(one, f"w{index}") for index, one in enumerate([*weights, last])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    path = tmp_path / "dense.onnx"
    onnx.save(model, str(path))
    return path


@pytest.fixture
def open_bench(tmp_path: Path, samples: Path) -> OpenBench:
    def open_it(model: Path, *extra: Scheme, target: Target | None = None) -> Workbench:
        identity = Identity("tiny", "1.0.0", "classification", tmp_path / "out.edgepkg")
        ready = prepare(Request(models=[model], data=samples, identity=identity), tmp_path)
        (reference,) = float_candidates(ready.models)
        judge = Judge(ready.samples, "classification", ready.post, ready.metric)
        judge.open(reference)
        assert ready.samples.calibration is not None
        calibration = calibration_of(reference, ready.samples.calibration)
        material = gather(reference, calibration, few=calibration)
        material.schemes.update({scheme.id: scheme for scheme in extra})
        materials: dict[str, Material] = {"onnx": material}
        folder = tmp_path / "made"
        folder.mkdir(exist_ok=True)
        return Workbench(materials, judge, Guards(), target or RecordedTarget({}), folder, silent)

    return open_it


def scheme(name: str, make: Make, **more: object) -> Scheme:
    return Scheme(name, "onnx", "int8", "made up", make, **more)  # type: ignore[arg-type]  # by name


def copied(source: Path, target: Path, _calibration: Calibration, _plan: Plan) -> str:
    shutil.copy(source, target)
    return ""


def inflated(source: Path, target: Path, _calibration: Calibration, _plan: Plan) -> str:
    """A float model that is larger than what it was made of: as NNCF's accuracy control once returned one."""
    model = onnx.load(str(source))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((40, 40), np.float32), "useless"))
    onnx.save(model, str(target))
    return ""


def test_a_real_scheme_is_made_screened_judged_and_guarded(network: Path, open_bench: OpenBench) -> None:
    bench = open_bench(network)
    made = bench.do(MakeOrder(("onnx-int8-weights",))).entries["onnx-int8-weights"]
    assert 0 < made.bytes < 0.5 * network.stat().st_size
    screened = bench.do(Screen(("onnx-int8-weights",))).entries["onnx-int8-weights"].screened
    assert screened is not None
    assert screened.samples == 24
    assert 0 < screened.divergence < 0.01
    judged = bench.do(Evaluate("onnx-int8-weights")).entries["onnx-int8-weights"]
    assert judged.refused == ""
    assert judged.judged is not None
    assert judged.judged.samples == 48
    assert bench.said["onnx-int8-weights"].shape == (48,), "classes, and not all scores"


def test_speed_is_seen_by_sketches_that_are_not_kept(network: Path, open_bench: OpenBench) -> None:
    told: list[int] = []

    def quick(source: Path, target: Path, calibration: Calibration, plan: Plan) -> str:
        told.append(len(calibration))
        return copied(source, target, calibration, plan)

    def unused(*_: object) -> str:
        raise AssertionError("made in full")

    def failing(*_: object) -> str:
        raise ModelError("the tool failed")

    schemes = [scheme("onnx-slow", unused, sketch=quick), scheme("onnx-failing", failing)]
    bench = open_bench(network, *schemes, target=LocalTarget())
    answer = bench.do(Sketch(("onnx-slow", "onnx-failing", "onnx-int8-weights")))
    assert set(answer.sketches) == {"onnx-slow", "onnx-int8-weights"}
    assert all(timing.ratio > 0.0 for timing in answer.sketches.values())
    assert len(told) == 1
    assert set(bench.entries) == {"onnx-fp32"}, "they are no candidates"
    assert list(bench.folder.iterdir()) == []


def test_a_sketch_runs_on_the_engine_of_its_scheme(network: Path, open_bench: OpenBench) -> None:
    """OpenVINO's schemes begin with the float model of ONNX Runtime."""
    asked: list[str] = []

    class Listening(RecordedTarget):
        def time(self, candidates: Sequence[Candidate], **_: object) -> dict[str, Timing]:
            asked.extend(one.engine for one in candidates)
            return {one.id: Timing(10.0, 1.0, 0.9, 1.1) for one in candidates}

    bench = open_bench(network, target=Listening({}, repeats=True))
    onnx_material = bench.materials["onnx"]
    other = Scheme("openvino-fp32", "openvino", "fp32", "made up", copied, quantizes=False)
    bench.materials = {"onnx": onnx_material, "openvino": replace(onnx_material, schemes={other.id: other})}
    bench = replace(bench)  # which makes its maker anew
    assert set(bench.do(Sketch(("openvino-fp32",))).sketches) == {"openvino-fp32"}
    assert asked == ["onnx", "openvino"]


def test_a_target_that_is_asked_once_is_not_asked_for_sketches(network: Path, open_bench: OpenBench) -> None:
    assert open_bench(network).do(Sketch(("onnx-int8-weights",))).sketches == {}


@pytest.mark.parametrize("make", [copied, inflated])
def test_a_tool_that_quantized_nothing(network: Path, open_bench: OpenBench, make: Make) -> None:
    bench = open_bench(network, scheme("onnx-nothing", make))
    entry = bench.do(MakeOrder(("onnx-nothing",))).entries["onnx-nothing"]
    assert entry.refused.startswith("nothing was quantized: the file has ")
    assert not bench.candidates["onnx-nothing"].path.exists()


def test_a_float_scheme_that_changed_nothing(network: Path, open_bench: OpenBench) -> None:
    bench = open_bench(network, scheme("onnx-slim", copied, quantizes=False))
    assert bench.do(MakeOrder(("onnx-slim",))).entries["onnx-slim"].refused == "is the same file as onnx-fp32"


def test_a_float_model_too_small_for_its_size_to_tell_is_caught_by_its_weights(
    make_model: Callable[..., Path], open_bench: OpenBench
) -> None:
    bench = open_bench(make_model(), scheme("onnx-nothing", inflated))
    for order in (MakeOrder(("onnx-nothing",)), Screen(("onnx-nothing",)), Evaluate("onnx-nothing")):
        entry = bench.do(order).entries["onnx-nothing"]
    assert entry.refused.startswith("nothing was quantized: ")


def test_the_same_file_twice_is_one_candidate(network: Path, open_bench: OpenBench) -> None:
    bench = open_bench(network)
    twin = replace(bench.materials["onnx"].schemes["onnx-int8-weights"], id="onnx-twin")
    bench.materials["onnx"].schemes["onnx-twin"] = twin
    entries = bench.do(MakeOrder(("onnx-int8-weights", "onnx-twin"))).entries
    assert entries["onnx-int8-weights"].refused == ""
    assert entries["onnx-twin"].refused == "is the same file as onnx-int8-weights"


def test_a_tool_that_fails_refuses_its_candidate_alone(network: Path, open_bench: OpenBench) -> None:
    def failing(*_: object) -> str:
        raise ModelError("the tool failed")

    bench = open_bench(network, scheme("onnx-failing", failing))
    assert bench.do(MakeOrder(("onnx-failing",))).entries["onnx-failing"].refused == "the tool failed"


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_ends_the_search_and_leaves_no_part(network: Path, open_bench: OpenBench, *, wrapped: bool) -> None:
    def filling(_source: Path, target: Path, *_: object) -> str:
        target.write_bytes(b"a part")
        full = OSError(errno.ENOSPC, "No space left on device")
        if wrapped:
            raise ModelError("the tool failed") from full
        raise full

    bench = open_bench(network, scheme("onnx-large", filling))
    with pytest.raises(StorageError, match="no room to write onnx-large") as caught:
        bench.do(MakeOrder(("onnx-large",)))
    assert "TMPDIR" in caught.value.hint
    assert list(bench.folder.iterdir()) == []


def test_what_an_engine_cannot_load_is_refused_in_screening(network: Path, open_bench: OpenBench) -> None:
    def garbled(source: Path, target: Path, *_: object) -> str:
        target.write_bytes(source.read_bytes()[:4000])
        return ""

    bench = open_bench(network, scheme("onnx-garbled", garbled))
    bench.do(MakeOrder(("onnx-garbled",)))
    entry = bench.do(Screen(("onnx-garbled",))).entries["onnx-garbled"]
    assert entry.refused
    assert entry.timing is None, "what does not run is not timed"


def test_a_guard_refuses_constant_outputs(network: Path, open_bench: OpenBench) -> None:
    def dulled(source: Path, target: Path, *_: object) -> str:
        model = onnx.load(str(source))
        for item in model.graph.initializer:
            item.CopyFrom(numpy_helper.from_array(np.zeros(tuple(item.dims), np.float16), f"{item.name}16"))
        casts = [
            helper.make_node("Cast", [item.name], [item.name[:-2]], to=TensorProto.FLOAT)
            for item in model.graph.initializer
        ]
        nodes = [*casts, *model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        onnx.save(model, str(target))
        return ""

    bench = open_bench(network, scheme("onnx-dull", dulled))
    for order in (MakeOrder(("onnx-dull",)), Screen(("onnx-dull",)), Evaluate("onnx-dull")):
        entry = bench.do(order).entries["onnx-dull"]
    assert "is the same for all 24 samples" in entry.refused


def test_layers_are_probed_in_the_networks_order_and_leave_no_files(network: Path, open_bench: OpenBench) -> None:
    bench = open_bench(network)
    bench.do(MakeOrder(("onnx-int8-weights",)))
    before = set(bench.folder.iterdir())
    layers = bench.do(Probe("onnx-int8-weights", "int4")).layers
    assert [layer.name for layer in layers][:2] == ["dense0", "dense1"]
    assert all(layer.bytes_saved > 0 for layer in layers[:2])
    assert all(layer.divergence > 0 for layer in layers)
    assert set(bench.folder.iterdir()) == before
    assert bench.do(Probe("onnx-int8-weights", "int4", until_s=0.0)).layers == (), "no time is left"


def test_a_mix_is_a_candidate_with_its_plan(network: Path, open_bench: OpenBench) -> None:
    bench = open_bench(network)
    bench.do(MakeOrder(("onnx-int8-weights",)))
    mix = Mix("onnx-int8-weights-mixed4-1", "onnx-int8-weights", ("dense1",), "int4")
    entry = bench.do(mix).entries[mix.id]
    assert entry.precision == "mixed"
    assert entry.plan == {"dense1": Precision.INT4}
    assert entry.screened is not None
    assert entry.bytes < bench.entries["onnx-int8-weights"].bytes


def test_a_mix_that_changes_nothing_is_refused(network: Path, open_bench: OpenBench) -> None:
    bench = open_bench(network)
    bench.do(MakeOrder(("onnx-int8-weights",)))
    entry = bench.do(Mix("onnx-x", "onnx-int8-weights", ("no such layer",), "float")).entries["onnx-x"]
    assert entry.refused == "is the same file as onnx-int8-weights"
    assert entry.screened is None


def test_a_target_that_cannot_run_a_candidate(network: Path, open_bench: OpenBench) -> None:
    target = RecordedTarget({"onnx-int8-weights": Timing(error="no such operator there")})
    bench = open_bench(network, target=target)
    bench.do(MakeOrder(("onnx-int8-weights",)))
    entry = bench.do(Screen(("onnx-int8-weights",))).entries["onnx-int8-weights"]
    assert entry.timing is not None
    assert entry.timing.error == "no such operator there"
    answer = bench.do(Time(("onnx-fp32", "onnx-int8-weights")))
    assert answer.leads == {}, "it is not asked again: what it said of each stands"


def test_latency_is_told_by_rounds(network: Path, open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock alone is replaced: which is faster differs between machines."""

    def rounds(engines: Mapping[str, object], _sample: object, *, count: int, **_: float) -> list[Round]:
        times = {name: 1e-4 if name == "onnx-fp32" else 0.5e-4 for name in engines}
        return [{name: Block(seconds, seconds) for name, seconds in times.items()} for _ in range(count)]

    monkeypatch.setattr(latency, "run_rounds", rounds)
    bench = open_bench(network, target=LocalTarget())
    bench.do(MakeOrder(("onnx-int8-weights",)))
    bench.do(Screen(("onnx-int8-weights",)))
    answer = bench.do(Time(("onnx-fp32", "onnx-int8-weights")))
    timing = answer.entries["onnx-int8-weights"].timing
    assert timing is not None
    assert [timing.ratio, timing.latency_us] == pytest.approx([0.5, 50.0])
    assert list(answer.leads["onnx-fp32", "onnx-int8-weights"]) == pytest.approx([2.0, 2.0])


def test_time_is_told_from_when_the_search_began(network: Path, open_bench: OpenBench) -> None:
    bench = open_bench(network)
    bench.started_s -= 1000.0
    assert bench.do(Evaluate("onnx-fp32")).elapsed_s > 1000.0
