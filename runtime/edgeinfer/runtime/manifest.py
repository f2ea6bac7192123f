"""The manifest of a model package: what one version of one model needs to be run, as frozen values.

Schema version 1. A reader refuses another major version and ignores fields that it does not know, so that
a newer minor version stays readable.
"""

from itertools import pairwise
from typing import Annotated, Any, Literal

import msgspec

from edgeinfer.runtime.posts import (
    AnomalyPost,
    ClassifyPost,
    DetectPost,
    DistancePost,
    EmbedPost,
    ForecastPost,
    KeypointsPost,
    KeywordsPost,
    Postprocess,
    RawPost,
    RegressPost,
    SegmentPost,
    SsdAnchors,
    Task,
)
from edgeinfer.runtime.pres import AudioPre, ImagePre, Preprocess, TensorPre, WindowPre

__all__ = [
    "SCHEMA_VERSION",
    "AnomalyPost",
    "AudioPre",
    "ClassifyPost",
    "Constant",
    "DetectPost",
    "DistancePost",
    "Distribution",
    "EmbedPost",
    "ForecastPost",
    "Golden",
    "ImagePre",
    "KeypointsPost",
    "KeywordsPost",
    "Manifest",
    "Postprocess",
    "Preprocess",
    "Provenance",
    "RawPost",
    "Reference",
    "RegressPost",
    "SegmentPost",
    "Signature",
    "SsdAnchors",
    "StateTensor",
    "Task",
    "TensorPre",
    "TensorSpec",
    "Tolerance",
    "Variant",
    "WindowPre",
]

SCHEMA_VERSION = 1

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}\Z")]
SemVer = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})(-[0-9A-Za-z.-]{1,64})?(\+[0-9A-Za-z.-]{1,64})?\Z"
    ),
]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
FileName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")]
Size = Annotated[int, msgspec.Meta(ge=0, le=4 << 30)]


class TensorSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One input or output of a variant: real = scale * (q - zero_point) where `scale` is given.

    `shape` includes the batch dimension; -1 where the model leaves it open.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


class StateTensor(msgspec.Struct, frozen=True):
    """An input that is fed with what the last inference gave for `output`; zeros at the start of a source. Both are
    named as the model names them."""

    input: str
    output: str


class Constant(msgspec.Struct, frozen=True):
    """An input that always has this value in every element, for instance a sampling rate."""

    input: str
    value: float


class Variant(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file of the package: an engine and a precision.

    `requires` names the processor's features (as `edgeinfer probe` shows them) that it is made for: a device that lacks
    one takes another variant. `metrics` holds figures per profile, for instance `{"local": {"latency_us": 812.0}}`. A
    model of several inputs says which of them are `states` and which `constants`: exactly one is left for the frame.
    """

    id: Name
    engine: Literal["onnx", "litert", "openvino"]
    file: FileName
    sha256: Sha256
    bytes: Size
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    requires: tuple[str, ...] = ()
    metrics: dict[str, dict[str, float]] = {}
    states: tuple[StateTensor, ...] = ()
    constants: tuple[Constant, ...] = ()


class Tolerance(msgspec.Struct, frozen=True):
    """How far a variant's dequantized outputs may lie from its golden ones, in units of the output."""

    max_abs: float
    mean_abs: float


class Golden(msgspec.Struct, frozen=True):
    """Golden vectors: an `.npz` with `input` (count, *input shape without batch) float32, as the
    preprocessing hands it to the float model, and per variant `{variant}/{i}` (count, *output i)."""

    file: FileName
    sha256: Sha256
    count: int
    tolerance: dict[str, Tolerance]


class Distribution(msgspec.Struct, frozen=True):
    """How a statistic was spread over the samples that a package was made with.

    `edges` ascend and cut the line into len(edges) + 1 bins, the first open below, the last open above; a value that
    equals an edge lies in the bin above it. `shares` are the bins' parts of all samples. `low` and `high` are the
    quantiles 0.5 % and 99.5 %, `n` the samples that the statistic had.
    """

    edges: Annotated[tuple[float, ...], msgspec.Meta(max_length=256)]
    shares: Annotated[tuple[Annotated[float, msgspec.Meta(ge=0.0, le=1.0)], ...], msgspec.Meta(max_length=257)]
    low: float
    high: float
    n: Annotated[int, msgspec.Meta(ge=1)]

    def __post_init__(self) -> None:
        if len(self.shares) != len(self.edges) + 1:
            raise ValueError(f"expected {len(self.edges) + 1} shares for {len(self.edges)} edges")
        if any(low >= high for low, high in pairwise(self.edges)):
            raise ValueError("expected ascending edges")


Statistics = Annotated[dict[str, Distribution], msgspec.Meta(max_length=256)]


class Reference(msgspec.Struct, frozen=True, omit_defaults=True):
    """What results and inputs look like where nothing has drifted: `scores` of what the first variant says of the
    samples, `inputs` of the model's input in real values. Names as in `edgeinfer.runtime.learn.statistics`."""

    scores: Statistics = {}
    inputs: Statistics = {}


class Provenance(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the package comes from: hashes of what went in, versions of the tools, the search's table."""

    created: str
    tools: dict[str, str] = {}
    source_sha256: dict[str, str] = {}
    calibration_sha256: str = ""
    evaluation_sha256: str = ""
    search: list[dict[str, Any]] = []


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that a package says of itself. `variants` is in order of preference: the first that the device can run
    is used; with `choose` "measured" the device times those that it can run and takes the fastest that keeps its
    golden vectors. `arrays`: an `.npz` with what the postprocessing needs beside the outputs (anchors, centres)."""

    schema_version: int
    name: Name
    version: SemVer
    task: Task
    preprocess: Preprocess
    postprocess: Postprocess
    variants: tuple[Variant, ...]
    labels: tuple[FileName, Sha256] | None = None
    golden: Golden | None = None
    report: tuple[FileName, Sha256] | None = None
    provenance: Provenance | None = None
    reference: Reference | None = None
    arrays: tuple[FileName, Sha256] | None = None
    choose: Literal["first", "measured"] = "first"


class Signature(msgspec.Struct, frozen=True):
    """Ed25519 over the exact bytes of manifest.json (RFC 8032); `keyid` is the sha256 of the raw public
    key, both in hex."""

    keyid: str
    sig: str
