"""Preprocessing against an independent implementation in plain numpy and float64."""

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.runtime.errors import ModelError, SourceError
from edgeinfer.runtime.manifest import ImagePre, TensorPre, TensorSpec, WindowPre
from edgeinfer.runtime.preprocess import Region, compile_preprocess

Array = npt.NDArray[Any]
WIDTH, HEIGHT = 12, 8
GREY = 114
MEAN, STD = (10.0, 20.0, 30.0), (50.0, 60.0, 70.0)
# OpenCV interpolates in fixed point and rounds to whole levels: so far may one level lie from the exact value.
LEVELS = 1.0


def bilinear(picture: Array, width: int, height: int) -> Array:
    """Pixel centres at half; edges repeated. (H, W, C) in, (height, width, C) float64 out."""

    def axis(size: int, wanted: int) -> tuple[Array, Array, Array]:
        at = np.clip((np.arange(wanted) + 0.5) * size / wanted - 0.5, 0, size - 1)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, size - 1), at - low

    picture = picture.astype(np.float64)
    top, bottom, down = axis(picture.shape[0], height)
    left, right, across = axis(picture.shape[1], width)
    across, down = across[None, :, None], down[:, None, None]
    upper = picture[top][:, left] * (1 - across) + picture[top][:, right] * across
    lower = picture[bottom][:, left] * (1 - across) + picture[bottom][:, right] * across
    made: Array = upper * (1 - down) + lower * down
    return made


def reference(picture: Array, declared: ImagePre) -> Array:
    """(height, width, channels) float64: levels after resize and colour, before mean and std."""
    width, height = declared.width, declared.height
    rows, columns = picture.shape[:2]
    if declared.resize == "letterbox":
        scale = min(width / columns, height / rows)
        inner = bilinear(picture, round(columns * scale), round(rows * scale))
        made = np.full((height, width, 3), float(GREY))
        top, left = (height - inner.shape[0]) // 2, (width - inner.shape[1]) // 2
        made[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    else:
        if declared.resize == "crop":  # the largest part of the input's aspect ratio
            scale = min(columns / width, rows / height)
            size = (round(width * scale * declared.crop), round(height * scale * declared.crop))
        else:
            size = (round(columns * declared.crop), round(rows * declared.crop))
        left, top = (columns - size[0]) // 2, (rows - size[1]) // 2
        made = bilinear(picture[top : top + size[1], left : left + size[0]], width, height)
    if declared.color == "gray":
        return (0.114 * made[..., 0] + 0.587 * made[..., 1] + 0.299 * made[..., 2])[..., None]  # ITU-R BT.601
    return made[..., ::-1] if declared.color == "rgb" else made


def tensor(declared: ImagePre, dtype: str) -> TensorSpec:
    channels = 1 if declared.color == "gray" else 3
    shape = (1, HEIGHT, WIDTH, channels) if declared.layout == "nhwc" else (1, channels, HEIGHT, WIDTH)
    scale, zero_point = {"float32": (None, None), "uint8": (0.05, 100), "int8": (0.04, -20)}[dtype]
    return TensorSpec("x", shape, dtype, scale, zero_point)


@pytest.mark.parametrize("dtype", ["float32", "uint8", "int8"])
@pytest.mark.parametrize(
    ("resize", "color", "layout"),
    list(itertools.product(["stretch", "crop", "letterbox"], ["rgb", "bgr", "gray"], ["nhwc", "nchw"])),
)
def test_every_combination_against_plain_numpy(resize: Any, color: Any, layout: Any, dtype: str) -> None:
    mean, std = (MEAN, STD) if color != "gray" else (MEAN[:1], STD[:1])
    crop = 0.8 if resize != "letterbox" else 1.0
    declared = ImagePre(WIDTH, HEIGHT, resize, color=color, layout=layout, mean=mean, std=std, crop=crop)
    spec = tensor(declared, dtype)
    prepare = compile_preprocess(declared, spec)
    rng = np.random.default_rng(3)
    for rows, columns in ((30, 40), (40, 30), (8, 12), (5, 5), (1, 9), (64, 8)):
        picture = rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8)
        target = prepare.new_target()
        prepare(picture, target)
        assert target.shape == spec.shape
        assert target.dtype == dtype
        levels = reference(picture, declared)
        real = (levels - np.array(mean)) / np.array(std)
        wanted = real if layout == "nhwc" else real.transpose(2, 0, 1)
        step = max(LEVELS / min(std), 1e-5) * (1.5 if color == "gray" else 1.0)
        if spec.scale is None or spec.zero_point is None:
            assert np.abs(target[0] - wanted).max() <= step + 1e-4, (rows, columns)
            continue
        limits = np.iinfo(dtype)
        wanted = np.clip(wanted / spec.scale + spec.zero_point, limits.min, limits.max)
        assert np.abs(target[0].astype(np.float64) - wanted).max() <= step / spec.scale + 0.51, (rows, columns)


