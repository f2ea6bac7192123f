"""Keypoints, segmentation, quantities, embeddings and raw values, whose meaning is known."""

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest

from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import (
    EmbedPost,
    KeypointsPost,
    Postprocess,
    RawPost,
    RegressPost,
    SegmentPost,
    TensorSpec,
)
from edgeinfer.runtime.postprocess import compile_postprocess, result_kind
from edgeinfer.runtime.postprocess.segment import Segment
from edgeinfer.runtime.preprocess import Region
from edgeinfer.runtime.results import Item, Kind

Array = npt.NDArray[Any]
WHOLE = Region(0.0, 0.0, 1.0, 1.0)
NONE = np.zeros((1, 1), dtype=np.float32)
PICTURE = TensorSpec("x", (1, 100, 200, 3), "float32")
# A picture twice as wide as high in a square input: a quarter of it above and below is padding.
LETTERBOX = Region(0.0, -0.5, 1.0, 2.0)


def items(post: Postprocess, *outputs: Array, region: Region = WHOLE) -> tuple[Item, ...]:
    specs = [TensorSpec("y", output.shape, output.dtype.name) for output in outputs]
    return compile_postprocess(post, model_input=PICTURE, outputs=specs)(NONE, list(outputs), region)


def refusal(post: Postprocess, *shapes: tuple[int, ...]) -> str:
    specs = [TensorSpec("y", shape, "float32") for shape in shapes]
    with pytest.raises(ModelError) as caught:
        compile_postprocess(post, model_input=PICTURE, outputs=specs)
    return caught.value.message


class TestKeypoints:
    POINTS = np.array([[[[0.25, 0.5, 0.9], [0.75, 0.1, 0.2]]]], dtype=np.float32)

    def test_movenet(self) -> None:
        first, second = items(KeypointsPost(), self.POINTS)
        assert (first.label, first.box) == (0, (0.5, 0.25, 0.5, 0.25))
        assert first.score == pytest.approx(0.9)
        assert second.box == pytest.approx((0.1, 0.75, 0.1, 0.75))

    def test_the_index_of_a_point_that_is_sure_enough_stays(self) -> None:
        low = self.POINTS[:, :, ::-1].copy()
        assert [item.label for item in items(KeypointsPost(score_threshold=0.5), low)] == [1]

    def test_in_pixels_x_first_and_in_the_source_picture(self) -> None:
        points = np.array([[[100.0, 50.0, 1.0], [0.0, 0.0, 1.0]]], dtype=np.float32)
        post = KeypointsPost(order="xy", coordinates="pixels")
        assert items(post, points)[0].box == (0.5, 0.5, 0.5, 0.5)
        middle, corner = items(post, points, region=LETTERBOX)
        assert middle.box == (0.5, 0.5, 0.5, 0.5)
        assert corner.box == (0.0, 0.0, 0.0, 0.0)  # in the padding: on the picture's edge

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_what_is_no_number_is_left_out(self, bad: float, place: int) -> None:
        points = self.POINTS.copy()
        points[..., 0, place] = bad
        assert [item.label for item in items(KeypointsPost(), points)] == [1]

    @pytest.mark.parametrize("shape", [(1, 17), (3,), (1, 2, 17, 3), (1, 17, 4), (1, 5000, 3)])
    def test_another_shape_is_refused(self, shape: tuple[int, ...]) -> None:
        assert "(1, points, 3)" in refusal(KeypointsPost(), shape)


