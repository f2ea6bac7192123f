"""Pictures to the last bit: where nothing is interpolated, what comes out is the definition. And no frame allocates."""

import itertools
import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.runtime.engines import quantize_input
from edgeinfer.runtime.errors import ModelError
from edgeinfer.runtime.manifest import AudioPre, ImagePre, Preprocess, TensorPre, TensorSpec, WindowPre
from edgeinfer.runtime.preprocess import compile_preprocess, resolve_input
from edgeinfer.runtime.sources.pictures import opencv

Array = npt.NDArray[Any]
WIDTH, HEIGHT = 10, 6
GREY = 114

SCALINGS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "levels": ((0.0,), (1.0,)),
    "unit": ((0.0,), (255.0,)),
    "symmetric": ((127.5,), (127.5,)),
    "per channel": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "one std": ((123.675, 116.28, 103.53), (58.0,)),
}
TENSORS: dict[str, tuple[str, float | None, int | None]] = {
    "float32": ("float32", None, None),
    "float16": ("float16", None, None),
    "uint8": ("uint8", None, None),
    "uint8 of a scale": ("uint8", 1 / 128, 128),
    "int8": ("int8", 1.0, -128),
    "int8 of 1/255": ("int8", 1 / 255, -128),
    "int16": ("int16", 0.001, 0),
    "int32": ("int32", None, None),
}


BIG = ImagePre(600, 400, mean=SCALINGS["per channel"][0], std=SCALINGS["per channel"][1])


def defined(picture: Array, declared: ImagePre, spec: TensorSpec) -> Array:
    """What the input is by definition: plain numpy in float32, as samples are treated when a package is made."""
    if declared.color == "gray":
        levels = (
            opencv().cvtColor(picture, opencv().COLOR_BGR2GRAY)[..., None] if picture.ndim == 3 else picture[..., None]
        )
    else:
        colors = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
        levels = colors[..., ::-1] if declared.color == "rgb" else colors
    channels = levels.shape[-1]
    mean, std = (np.resize(np.array(values, np.float32), channels) for values in (declared.mean, declared.std))
    real = (levels.astype(np.float32) - mean) / std
    if declared.layout == "nchw":
        real = real.transpose(2, 0, 1)
    return quantize_input(real, spec).reshape(spec.shape)


def spec_for(declared: ImagePre, tensor: str) -> TensorSpec:
    channels = 1 if declared.color == "gray" else 3
    size = (declared.height, declared.width)
    shape = (1, *size, channels) if declared.layout == "nhwc" else (1, channels, *size)
    dtype, scale, zero_point = TENSORS[tensor]
    return TensorSpec("x", shape, dtype, scale, zero_point)


def prepared(data: Array, declared: Preprocess, spec: TensorSpec) -> Array:
    prepare = compile_preprocess(declared, spec)
    target = prepare.new_target()
    target.fill(1)  # what an earlier frame has left
    prepare(data, target)
    return target


@pytest.mark.parametrize("tensor", TENSORS)
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize(("color", "layout"), list(itertools.product(["rgb", "bgr", "gray"], ["nhwc", "nchw"])))
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # reals beyond a plain integer tensor
def test_a_picture_of_the_right_size_becomes_what_is_defined(
    color: Any, layout: Any, scaling: str, tensor: str
) -> None:
    mean, std = SCALINGS[scaling]
    rng = np.random.default_rng(0)
    for resize, grey in itertools.product(("stretch", "crop", "letterbox"), (False, True)):
        declared = ImagePre(WIDTH, HEIGHT, resize, color=color, layout=layout, mean=mean, std=std)  # type: ignore[arg-type]  # of a product
        spec = spec_for(declared, tensor)
        picture = rng.integers(0, 256, (HEIGHT, WIDTH) if grey else (HEIGHT, WIDTH, 3), dtype=np.uint8)
        assert np.array_equal(prepared(picture, declared, spec), defined(picture, declared, spec)), (resize, grey)


def test_a_large_picture_becomes_what_is_defined() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (400, 600, 3), dtype=np.uint8)
    spec = spec_for(BIG, "float32")
    assert np.array_equal(prepared(picture, BIG, spec), defined(picture, BIG, spec))


