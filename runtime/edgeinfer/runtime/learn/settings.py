"""What a configuration may say of drift, hard examples and the shadow."""

from typing import Annotated, Literal

import msgspec

from edgeinfer.runtime.config import Section

__all__ = ["DriftConfig", "ExamplesConfig", "ShadowConfig"]

Share = Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]


class DriftConfig(Section, frozen=True):
    """How often scores and inputs are held against a reference, and what is too far.

    Every `interval_s` the last `window` frames that were looked at are compared. At most one frame in `sample_s` is
    looked at (some tens of microseconds each), so that the window is no moment: 500 of them are eight minutes; 0 takes
    every frame. Drift is a population stability index above `psi`, or a Kolmogorov-Smirnov statistic above `ks`, and
    more than chance gives in a thousandth of the reports. 0.25 is the usual bound of the index for a large shift.

    `reference` "package": what the package was made with; "own": the first `learn` frames that are looked at here,
    kept in the state folder; "auto": the package's where it has one. A camera that sees one scene for ever differs
    from any data set: there, "own" tells more.

    Each report is a result of the kind `drift` (`edgeinfer results`); `worst` names what has moved most.
    """

    window: Annotated[int, msgspec.Meta(ge=50, le=100_000)] = 500
    interval_s: Annotated[float, msgspec.Meta(gt=0.0, le=1e6)] = 60.0
    sample_s: Annotated[float, msgspec.Meta(ge=0.0, le=86_400.0)] = 1.0
    reference: Literal["auto", "package", "own"] = "auto"
    learn: Annotated[int, msgspec.Meta(ge=50, le=100_000)] = 1000
    psi: Annotated[float, msgspec.Meta(gt=0.0)] = 0.25
    ks: Share = 0.25


class ExamplesConfig(Section, frozen=True):
    """Which inputs are kept to be labelled, and how many.

    `margin`: classes whose best two scores, or boxes whose score and its threshold, are closer than this are kept,
    and anomaly scores that are closer to their threshold, as a part of it; 0: none. `novel`: also what lies outside of
    what the package was made with. `per_hour` and `per_day` bound how many: 200 are what a person labels in an hour.
    All of a pipeline's take `max_bytes`; the oldest go first. `jpeg_quality` 95 hides nothing that a model sees.

    They lie in `examples/` of the state folder, each with a `.json` that tells why; a result of the kind `example`
    names each. The agent sends them where its section `[blobs]` says so.
    """

    margin: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.1
    novel: bool = True
    per_hour: Annotated[int, msgspec.Meta(ge=1, le=360_000)] = 60
    per_day: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 200
    max_bytes: Annotated[int, msgspec.Meta(ge=1, le=1 << 40)] = 64 << 20
    jpeg_quality: Annotated[int, msgspec.Meta(ge=1, le=100)] = 95


class ShadowConfig(Section, frozen=True):
    """A new version that the console assigns runs beside the active one on `frames` live frames before its trial; 0
    leaves that out.

    Below `min_agreement` (0..1) it is refused. `every` is how many frames there are to one in shadow. What was found is
    a result of the kind `shadow` (`edgeinfer results`): `agreement`, and as `psi` how far the spreads of both
    versions' scores are apart.
    """

    frames: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    min_agreement: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.0
    every: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1
