"""Detectors: packed as they are, and quantized against the float model's own boxes."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.quantize import latency
from edgeinfer.quantize.commands import create_package, quantize_model
from edgeinfer.quantize.latency import Block, Round
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.gate import run_gate
from edgeinfer.runtime.manifest import DetectPost, ImagePre
from edgeinfer.runtime.model import LoadedModel
from edgeinfer.runtime.store import Store

pytestmark = [pytest.mark.data, pytest.mark.timeout(1200)]


def test_a_quantized_ssd_is_packed_as_it_is_and_finds_the_cat(data_dir: Path, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    output = tmp_path / "ssd.edgepkg"
    labels = next((data_dir / "labels").glob("coco*.txt"), None)
    create_package(
        [data_dir / "models" / "ssd_mobilenet_v1_coco_quant.tflite"],
        task="detection",
        name="coco-ssd",
        version="1.0.0",
        output=output,
        labels=labels,
        postprocess="label_offset=1",
    )
    installed = Store(tmp_path / "state").install(output)
    assert run_gate(installed).variant == "litert-int8"
    manifest = installed.manifest
    assert isinstance(manifest.preprocess, ImagePre)
    assert (manifest.preprocess.mean, manifest.preprocess.std) == ((128.0,), (128.0,))
    assert manifest.postprocess == DetectPost(format="tflite_ssd", label_offset=1)
    picture = cv2.imread(str(next(data_dir.glob("images/**/cat.png"))))
    model = LoadedModel(installed)
    best = max(model.infer(model.prepare(Frame(picture, 0, 0, 0))).items, key=lambda item: item.score)
    assert best.box is not None
    height, width = picture.shape[:2]
    found = np.array(best.box) * (width, height, width, height)
    assert found == pytest.approx(np.array([46.7, 44.6, 362.7, 333.2]), abs=12)
    assert best.score == pytest.approx(0.72, abs=0.1)


@pytest.fixture
def swift_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the clock alone: where integers are slow, what is made of them is not looked at."""

    def rounds(engines: Mapping[str, object], _sample: object, *, count: int, **_: float) -> list[Round]:
        blocks = {name: 5e-5 if name.endswith("onnx-u8s8") else 1e-4 for name in engines}
        return [{name: Block(call_s, call_s) for name, call_s in blocks.items()} for _ in range(count)]

    monkeypatch.setattr(latency, "run_rounds", rounds)


@pytest.mark.usefixtures("swift_integers")
def test_a_float_detector_is_held_against_its_own_boxes(data_dir: Path, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    pictures = [cv2.imread(str(path)) for path in sorted((data_dir / "images" / "coco").glob("*.jpg"))]
    x = np.stack([cv2.resize(picture, (352, 352), interpolation=cv2.INTER_AREA) for picture in pictures])
    np.savez(tmp_path / "coco.npz", x=np.concatenate([x, x[:, :, ::-1]]))
    document = quantize_model(
        [data_dir / "models" / "FastestDet.onnx"],
        data=tmp_path / "coco.npz",
        task="detection",
        name="fastestdet",
        version="1.0.0",
        output=tmp_path / "fd.edgepkg",
        max_drop=25.0,
        preprocess="kind=image,color=bgr,layout=nchw,mean=0,std=255,interpolation=area,raw=true",
        postprocess="score_threshold=0.65",
    )
    assert document["metric"] == "box_f1"
    assert document["float"]["metric_value"] == 1.0
    figures = {entry["variant"]: entry for entry in document["candidates"]}
    assert 0.7 < figures["onnx-u8s8"]["metric_value"] < 1.0
    installed = Store(tmp_path / "state").install(tmp_path / "fd.edgepkg")
    assert installed.manifest.postprocess == DetectPost(format="fastestdet", score_threshold=0.65)
    for variant in installed.manifest.variants:
        assert run_gate(installed, variant=variant.id).variant == variant.id
