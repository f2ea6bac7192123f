"""What is read over several frames: keywords and forecasts; and distances from what is normal."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import DistancePost, ForecastPost, KeywordsPost, TensorSpec
from edgeinfer.runtime.postprocess import compile_postprocess, read_arrays
from edgeinfer.runtime.postprocess.forecast import Forecast
from edgeinfer.runtime.postprocess.keywords import Keywords
from edgeinfer.runtime.preprocess import Region
from edgeinfer.runtime.results import Item

Array = npt.NDArray[Any]
WHOLE = Region(0.0, 0.0, 1.0, 1.0)
NONE = np.zeros((1, 1), dtype=np.float32)
SILENCE, YES, NO = 0, 1, 2


def spec(*shape: int) -> TensorSpec:
    return TensorSpec("y", shape, "float32")


def scores(label: int, score: float = 1.0) -> Array:
    vector = np.full((1, 3), (1.0 - score) / 2, dtype=np.float32)
    vector[0, label] = score
    return vector


class TestKeywords:
    DECLARED = KeywordsPost(average=4, min_count=2, threshold=0.7, suppress=5, quiet=(SILENCE,))

    def hear(self, keywords: Keywords, *heard: tuple[int, int]) -> list[tuple[int, int]]:
        """(frame, label) of each report, from (label, frames) that are heard."""
        found, frame = [], 0
        for label, frames in heard:
            for _ in range(frames):
                found += [(frame, item.label) for item in keywords(NONE, [scores(label)], WHOLE)]
                frame += 1
        return found

    def keywords(self, declared: KeywordsPost | None = None) -> Keywords:
        return Keywords(declared or self.DECLARED, [spec(1, 3)])

    def test_a_word_is_said_once_when_its_average_is_high_enough(self) -> None:
        # Three of the last four vectors: 0.75.
        assert self.hear(self.keywords(), (SILENCE, 10), (YES, 20)) == [(12, YES)]

    def test_a_word_again_after_silence(self) -> None:
        heard = self.hear(self.keywords(), (SILENCE, 10), (YES, 6), (SILENCE, 12), (YES, 6))
        assert heard == [(12, YES), (30, YES)]

    def test_another_word_too_soon_is_a_mistake(self) -> None:
        assert self.hear(self.keywords(), (YES, 2), (NO, 4), (YES, 9)) == [(1, YES)]
        # The same, heard for longer than the suppression.
        assert self.hear(self.keywords(), (YES, 2), (NO, 12)) == [(1, YES), (7, NO)]

    def test_one_vector_alone_is_no_word(self) -> None:
        assert self.hear(self.keywords(), (YES, 1)) == []
        assert self.hear(self.keywords(), (SILENCE, 10), (YES, 2), (SILENCE, 10)) == []

    def test_the_score_is_the_average(self) -> None:
        keywords = self.keywords(KeywordsPost(average=2, min_count=2, threshold=0.5))
        assert keywords(NONE, [scores(YES, 1.0)], WHOLE) == ()
        (item,) = keywords(NONE, [scores(YES, 0.6)], WHOLE)
        assert item.label == YES
        assert item.score == pytest.approx(0.8)

    def test_logits(self) -> None:
        keywords = self.keywords(KeywordsPost(activation="softmax", average=2, min_count=1, threshold=0.5))
        (item,) = keywords(NONE, [np.log(scores(NO, 0.9))], WHOLE)
        assert item.label == NO
        assert item.score == pytest.approx(0.9)

    def test_a_reset_forgets(self) -> None:
        keywords = self.keywords()
        self.hear(keywords, (YES, 9))
        keywords.reset()
        assert self.hear(keywords, (YES, 3)) == [(1, YES)]

    @given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 12)), max_size=12))
    def test_as_the_published_recipe_has_it(self, heard: list[tuple[int, int]]) -> None:
        """Written down from `RecognizeCommands`, with a millisecond a frame and silence as its silence."""
        assert self.hear(self.keywords(), *heard) == list(recognize(heard, self.DECLARED))

    def test_broken_vectors_are_passed_over(self) -> None:
        keywords = self.keywords()
        for bad in (np.nan, np.inf):
            assert keywords(NONE, [np.full((1, 3), bad, np.float32)], WHOLE) == ()
        assert self.hear(keywords, (YES, 2)) == [(1, YES)]

    def test_a_count_above_the_average_is_refused(self) -> None:
        with pytest.raises(ValueError, match="min_count"):
            KeywordsPost(average=2, min_count=3)


def recognize(heard: list[tuple[int, int]], declared: KeywordsPost) -> Any:
    recent: list[Array] = []
    top, top_time = SILENCE, -1
    first = True
    labels = [label for label, frames in heard for _ in range(frames)]
    for now, label in enumerate(labels):
        recent = [*recent, scores(label)[0]][-declared.average :]
        if len(recent) < declared.min_count:
            continue
        average = np.sum(recent, axis=0) / np.float32(len(recent))
        best = int(np.argmax(average))
        since = 10**9 if top == SILENCE or first else now - top_time
        if average[best] > declared.threshold and best != top and since > declared.suppress:
            top, top_time, first = best, now, False
            if best != SILENCE:
                yield now, best


class TestForecast:
    """Windows of four rows and two channels, of a series that counts up."""

    SERIES = np.stack([np.arange(40.0), 100.0 - np.arange(40.0)], axis=1).astype(np.float32)

    def forecast(self, horizon: int = 1, stride: int = 1, columns: tuple[int, ...] = ()) -> Forecast:
        declared = ForecastPost(0.5, horizon=horizon, stride=stride, columns=columns)
        return Forecast(declared, spec(1, 4, 2), [spec(1, horizon, len(columns) or 2)])

    def follow(self, forecast: Forecast, series: Array, *, horizon: int = 1, stride: int = 1) -> list[float | None]:
        """The residual of each window, where the model says that everything counts on."""
        steps = np.arange(1, horizon + 1)[:, None] * [[1.0, -1.0]]
        found: list[float | None] = []
        window = np.empty((1, 4, 2), dtype=np.float32)  # the same array for all, as in a pool
        for start in range(0, len(series) - 4 + 1, stride):
            window[0] = series[start : start + 4]
            made = (window[0, -1] + steps).astype(np.float32)[None]
            items = forecast(window, [made], WHOLE)
            found.append(items[0].score if items else None)
        return found

    @pytest.mark.parametrize(("horizon", "stride"), [(1, 1), (3, 1), (3, 2), (1, 4), (2, 4)])
    def test_what_comes_as_foretold_has_no_residual(self, horizon: int, stride: int) -> None:
        found = self.follow(self.forecast(horizon, stride), self.SERIES, horizon=horizon, stride=stride)
        assert found[0] is None
        assert found[1:] == [0.0] * (len(found) - 1)
        assert len(found) > 5

    def test_a_jump_is_an_anomaly_in_the_frame_that_it_comes_in(self) -> None:
        series = self.SERIES.copy()
        series[20:] += (6.0, 0.0)
        found = self.follow(self.forecast(), series)
        # Row 20 is the last one of window 17: (6^2 + 0) / 2.
        assert found[17] == 18.0
        assert [score for score in found if score] == [18.0]

    def test_only_the_columns_that_are_forecast(self) -> None:
        forecast = self.forecast(columns=(1,))
        windows = [self.SERIES[start : start + 4][None].copy() for start in range(3)]
        windows[1][..., 0], windows[2][..., 0] = 7.0, 7.0
        windows[0][..., 0] = 7.0
        found = [forecast(window, [window[:, -1:, 1:] - 2.0], WHOLE) for window in windows]
        assert found == [(), (Item(1, 1.0),), (Item(1, 1.0),)]

    def test_a_frame_that_was_lost_in_between_gives_no_score(self) -> None:
        forecast = self.forecast()
        windows = [self.SERIES[start : start + 4][None] for start in (0, 1, 3, 4)]
        assert [len(forecast(window, [window[:, -1:] + 1.0], WHOLE)) for window in windows] == [0, 1, 0, 1]

    def test_a_reset_forgets(self) -> None:
        forecast = self.forecast()
        for _ in range(2):
            assert forecast(self.SERIES[None, :4], [self.SERIES[None, 4:5]], WHOLE) == ()
            assert forecast(self.SERIES[None, 1:5], [self.SERIES[None, 5:6]], WHOLE) == (Item(0, 0.0),)
            forecast.reset()

    def test_a_forecast_that_is_no_number_is_an_anomaly(self) -> None:
        forecast = self.forecast()
        forecast(self.SERIES[None, :4], [np.full((1, 1, 2), np.nan, np.float32)], WHOLE)
        (item,) = forecast(self.SERIES[None, 1:5], [self.SERIES[None, 5:6]], WHOLE)
        assert item.label == 1

    @pytest.mark.parametrize(
        ("declared", "given_", "made", "said"),
        [
            (ForecastPost(1.0, horizon=3), (1, 4, 2), (1, 4), "3 rows in a forecast of 4 values"),
            (ForecastPost(1.0, stride=5), (1, 4, 2), (1, 2), "at least 5 rows"),
            (ForecastPost(1.0), (1, 4, 2), (1, 3), "of 2 channels, found 3"),
            (ForecastPost(1.0, columns=(2,)), (1, 4, 2), (1, 1), "of 2 channels"),
            (ForecastPost(1.0, output=1), (1, 4, 2), (1, 2), "reads output 1"),
        ],
    )
    def test_another_model_is_refused(
        self, declared: ForecastPost, given_: tuple[int, ...], made: tuple[int, ...], said: str
    ) -> None:
        with pytest.raises(ModelError, match=said):
            Forecast(declared, spec(*given_), [spec(*made)])

    def test_a_flat_window(self) -> None:
        forecast = Forecast(ForecastPost(0.5, horizon=2), spec(1, 8), [spec(1, 4)])
        flat = self.SERIES.reshape(-1)
        assert forecast(flat[None, :8], [flat[None, 8:12]], WHOLE) == ()
        assert forecast(flat[None, 2:10], [flat[None, 10:14]], WHOLE) == (Item(0, 0.0),)


class TestDistance:
    CENTRES = np.array([[0.0, 0.0], [10.0, 0.0]])
    COVARIANCE = np.array([[4.0, 0.0], [0.0, 0.25]])

    def score(self, declared: DistancePost, embedding: list[float], **arrays: Array) -> Item:
        read = compile_postprocess(declared, model_input=spec(1, 4), outputs=[spec(1, 2)], arrays=arrays)
        (item,) = read(NONE, [np.array([embedding], dtype=np.float32)], WHOLE)
        return item

    def test_to_the_nearest_centre(self) -> None:
        assert self.score(DistancePost(4.5), [3.0, 4.0], centres=self.CENTRES) == Item(1, 5.0)
        assert self.score(DistancePost(4.5), [10.0, -4.0], centres=self.CENTRES) == Item(0, 4.0)

    def test_in_standard_deviations(self) -> None:
        declared = DistancePost(3.0, metric="mahalanobis")
        for embedding, wanted in (([2.0, 0.0], 1.0), ([0.0, 2.0], 4.0), ([8.0, 0.0], 1.0)):
            item = self.score(declared, embedding, centres=self.CENTRES, covariance=self.COVARIANCE)
            assert item.label == int(wanted > 3.0)
            assert item.score == pytest.approx(wanted)

    @given(st.integers(0, 10_000))
    def test_mahalanobis_against_the_formula(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        half = random.normal(size=(2, 2))
        covariance = half @ half.T + 0.1 * np.eye(2)
        embedding, centres = random.normal(size=2), random.normal(size=(3, 2))
        differences = centres - embedding
        wanted = np.sqrt(np.einsum("ij,jk,ik->i", differences, np.linalg.inv(covariance), differences)).min()
        declared = DistancePost(3.0, metric="mahalanobis")
        item = self.score(declared, embedding.tolist(), centres=centres, covariance=covariance)
        assert item.score == pytest.approx(float(wanted), rel=1e-3, abs=1e-5)

    def test_at_length_one(self) -> None:
        centres = np.array([[1.0, 0.0]])
        assert self.score(DistancePost(1.0, normalize=True), [50.0, 0.0], centres=centres) == Item(0, 0.0)

    def test_an_embedding_that_is_no_number_is_an_anomaly(self) -> None:
        assert self.score(DistancePost(1e9), [np.nan, 0.0], centres=self.CENTRES).label == 1

    @pytest.mark.parametrize(
        ("arrays", "said"),
        [
            ({}, "hold 'centres', found none"),
            ({"centres": np.zeros((2, 3))}, "centres of shape"),
            ({"centres": np.zeros((0, 2))}, "1 to 4096 centres"),
            ({"centres": np.full((1, 2), np.nan)}, "finite"),
            ({"centres": CENTRES}, "hold 'covariance'"),
            ({"centres": CENTRES, "covariance": np.zeros((2, 2))}, "can be inverted"),
            ({"centres": CENTRES, "covariance": np.array([[1.0, 0.5], [0.0, 1.0]])}, "symmetric"),
        ],
    )
    def test_arrays_that_do_not_fit_are_refused(self, arrays: dict[str, Array], said: str) -> None:
        with pytest.raises(ModelError, match=said):
            self.score(DistancePost(1.0, metric="mahalanobis"), [0.0, 0.0], **arrays)


class TestArrays:
    def test_read_back(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", centres=np.eye(3))
        assert (read_arrays(tmp_path / "a.npz")["centres"] == np.eye(3)).all()
        assert read_arrays(None) == {}

    @given(st.binary(max_size=200))
    def test_what_is_no_archive(self, content: bytes) -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.npz"
            path.write_bytes(content)
            with pytest.raises(ModelError, match=r"an \.npz"):
                read_arrays(path)

    def test_any_byte_of_an_archive_may_be_wrong(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", centres=np.eye(2))
        whole = (tmp_path / "a.npz").read_bytes()
        for place in range(len(whole)):
            (tmp_path / "b.npz").write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
            try:
                read_arrays(tmp_path / "b.npz")
            except ModelError:
                continue

    def test_objects_are_no_arrays(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", allow_pickle=True, x=np.array([{}], dtype=object))
        with pytest.raises(ModelError, match="plain arrays"):
            read_arrays(tmp_path / "a.npz")
        np.savez(tmp_path / "b.npz", x=np.array(["text"]))
        with pytest.raises(ModelError, match="numbers"):
            read_arrays(tmp_path / "b.npz")