class TestSegment:
    # Class 2 in the upper left quarter, class 7 in one cell.
    MAP = np.zeros((1, 8, 8), dtype=np.int64)
    MAP[0, :4, :4] = 2
    MAP[0, 6, 7] = 7

    def test_shares_and_boxes_the_largest_first(self) -> None:
        assert items(SegmentPost(), self.MAP) == (
            Item(2, 0.25, (0.0, 0.0, 0.5, 0.5)),
            Item(7, 1 / 64, (7 / 8, 6 / 8, 1.0, 7 / 8)),
        )
        assert [item.label for item in items(SegmentPost(background=-1), self.MAP)] == [0, 2, 7]
        assert [item.label for item in items(SegmentPost(min_share=0.1), self.MAP)] == [2]

    @pytest.mark.parametrize("layout", ["nhwc", "nchw"])
    @pytest.mark.parametrize("dtype", ["float32", "uint8"])
    def test_scores_a_class_say_the_same_as_a_map(self, layout: Literal["nhwc", "nchw"], dtype: str) -> None:
        scores = np.random.default_rng(0).integers(0, 100, (1, 8, 8, 9)).astype(dtype)
        np.put_along_axis(scores, self.MAP[..., None], 200, axis=3)
        if layout == "nchw":
            scores = np.ascontiguousarray(scores.transpose(0, 3, 1, 2))
        assert items(SegmentPost(layout=layout), scores) == items(SegmentPost(), self.MAP)

    @pytest.mark.parametrize("dtype", ["float32", "uint8", "int32"])
    @pytest.mark.parametrize("shape", [(1, 8, 8, 1), (1, 1, 8, 8)])
    def test_maps_of_other_types_and_with_an_axis_of_one(self, dtype: str, shape: tuple[int, ...]) -> None:
        assert items(SegmentPost(), self.MAP.reshape(shape).astype(dtype)) == items(SegmentPost(), self.MAP)

    def test_a_single_channel_is_there_or_not(self) -> None:
        scores = np.where(self.MAP == 2, 0.7, 0.3).astype(np.float32)
        assert items(SegmentPost(layout="nhwc"), scores[..., None]) == (Item(1, 0.25, (0.0, 0.0, 0.5, 0.5)),)
        assert items(SegmentPost(layout="nchw", score_threshold=0.8), scores[:, None]) == ()

    def test_padding_is_no_part_of_the_picture(self) -> None:
        everywhere = np.full((1, 8, 8), 3, dtype=np.int64)
        assert items(SegmentPost(), everywhere, region=LETTERBOX) == (Item(3, 1.0, (0.0, 0.0, 1.0, 1.0)),)
        above = np.zeros((1, 8, 8), dtype=np.int64)
        above[0, :2] = 3
        assert items(SegmentPost(), above, region=LETTERBOX) == ()

    def test_a_crop_is_a_part_of_the_picture(self) -> None:
        everywhere = np.full((1, 8, 8), 3, dtype=np.int64)
        assert items(SegmentPost(), everywhere, region=Region(0.25, 0.0, 0.5, 1.0)) == (
            Item(3, 0.5, (0.25, 0.0, 0.75, 1.0)),
        )

    def test_the_mask_of_the_source_picture(self) -> None:
        spec = TensorSpec("y", self.MAP.shape, "int64")
        segment = Segment(SegmentPost(), [spec])
        mask = segment.mask([self.MAP], WHOLE, (16, 24))
        assert (mask == np.kron(self.MAP[0], np.ones((2, 3)))).all()
        boxed = segment.mask([self.MAP], LETTERBOX, (8, 16))
        assert (boxed == np.kron(self.MAP[0, 2:6], np.ones((2, 2)))).all()
        cropped = segment.mask([self.MAP], Region(0.25, 0.0, 0.5, 1.0), (8, 16))
        assert (cropped[:, :4] == 65_535).all()
        assert (cropped[:, 4:12] == self.MAP[0]).all()

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -5.0, 1e30])
    def test_a_class_that_is_none_is_left_out(self, bad: float) -> None:
        broken = self.MAP.astype(np.float32)
        broken[0, 0, 0] = bad
        assert [item.label for item in items(SegmentPost(), broken)] == [2, 7]

    def test_scores_that_are_no_numbers_are_no_class(self) -> None:
        scores = np.full((1, 8, 8, 3), math.nan, dtype=np.float32)
        scores[0, 0, 0] = (0.0, 1.0, 0.0)
        assert items(SegmentPost(layout="nhwc"), scores) == (Item(1, 1 / 64, (0.0, 0.0, 1 / 8, 1 / 8)),)
        assert items(SegmentPost(layout="nhwc"), scores[..., :1]) == ()

    @pytest.mark.parametrize(
        ("post", "shape"),
        [(SegmentPost(), (1, 8)), (SegmentPost(), (1, 8, 8, 3)), (SegmentPost(layout="nchw"), (1, 8, 8))],
    )
    def test_another_shape_is_refused(self, post: SegmentPost, shape: tuple[int, ...]) -> None:
        assert "for the layout" in refusal(post, shape)


