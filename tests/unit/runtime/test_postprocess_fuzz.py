"""Outputs that no sound model gives: whatever comes, there is no exception, and every item can be sent."""

import math
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.runtime.chunk import PACKED
from edgeinfer.runtime.codec import decode, encode
from edgeinfer.runtime.manifest import (
    AnomalyPost,
    ClassifyPost,
    DetectPost,
    DistancePost,
    EmbedPost,
    ForecastPost,
    KeypointsPost,
    KeywordsPost,
    Postprocess,
    RawPost,
    RegressPost,
    SegmentPost,
    TensorSpec,
)
from edgeinfer.runtime.postprocess import compile_postprocess, result_kind
from edgeinfer.runtime.preprocess import Region
from edgeinfer.runtime.results import Item, Result

Array = npt.NDArray[Any]
PICTURE = TensorSpec("x", (1, 64, 64, 3), "float32")
WINDOW = TensorSpec("x", (1, 8), "float32")
ARRAYS: dict[str, Array] = {"centres": np.zeros((2, 4)), "covariance": np.eye(4), "anchors": np.full((5, 4), 0.5)}
LOW = -1e9  # a threshold that everything passes

# A declaration, the model's input, and the shapes of its outputs: as they are in a model that fits.
CASES: dict[str, tuple[Postprocess, TensorSpec, list[tuple[int, ...]]]] = {
    "classes": (ClassifyPost(top_k=5), PICTURE, [(1, 7)]),
    "logits": (ClassifyPost(activation="softmax"), PICTURE, [(1, 7)]),
    "keywords": (KeywordsPost(average=3, min_count=1, threshold=0.0), WINDOW, [(1, 4)]),
    "tflite_ssd": (DetectPost(score_threshold=LOW), PICTURE, [(1, 5, 4), (1, 5), (1, 5), (1,)]),
    "ssd": (DetectPost("ssd", LOW), PICTURE, [(1, 5, 4), (1, 5, 3)]),
    "boxes": (DetectPost("boxes", LOW), PICTURE, [(1, 5, 2), (1, 5, 4)]),
    "boxes_softmax": (DetectPost("boxes", 0.2, activation="softmax"), PICTURE, [(1, 5, 3), (1, 5, 4)]),
    "boxes_sigmoid": (DetectPost("boxes", 0.2, activation="sigmoid"), PICTURE, [(1, 5, 3), (1, 5, 4)]),
    "fastestdet": (DetectPost("fastestdet", LOW), PICTURE, [(1, 8, 3, 3)]),
    "yolov5": (DetectPost("yolov5", LOW), PICTURE, [(1, 9, 8)]),
    "yolov8": (DetectPost("yolov8", LOW), PICTURE, [(1, 7, 9)]),
    "yolov10": (DetectPost("yolov10", LOW), PICTURE, [(1, 9, 6)]),
    "yolo_dfl": (DetectPost("yolo_dfl", LOW, strides=(32,), bins=4), PICTURE, [(1, 19, 2, 2)]),
    "nanodet": (DetectPost("nanodet", LOW, strides=(32,), bins=4), PICTURE, [(1, 4, 19)]),
    "keypoints": (KeypointsPost(score_threshold=LOW), PICTURE, [(1, 1, 5, 3)]),
    "map": (SegmentPost(min_share=0.0), PICTURE, [(1, 4, 4)]),
    "segments": (SegmentPost(layout="nchw"), PICTURE, [(1, 3, 4, 4)]),
    "segment": (SegmentPost(layout="nhwc"), PICTURE, [(1, 4, 4, 1)]),
    "regression": (RegressPost(scale=(1e20,)), PICTURE, [(1, 4)]),
    "embedding": (EmbedPost(normalize=True), PICTURE, [(1, 4)]),
    "raw": (RawPost(6), PICTURE, [(1, 4), (2, 2)]),
    "mse": (AnomalyPost(0.5), WINDOW, [(1, 8)]),
    "score": (AnomalyPost(0.5, "output"), WINDOW, [(1, 1)]),
    "forecast": (ForecastPost(0.5), WINDOW, [(1, 2)]),
    "distance": (DistancePost(0.5), WINDOW, [(1, 4)]),
    "mahalanobis": (DistancePost(0.5, metric="mahalanobis", normalize=True), WINDOW, [(1, 4)]),
}
NUMBERS = [0.0, -0.0, 0.5, 1.0, -1.0, 3.0, 1e-30, 1e30, -1e30, 3e38, math.nan, math.inf, -math.inf]
REGIONS = [Region(0.0, 0.0, 1.0, 1.0), Region(-0.5, 0.0, 2.0, 1.0), Region(0.4, 0.4, 0.001, 0.001)]


def fill(seed: int, shape: tuple[int, ...], dtype: str) -> Array:
    random = np.random.default_rng(seed)
    if dtype == "float32":
        usual = random.normal(size=shape).astype(np.float32)
        return np.where(random.random(shape) < 0.5, usual, random.choice(NUMBERS, shape)).astype(np.float32)
    limits = np.iinfo(dtype)
    return random.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def check(post: Postprocess, items: tuple[Item, ...]) -> None:
    for item in items:
        assert math.isfinite(item.score)
        assert isinstance(item.label, int)
        if item.box is not None:
            x1, y1, x2, y2 = item.box
            assert 0.0 <= x1 <= x2 <= 1.0
            assert 0.0 <= y1 <= y2 <= 1.0
    result = Result(result_kind(post), 1, items=items)
    (sent,) = decode(PACKED, encode([result]), n=1)
    assert [item.label for item in sent.items] == [item.label for item in items]
    assert all(math.isfinite(item.score) for item in sent.items)
    msgspec.json.encode(sent)


