"""Cascades: what one pipeline finds becomes the frames of another, and every one of them is accounted for."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeinfer.runtime.assembly import Surroundings
from edgeinfer.runtime.errors import ConfigError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.handoff import RuntimeDb
from edgeinfer.runtime.manifest import ClassifyPost, DetectPost, ImagePre, TensorPre
from edgeinfer.runtime.pipelines import PipelineSet
from edgeinfer.runtime.relay import RelayHub, RelayObserver, RelaySource, check_cascades, crop
from edgeinfer.runtime.results import Item, Kind, Result
from edgeinfer.runtime.settings import PipelineConfig, RuntimeConfig
from edgeinfer.runtime.slots import Slots
from edgeinfer.runtime.sources.pictures import opencv
from edgeinfer.runtime.sources.settings import ImagesSource, PipelineSource
from edgeinfer.runtime.stages import Seen
from edgeinfer.runtime.store import Store
from packages import make_package
from waiting import wait_until

SIDE = 16
# Two boxes (ymin xmin ymax xmax), their classes and scores: what the "detector" finds in every picture.
BOXES = [[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]]
CLASSES = [0.0, 1.0]
SCORES = [0.9, 0.8]


def detector(path: Path) -> Path:
    """An ONNX model that finds the same two boxes in every picture."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
        helper.make_node("Mul", ["top", "zero"], ["nothing"]),
        helper.make_node("Add", ["boxes_0", "nothing"], ["boxes"]),
        helper.make_node("Add", ["classes_0", "nothing"], ["classes"]),
        helper.make_node("Add", ["scores_0", "nothing"], ["scores"]),
        helper.make_node("Add", ["count_0", "nothing"], ["count"]),
    ]
    constants = {"zero": 0.0, "boxes_0": [BOXES], "classes_0": [CLASSES], "scores_0": [SCORES], "count_0": [2.0]}
    tensors = [
        onnx.numpy_helper.from_array(np.array(value, dtype=np.float32), name) for name, value in constants.items()
    ]
    shapes = {"boxes": [1, 2, 4], "classes": [1, 2], "scores": [1, 2], "count": [1]}
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, SIDE, SIDE, 3])]
    graph = helper.make_graph(nodes, "detector", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path


def brightness(path: Path) -> Path:
    """An ONNX model of two classes: 1 where the picture is bright."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "one"], ["bright"]),
        helper.make_node("Sub", ["full", "bright"], ["dark"]),
        helper.make_node("Concat", ["dark", "bright"], ["y"], axis=1),
    ]
    tensors = [
        onnx.numpy_helper.from_array(np.array([1, 1], dtype=np.int64), "one"),
        onnx.numpy_helper.from_array(np.array([[255.0]], dtype=np.float32), "full"),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 4, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


class Device:
    """Pictures whose left upper quarter is white and whose rest is black; a detector and a classifier."""

    def __init__(self, folder: Path, *, pictures: int = 20) -> None:
        self.folder = folder
        self.results: list[tuple[str, Result]] = []
        self._lock = threading.Lock()
        (folder / "pictures").mkdir()
        picture = np.zeros((60, 80, 3), dtype=np.uint8)
        picture[:30, :40] = 255
        for index in range(pictures):
            opencv().imwrite(str(folder / "pictures" / f"{index:03}.png"), picture)
        make_package(
            folder / "find.edgepkg", detector(folder / "find.onnx"), name="find", labels=("bright", "dark"),
            pre=ImagePre(SIDE, SIDE), post=DetectPost(),
        )  # fmt: skip
        make_package(
            folder / "tell.edgepkg", brightness(folder / "tell.onnx"), name="tell",
            pre=ImagePre(4, 4), post=ClassifyPost(),
        )  # fmt: skip
        store = Store(folder / "state")
        self.db = RuntimeDb(folder / "state" / "runtime.db")
        config = RuntimeConfig(device="d", state_dir=str(folder / "state"))
        self.pipelines = PipelineSet(
            store=store, slots=Slots(self.db, store), append=self.append,
            around=Surroundings(folder / "state", config), until_end=True,
        )  # fmt: skip

    def append(self, pipeline: str, result: Result) -> None:
        with self._lock:
            self.results.append((pipeline, result))

    def of(self, pipeline: str, kind: Kind) -> list[Result]:
        return [result for name, result in self.results if name == pipeline and result.kind is kind]

    def finder(self) -> PipelineConfig:
        source = ImagesSource(path=str(self.folder / "pictures"))
        return PipelineConfig(name="finder", source=source, package=str(self.folder / "find.edgepkg"))

    def teller(self, **source: object) -> PipelineConfig:
        made = msgspec.structs.replace(PipelineSource(of="finder"), **source)
        return PipelineConfig(name="teller", source=made, package=str(self.folder / "tell.edgepkg"))

    def run(self, *configs: PipelineConfig) -> None:
        self.pipelines.start(configs)
        wait_until(self.pipelines.ended)
        self.pipelines.stop()
        for pipeline in self.pipelines.all():
            assert sum(pipeline.counts.totals().values()) == pipeline.counts.captured, pipeline.config.name


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path)
    yield made
    made.pipelines.stop()
    made.db.close()


@pytest.mark.parametrize("order", [1, -1])
def test_the_crops_of_a_detector_are_classified(device: Device, order: int) -> None:
    device.run(*[device.finder(), device.teller()][::order])
    found = device.of("teller", Kind.CLASSIFICATION)
    assert len(found) == 40, "two boxes in each of twenty pictures"
    for result in found:
        extra = result.extra or {}
        assert extra["of"] == "finder"
        assert result.items[0].label == (1 if extra["label"] == 0 else 0), "the crop with label 0 is bright"
        assert extra["file"] == f"{extra['of_frame']:03}.png", "what it was cut out of"
    assert sorted(int((result.extra or {})["of_frame"]) for result in found) == sorted([*range(20), *range(20)])


@pytest.mark.parametrize(("label", "expected"), [("bright", 1), ("0", 1), ("dark", 0)])
def test_frames_are_routed_by_label(device: Device, label: str, expected: int) -> None:
    device.run(device.finder(), device.teller(labels=(label,)))
    assert [result.items[0].label for result in device.of("teller", Kind.CLASSIFICATION)] == [expected] * 20


def test_a_score_can_be_asked_for(device: Device) -> None:
    device.run(device.finder(), device.teller(min_score=0.85))
    assert len(device.of("teller", Kind.CLASSIFICATION)) == 20


def test_whole_frames_go_on_too(device: Device) -> None:
    device.run(device.finder(), device.teller(input="frame"))
    found = device.of("teller", Kind.CLASSIFICATION)
    assert len(found) == 20
    assert all(result.items[0].label == 0 for result in found), "three quarters are black"


def test_an_output_is_the_next_one_s_input(device: Device, tmp_path: Path) -> None:
    make_package(
        tmp_path / "raw.edgepkg", brightness(tmp_path / "raw.onnx"), name="raw", pre=TensorPre(), post=ClassifyPost()
    )
    teller = PipelineConfig(
        name="teller",
        source=PipelineSource(of="finder", input="output", output=2),
        package=str(tmp_path / "raw.edgepkg"),
    )
    device.run(device.finder(), teller)
    (pipeline,) = [one for one in device.pipelines.all() if one.config.name == "teller"]
    assert pipeline.counts.totals()["failed"] == 20, "two scores are no picture of 4 x 4: said, and counted"
    assert "expected 48 values" in pipeline.status.error


def test_seconds_are_those_of_the_recording() -> None:
    """What rules count by, here too, however fast it is read."""
    hub = RelayHub()
    inbox = hub.join(PipelineSource(of="finder"))
    result = Result(Kind.DETECTION, 5, items=(Item(0, 0.9, (0.0, 0.0, 1.0, 1.0)),))
    frame = Frame(np.zeros((4, 4, 3), dtype=np.uint8), 5, 6, 0, stream_ns=70)
    assert list(RelayObserver(hub, "finder", (), live=lambda: False)(Seen(frame, result, np.zeros(1), ()))) == []
    made = inbox.get(30.0)
    assert made is not None
    assert (made.t_ns, made.mono_ns, made.clock_ns) == (5, 6, 70)


def test_a_chain_of_three_ends(device: Device) -> None:
    again = PipelineConfig(
        name="again", source=PipelineSource(of="teller", input="frame"), package=str(device.folder / "tell.edgepkg")
    )
    device.run(again, device.teller(), device.finder())
    assert len(device.of("again", Kind.CLASSIFICATION)) == 40


def test_readers_may_come_and_go(device: Device) -> None:
    finder = msgspec.structs.replace(
        device.finder(), source=ImagesSource(path=str(device.folder / "pictures"), repeat=True)
    )
    device.pipelines.start([finder])
    (running,) = device.pipelines.all()
    wait_until(lambda: running.status.results > 5)
    device.pipelines.apply([finder, device.teller()])
    wait_until(lambda: len(device.of("teller", Kind.CLASSIFICATION)) > 10)
    device.pipelines.apply([finder])
    before = running.status.results
    wait_until(lambda: running.status.results > before + 20)
    assert device.pipelines.all() == [running], "it went on undisturbed"
    assert not running.observers


def test_a_stop_does_not_wait_for_who_reads() -> None:
    hub = RelayHub()
    inbox = hub.join(PipelineSource(of="finder", input="frame"))
    observer = RelayObserver(hub, "finder", (), live=lambda: False)
    frame = Frame(np.zeros((4, 4, 3), dtype=np.uint8), 0, 0, 0)
    seen = Seen(frame, Result(Kind.DETECTION, 0), np.zeros(1), ())
    thread = threading.Thread(target=lambda: [observer(seen) for _ in range(100)])
    thread.start()
    wait_until(lambda: len(inbox._frames) == 16)
    inbox.close()
    thread.join(60)
    assert not thread.is_alive()


def test_of_a_live_source_the_crops_of_the_latest_frames_win() -> None:
    hub = RelayHub()
    inbox = hub.join(PipelineSource(of="finder", max_crops=3))
    observer = RelayObserver(hub, "finder", (), live=lambda: True)
    items = tuple(Item(0, 0.9, (0.1 * i, 0.0, 0.1 * i + 0.1, 1.0)) for i in range(9))
    frame = Frame(np.zeros((4, 40, 3), dtype=np.uint8), time.time_ns(), time.monotonic_ns(), 7)
    assert list(observer(Seen(frame, Result(Kind.DETECTION, 0, items=items), np.zeros(1), ()))) == []
    source = RelaySource(inbox, threading.Event())
    assert source.live
    assert source.depth == 6
    hub.end("finder")
    found = []
    while (one := source.read()) is not None:
        found.append(one)
    assert [one.data.shape for one in found] == [(4, 4, 3)] * 3, "no more than asked for"
    assert all(one.origin is not None and one.origin.frame == 7 for one in found)


@pytest.mark.parametrize(
    ("box", "margin", "expected"),
    [
        ((0.0, 0.0, 1.0, 1.0), 0.0, (100, 200)),
        ((0.5, 0.5, 0.75, 1.0), 0.0, (50, 50)),
        ((0.5, 0.5, 0.75, 1.0), 0.5, (75, 100)),
        ((0.999, 0.999, 0.9991, 0.9991), 0.0, (1, 1)),
        ((1.0, 1.0, 1.0, 1.0), 0.0, (1, 1)),
        ((0.6, 0.6, 0.4, 0.4), 0.0, (1, 1)),
    ],
)
def test_crops(box: tuple[float, float, float, float], margin: float, expected: tuple[int, int]) -> None:
    cut = crop(np.zeros((100, 200, 3), dtype=np.uint8), Item(0, 1.0, box), margin)
    assert cut.shape[:2] == expected


def test_what_reads_nothing_or_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match="not configured"):
        check_cascades({"a": PipelineSource(of="b")})
    with pytest.raises(ConfigError, match="circle"):
        check_cascades({"a": PipelineSource(of="b"), "b": PipelineSource(of="a")})
    with pytest.raises(ConfigError, match="circle"):
        check_cascades({"a": PipelineSource(of="a")})
    check_cascades({"a": None, "b": PipelineSource(of="a"), "c": PipelineSource(of="b")})
