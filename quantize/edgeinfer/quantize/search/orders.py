"""What the search asks of the bench that makes and measures candidates, and what it is told."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeinfer.quantize.search.entry import Entry, Leads, Timing
from edgeinfer.quantize.search.mixing import LayerCost

__all__ = ["Answer", "Evaluate", "Make", "Mix", "Order", "Probe", "Screen", "Sketch", "Time"]


@dataclass(frozen=True, slots=True)
class Sketch:
    """Time something roughly that is as fast as what these schemes make, and sooner made. May be left unanswered; none
    is made later than `until_s` seconds after the search began, and no more rounds are timed later than `timed_s`."""

    ids: tuple[str, ...]
    until_s: float = math.inf
    timed_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Make:
    """Make the files of these schemes, where they are not made yet."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Screen:
    """Look at these on a few samples, and time them roughly: no more than one round later than `until_s` seconds after
    the search began."""

    ids: tuple[str, ...]
    until_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Judge this one on all samples, and have it pass the guards."""

    id: str


@dataclass(frozen=True, slots=True)
class Probe:
    """Try each layer of the scheme alone in this precision. Begin with none later than `until_s` seconds after the
    search began."""

    scheme: str
    precision: str
    until_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Mix:
    """Make a candidate of the scheme whose named layers have this precision, and screen it."""

    id: str
    scheme: str
    layers: tuple[str, ...]
    precision: str


@dataclass(frozen=True, slots=True)
class Time:
    """Time these side by side; where it was done before, some rounds more. No more than one of them later than
    `until_s` seconds after the search began."""

    ids: tuple[str, ...]
    until_s: float = math.inf


Order = Sketch | Make | Screen | Evaluate | Probe | Mix | Time


@dataclass(frozen=True, slots=True)
class Answer:
    """`entries` are those that an order was about, as they are now. `elapsed_s` is how long the search has lasted.
    `layers` answers Probe, in the network's order; `leads` Time, where more rounds tell more; `sketches` Sketch, where
    it could be told."""

    entries: Mapping[str, Entry]
    elapsed_s: float
    layers: tuple[LayerCost, ...] = ()
    leads: Leads = field(default_factory=dict)
    sketches: Mapping[str, Timing] = field(default_factory=dict)
