"""The report of a search as values: what `--json` prints, what a package carries, what the page is drawn from.

Keys are a contract: more may be added, none is renamed.
"""

from typing import Literal

import msgspec

__all__ = ["Confusion", "LayerRow", "Report", "Row", "Sensitivity", "Step", "TargetRow"]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate. Figures are None where it was refused before they were taken.

    `drop` is what it loses against the float model, in the unit of the report (negative: it gains), with its 95 %
    interval and the p-value of a paired test; `significant` is None where no test could be made. `latency_ratio` is to
    the reference, with its 95 % interval. `layers` names the precision of each layer where they differ.
    """

    variant: str
    engine: str
    precision: str
    quantized: bool
    bytes: int
    verdict: Literal["chosen", "accepted", "refused"]
    reason: str
    about: str = ""
    metric_value: float | None = None
    agreement: float | None = None
    drop: float | None = None
    drop_low: float | None = None
    drop_high: float | None = None
    p_value: float | None = None
    significant: bool | None = None
    latency_us: float | None = None
    latency_ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    cpu_us: float | None = None
    energy_uj: float | None = None
    estimated: bool = False
    samples: int = 0
    layers: dict[str, str] = {}
    warnings: tuple[str, ...] = ()


class LayerRow(msgspec.Struct, frozen=True, kw_only=True):
    """What one layer costs and gains when it alone has the lower precision. `divergence` is the mean squared
    difference of the outputs to the float model's, over their variance; `precision` is what the search gave it.
    JSON has no infinity: None is a divergence that is no number."""

    name: str
    op: str
    weights: int
    divergence: float | None
    bytes_saved: int
    latency_gain: float | None = None
    precision: str = ""


class Sensitivity(msgspec.Struct, frozen=True, kw_only=True):
    """The layers of the model under one scheme: `lower` is the precision that each was given alone."""

    scheme: str
    lower: str
    layers: tuple[LayerRow, ...]
    outcome: str = ""


class Confusion(msgspec.Struct, frozen=True, kw_only=True, rename={"reference": "float"}):
    """How often class i (row) was called class j (column), by the float model and by the chosen variant."""

    labels: tuple[str, ...]
    reference: tuple[tuple[int, ...], ...]
    chosen: tuple[tuple[int, ...], ...]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A rung of the search: how many candidates it looked at, how many it left, how long it took."""

    name: str
    seconds: float
    looked_at: int
    left: int
    detail: str = ""


class TargetRow(msgspec.Struct, frozen=True, kw_only=True):
    """Where latency comes from: `measured` there, or estimated by rules for a device of this kind."""

    name: str
    measured: bool
    machine: str = ""
    detail: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True, rename={"reference": "float"}):
    """All that a search says. `unit` is that of drops: points (hundredths of the metric), or per cent of the float
    model's value for errors without a bound. `reference` is the float model (`float` in the document).
    `command` is what was called, to call it again."""

    metric: str
    higher_is_better: bool
    unit: Literal["points", "percent"]
    max_drop: float
    min_agreement: float | None
    max_bytes: int | None
    objective: Literal["latency", "size", "energy"]
    target: TargetRow
    answer: str
    reference: Row
    chosen: Row | None
    candidates: tuple[Row, ...]
    samples: int
    calibration_samples: int
    seconds: float
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sensitivity: tuple[Sensitivity, ...] = ()
    confusion: Confusion | None = None
    steps: tuple[Step, ...] = ()
    labels: tuple[str, ...] = ()
    command: str = ""
