"""What `--preprocess` may say, and what is inferred without it."""

from pathlib import Path

import numpy as np
import pytest

from edgeinfer.quantize.dataset.samples import Loaded, prepared
from edgeinfer.quantize.preprocessing import declare, infer, model_rows
from edgeinfer.quantize.rows import stacked
from edgeinfer.quantize.spec import read_spec
from edgeinfer.runtime.errors import ConfigError, SamplesError
from edgeinfer.runtime.manifest import ImagePre, TensorPre, TensorSpec, WindowPre

IMAGE = TensorSpec(name="x", shape=(1, 32, 24, 3), dtype="float32")
PLANES = TensorSpec(name="x", shape=(1, 3, 32, 24), dtype="float32")
WINDOW = TensorSpec(name="x", shape=(1, 80), dtype="float32")


def test_inline_lists_go_on_after_a_comma() -> None:
    assert read_spec("kind=image,mean=1,2.5,3,std=4") == {"kind": "image", "mean": ["1", "2.5", "3"], "std": ["4"]}


def test_an_entry_that_belongs_to_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected key=value, found 'oops'"):
        read_spec("kind=image,oops")


def test_size_and_layout_follow_from_the_model() -> None:
    declared = declare("color=bgr,mean=0,std=255,crop=0.875", PLANES)
    assert declared.preprocess == ImagePre(
        width=24, height=32, color="bgr", layout="nchw", mean=(0.0,), std=(255.0,), crop=0.875
    )
    assert not declared.raw


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pre.toml", 'kind = "window"\nlength = 40\nmean = [1, 2]\nstd = 2\nraw = true\n'),
        ("pre.json", '{"kind": "window", "length": 40, "mean": [1, 2], "std": 2.0, "raw": true}'),
    ],
)
def test_files_say_the_same_as_inline(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    declared = declare(str(tmp_path / name), WINDOW)
    assert declared == declare("kind=window,length=40,mean=1,2,std=2,raw=true", WINDOW)
    assert declared.raw


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("colour=bgr", "unknown key 'colour'.*did you mean 'color'"),
        ("knd=image", "unknown key 'knd'.*did you mean 'kind'"),
        ("color=purple", "purple"),
        ("mean=abc", "--preprocess"),
        ("std=0", "> 0"),
        ("std=inf", "expected finite numbers for std"),
        ("mean=nan", "expected finite numbers for mean"),
        ("mean=1,2", "expected 1 or 3 numbers for mean, found 2"),
        ("color=gray", r"declares pictures \(32, 24, 1\) in nhwc, the model takes \(32, 24, 3\)"),
        ("width=23", "declares pictures"),
        ("kind=sound", "expected kind of"),
        ("kind=window,length=0", ">= 1"),
        ("missing.toml", "cannot be read"),
    ],
)
def test_wrong_declarations_are_named(spec: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        declare(spec, IMAGE)


def test_an_image_needs_four_dimensions() -> None:
    with pytest.raises(ConfigError, match="4 dimensions"):
        declare("kind=image", WINDOW)


@pytest.mark.parametrize(
    ("low", "high", "mean", "std"), [(0.0, 255.0, 0.0, 1.0), (0.0, 1.0, 0.0, 255.0), (-1.0, 1.0, 127.5, 127.5)]
)
def test_the_range_of_the_samples_gives_mean_and_std(low: float, high: float, mean: float, std: float) -> None:
    samples = np.linspace(low, high, 32 * 24 * 3, dtype=np.float32).reshape(1, 32, 24, 3)
    declared = infer(IMAGE, samples=samples)
    assert declared.preprocess == ImagePre(width=24, height=32, mean=(mean,), std=(std,))
    assert "24x32 rgb nhwc" in declared.inferred


def test_values_of_no_usual_range_are_a_window() -> None:
    samples = np.full((1, 32, 24, 3), -700.0, np.float32)
    assert infer(IMAGE, samples=samples).preprocess == WindowPre(length=32)


@pytest.mark.parametrize(("shape", "length"), [((1, 49, 10, 1), 49), ((1, 640), 1), ((-1, 640), 1), ((1, 16, 5), 16)])
def test_other_inputs_are_windows(shape: tuple[int, ...], length: int) -> None:
    spec = TensorSpec(name="x", shape=shape, dtype="float32")
    assert infer(spec, samples=np.zeros((1, 640))).preprocess == WindowPre(length=length)


def test_a_grey_picture_of_one_channel() -> None:
    spec = TensorSpec(name="x", shape=(1, 1, 32, 32), dtype="float32")
    found = infer(spec, samples=np.zeros((2, 1, 32, 32), np.uint8)).preprocess
    assert found == ImagePre(width=32, height=32, color="gray", layout="nchw")


@pytest.mark.parametrize(
    ("dtype", "scale", "zero_point"), [("uint8", 1 / 128, 128), ("int8", 1.0, -128), ("int8", 1 / 255, -128)]
)
def test_a_pixel_goes_unchanged_into_an_integer_model(dtype: str, scale: float, zero_point: int) -> None:
    spec = TensorSpec(name="x", shape=(1, 8, 8, 3), dtype=dtype, scale=scale, zero_point=zero_point)
    pre = infer(spec).preprocess
    assert isinstance(pre, ImagePre)
    pixels = np.arange(256)
    real = (pixels - pre.mean[0]) / pre.std[0]
    quantized = np.rint(real / scale) + zero_point
    assert np.array_equal(quantized, pixels - (128 if dtype == "int8" else 0))


def test_raw_pictures_get_the_declared_arithmetic_and_layout() -> None:
    declared = declare("kind=image,color=bgr,mean=10,20,30,std=2,raw=true", PLANES)
    x = np.random.default_rng(0).integers(0, 256, (2, 32, 24, 3), np.uint8)
    made = stacked(model_rows(x, declared, PLANES, where="here"))
    assert made.dtype == np.float32
    assert np.allclose(made[1, 2], (x[1, :, :, 2].astype(np.float32) - 30) / 2)


def test_raw_pictures_of_another_size_are_refused() -> None:
    declared = declare("kind=image,raw=true", IMAGE)
    with pytest.raises(SamplesError, match=r"expected raw pictures \(N, 32, 24, C\)"):
        model_rows(np.zeros((2, 30, 24, 3)), declared, IMAGE, where="here")


KEYWORD = TensorSpec(name="x", shape=(1, 49, 10, 1), dtype="float32")


@pytest.mark.parametrize(
    ("spec", "model", "said"),
    [
        ("length=48", KEYWORD, r"declares a window of length 48, the model takes \(49, 10, 1\)"),
        ("length=10", KEYWORD, "declares a window of length 10"),
        ("length=16", TensorSpec(name="x", shape=(1, 81), dtype="float32"), r"length 16, the model takes \(81,\)"),
        ("length=81", WINDOW, "length 81"),
        ("length=49,channels=a,b", KEYWORD, "expected 10 channels .* found 2: a, b"),
        ("channels=a,b", WINDOW, "expected 80 channels"),
        ("length=49,mean=1,2", KEYWORD, "expected 1 or 10 numbers for mean, found 2"),
        ("length=16,std=1,2,3,4", WINDOW, "expected 1 or 5 numbers for std, found 4"),
    ],
)
def test_windows_that_do_not_fit_the_model_are_refused(spec: str, model: TensorSpec, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        declare(f"kind=window,{spec}", model)


@pytest.mark.parametrize(
    ("spec", "model"),
    [
        ("length=49,mean=0,1,2,3,4,5,6,7,8,9", KEYWORD),
        ("length=490", KEYWORD),
        ("length=1", KEYWORD),
        ("length=16,channels=a,b,c,d,e", WINDOW),
        ("length=80,mean=3", WINDOW),
    ],
)
def test_windows_that_fit(spec: str, model: TensorSpec) -> None:
    assert isinstance(declare(f"kind=window,{spec}", model).preprocess, WindowPre)


def test_raw_windows_are_scaled_by_channel_and_flattened() -> None:
    declared = declare("kind=window,length=16,mean=1,2,3,4,5,std=2,raw=true", WINDOW)
    made = stacked(model_rows(np.full((2, 16, 5), 5.0), declared, WINDOW, where="here"))
    assert made.shape == (2, 80)
    assert made[0, :5].tolist() == [2.0, 1.5, 1.0, 0.5, 0.0]


def test_raw_windows_with_another_number_of_channels_are_refused() -> None:
    declared = declare("kind=window,length=40,mean=1,2,std=2,raw=true", WINDOW)
    with pytest.raises(SamplesError, match="expected 2 channels"):
        model_rows(np.zeros((2, 16, 5)), declared, WINDOW, where="here")


def test_a_tensor_declaration_changes_nothing() -> None:
    declared = declare("kind=tensor", WINDOW)
    assert declared.preprocess == TensorPre()
    assert np.array_equal(stacked(model_rows(np.ones((2, 80)), declared, WINDOW, where="here")), np.ones((2, 80)))


def test_pixels_are_known_by_their_type() -> None:
    pixels = np.full((3, *IMAGE.shape[1:]), 200, np.uint8)
    assert declare("kind=image,std=255", IMAGE, samples=pixels).raw
    assert "raw=false" in declare("kind=image,mean=128", IMAGE, samples=pixels).assumed
    assert not declare("kind=image,std=255,raw=false", IMAGE, samples=pixels).raw
    assert not declare("kind=image,std=1", IMAGE, samples=pixels).raw  # the same either way
    assert not declare("kind=image,std=255", IMAGE, samples=pixels.astype(np.float32)).raw
    assert not declare("kind=image,std=255", IMAGE, samples=pixels // 200).raw  # drawings of 0 and 1


def test_pictures_that_the_declaration_cannot_have_made_are_refused() -> None:
    def prepare(spec: str, model: TensorSpec, value: float, dtype: type[np.generic]) -> None:
        x = np.full((3, *model.shape[1:]), value, dtype)
        loaded = Loaded(x=x, y=np.zeros(3, np.int64), sha256="")
        prepared(loaded, declare(spec, model, samples=x), model, where="x.npz")

    with pytest.raises(SamplesError, match="values of 0 to 1, found 200 to 200") as refused:
        prepare("kind=image,std=255", IMAGE, 200, np.float32)
    assert "raw=true" in refused.value.hint
    with pytest.raises(SamplesError, match="found 200 to 200"):  # channels first: not as a picture is before it
        prepare("kind=image,std=255", PLANES, 200, np.uint8)
    prepare("kind=image,std=255", IMAGE, 200, np.uint8)
    prepare("kind=image,std=255", IMAGE, 0.8, np.float32)
    prepare("kind=image,std=255,raw=true", IMAGE, 200, np.float32)
    prepare("", IMAGE, 1800, np.float32)  # nothing was declared
