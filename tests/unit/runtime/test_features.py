"""Log-mel spectra and MFCCs against scipy and plain loops in float64, and against what real models were trained on."""

import math
import wave
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import scipy.fft
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.runtime.engines import load_engine
from edgeinfer.runtime.errors import ModelError, SourceError
from edgeinfer.runtime.features import Features, cosine_transform, hertz_to_mel, mel_filter_bank, mel_to_hertz
from edgeinfer.runtime.manifest import AudioPre, TensorSpec
from edgeinfer.runtime.preprocess import compile_preprocess

Array = npt.NDArray[Any]

# MLPerf Tiny, keyword spotting, as its training code computes them.
KEYWORDS = AudioPre(16_000, features="mfcc", gain="max")
WORDS = ["Down", "Go", "Left", "No", "Off", "On", "Right", "Stop", "Up", "Yes", "Silence", "Unknown"]


def naive_bank(declared: AudioPre) -> Array:
    """Triangles one by one: (bins of the spectrum, mel bins)."""

    def htk(hertz: float) -> float:
        return 2595.0 * math.log10(1.0 + hertz / 700.0)  # the other common way to write it

    def slaney(hertz: float) -> float:
        return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)

    mel = htk if declared.mel_scale == "htk" else slaney

    def hertz(wanted: float) -> float:
        low, high = 0.0, float(declared.rate_hz)
        for _ in range(200):  # bisection: needs no inverse formula
            middle = (low + high) / 2
            low, high = (middle, high) if mel(middle) < wanted else (low, middle)
        return low

    first, last = mel(declared.low_hz), mel(declared.high_hz)
    corners = [hertz(first + (last - first) * i / (declared.mel_bins + 1)) for i in range(declared.mel_bins + 2)]
    bank = np.zeros((declared.fft_length // 2 + 1, declared.mel_bins))
    for row in range(1, len(bank)):
        frequency = row * declared.rate_hz / declared.fft_length
        for column in range(declared.mel_bins):
            left, centre, right = corners[column : column + 3]
            scale = mel if declared.mel_scale == "htk" else float
            at, a, b, c = (scale(x) for x in (frequency, left, centre, right))
            if a < at < c:
                bank[row, column] = (at - a) / (b - a) if at <= b else (c - at) / (c - b)
            if declared.mel_norm == "area":
                bank[row, column] *= 2 / (right - left)
    return bank


def naive_features(samples: Array, declared: AudioPre) -> Array:
    window = scipy.signal.get_window("hann", declared.window_samples)  # periodic
    rows, bank = [], naive_bank(declared)
    for begin in range(0, len(samples) - declared.window_samples + 1, declared.stride_samples):
        piece = samples[begin : begin + declared.window_samples].astype(np.float64) * window
        spectrum = np.abs(scipy.fft.rfft(piece, declared.fft_length))
        mel = (spectrum**2 if declared.spectrum == "power" else spectrum) @ bank
        logarithm = np.log(np.maximum(mel, declared.log_floor) + declared.log_offset)
        rows.append(logarithm / {"ln": 1.0, "log10": math.log(10), "db": math.log(10) / 10}[declared.log])
    found = np.array(rows)
    if declared.features == "mfcc":
        found = scipy.fft.dct(found, type=2, norm="ortho", axis=1)[:, : declared.coefficients]
        if declared.dct == "htk":
            found[:, 0] *= math.sqrt(2)
    return found


def features(samples: Array, declared: AudioPre) -> Array:
    compiled = Features(declared)
    out = np.empty(compiled.shape, dtype=np.float32)
    compiled.samples[:] = samples
    compiled(out)
    return out


@pytest.mark.parametrize(
    "declared",
    [
        KEYWORDS,
        AudioPre(16_000, features="logmel"),
        AudioPre(16_000, features="mfcc", dct="orthonormal", coefficients=40),
        AudioPre(4096, features="logmel", spectrum="power", log="db", log_offset=1e-9, fft=1024, window_ms=64.0),
        AudioPre(4096, features="logmel", mel_scale="slaney", mel_norm="area", mel_bins=64, high_hz=8000.0, low_hz=0.0),
        AudioPre(2000, rate_hz=8000, features="logmel", log="log10", log_offset=0.0, log_floor=1e-4, mel_bins=20),
        AudioPre(480, features="mfcc", fft=500, high_hz=8000.0),
    ],
)
def test_features_are_those_of_an_independent_implementation(declared: AudioPre) -> None:
    rng = np.random.default_rng(0)
    at = np.arange(declared.length) / declared.rate_hz
    sweep = 0.4 * np.sin(2 * np.pi * (200 + 1500 * at) * at)
    for sound in (sweep + 0.05 * rng.normal(size=len(at)), np.zeros(len(at)), 1e-3 * rng.normal(size=len(at))):
        samples = sound.astype(np.float32)
        wanted = naive_features(samples, declared)
        assert np.abs(features(samples, declared) - wanted).max() <= 2e-4 * (10 if declared.log == "db" else 1) * (
            math.sqrt(declared.mel_bins)
        )


@pytest.mark.parametrize("scale", ["htk", "slaney"])
def test_mel_and_back(scale: str) -> None:
    hertz = np.linspace(0.0, 8000.0, 500)
    assert np.allclose(mel_to_hertz(hertz_to_mel(hertz, scale), scale), hertz, atol=1e-6)
    assert np.isclose(hertz_to_mel(np.array(1000.0), "htk"), 1000.0, atol=0.1)
    assert np.isclose(hertz_to_mel(np.array(1000.0), "slaney"), 15.0)


def test_the_orthonormal_transform_is_orthogonal() -> None:
    matrix = cosine_transform(40, 40, scaling="orthonormal")
    assert np.allclose(matrix.T @ matrix, np.eye(40), atol=1e-12)
    assert np.allclose(matrix, scipy.fft.dct(np.eye(40), type=2, norm="ortho", axis=1))


def test_area_normalization_makes_triangles_of_area_one() -> None:
    declared = AudioPre(16_000, features="logmel", mel_scale="slaney", mel_norm="area", fft=16_384, mel_bins=20)
    areas = mel_filter_bank(declared).sum(axis=0) * declared.rate_hz / declared.fft_length
    assert np.allclose(areas, 1.0, atol=0.01)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"window_ms": 2000.0}, "window of 1 to 16000 samples"),
        ({"window_ms": 0.01}, "window of 1 to"),
        ({"stride_ms": 0.001}, "stride"),
        ({"fft": 256}, "expected an fft of 480"),
        ({"low_hz": 4000.0}, "low_hz < high_hz"),
        ({"high_hz": 9000.0}, "low_hz < high_hz <= 8000"),
        ({"log_offset": 0.0}, "above 0"),
        ({"features": "mfcc", "coefficients": 41}, "at most 40 coefficients"),
        ({"stride_ms": 0.07, "fft": 65_536, "length": 10_000_000}, "spectra of at most"),
        ({"length": 0}, "length"),
        ({"mel_bins": 0}, "mel_bins"),
        ({"features": "fbank"}, "fbank"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=said):
        msgspec.convert({"kind": "audio", "length": 16_000, "features": "logmel"} | fields, AudioPre)


