"""Explanations: the maps of known scores are known, and those of real models lie on what the picture shows."""

import json
import math
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.cli import main
from edgeinfer.runtime.errors import EdgeInferError, PackageError, SourceError, UsageError
from edgeinfer.runtime.explain import Explanation, Request, explain
from edgeinfer.runtime.learn.occlusion import Area, Fill, cover_picture, cover_series, places
from edgeinfer.runtime.learn.packages import package_from_file, package_of_pipeline
from edgeinfer.runtime.learn.subject import read_subject
from edgeinfer.runtime.learn.target import Target, choose_target, graded
from edgeinfer.runtime.manifest import AnomalyPost, AudioPre, ClassifyPost, DetectPost, ImagePre, TensorPre, WindowPre
from edgeinfer.runtime.posts import EmbedPost, ForecastPost, KeywordsPost, SegmentPost
from edgeinfer.runtime.results import Item, Kind
from packages import identity_model, linear_model, make_package, picture_model, projection_model

Array = npt.NDArray[Any]


class TestPlaces:
    @given(st.integers(0, 50), st.integers(1, 200), st.integers(1, 60), st.integers(1, 60))
    def test_every_place_is_covered_and_none_beyond(self, begin: int, length: int, size: int, stride: int) -> None:
        stride = min(stride, size)
        found = places(begin, begin + length, size=size, stride=stride)
        covered = {place for start in found for place in range(start, min(start + size, begin + length))}
        assert covered == set(range(begin, begin + length))
        assert found[0] == begin
        assert max(found) + size <= max(begin + length, begin + size)


class TestMaps:
    """Of scores that are written down: the map is where they look."""

    @pytest.mark.parametrize("fill", ["grey", "blur"])
    def test_a_score_of_one_square_comes_from_there(self, fill: Fill) -> None:
        picture = np.zeros((60, 80, 3), np.uint8)
        picture[20:30, 50:60] = 255
        asked = []

        def score(seen: Array) -> float:
            asked.append(seen)
            return float(seen[20:30, 50:60].mean()) / 255.0

        done: list[float] = []
        heat = cover_picture(picture, Area(0, 60, 0, 80), score, patch=10, stride=5, fill=fill, tick=done.append)
        assert np.unravel_index(heat.argmax(), heat.shape)[0] in range(18, 32)
        assert np.unravel_index(heat.argmax(), heat.shape)[1] in range(48, 62)
        assert heat[:15].max() == heat[:, :40].max() == 0.0
        assert len(asked) == 1 + 11 * 15
        assert done == sorted(done)
        assert picture[20:30, 50:60].min() == 255, "the picture itself is not touched"

    def test_nothing_outside_of_what_the_model_sees_is_covered(self) -> None:
        picture = np.full((40, 40, 3), 9, np.uint8)
        picture[0, 0] = 200
        heat = cover_picture(
            picture, Area(10, 30, 10, 30), lambda seen: float(seen[0, 0, 0]), patch=8, stride=4, fill="grey",
            tick=lambda _: None,
        )  # fmt: skip
        assert not heat.any()

    @pytest.mark.parametrize("fill", ["mean", "neighbours"])
    def test_a_score_of_one_stretch_comes_from_there(self, fill: Fill) -> None:
        series = np.zeros((50, 3), np.float32)
        series[20:25, 1] = 5.0
        heat = cover_series(
            series, lambda seen: float(np.abs(seen[:, 1]).sum()), patch=5, stride=5, group=1, fill=fill, means=None,
            tick=lambda _: None,
        )  # fmt: skip
        assert np.unravel_index(heat.argmax(), heat.shape)[1] == 1
        assert set(np.argwhere(heat == heat.max())[:, 0]) == set(range(20, 25))
        assert heat[20, 1] > 20.0

    def test_the_line_between_the_neighbours_is_a_line(self) -> None:
        series = np.arange(20.0)[:, np.newaxis]
        heat = cover_series(
            series, lambda seen: float(np.abs(seen - series).sum()), patch=3, stride=1, group=1, fill="neighbours",
            means=None, tick=lambda _: None,
        )  # fmt: skip
        np.testing.assert_allclose(heat[4:16], 0.0, atol=1e-9)

    def test_order_is_what_a_shuffle_takes(self) -> None:
        series = np.tile(np.arange(8.0), 4)[:, np.newaxis]

        def score(seen: Array) -> float:
            return -float(np.abs(np.diff(seen[:, 0])).sum())

        def run(fill: Fill, of: Any) -> Array:
            return cover_series(series, of, patch=8, stride=8, group=1, fill=fill, means=None, tick=lambda _: None)

        assert run("shuffle", score).max() > 0.0
        assert not run("shuffle", lambda seen: float(seen.sum())).any()

    def test_integers_stay_integers(self) -> None:
        series = np.array([[-128, 127]] * 6, np.int8)
        seen_types = set()

        def score(seen: Array) -> float:
            seen_types.add(seen.dtype)
            return 0.0

        cover_series(
            series, score, patch=2, stride=2, group=2, fill="mean", means=np.array([-500.0, 500.0]), tick=lambda _: None
        )
        assert seen_types == {np.dtype(np.int8)}


