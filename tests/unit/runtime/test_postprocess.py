"""Postprocessing: synthetic outputs whose meaning is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import AnomalyPost, ClassifyPost, DetectPost, Postprocess, TensorSpec
from edgeinfer.runtime.postprocess import compile_postprocess
from edgeinfer.runtime.preprocess import Region
from edgeinfer.runtime.results import Item

WHOLE = Region(0.0, 0.0, 1.0, 1.0)
NONE = np.zeros((1, 1), dtype=np.float32)
PICTURE = TensorSpec("x", (1, 3, 100, 200), "float32")


def spec(*shape: int, dtype: str = "float32", scale: float | None = None, zero_point: int | None = None) -> TensorSpec:
    return TensorSpec("y", shape, dtype, scale, zero_point)


class TestClassify:
    def items(self, post: ClassifyPost, values: list[float]) -> tuple[Item, ...]:
        output = np.array([values], dtype=np.float32)
        return compile_postprocess(post, model_input=PICTURE, outputs=[spec(1, len(values))])(NONE, [output], WHOLE)

    def test_the_best_in_order(self) -> None:
        assert [item.label for item in self.items(ClassifyPost(top_k=2), [0.1, 0.5, 0.0, 0.4])] == [1, 3]
        assert [item.label for item in self.items(ClassifyPost(top_k=9), [0.1, 0.5])] == [1, 0]

    def test_quantized_scores_become_real(self) -> None:
        output = np.array([[0, 255, 128]], dtype=np.uint8)
        outputs = [spec(1, 3, dtype="uint8", scale=1 / 256, zero_point=0)]
        made = compile_postprocess(ClassifyPost(top_k=2), model_input=PICTURE, outputs=outputs)
        assert made(NONE, [output], WHOLE) == (Item(1, 255 / 256), Item(2, 0.5))

    @given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20), st.integers(1, 5))
    def test_softmax_sums_to_one_whatever_comes(self, values: list[float], top_k: int) -> None:
        items = self.items(ClassifyPost(activation="softmax", top_k=20), values)
        assert math.isclose(sum(item.score for item in items), 1.0, rel_tol=1e-4)
        best = self.items(ClassifyPost(top_k=top_k), values)
        assert [item.score for item in best] == sorted(values, reverse=True)[:top_k]

    @given(
        st.lists(st.integers(-128, 127), min_size=1, max_size=30),
        st.integers(1, 35),
        st.sampled_from(["int8", "uint8", "int16", "int32", "float32"]),
    )
    def test_the_best_of_any_type_the_first_among_equals(self, levels: list[int], top_k: int, dtype: str) -> None:
        """Also where the lowest level that there is counts among the best."""
        shift = 128 if dtype == "uint8" else 0
        output = np.array([[level + shift for level in levels]], dtype=dtype)
        before = output.copy()
        scale, zero_point = (0.5, 3) if dtype != "float32" else (None, None)
        outputs = [spec(1, len(levels), dtype=dtype, scale=scale, zero_point=zero_point)]
        found = compile_postprocess(ClassifyPost(top_k=top_k), model_input=PICTURE, outputs=outputs)(
            NONE, [output], WHOLE
        )
        order = sorted(range(len(levels)), key=lambda place: (-levels[place], place))[:top_k]
        real = [float(level + shift) if scale is None else (level + shift - 3) * 0.5 for level in levels]
        assert found == tuple(Item(place, real[place]) for place in order)
        assert (output == before).all()  # others look at it, too

    @pytest.mark.parametrize(
        ("values", "found"),
        [
            ([math.nan, 0.1, 0.4], [2, 1]),
            ([0.1, math.inf, 0.4], [2, 0]),
            ([0.5, -math.inf, math.nan], [0]),
            ([math.nan, math.nan], []),
            ([-math.inf], []),
        ],
    )
    def test_scores_that_are_no_numbers_are_left_out(self, values: list[float], found: list[int]) -> None:
        assert [item.label for item in self.items(ClassifyPost(top_k=3), values)] == found

    @pytest.mark.parametrize("values", [[math.nan, 1.0], [math.inf, 1.0], [-math.inf, -math.inf]])
    def test_logits_that_are_no_numbers_give_nothing(self, values: list[float]) -> None:
        assert self.items(ClassifyPost(activation="softmax"), values) == ()

    def test_a_logit_of_minus_infinity_is_no_chance(self) -> None:
        items = self.items(ClassifyPost(activation="softmax"), [-math.inf, 0.0])
        assert items == (Item(1, 1.0), Item(0, 0.0))

    def test_an_output_that_is_not_there_is_refused(self) -> None:
        with pytest.raises(ModelError, match="reads output 1"):
            compile_postprocess(ClassifyPost(output=1), model_input=PICTURE, outputs=[spec(1, 3)])


class TestSsd:
    OUTPUTS = (spec(1, 10, 4), spec(1, 10), spec(1, 10), spec(1))

    def items(self, post: DetectPost, region: Region, count: float = 3) -> tuple[Item, ...]:
        boxes, classes, scores = np.zeros((1, 10, 4)), np.zeros((1, 10)), np.zeros((1, 10))
        boxes[0, :3] = [[0.2, 0.1, 0.6, 0.5], [0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.7, 1.5]]
        classes[0, :3] = [4, 7, 9]
        scores[0, :3] = [0.9, 0.3, 0.5]
        outputs = [array.astype(np.float32) for array in (boxes, classes, scores, np.array([count]))]
        return compile_postprocess(post, model_input=PICTURE, outputs=self.OUTPUTS)(NONE, outputs, region)

    def test_boxes_are_turned_and_cut_at_the_picture(self) -> None:
        first, second = self.items(DetectPost(label_offset=1), WHOLE)
        assert (first.label, second.label) == (5, 10)
        assert first.score == pytest.approx(0.9)
        assert first.box == pytest.approx((0.1, 0.2, 0.5, 0.6))
        assert second.box == pytest.approx((0.5, 0.5, 1.0, 0.7))

    def test_boxes_lie_in_the_source_picture(self) -> None:
        (first, _) = self.items(DetectPost(), Region(0.25, 0.0, 0.5, 1.0))
        assert first.box == pytest.approx((0.3, 0.2, 0.5, 0.6))

    @pytest.mark.parametrize(("count", "found"), [(0, 0), (1, 1), (3, 2), (1000, 2), (-1, 0)])
    def test_the_model_s_count_is_kept_within_its_outputs(self, count: float, found: int) -> None:
        assert len(self.items(DetectPost(), WHOLE, count)) == found

    def test_other_outputs_are_refused(self) -> None:
        with pytest.raises(ModelError, match="expected 4 outputs"):
            compile_postprocess(DetectPost(), model_input=PICTURE, outputs=self.OUTPUTS[:3])


class TestYolo:
    def test_both_layouts_say_the_same(self) -> None:
        """Two boxes of one class that overlap, one of another class; in pixels of 200 x 100."""
        boxes = [[50.0, 50.0, 40.0, 20.0], [52.0, 50.0, 40.0, 20.0], [50.0, 50.0, 40.0, 20.0]]
        scores = [[0.9, 0.0], [0.8, 0.0], [0.0, 0.7]]
        with_objectness = np.zeros((1, 10, 7), dtype=np.float32)
        transposed = np.zeros((1, 6, 10), dtype=np.float32)
        for index, (box, classes) in enumerate(zip(boxes, scores, strict=True)):
            with_objectness[0, index] = [*box, 1.0, *classes]
            transposed[0, :, index] = [*box, *classes]
        post = DetectPost("yolo", score_threshold=0.5)
        found = [
            compile_postprocess(post, model_input=PICTURE, outputs=[spec(*output.shape)])(NONE, [output], WHOLE)
            for output in (with_objectness, transposed)
        ]
        assert [item.label for item in found[0]] == [0, 1]
        assert found[0][0].box == pytest.approx((0.15, 0.4, 0.35, 0.6))
        assert found[0] == found[1]

    def test_nothing_found(self) -> None:
        output = np.zeros((1, 10, 7), dtype=np.float32)
        made = compile_postprocess(DetectPost("yolo"), model_input=PICTURE, outputs=[spec(1, 10, 7)])
        assert made(NONE, [output], WHOLE) == ()

    @pytest.mark.parametrize("form", ["yolo", "fastestdet"])
    def test_another_shape_is_refused(self, form: str) -> None:
        post = DetectPost("yolo" if form == "yolo" else "fastestdet")
        with pytest.raises(ModelError, match="expected one output"):
            compile_postprocess(post, model_input=PICTURE, outputs=[spec(1, 5)])


class TestAnomaly:
    def items(self, made: list[float], threshold: float) -> tuple[Item, ...]:
        given_ = np.array([[1.0, 2.0]], dtype=np.float32)
        post: Postprocess = AnomalyPost(threshold)
        run = compile_postprocess(post, model_input=spec(1, 2), outputs=[spec(1, 2)])
        return run(given_, [np.array([made], dtype=np.float32)], WHOLE)

    def test_the_mean_squared_error_against_the_threshold(self) -> None:
        assert self.items([1.0, 4.0], 1.9) == (Item(1, 2.0),)
        assert self.items([1.0, 4.0], 2.0) == (Item(0, 2.0),)

    @pytest.mark.parametrize("made", [math.nan, math.inf, 1e30])
    def test_what_is_no_number_is_the_largest_anomaly(self, made: float) -> None:
        """A broken model must not be silent, and no such score may be sent."""
        assert self.items([made, 1.0], 1e9) == (Item(1, float(np.finfo(np.float32).max)),)

    def test_the_model_s_own_score(self) -> None:
        run = compile_postprocess(AnomalyPost(0.5, "output"), model_input=PICTURE, outputs=[spec(1, 1)])
        assert run(NONE, [np.array([[0.75]], dtype=np.float32)], WHOLE) == (Item(1, 0.75),)

    def test_a_reconstruction_of_another_size_is_refused(self) -> None:
        with pytest.raises(ModelError, match="the size of its input"):
            compile_postprocess(AnomalyPost(0.5), model_input=spec(1, 2), outputs=[spec(1, 3)])