@pytest.mark.parametrize("color", ["rgb", "bgr"])
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_uint8_goes_straight_through(color: Any, layout: Any) -> None:
    """(x - 128) / 128 into a tensor of scale 1/128 and zero point 128 is x itself, bit for bit."""
    declared = ImagePre(WIDTH, HEIGHT, color=color, layout=layout, mean=(128.0,), std=(128.0,))
    shape = (1, HEIGHT, WIDTH, 3) if layout == "nhwc" else (1, 3, HEIGHT, WIDTH)
    picture = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for spec in (TensorSpec("x", shape, "uint8", 1 / 128, 128), TensorSpec("x", shape, "uint8")):
        prepare = compile_preprocess(
            declared if spec.scale else ImagePre(WIDTH, HEIGHT, color=color, layout=layout), spec
        )
        target = prepare.new_target()
        prepare(picture, target)
        wanted = picture[..., ::-1] if color == "rgb" else picture
        assert np.array_equal(target[0], wanted if layout == "nhwc" else wanted.transpose(2, 0, 1))


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(1, 300),
    columns=st.integers(1, 300),
    resize=st.sampled_from(["stretch", "crop", "letterbox"]),
    crop=st.floats(0.01, 1.0),
)
def test_a_region_says_where_the_input_lies(rows: int, columns: int, resize: Any, crop: float) -> None:
    """The middle of the input is the middle of the picture, to the half pixel that whole pixels cost."""
    declared = ImagePre(WIDTH, HEIGHT, resize, crop=crop if resize != "letterbox" else 1.0)
    prepare = compile_preprocess(declared, tensor(declared, "float32"))
    region = prepare(np.zeros((rows, columns, 3), dtype=np.uint8), prepare.new_target())
    scale = min(WIDTH / columns, HEIGHT / rows)
    slack = 1.0 / scale if resize == "letterbox" else 1.0
    assert abs((region.x + region.width / 2) * columns - columns / 2) <= slack
    assert abs((region.y + region.height / 2) * rows - rows / 2) <= slack
    if resize == "letterbox":
        assert region.width >= 0.999
        assert region.height >= 0.999
    else:
        assert 0 <= region.x <= region.x + region.width <= 1 + 1e-9
        assert 0 <= region.y <= region.y + region.height <= 1 + 1e-9


def test_a_stretched_whole_picture_has_the_whole_region() -> None:
    declared = ImagePre(WIDTH, HEIGHT)
    prepare = compile_preprocess(declared, tensor(declared, "float32"))
    assert prepare(np.zeros((50, 70, 3), dtype=np.uint8), prepare.new_target()) == Region(0.0, 0.0, 1.0, 1.0)


def test_pictures_of_changing_size_and_grey_ones_are_taken() -> None:
    declared = ImagePre(WIDTH, HEIGHT, "letterbox")
    prepare = compile_preprocess(declared, tensor(declared, "float32"))
    target = prepare.new_target()
    for size in ((10, 20), (20, 10), (10, 20)):
        prepare(np.full((*size, 3), 200, dtype=np.uint8), target)
        assert {GREY, 200} == set(np.unique(target).tolist())
    prepare(np.full((8, 12), 7, dtype=np.uint8), target)
    assert np.all(target == 7)