@pytest.mark.parametrize("tensor", ["float32", "uint8", "int8"])
@pytest.mark.parametrize(("color", "layout"), list(itertools.product(["rgb", "bgr", "gray"], ["nhwc", "nchw"])))
@pytest.mark.parametrize("interpolation", ["bilinear", "area", "nearest"])
def test_a_resized_picture_is_what_opencv_makes_of_it(color: Any, layout: Any, tensor: str, interpolation: Any) -> None:
    """Down, up, cut out of the middle, and grey ones; colours to the last bit, grey to one level of rounding."""
    cv2 = opencv()
    code = {"bilinear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA, "nearest": cv2.INTER_NEAREST}[interpolation]
    rng = np.random.default_rng(1)
    for size, crop in itertools.product(((31, 17), (3, 4), (6, 40)), (1.0, 0.5)):
        declared = ImagePre(
            WIDTH, HEIGHT, color=color, layout=layout, mean=(0.0,), std=(1.0,), crop=crop, interpolation=interpolation
        )
        spec = spec_for(declared, tensor)
        for picture in (rng.integers(0, 256, (*size, 3), dtype=np.uint8), rng.integers(0, 256, size, dtype=np.uint8)):
            height, width = max(1, round(size[0] * crop)), max(1, round(size[1] * crop))
            top, left = (size[0] - height) // 2, (size[1] - width) // 2
            cut = np.ascontiguousarray(picture[top : top + height, left : left + width])
            resized = cv2.resize(cut, (WIDTH, HEIGHT), interpolation=code)
            found, wanted = prepared(picture, declared, spec), defined(resized, declared, spec)
            allowed = 1 if color == "gray" and picture.ndim == 3 else 0
            assert np.abs(found.astype(np.float32) - wanted.astype(np.float32)).max() <= allowed, (size, crop)


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40), st.booleans()), min_size=1, max_size=6),
    resize=st.sampled_from(["stretch", "letterbox", "crop"]),
    color=st.sampled_from(["rgb", "bgr", "gray"]),
    layout=st.sampled_from(["nhwc", "nchw"]),
    tensor=st.sampled_from(["float32", "uint8", "int8"]),
)
def test_sizes_that_change_leave_nothing_behind(
    sizes: list[tuple[int, int, bool]], resize: Any, color: Any, layout: Any, tensor: str
) -> None:
    """One preprocessing over many pictures gives what a new one gives of each: no border, no step of another size."""
    declared = ImagePre(WIDTH, HEIGHT, resize, color=color, layout=layout)
    spec = spec_for(declared, tensor)
    lasting = compile_preprocess(declared, spec)
    target = lasting.new_target()
    rng = np.random.default_rng(2)
    for height, width, grey in sizes:
        picture = rng.integers(0, 256, (height, width) if grey else (height, width, 3), dtype=np.uint8)
        region = lasting(picture, target)
        fresh = compile_preprocess(declared, spec)
        other = fresh.new_target()
        assert region == fresh(picture, other)
        assert np.array_equal(target, other)


def test_the_border_of_a_letterbox_is_grey_and_the_picture_is_not() -> None:
    for color, layout in itertools.product(("rgb", "gray"), ("nhwc", "nchw")):
        declared = ImagePre(10, 10, "letterbox", color=color, layout=layout)  # type: ignore[arg-type]  # of a product
        target = prepared(np.full((4, 8, 3), 7, np.uint8), declared, spec_for(declared, "uint8"))
        rows = target.reshape(10, 10, -1) if layout == "nhwc" else target.reshape(-1, 10, 10).transpose(1, 2, 0)
        assert np.all(rows[:2] == GREY)
        assert np.all(rows[2:7] == 7)
        assert np.all(rows[7:] == GREY)


def test_a_part_of_an_array_is_a_picture_too() -> None:
    """Crops of a cascade are views."""
    declared = ImagePre(WIDTH, HEIGHT)
    whole = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    spec = spec_for(declared, "float32")
    for part in (whole[3:9, 5:15], whole[10:33, 5:44], whole[::-1, ::-2]):
        assert np.array_equal(prepared(part, declared, spec), prepared(part.copy(), declared, spec))


