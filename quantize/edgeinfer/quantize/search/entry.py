"""What is known of a candidate: it grows while the search climbs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeinfer.quantize.search.statistics import Difference

__all__ = ["Entry", "Judged", "Leads", "Offer", "Screened", "Timing"]

# The 95 % interval of the first's latency over the second's, by their ids: of rounds in which both were timed.
Leads = Mapping[tuple[str, str], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Timing:
    """Of one candidate: the median call in microseconds, its ratio to the reference's with a 95 % interval, CPU time
    and where readable energy a call. `estimated` figures come from rules: only the ratios mean anything then. `rough`:
    of so few rounds that there is no such interval, but the least and the largest that was seen, or 0 for both.
    `error` says why the target cannot run it; there are no figures then."""

    latency_us: float = 0.0
    ratio: float = 0.0
    ratio_low: float = 0.0
    ratio_high: float = 0.0
    cpu_us: float | None = None
    energy_uj: float | None = None
    rss_bytes: int | None = None
    estimated: bool = False
    error: str = ""
    rough: bool = False


@dataclass(frozen=True, slots=True)
class Offer:
    """A scheme that may be tried. `after` names another one that must have come to something first. `mends` names one
    whose candidate this is a better-behaved form of: it is tried only where that one is fast and loses too much.
    `mixes` are the precisions that single layers may have. `like` names one that computes the same, or less: this one
    cannot be much faster. `prunes` names the one that it is the same as, of a model with fewer channels."""

    id: str
    engine: str
    precision: str
    about: str = ""
    rung: int = 0
    mixes: frozenset[str] = frozenset()
    mends: str = ""
    after: str = ""
    quantizes: bool = True
    like: str = ""
    prunes: str = ""


@dataclass(frozen=True, slots=True)
class Screened:
    """A first look, on a few samples. `divergence` is the mean squared difference of the outputs to the float model's,
    over their variance."""

    agreement: float
    divergence: float
    samples: int


@dataclass(frozen=True, slots=True)
class Judged:
    """A look at all samples. `difference` is of the metric to the float model's, as a share or in its own unit,
    positive where the candidate is worse."""

    metric_value: float
    agreement: float
    difference: Difference
    samples: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A candidate. `refused` says why it is out of the question; `bytes` is 0 until it is made."""

    id: str
    engine: str
    precision: str
    quantized: bool
    about: str = ""
    bytes: int = 0
    refused: str = ""
    warnings: tuple[str, ...] = ()
    screened: Screened | None = None
    judged: Judged | None = None
    timing: Timing | None = None
    plan: Mapping[str, str] = field(default_factory=dict)