class TestValues:
    OUTPUT = np.array([[3.0, -4.0]], dtype=np.float32)

    def test_a_quantity_in_its_unit(self) -> None:
        assert items(RegressPost(scale=(2.0,), offset=(1.0, 0.5)), self.OUTPUT) == (Item(0, 7.0), Item(1, -7.5))

    def test_an_embedding_as_it_is_and_at_length_one(self) -> None:
        assert items(EmbedPost(), self.OUTPUT) == (Item(0, 3.0), Item(1, -4.0))
        assert [item.score for item in items(EmbedPost(normalize=True), self.OUTPUT)] == pytest.approx([0.6, -0.8])
        assert items(EmbedPost(normalize=True), np.zeros((1, 2), np.float32)) == (Item(0, 0.0), Item(1, 0.0))
        long = items(EmbedPost(normalize=True), np.array([[3e38, -3e38]], np.float32))
        assert [item.score for item in long] == pytest.approx([0.5**0.5, -(0.5**0.5)])

    def test_raw_values_of_all_outputs_to_a_limit(self) -> None:
        other = np.arange(6, dtype=np.int64).reshape(1, 2, 3)
        found = items(RawPost(max_values=5), self.OUTPUT, other)
        assert found == (Item(0, 3.0), Item(1, -4.0), Item(2, 0.0), Item(3, 1.0), Item(4, 2.0))
        assert items(RawPost(max_values=1), self.OUTPUT, other) == found[:1]
        assert len(items(RawPost(), self.OUTPUT, other)) == 8

    def test_quantized_values_become_real(self) -> None:
        spec = TensorSpec("y", (1, 2), "int8", 0.5, -2)
        output = np.array([[0, 10]], dtype=np.int8)
        for post in (RawPost(), EmbedPost(), RegressPost()):
            read = compile_postprocess(post, model_input=PICTURE, outputs=[spec])
            assert read(NONE, [output], WHOLE) == (Item(0, 1.0), Item(1, 6.0))

    @pytest.mark.parametrize("post", [RawPost(), EmbedPost(), RegressPost()])
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_what_is_no_number_is_left_out_and_the_others_keep_their_index(self, post: Postprocess, bad: float) -> None:
        assert items(post, np.array([[bad, 2.0]], dtype=np.float32)) == (Item(1, 2.0),)

    def test_what_is_beyond_float32_is_left_out(self) -> None:
        assert items(RawPost(), np.array([[1e300, 2.0]])) == (Item(1, 2.0),)
        assert items(RegressPost(scale=(1e300,)), np.array([[1e30, 0.0]], np.float32)) == (Item(1, 0.0),)

    def test_other_outputs_are_refused(self) -> None:
        assert "reads output 1" in refusal(EmbedPost(output=1), (1, 2))
        assert "fixed size" in refusal(EmbedPost(), (1, -1))
        assert "1 to 4096" in refusal(EmbedPost(), (1, 5000))
        assert "1 or 3 numbers for scale" in refusal(RegressPost(scale=(1.0, 2.0)), (1, 3))


def test_the_kind_of_every_declaration() -> None:
    kinds = {result_kind(post) for post in (KeypointsPost(), SegmentPost(), EmbedPost(), RegressPost(), RawPost())}
    assert kinds == {Kind.KEYPOINTS, Kind.SEGMENTATION, Kind.EMBEDDING, Kind.REGRESSION, Kind.RAW}