@pytest.mark.parametrize(
    ("declared", "spec", "data"),
    [
        (ImagePre(64, 48), TensorSpec("x", (1, 48, 64, 3), "uint8"), (120, 160, 3)),
        (ImagePre(64, 48, "letterbox"), TensorSpec("x", (1, 48, 64, 3), "uint8"), (120, 200, 3)),
        (ImagePre(64, 48, std=(255.0,)), TensorSpec("x", (1, 48, 64, 3), "float32"), (120, 160, 3)),
        (
            ImagePre(64, 48, layout="nchw", mean=(1.0, 2.0, 3.0)),
            TensorSpec("x", (1, 3, 48, 64), "float32"),
            (90, 90, 3),
        ),
        (ImagePre(64, 48, mean=(1.0, 2.0, 3.0)), TensorSpec("x", (1, 48, 64, 3), "float32"), (20, 30, 3)),
        (BIG, TensorSpec("x", (1, 400, 600, 3), "float32"), (100, 100, 3)),
        (ImagePre(64, 48), TensorSpec("x", (1, 48, 64, 3), "int8", 1.0, -128), (48, 64, 3)),
        (ImagePre(64, 48, color="gray"), TensorSpec("x", (1, 48, 64, 1), "int8", 0.5, 3), (20, 30, 3)),
        (WindowPre(500, mean=(1.0, 2.0, 3.0), std=(4.0,)), TensorSpec("x", (1, 500, 3), "float32"), (500, 3)),
        (WindowPre(500, mean=(1.0,)), TensorSpec("x", (1, 1500), "int8", 0.5, 3), (500, 3)),
        (TensorPre(), TensorSpec("x", (1, 1500), "int8", 0.5, 3), (500, 3)),
        (AudioPre(3000, scale=2.0), TensorSpec("x", (1, 3000), "float32"), (3000,)),
        (AudioPre(3000, features="mfcc", gain="max"), TensorSpec("x", (1, 8, 10), "int8", 0.5, 3), (3000,)),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, tuple) else str(value),
)
def test_a_frame_costs_no_memory(declared: Preprocess, spec: TensorSpec, data: tuple[int, ...]) -> None:
    """Beyond views and small buffers of numpy's own: less than an eighth of the smallest array in question."""
    prepare = compile_preprocess(declared, spec)
    target = prepare.new_target()
    rng = np.random.default_rng(0)
    frame = (
        rng.integers(0, 256, data, dtype=np.uint8) if isinstance(declared, ImagePre) else rng.random(data, np.float32)
    )
    tracemalloc.start()
    try:
        for _ in range(300):  # Python keeps some small objects for the next time
            prepare(frame, target)
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(50):
            prepare(frame, target)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 1000, "nothing is kept"
    assert peak - before < 6000


class TestOpenSizes:
    @pytest.mark.parametrize(
        ("declared", "shape", "resolved"),
        [
            (AudioPre(576), (-1, -1), (1, 576)),
            (AudioPre(576), (1, 1, -1), (1, 1, 576)),
            (AudioPre(16_000, features="mfcc"), (-1, -1, 10, 1), (1, 49, 10, 1)),
            (AudioPre(16_000, features="mfcc"), (-1, -1, -1), (1, 49, 10)),
            (ImagePre(8, 4), (-1, -1, -1, 3), (1, 4, 8, 3)),
            (ImagePre(8, 4, layout="nchw"), (1, 3, -1, -1), (1, 3, 4, 8)),
            (WindowPre(20), (-1, -1, 6), (1, 20, 6)),
            (WindowPre(20, channels=("a", "b")), (-1, -1, -1), (1, 20, 2)),
            (WindowPre(20, channels=("a", "b")), (-1, -1), (1, 40)),
            (WindowPre(20, mean=(1.0, 2.0)), (-1, 20, -1), (1, 20, 2)),
            (TensorPre((3, 4)), (-1, -1, -1), (1, 3, 4)),
            (TensorPre((12,)), (-1, 3, -1), (1, 3, 4)),
            (TensorPre(), (-1, 5), (1, 5)),
            (TensorPre(), (2, 5), (2, 5)),
            (TensorPre(), (), ()),
        ],
    )
    def test_the_declaration_closes_them(
        self, declared: Preprocess, shape: tuple[int, ...], resolved: tuple[int, ...]
    ) -> None:
        spec = resolve_input(declared, TensorSpec("x", shape, "float32"))
        assert spec.shape == resolved
        assert compile_preprocess(declared, TensorSpec("x", shape, "float32")).new_target().shape == resolved

    @pytest.mark.parametrize(
        ("declared", "shape"),
        [
            (TensorPre(), (-1, -1)),
            (TensorPre((5,)), (-1, 3, -1)),
            (WindowPre(20), (-1, -1, -1)),
            (WindowPre(20), (-1, -1)),
            (AudioPre(7), (-1, -1, -1)),
        ],
    )
    def test_sizes_that_cannot_be_told_are_refused(self, declared: Preprocess, shape: tuple[int, ...]) -> None:
        with pytest.raises(ModelError, match="leaves sizes of its input 'x' open"):
            resolve_input(declared, TensorSpec("x", shape, "float32"))