@pytest.mark.parametrize(
    "data",
    [
        np.zeros((0, 0, 3), dtype=np.uint8),
        np.zeros((0, 5, 3), dtype=np.uint8),
        np.zeros((5, 5, 3), dtype=np.float32),
        np.zeros((5,), dtype=np.uint8),
        np.zeros((1, 5, 5, 3), dtype=np.uint8),
    ],
    ids=lambda data: f"{data.shape} {data.dtype}",
)
def test_what_is_no_picture_is_refused(data: Array) -> None:
    declared = ImagePre(WIDTH, HEIGHT)
    prepare = compile_preprocess(declared, tensor(declared, "float32"))
    with pytest.raises(SourceError, match="expected a picture"):
        prepare(data, prepare.new_target())


def test_a_declaration_that_does_not_fit_the_tensor_is_refused() -> None:
    with pytest.raises(ModelError, match="the package declares pictures"):
        compile_preprocess(ImagePre(WIDTH, HEIGHT), TensorSpec("x", (1, 3, 3, 3), "float32"))


class TestWindows:
    def test_mean_and_std_a_channel(self) -> None:
        prepare = compile_preprocess(WindowPre(2, mean=(1.0, 2.0), std=(2.0, 4.0)), TensorSpec("x", (-1, 4), "float32"))
        target = prepare.new_target()
        prepare(np.array([[1, 2], [3, 6]], dtype=np.float32), target)
        assert target.tolist() == [[0.0, 0.0, 1.0, 1.0]]

    def test_into_an_integer_tensor(self) -> None:
        prepare = compile_preprocess(WindowPre(4, mean=(1.0,)), TensorSpec("x", (1, 4, 1), "int8", 0.5, 3))
        target = prepare.new_target()
        prepare(np.array([[1], [2], [1000], [-1000]], dtype=np.float32), target)
        assert target.reshape(-1).tolist() == [3, 5, 127, -128]

    @pytest.mark.parametrize("shape", [(3, 1), (4, 2), (0, 2)])
    def test_a_window_that_does_not_fit_is_refused(self, shape: tuple[int, int]) -> None:
        prepare = compile_preprocess(WindowPre(2), TensorSpec("x", (1, 4), "float32"))
        with pytest.raises(SourceError, match="expected a window of 4 values"):
            prepare(np.zeros(shape, dtype=np.float32), prepare.new_target())

    def test_channels_that_do_not_fit_are_refused(self) -> None:
        prepare = compile_preprocess(WindowPre(2, mean=(1.0, 2.0, 3.0)), TensorSpec("x", (1, 4), "float32"))
        with pytest.raises(SourceError, match="3 channels"):
            prepare(np.zeros((2, 2), dtype=np.float32), prepare.new_target())


class TestTensors:
    def test_any_shape_of_the_right_size(self) -> None:
        prepare = compile_preprocess(TensorPre(), TensorSpec("x", (-1, 2, 2), "float32"))
        target = prepare.new_target()
        prepare(np.arange(4, dtype=np.float64), target)
        assert target.tolist() == [[[0.0, 1.0], [2.0, 3.0]]]

    def test_the_model_s_own_integers_are_left_alone_and_reals_are_quantized(self) -> None:
        prepare = compile_preprocess(TensorPre(), TensorSpec("x", (1, 3), "int8", 0.5, -1))
        target = prepare.new_target()
        prepare(np.array([-128, 0, 127], dtype=np.int8), target)
        assert target.tolist() == [[-128, 0, 127]]
        prepare(np.array([0.0, 1.0, 1e9], dtype=np.float32), target)
        assert target.tolist() == [[-1, 1, 127]]

    def test_a_wrong_size_is_refused(self) -> None:
        prepare = compile_preprocess(TensorPre(), TensorSpec("x", (1, 3), "float32"))
        with pytest.raises(SourceError, match="expected 3 values"):
            prepare(np.zeros(4, dtype=np.float32), prepare.new_target())
