"""`edgeinfer run` with rules: events, their snapshots, and frames that were not worth an inference."""

import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from daemon_process import configuration, results_of, run_until_end
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.manifest import DetectPost, ImagePre, RawPost, WindowPre
from edgeinfer.runtime.results import Kind, Result
from packages import identity_model, linear_model, make_package, picture_model

Array = npt.NDArray[Any]


def events_of(folder: Path, rule: str) -> list[Result]:
    found = [result for result in results_of(folder, "p") if result.kind is Kind.EVENT]
    return [event for event in found if (event.extra or {})["rule"] == rule]


def run(folder: Path, source: str, rules: str, *, extra: str = "") -> "subprocess.CompletedProcess[str]":
    pipeline = f'name = "p"\npackage = "{folder}/p.edgepkg"\n[pipeline.source]\n{source}\n{rules}'
    return run_until_end(configuration(folder, pipeline, extra=extra), "--json")


def counts(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    (document,) = json.loads(done.stdout)["pipelines"]
    assert sum(document["frames"].values()) == document["captured"]
    return {"captured": document["captured"], "events": document["events"], **document["frames"]}


PERSON_RULES = """
[pipeline.tracker]

[[pipeline.rule]]
name = "in the room"
labels = ["person"]
zone = [[0.0, 0.6], [1.0, 0.6], [1.0, 1.0], [0.0, 1.0]]
n_of_m = [3, 5]
end = true
snapshot = true

[[pipeline.rule]]
name = "through the middle"
labels = ["person"]
line = [[0.7, 0.0], [0.7, 1.0]]

[[pipeline.rule]]
name = "never more than one"
labels = ["person"]
count = 2
n_of_m = [8, 10]
"""
SIX = 6


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.data
def test_people_in_the_real_video_are_few_events_with_pictures(tmp_path: Path, data_dir: Path) -> None:
    """Six people walk through from left to right, one after the other, on more than a thousand frames."""
    video = data_dir / "video" / "one-by-one-person-detection.mp4"
    make_package(
        tmp_path / "p.edgepkg",
        data_dir / "models" / "ssd_mobilenet_v1_coco_quant.tflite",
        name="ssd",
        engine="litert",
        pre=ImagePre(300, 300, mean=(128.0,), std=(128.0,)),
        post=DetectPost(score_threshold=0.3, label_offset=1),
        labels=(data_dir / "labels" / "coco_labels_91.txt").read_text().splitlines(),
    )
    done = run(tmp_path, f'kind = "video"\npath = "{video}"', PERSON_RULES)
    assert counts(done)["inferred"] == 1394
    stays = events_of(tmp_path, "in the room")
    by_track = {track: [extra_of(e)["state"] for e in stays if extra_of(e)["track"] == track] for track in range(1, 7)}
    # Who was last in the picture may be waited for when the video ends.
    assert set(map(tuple, by_track.values())) <= {("begin", "end"), ("begin",)}, by_track
    assert len(stays) >= 2 * SIX - 1
    assert [extra["direction"] for extra in map(extra_of, events_of(tmp_path, "through the middle"))] == ["left"] * SIX
    assert not events_of(tmp_path, "never more than one")
    assert counts(done)["events"] == len(stays) + SIX
    begun = [event for event in stays if extra_of(event)["state"] == "begin"]
    assert all(event.items[0].label == 1 and event.items[0].box is not None for event in begun)
    held = sorted(path.name for path in (tmp_path / "state" / "snapshots").iterdir())
    assert held == [extra_of(event)["snapshot"] for event in begun]
    for event in begun:
        kept = (tmp_path / "state" / "snapshots" / str(extra_of(event)["snapshot"])).read_bytes()
        assert kept[:3] == b"\xff\xd8\xff"
        picture = cv2.imdecode(np.frombuffer(kept, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        shown = frame_of(video, event.frame)
        assert picture.shape == shown.shape
        assert np.abs(picture.astype(int) - shown).mean() < 4
        assert np.abs(picture.astype(int) - frame_of(video, event.frame - 15)).mean() > 4, "not of another frame"


def extra_of(event: Result) -> dict[str, int | float | str]:
    return event.extra or {}


def frame_of(video: Path, index: int) -> Array:
    capture = cv2.VideoCapture(str(video))
    for _ in range(index):
        capture.grab()
    ok, picture = capture.read()
    capture.release()
    assert ok
    return picture


def clip(path: Path, moving: range, frames: int) -> None:
    """A noisy scene of 30 frames/s; in the frames `moving` a bright square crosses it."""
    rng = np.random.default_rng(0)
    scene = np.repeat(np.add.outer(np.linspace(40, 120, 240), np.linspace(0, 80, 320))[..., None], 3, axis=2)
    noise = [rng.normal(0, 3, scene.shape) for _ in range(8)]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30.0, (320, 240))
    assert writer.isOpened()
    for index in range(frames):
        picture = scene + noise[index % 8]
        if index in moving:
            x = 10 + 240 * (index - moving.start) // len(moving)
            picture[100:150, x : x + 50] = 240
        writer.write(np.clip(picture, 0, 255).astype(np.uint8))
    writer.release()


def test_frames_without_motion_are_counted_and_not_inferred(tmp_path: Path) -> None:
    make_package(
        tmp_path / "p.edgepkg", picture_model(tmp_path / "p.onnx", width=8, height=8), name="p", pre=ImagePre(8, 8)
    )
    moving = range(150, 210)
    clip(tmp_path / "clip.avi", moving, 400)
    source = f'kind = "video"\npath = "{tmp_path}/clip.avi"'
    found = counts(run(tmp_path, source, "[pipeline.motion]\nhold_s = 0\nrefresh_s = 0"))
    assert found["captured"] == 400
    assert found["motion_skipped"] + found["inferred"] == 400
    inferred = [result.frame for result in results_of(tmp_path, "p") if result.kind is Kind.CLASSIFICATION]
    assert len(inferred) == found["inferred"]
    assert set(moving) <= set(inferred)
    assert set(inferred) <= {0, *range(150, 216)}, "the first, those with motion, and what it leaves behind"
    with BufferReader(tmp_path / "state" / "buffer.db") as reader:
        assert reader.frames()["p"] == {"motion_skipped": found["motion_skipped"], "inferred": found["inferred"]}


def test_a_window_is_kept_as_it_was(tmp_path: Path) -> None:
    make_package(tmp_path / "p.edgepkg", linear_model(tmp_path / "m.onnx"), name="m", labels=["a", "b", "c"])
    x = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    rules = '[[pipeline.rule]]\nname = "another"\non = "change"\nmin_score = 0.5\nn_of_m = [3, 5]\nsnapshot = true'
    done = run(tmp_path, f'kind = "tensors"\npath = "{tmp_path}/x.npz"', rules)
    events = events_of(tmp_path, "another")
    assert len(events) == counts(done)["events"] > 3
    labels = [event.items[0].label for event in events]
    assert all(a != b for a, b in itertools.pairwise(labels))
    kept = [event for event in events if extra_of(event)["snapshot"] != "dropped"]
    assert kept
    for event in kept:
        with np.load(tmp_path / "state" / "snapshots" / str(extra_of(event)["snapshot"])) as window:
            assert np.array_equal(window["x"], x[event.frame])


def test_a_folder_that_cannot_be_written_costs_no_event(tmp_path: Path) -> None:
    make_package(tmp_path / "p.edgepkg", linear_model(tmp_path / "m.onnx"), name="m", labels=["a", "b", "c"])
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32))
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "snapshots").write_text("in the way")
    rules = '[[pipeline.rule]]\nname = "a"\nlabels = ["a"]\nabove = 0.6\nclear = 0.5\nsnapshot = true'
    done = run(tmp_path, f'kind = "tensors"\npath = "{tmp_path}/x.npz"', rules)
    assert counts(done)["inferred"] == 100
    assert len(events_of(tmp_path, "a")) == counts(done)["events"] > 3
    assert done.stderr.count("event=entry_given_up") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ('[[pipeline.rule]]\nname = "r"\nlabels = ["catt"]', "did you mean 'cat'?"),
        ('[[pipeline.rule]]\nname = "r"\nline = [[0, 0], [1, 1]]', "line needs [pipeline.tracker]"),
        (
            '[pipeline.tracker]\n[[pipeline.rule]]\nname = "r"\nlabels = ["cat"]',
            "pipeline 'p': tracker: expected a model that detects",
        ),
        ('[[pipeline.rule]]\nname = "r"\nabove = 1\nbelow = 2', "above and below: choose one"),
    ],
)
def test_rules_that_cannot_be_are_refused_at_the_start(tmp_path: Path, rules: str, message: str) -> None:
    make_package(tmp_path / "p.edgepkg", linear_model(tmp_path / "m.onnx"), name="m", labels=["cat", "dog", "owl"])
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 8), np.float32))
    done = run(tmp_path, f'kind = "tensors"\npath = "{tmp_path}/x.npz"', rules)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_replayed_recording_counts_its_own_seconds(tmp_path: Path) -> None:
    """A minute of rows, one a second, read in no time: a dwell of five of its seconds, and how long it was held."""
    make_package(
        tmp_path / "p.edgepkg", identity_model(tmp_path / "m.onnx", features=1), name="m",
        pre=WindowPre(1, ("level",)), post=RawPost(),
    )  # fmt: skip
    rows = [f"2024-01-01T00:00:{second:02},{int(10 <= second < 40)}\n" for second in range(60)]
    (tmp_path / "s.csv").write_text("t,level\n" + "".join(rows))
    source = f'kind = "csv"\npath = "{tmp_path}/s.csv"\ntime_column = "t"\ncolumns = ["level"]'
    rule = '[[pipeline.rule]]\nname = "high"\nabove = 0.5\ndwell_s = 5\nend = true'
    assert counts(run(tmp_path, source, rule))["events"] == 2
    begin, end = events_of(tmp_path, "high")
    assert (begin.frame, end.frame) == (15, 40)
    assert end.extra is not None
    assert end.extra["held_s"] == 25.0


def test_a_tracker_that_no_rule_asks_is_told_of(tmp_path: Path) -> None:
    make_package(tmp_path / "p.edgepkg", linear_model(tmp_path / "m.onnx"), name="m")
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 8), np.float32))
    done = run(tmp_path, f'kind = "tensors"\npath = "{tmp_path}/x.npz"', "[pipeline.tracker]")
    assert counts(done)["inferred"] == 3
    assert "event=tracker_unused pipeline=p" in done.stderr