@pytest.mark.parametrize("case", CASES)
@given(
    seeds=st.lists(st.integers(0, 2**32), min_size=1, max_size=3),
    dtype=st.sampled_from(["float32", "float32", "float32", "int8", "uint8", "int64"]),
    region=st.sampled_from(REGIONS),
    quantized=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_numbers(case: str, seeds: list[int], dtype: str, region: Region, quantized: bool) -> None:
    post, model_input, shapes = CASES[case]
    is_quantized = quantized and dtype in {"int8", "uint8"}
    scale, zero_point = (0.07, 3) if is_quantized else (None, None)
    specs = [TensorSpec("y", shape, dtype, scale, zero_point) for shape in shapes]
    read = compile_postprocess(post, model_input=model_input, outputs=specs, arrays=ARRAYS)
    for seed in seeds:
        outputs = [fill(seed + place, shape, dtype) for place, shape in enumerate(shapes)]
        before = [output.copy() for output in outputs]
        check(post, read(fill(seed, model_input.shape, "float32"), outputs, region))
        for output, copy in zip(outputs, before, strict=True):
            assert np.array_equal(output, copy, equal_nan=dtype == "float32")


@pytest.mark.parametrize(
    ("post", "shapes", "empty"),
    [
        (ClassifyPost(), [(1, -1)], [(1, 0)]),
        (ClassifyPost(activation="softmax"), [(1, -1)], [(1, 0)]),
        (KeywordsPost(), [(1, -1)], [(1, 0)]),
        (DetectPost(), [(1, -1, 4), (1, -1), (1, -1), (1,)], [(1, 0, 4), (1, 0), (1, 0), (1,)]),
        (DetectPost(), [(1, -1, 4), (1, -1), (1, -1), (-1,)], [(1, 0, 4), (1, 0), (1, 0), (0,)]),
        (DetectPost("ssd"), [(1, -1, 4), (1, -1, 3)], [(1, 0, 4), (1, 0, 3)]),
        (DetectPost("boxes"), [(1, -1, 4), (1, -1, 3)], [(1, 3, 4), (1, 0, 3)]),
        (DetectPost("boxes"), [(-1, -1, 4), (-1, -1, -1)], [(0, 3, 4), (0, 3, 0)]),
        (DetectPost("yolov5"), [(1, -1, 8)], [(1, 0, 8)]),
        (DetectPost("yolov8"), [(-1, 8, -1)], [(0, 8, 0)]),
        (DetectPost("yolov8"), [(1, 8, -1)], [(1, 8, 0)]),
        (DetectPost("yolov10"), [(-1, -1, 6)], [(0, 0, 6)]),
        (DetectPost("nanodet", strides=(32,), bins=4), [(-1, -1, 19)], [(1, 0, 19)]),
        (DetectPost("fastestdet"), [(-1, 8, -1, -1)], [(0, 8, 0, 0)]),
        (SegmentPost(), [(-1, -1, -1)], [(0, 0, 0)]),
        (SegmentPost(layout="nhwc"), [(-1, -1, -1, 3)], [(1, 0, 0, 3)]),
        (KeypointsPost(), [(-1, -1, 3)], [(0, 17, 3)]),
        (RawPost(), [(-1, -1)], [(0, 3)]),
        (AnomalyPost(0.5, "output"), [(-1, 1)], [(0, 1)]),
    ],
)
def test_empty_outputs_where_a_model_leaves_sizes_open(
    post: Postprocess, shapes: list[tuple[int, ...]], empty: list[tuple[int, ...]]
) -> None:
    specs = [TensorSpec("y", shape, "float32") for shape in shapes]
    read = compile_postprocess(post, model_input=PICTURE, outputs=specs)
    outputs = [np.zeros(shape, dtype=np.float32) for shape in empty]
    assert read(np.zeros(PICTURE.shape, np.float32), outputs, REGIONS[0]) == ()


@given(
    count=st.integers(0, 4),
    shape=st.lists(st.integers(-1, 6), max_size=5).map(tuple),
    case=st.sampled_from(sorted(CASES)),
)
@settings(max_examples=400, deadline=None)
def test_any_shapes_are_read_or_refused(count: int, shape: tuple[int, ...], case: str) -> None:
    """Nothing but a ModelError when a model is loaded; what is accepted can be read."""
    from edgeinfer.runtime.errors import ModelError

    post, model_input, _ = CASES[case]
    specs = [TensorSpec("y", shape, "float32")] * count
    try:
        read = compile_postprocess(post, model_input=model_input, outputs=specs, arrays=ARRAYS)
    except ModelError:
        return
    outputs = [np.ones([1 if size < 0 else size for size in spec.shape], dtype=np.float32) for spec in specs]
    check(post, read(np.zeros(model_input.shape, np.float32), outputs, REGIONS[0]))
