"""Rows: one at a time, of arrays and of picture files, without keeping any."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.quantize.preprocessing import declare, infer, model_rows, picture_rows
from edgeinfer.quantize.rows import ArrayRows, ImageRows, spread, stacked
from edgeinfer.runtime.errors import ConfigError, SamplesError
from edgeinfer.runtime.manifest import ImagePre, TensorSpec
from edgeinfer.runtime.preprocess import compile_preprocess
from edgeinfer.runtime.sources.pictures import read_picture
from pictures_on_disk import write_picture

IMAGE = TensorSpec("x", (1, 8, 8, 3), "float32")


def test_an_array_is_kept_as_it_is_and_its_rows_are_the_callers_own() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
    rows = ArrayRows(array)
    assert (len(rows), rows.shape) == (4, (2, 3))
    row = rows.row(1)
    assert row.dtype == np.float32
    assert row.shape == (1, 2, 3)
    row[:] = 0.0
    assert np.array_equal(rows.row(1)[0], array[1])


def test_rows_of_a_float_array_are_copies_too() -> None:
    array = np.ones((2, 3), np.float32)
    ArrayRows(array).row(0)[:] = 7.0
    assert array.max() == 1.0


def test_picked_rows_share_the_array() -> None:
    array = np.arange(10, dtype=np.float32)[:, np.newaxis]
    rows = ArrayRows(array).picked(np.array([8, 2, 5])).picked(np.array([2, 0]))
    assert stacked(rows)[:, 0].tolist() == [5.0, 8.0]
    array[5] = 50.0
    assert rows.row(0).item() == 50.0


def test_spread_is_even_and_never_more_than_there_is() -> None:
    assert spread(3, 9).tolist() == [0, 3, 6]
    assert spread(9, 3).tolist() == [0, 1, 2]
    assert spread(0, 3).tolist() == []


def test_pictures_are_prepared_as_on_the_device(tmp_path: Path) -> None:
    files = [write_picture(tmp_path / f"{i}.png", size=(20 + i, 30), noise=i) for i in range(3)]
    declared = declare("kind=image,color=rgb,mean=127.5,std=127.5,resize=crop,crop=0.875", IMAGE)
    rows = picture_rows(files, declared, IMAGE, where="here")
    prepare = compile_preprocess(declared.preprocess, IMAGE)
    for index, file in enumerate(files):
        target = prepare.new_target()
        prepare(read_picture(file), target)
        assert np.array_equal(rows.row(index), target)
    assert np.array_equal(rows.picked(np.array([2])).row(0), rows.row(2))


def test_pictures_need_a_declared_preprocessing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected --preprocess to say how pictures"):
        picture_rows([tmp_path / "a.png"], infer(IMAGE), IMAGE, where="here")


def test_a_picture_that_is_gone_or_damaged_is_named(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(b"\xff\xd8\xff\xe0 not any more")
    rows = ImageRows([damaged, tmp_path / "gone.jpg"], ImagePre(8, 8), (8, 8, 3))
    with pytest.raises(SamplesError, match=r"damaged\.jpg: expected a picture, found a file that holds none"):
        rows.row(0)
    with pytest.raises(SamplesError, match=r"gone\.jpg: expected a picture, found a file that cannot be read"):
        rows.row(1)


def test_two_hundred_pictures_are_not_held(tmp_path: Path) -> None:
    """A row has 0.75 MB; all of them would be 150."""
    path = write_picture(tmp_path / "a.png", size=(256, 256), noise=1)
    rows = ImageRows([path] * 200, ImagePre(256, 256), (256, 256, 3))
    rows.row(0)
    tracemalloc.start()
    total = sum(float(rows.row(index)[0, 0, 0, 0]) for index in range(len(rows)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total > 0
    assert peak < 5 << 20


def test_rows_of_bytes_are_not_held_as_floats() -> None:
    """48 MB as bytes would be 192 as float32."""
    array = np.zeros((1000, 128, 128, 3), np.uint8)
    model = TensorSpec("x", (1, 128, 128, 3), "float32")
    declared = declare("kind=image,mean=128,std=128,raw=true", model)
    tracemalloc.start()
    rows = model_rows(array, declared, model, where="here").picked(np.arange(0, 1000, 2))
    assert all(rows.row(index).min() == -1.0 for index in range(len(rows)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 << 20
