"""How samples are read: what a form of samples leaves open, from a recipe's `[samples]` or the command line."""

from typing import Annotated, Literal

import msgspec

from edgeinfer.runtime.config import Section

__all__ = ["SampleOptions"]

Rows = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Column = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class SampleOptions(Section, frozen=True):
    """Options of samples. All have a default: an `.npz` needs none.

    Pictures with `labels.csv`: `file_column` and `label_column` name its columns.

    CSV tables: each sample is a window of `window` rows (1: a row is a sample), the next begins `stride` rows later (0:
    `window`, so that none overlap). `columns` are the inputs, in the model's order (none: every column of numbers);
    `label_column` holds a class, or 0 and 1, or for `task = "regression"` a number; `window_label` says which of a
    window's labels counts: the largest, or that of its last row. `group = "file"` makes all windows of a file one
    example. `delimiter` separates columns ("": the one of `,` `;` and tab that the first line has most of).

    `calibration` is a file or folder of samples to calibrate with (""; a sub-folder `calibration`, or `x_calibration`
    in an `.npz`, is found alone). Relative to the recipe in a recipe.
    """

    calibration: str = ""
    file_column: Column = "file"
    label_column: Column = "label"
    window: Rows = 1
    stride: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    columns: Annotated[tuple[Column, ...], msgspec.Meta(max_length=10_000)] = ()
    window_label: Literal["max", "last"] = "max"
    group: Literal["", "file"] = ""
    delimiter: Annotated[str, msgspec.Meta(max_length=1)] = ""