@settings(max_examples=100, deadline=None)
@given(
    length=st.integers(1, 3000),
    window_ms=st.floats(0.01, 200.0),
    stride_ms=st.floats(0.05, 200.0),
    bins=st.integers(1, 80),
    kind=st.sampled_from(["logmel", "mfcc"]),
    layout=st.sampled_from(["time_first", "bins_first"]),
)
def test_any_declaration_is_refused_or_gives_its_shape(
    length: int, window_ms: float, stride_ms: float, bins: int, kind: Any, layout: Any
) -> None:
    try:
        declared = AudioPre(
            length,
            features=kind,
            window_ms=window_ms,
            stride_ms=stride_ms,
            mel_bins=bins,
            coefficients=1,
            layout=layout,
        )
    except ValueError:
        return
    prepare = compile_preprocess(declared, TensorSpec("x", (1, *declared.shape), "float32"))
    target = prepare.new_target()
    prepare(np.random.default_rng(0).uniform(-1, 1, length).astype(np.float32), target)
    assert target.shape == (1, *declared.shape)
    assert np.isfinite(target).all()


class TestPrepare:
    def test_mean_std_and_layout(self) -> None:
        samples = np.random.default_rng(0).uniform(-1, 1, 16_000).astype(np.float32)
        plain = features(samples, AudioPre(16_000, features="logmel"))
        mean, std = tuple(range(40)), tuple(range(1, 41))
        declared = AudioPre(16_000, features="logmel", mean=mean, std=std, layout="bins_first")
        prepare = compile_preprocess(declared, TensorSpec("x", (1, 1, 40, 49), "float32"))
        target = prepare.new_target()
        prepare(samples, target)
        wanted = (plain - np.array(mean, np.float32)) / np.array(std, np.float32)
        assert np.array_equal(target[0, 0], wanted.T)

    def test_into_an_integer_tensor(self) -> None:
        samples = np.random.default_rng(0).uniform(-1, 1, 16_000).astype(np.float32)
        prepare = compile_preprocess(KEYWORDS, TensorSpec("x", (1, 49, 10, 1), "int8", 0.5, 83))
        target = prepare.new_target()
        prepare(samples, target)
        wanted = np.clip(np.rint(features(samples / samples.max(), KEYWORDS) / 0.5) + 83, -128, 127)
        # Where a value lies between two levels, the last bit of a float decides.
        assert np.abs(target[0, ..., 0] - wanted).max() <= 1
        assert np.mean(target[0, ..., 0] == wanted) > 0.99

    def test_raw_sound_is_scaled(self) -> None:
        samples = np.array([0.5, -1.0, 0.25, 0.0], dtype=np.float32)
        for declared, wanted in (
            (AudioPre(4), samples),
            (AudioPre(4, scale=32768.0), samples * 32768),
            (AudioPre(4, gain="max"), samples * 2),
            (AudioPre(4, mean=(0.5,), std=(2.0,)), (samples - np.float32(0.5)) / 2),
        ):
            prepare = compile_preprocess(declared, TensorSpec("x", (-1, -1), "float32"))
            target = prepare.new_target()
            prepare(samples, target)
            assert target.tolist() == [wanted.tolist()]

    @pytest.mark.parametrize("samples", [np.zeros(4, np.float32), np.full(4, -0.5, np.float32)])
    def test_silence_has_no_loudest_sample(self, samples: Array) -> None:
        prepare = compile_preprocess(AudioPre(4, gain="max"), TensorSpec("x", (1, 4), "float32"))
        target = prepare.new_target()
        prepare(samples, target)
        assert np.array_equal(target[0], samples)

    @pytest.mark.parametrize("shape", [(3,), (5,), (4, 1), ()])
    def test_another_length_is_refused(self, shape: tuple[int, ...]) -> None:
        prepare = compile_preprocess(AudioPre(4), TensorSpec("x", (1, 4), "float32"))
        with pytest.raises(SourceError, match=r"expected 4 samples.*window = 4"):
            prepare(np.zeros(shape, np.float32), prepare.new_target())

    def test_a_model_of_another_size_is_refused(self) -> None:
        with pytest.raises(ModelError, match=r"gives \(49, 10\)"):
            compile_preprocess(KEYWORDS, TensorSpec("x", (1, 49, 40), "float32"))

    def test_means_of_another_number_are_refused(self) -> None:
        with pytest.raises(ModelError, match="1 or 40 numbers"):
            compile_preprocess(
                AudioPre(16_000, features="logmel", mean=(1.0, 2.0)), TensorSpec("x", (1, 49, 40), "float32")
            )