class TestTarget:
    BOX = (0.1, 0.1, 0.5, 0.5)

    def test_a_box_that_moves_counts_for_less(self) -> None:
        target = Target(Kind.DETECTION, Item(3, 0.8, self.BOX), "cat")
        assert target.score_in((Item(3, 0.6, self.BOX),)) == pytest.approx(0.6)
        assert target.score_in((Item(3, 0.6, (0.1, 0.1, 0.5, 0.3)),)) == pytest.approx(0.3)
        assert target.score_in((Item(4, 0.9, self.BOX),)) == 0.0
        assert target.score_in(()) == 0.0

    def test_the_named_class_or_the_best_one(self) -> None:
        items = (Item(1, 0.6), Item(0, 0.3))
        labels = ("cat", "dog")
        assert choose_target(items, Kind.CLASSIFICATION, "", labels).name == "dog"
        assert choose_target(items, Kind.CLASSIFICATION, "cat", labels).item.score == 0.3
        assert choose_target(items, Kind.CLASSIFICATION, "0", labels).name == "cat"
        with pytest.raises(UsageError, match="did you mean 'cat'"):
            choose_target(items, Kind.CLASSIFICATION, "cta", labels)
        with pytest.raises(EdgeInferError, match="nothing"):
            choose_target((), Kind.DETECTION, "", labels)
        with pytest.raises(EdgeInferError, match="'dog'"):
            choose_target((Item(0, 0.9, self.BOX),), Kind.DETECTION, "dog", labels)
        with pytest.raises(UsageError, match="no label"):
            choose_target((Item(1, 3.0),), Kind.ANOMALY, "dog", labels)
        assert choose_target((Item(0, 3.0), Item(1, 9.0)), Kind.REGRESSION, "1", ()).item.score == 9.0
        with pytest.raises(UsageError, match="value of 0 to 1"):
            choose_target((Item(0, 3.0), Item(1, 9.0)), Kind.REGRESSION, "2", ())

    def test_low_scores_are_asked_for(self) -> None:
        assert graded(DetectPost(score_threshold=0.6)) == DetectPost(score_threshold=0.05)
        assert graded(SegmentPost()) == SegmentPost(min_share=0.0)
        keywords = graded(KeywordsPost(output=2, activation="softmax"))
        assert isinstance(keywords, ClassifyPost)
        assert (keywords.output, keywords.activation) == (2, "softmax")
        for without in (EmbedPost(), ForecastPost(threshold=1.0)):
            with pytest.raises(UsageError, match="score for one input"):
                graded(without)


def run(package_path: Path, subject: Path, *, frame: int = 0, **request: Any) -> Explanation:
    with package_from_file(package_path) as package:
        return explain(package, read_subject(subject, package.manifest, frame=frame), Request(**request))


def decoded(explanation: Explanation) -> Array:
    found = cv2.imdecode(np.frombuffer(explanation.picture(), np.uint8), cv2.IMREAD_COLOR)
    assert found is not None
    return np.asarray(found)


def share_inside(explanation: Explanation, box: Sequence[float]) -> float:
    """How much hotter it is in `box` (pixels x1 y1 x2 y2) than outside: the part of all heat that is in it, over its
    part of the picture."""
    heat = np.maximum(explanation.covered.heat, 0.0)
    x1, y1, x2, y2 = (round(value) for value in box)
    inside = heat[y1:y2, x1:x2]
    return float(inside.sum() / heat.sum() / (inside.size / heat.size))