@pytest.mark.data
class TestKeywords:
    """The clips and models that are published; labels of the models from the data's own table."""

    def say(self, data_dir: Path, model: str, word: str) -> str:
        with wave.open(str(data_dir / "audio" / f"{word}_1000ms.wav")) as file:
            samples = np.frombuffer(file.readframes(16_000), "<i2").astype(np.float32) / np.float32(32_768)
        engine = load_engine("onnx" if model.endswith(".onnx") else "litert", data_dir / "tiny" / model)
        prepare = compile_preprocess(KEYWORDS, engine.inputs[0])
        target = prepare.new_target()
        prepare(samples, target)
        (output,) = engine.run([target])
        engine.close()
        return WORDS[int(output[0].argmax())]

    @pytest.mark.parametrize("model", ["kws.onnx", "kws_float.tflite"])
    @pytest.mark.parametrize(("word", "said"), [("yes", "Yes"), ("no", "No"), ("silence", "Silence")])
    def test_float_models(self, data_dir: Path, model: str, word: str, said: str) -> None:
        assert self.say(data_dir, model, word) == said

    # The published int8 model takes this one recording of "no", on which the float one is half sure, for "Go", with
    # the built-in and the reference kernels too: what it says of it is no measure of its input.
    @pytest.mark.parametrize(("word", "said"), [("yes", "Yes"), ("silence", "Silence")])
    def test_the_integer_model(self, data_dir: Path, word: str, said: str) -> None:
        assert self.say(data_dir, "kws_int8.tflite", word) == said

    def test_features_lie_where_those_do_that_the_models_are_tested_with(self, data_dir: Path) -> None:
        with np.load(data_dir / "tiny" / "kws_samples.npz") as samples:
            published = (samples["x"].reshape(-1, 49, 10).astype(np.float32) - 83) * np.float32(0.5847029089927673)
        low, high = published.min(axis=(0, 1)) - 1, published.max(axis=(0, 1)) + 1
        for word in ("yes", "no", "noise"):
            with wave.open(str(data_dir / "audio" / f"{word}_1000ms.wav")) as file:
                sound = np.frombuffer(file.readframes(16_000), "<i2").astype(np.float32)
            found = features(sound / sound.max(), KEYWORDS)
            assert (found >= low).all()
            assert (found <= high).all()