@pytest.mark.data
class TestRealModels:
    CAT = (90, 45, 360, 333)

    @pytest.mark.parametrize("name", ["mobilenet_v1_0.25_128_quant", "mobilenet_v1_0.5_160_quant"])
    def test_the_cat_is_on_the_cat(self, tmp_path: Path, data_dir: Path, name: str) -> None:
        side = int(name.split("_")[3])
        labels = (data_dir / "labels/imagenet_labels.txt").read_text().splitlines()
        pre = ImagePre(side, side, mean=(128.0,), std=(128.0,))
        make_package(
            tmp_path / "m.edgepkg", data_dir / "models" / f"{name}.tflite", name="m", engine="litert", pre=pre,
            labels=labels,
        )  # fmt: skip
        found = run(tmp_path / "m.edgepkg", data_dir / "images/cat.png")
        assert "cat" in found.target.name
        assert found.covered.heat.max() > 0.15
        assert share_inside(found, self.CAT) > 1.2
        picture = decoded(found)
        assert picture.shape[0] > 480

    def test_the_person_of_a_video_is_where_the_heat_is(self, tmp_path: Path, data_dir: Path) -> None:
        make_package(
            tmp_path / "m.edgepkg", data_dir / "tiny/vww_int8.tflite", name="m", engine="litert",
            pre=ImagePre(96, 96, std=(255.0,)), labels=["no person", "person"],
        )  # fmt: skip
        found = run(tmp_path / "m.edgepkg", data_dir / "video/one-by-one-person-detection.mp4", frame=300)
        assert (found.target.name, found.target.item.score > 0.9) == ("person", True)
        assert share_inside(found, (375, 0, 550, 420)) > 3.0

    def test_a_detected_cat_is_explained_by_its_box(self, tmp_path: Path, data_dir: Path) -> None:
        make_package(
            tmp_path / "m.edgepkg", data_dir / "models/ssd_mobilenet_v1_coco_quant.tflite", name="m", engine="litert",
            pre=ImagePre(300, 300, mean=(128.0,), std=(128.0,)), post=DetectPost(label_offset=1),
            labels=(data_dir / "labels/coco_labels_91.txt").read_text().splitlines(),
        )  # fmt: skip
        found = run(tmp_path / "m.edgepkg", data_dir / "images/cat.png", label="cat", patch=120, stride=60)
        assert found.target.name == "cat"
        assert found.target.item.score == pytest.approx(0.71875, abs=0.02)
        assert found.target.item.box is not None
        assert share_inside(found, self.CAT) > 1.1
        with pytest.raises(EdgeInferError, match="'airplane'"):
            run(tmp_path / "m.edgepkg", data_dir / "images/cat.png", label="airplane")

    def test_a_spoken_word_is_where_it_is_spoken(self, tmp_path: Path, data_dir: Path) -> None:
        make_package(tmp_path / "m.edgepkg", data_dir / "tiny/kws_int8.tflite", name="m", engine="litert")
        samples = np.load(data_dir / "tiny/kws_samples.npz")
        np.savez(tmp_path / "x.npz", x=samples["x"][:20])
        found = run(tmp_path / "m.edgepkg", tmp_path / "x.npz", frame=3)
        assert found.target.item.score > 0.99
        assert found.covered.heat.shape == (49, 10)
        # The first coefficient is loudness: the map lies where it changes.
        loudness = samples["x"][3, :, 0, 0].astype(float)
        onset = int(np.abs(np.diff(loudness)).argmax())
        assert abs(int(found.peak()["step"]) - onset) <= 8
        assert max(found.document()["by_channel"].items(), key=lambda entry: entry[1])[0] == "0"

    def test_the_sensor_that_is_off_drives_the_anomaly(self, tmp_path: Path, data_dir: Path) -> None:
        """A sound window of SKAB, one of whose sensors is moved."""
        path = data_dir / "sensors/skab/anomaly-free/anomaly-free.csv"
        lines = path.read_text().splitlines()
        names = lines[0].split(";")[1:9]
        series = np.array([[float(cell) for cell in line.split(";")[1:9]] for line in lines[1:]], np.float32)
        mean, std = series.mean(axis=0), series.std(axis=0)
        rows = np.stack([((series - mean) / std)[k : k + 20].reshape(-1) for k in range(0, len(series) - 20, 20)])
        basis = np.linalg.svd(rows, full_matrices=False)[2][:30]
        pre = WindowPre(20, tuple(names), tuple(mean.tolist()), tuple(std.tolist()))
        model = projection_model(tmp_path / "m.onnx", basis)
        make_package(tmp_path / "m.edgepkg", model, name="m", pre=pre, post=AnomalyPost(0.4))
        cells = [line.split(";") for line in lines[:41]]
        for row in cells[11:16]:
            row[4] = str(float(row[4]) + 8 * float(std[3]))
        (tmp_path / "off.csv").write_text("\n".join(";".join(row) for row in cells))
        found = run(tmp_path / "m.edgepkg", tmp_path / "off.csv", frame=5)
        assert found.target.item.label == 1
        assert found.peak() == {"step": found.peak()["step"], "channel": "Pressure"}
        assert 5 <= int(found.peak()["step"]) < 10, "rows 10 to 14 of the file"
        by_channel = found.document()["by_channel"]
        assert max(by_channel, key=lambda name: by_channel[name]) == "Pressure"
        assert decoded(found).shape[1] > 1000


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A package of pictures 8 x 8, and a picture."""
    model = picture_model(tmp_path / "m.onnx", width=8, height=8)
    make_package(tmp_path / "m.edgepkg", model, name="m", pre=ImagePre(8, 8, std=(2550.0,)), labels=["a", "b", "c"])
    picture = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "x.png"), picture)
    cv2.imwrite(str(tmp_path / "grey.png"), picture[..., 0])
    return tmp_path


class TestSmall:
    def test_the_map_sums_up_what_the_weights_say(self, tmp_path: Path) -> None:
        """A linear score: covering a value by 0 takes exactly its part."""
        model = linear_model(tmp_path / "m.onnx", features=8, classes=2)
        make_package(tmp_path / "m.edgepkg", model, name="m", pre=TensorPre())
        weights = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
        x = np.random.default_rng(5).normal(size=8).astype(np.float32)
        np.savez(tmp_path / "x.npz", x=(x - x.mean())[np.newaxis])
        found = run(tmp_path / "m.edgepkg", tmp_path / "x.npz", label="1", patch=1, stride=1)

        def score(values: Array) -> float:
            logits = values @ weights
            return float(np.exp(logits[1]) / np.exp(logits).sum())

        centred = x - x.mean()
        expected = [score(centred) - score(np.where(np.arange(8) == k, 0.0, centred)) for k in range(8)]
        np.testing.assert_allclose(found.covered.heat[:, 0], expected, atol=1e-5)

    def test_grey_pictures_and_other_fills(self, pictures: Path) -> None:
        for subject in ("x.png", "grey.png"):
            for fill in ("grey", "blur"):
                found = run(pictures / "m.edgepkg", pictures / subject, fill=fill, patch=16, stride=8)
                assert found.covered.heat.shape == (64, 48)
                assert np.isfinite(found.covered.heat).all()
        document = json.loads(msgspec.json.encode(found.document()))
        assert np.array(document["cells"]).shape == (64, 48)
        assert document["fill"] == "blur"

    def test_cells_are_means(self, pictures: Path) -> None:
        cv2.imwrite(str(pictures / "large.png"), np.zeros((300, 1000, 3), np.uint8))
        found = run(pictures / "m.edgepkg", pictures / "large.png", patch=150, stride=150)
        cells = np.array(found.document()["cells"])
        assert cells.shape == (64, 64)
        assert cells.mean() == pytest.approx(float(found.covered.heat.mean()), abs=1e-3)

    @pytest.mark.parametrize(
        ("request_", "reason"),
        [
            ({"patch": 1000}, "patch"),
            ({"patch": 4, "stride": 100}, "stride"),
            ({"fill": "mean"}, "fill"),
            ({"label": "d"}, "label"),
            ({"variant": "none"}, "variant"),
        ],
    )
    def test_requests_that_do_not_fit_are_refused(self, pictures: Path, request_: dict[str, Any], reason: str) -> None:
        with pytest.raises(EdgeInferError, match=reason):
            run(pictures / "m.edgepkg", pictures / "x.png", **request_)

    def test_work_without_end_is_refused(self, pictures: Path) -> None:
        cv2.imwrite(str(pictures / "large.png"), np.zeros((1000, 1000, 3), np.uint8))
        with pytest.raises(UsageError, match="inferences"):
            run(pictures / "m.edgepkg", pictures / "large.png", patch=2, stride=1)

    def test_a_window_of_sound_is_explained_from_its_file(self, tmp_path: Path) -> None:
        model = identity_model(tmp_path / "m.onnx", features=400)
        make_package(tmp_path / "m.edgepkg", model, name="m", pre=AudioPre(400, rate_hz=8000), post=AnomalyPost(1.0))
        sound = (np.sin(np.arange(1000) / 5.0) * 20000).astype("<i2")
        with wave.open(str(tmp_path / "x.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(sound.tobytes())
        found = run(tmp_path / "m.edgepkg", tmp_path / "x.wav", frame=1)
        np.testing.assert_allclose(found.covered.subject[:, 0], sound[400:800] / 32768.0, atol=1e-6)
        with pytest.raises(SourceError, match="1200 samples"):
            run(tmp_path / "m.edgepkg", tmp_path / "x.wav", frame=2)

    @pytest.mark.parametrize("channels", [1, 3, 40, 700])
    def test_series_of_few_and_many_channels_are_drawn(self, tmp_path: Path, channels: int) -> None:
        model = identity_model(tmp_path / "m.onnx", features=4 * channels)
        make_package(tmp_path / "m.edgepkg", model, name="m", pre=WindowPre(4), post=AnomalyPost(1.0))
        np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(1, 4, channels)).astype(np.float32))
        found = run(tmp_path / "m.edgepkg", tmp_path / "x.npz")
        assert found.covered.heat.shape == (4, channels)
        assert min(decoded(found).shape[:2]) > 60


class TestCommand:
    """Exit statuses and what is said."""

    def call(self, *arguments: object) -> int:
        return main(["explain", *map(str, arguments)])

    def test_a_map_is_written_and_summed_up(self, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
        target = pictures / "out.png"
        assert self.call(pictures / "m.edgepkg", pictures / "x.png", "-o", target, "--patch", 16) == 0
        assert target.read_bytes().startswith(b"\x89PNG")
        out, err = capsys.readouterr()
        assert "m 1.0.0 (onnx-fp32): " in out
        assert f"written to {target}" in out
        assert err == ""

    def test_a_program_gets_one_document(
        self, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(pictures)
        assert self.call(pictures / "m.edgepkg", pictures / "x.png", "--json", "--label", "b") == 0
        document = json.loads(capsys.readouterr().out)
        assert (document["name"], document["kind"], document["picture"]) == ("b", "classification", "x-explained.png")
        assert (pictures / "x-explained.png").exists()
        assert math.isfinite(document["drop"])

    @pytest.mark.parametrize(
        ("arguments", "status", "said"),
        [
            (["gone.edgepkg", "x.png"], 2, "gone.edgepkg: no such file"),
            (["m.edgepkg", "gone.png"], 2, "gone.png: no such file"),
            (["m.edgepkg"], 2, "a package and an input"),
            (["m.edgepkg", "x.png", "x.png"], 2, "a package and an input"),
            (["m.edgepkg", "m.onnx"], 2, "known kind"),
            (["m.edgepkg", "x.png", "--label", "zebra"], 2, "zebra"),
            (["m.edgepkg", "x.png", "-o", "no/such/folder.png"], 2, "cannot be written"),
            (["m.edgepkg", "x.png", "-o", "map.txt"], 2, "expected a name that ends in .png, found '.txt'"),
            (["m.edgepkg", "x.png", "--state-dir", "."], 2, "--pipeline"),
            (["x.png", "--pipeline", "door", "--state-dir", "."], 2, "runtime.db"),
            (["x.png", "x.png"], 3, "x.png"),
            (["cut.edgepkg", "x.png"], 3, "cut.edgepkg"),
            (["m.edgepkg", "broken.png"], 1, "no picture"),
            (["m.edgepkg", "x.npz", "--frame", "9"], 1, "at least 10"),
            (["m.edgepkg", "x.csv"], 2, "no windows"),
        ],
    )
    def test_mistakes_have_a_status_and_a_sentence(
        self, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
        arguments: list[str], status: int, said: str,
    ) -> None:  # fmt: skip
        monkeypatch.chdir(pictures)
        whole = (pictures / "m.edgepkg").read_bytes()
        (pictures / "cut.edgepkg").write_bytes(whole[: len(whole) // 2])
        (pictures / "broken.png").write_bytes(b"\x89PNG and no more")
        (pictures / "x.csv").write_text("a,b\n1,2\n")
        np.savez(pictures / "x.npz", x=np.zeros((2, 8, 8, 3), np.uint8))
        assert self.call(*arguments) == status
        err = capsys.readouterr().err
        assert said in err
        assert "Traceback" not in err

    def test_a_package_that_was_changed_on_the_device_is_refused(self, pictures: Path) -> None:
        from edgeinfer.runtime.handoff import RuntimeDb
        from edgeinfer.runtime.store import Store

        state = pictures / "state"
        installed = Store(state).install(pictures / "m.edgepkg")
        status = {
            "models": {"m": {"digest": installed.digest}},
            "pipelines": {"door": {"model": "m", "variant": "onnx-fp32"}},
        }
        with RuntimeDb(state / "runtime.db") as db:
            db.set_status(msgspec.json.encode(status))
        package, variant = package_of_pipeline(state, "door")
        assert (package.digest, variant) == (installed.digest, "onnx-fp32")
        with pytest.raises(UsageError, match="door"):
            package_of_pipeline(state, "window")
        (installed.folder / "m.onnx").write_bytes(b"another")
        with pytest.raises(PackageError, match=r"m\.onnx"):
            package_of_pipeline(state, "door")
        (installed.folder / "manifest.json").unlink()
        with pytest.raises(PackageError, match="cannot be read"):
            package_of_pipeline(state, "door")
