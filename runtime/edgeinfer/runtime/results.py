"""What a pipeline says of a frame, as one value that every task shares.

Results hold nothing that could refer back to them, so the cyclic garbage collector need not look at them (`gc=False`):
where many are made at once, as from a chunk, its rounds take their time.
"""

import enum

import msgspec

__all__ = ["OF_A_FRAME", "Item", "Kind", "Result"]


class Kind(enum.IntEnum):
    """What a result is about. The numbers are stored and sent: never reuse one."""

    CLASSIFICATION = 1
    DETECTION = 2
    ANOMALY = 3
    FRAMES = 4  # counts of frames by state, in `extra`
    EVENT = 5  # raised by a rule, in `extra`
    SWAP = 6  # the pipeline changed its package, in `extra`
    KEYPOINTS = 7  # an item a keypoint; its box is the point, twice
    SEGMENTATION = 8  # an item a class that is there: its share of the picture as score, and the box around it
    EMBEDDING = 9  # an item a dimension
    REGRESSION = 10  # an item an output value
    RAW = 11  # an item an output value, in the order of the outputs, flat
    STEP = 12  # the governor stepped down or up, in `extra`
    DRIFT = 13  # how far scores and inputs have moved from the package's reference, in `extra`
    SHADOW = 14  # what a candidate said beside the active version, in `extra`
    ENGINE = 15  # an engine was restarted, in `extra`
    EXAMPLE = 16  # a hard example was kept, in `extra`


# The kinds that say something of one frame: each such result is a frame that was inferred.
OF_A_FRAME = frozenset(
    {
        Kind.CLASSIFICATION,
        Kind.DETECTION,
        Kind.ANOMALY,
        Kind.KEYPOINTS,
        Kind.SEGMENTATION,
        Kind.EMBEDDING,
        Kind.REGRESSION,
        Kind.RAW,
    }
)


class Item(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True, gc=False):
    """One thing that was found: a class index, its score, and for detections its box.

    `box` is (x1, y1, x2, y2) in 0..1 of the source picture. For anomalies `label` is 1 or 0 and `score`
    the reconstruction error.
    """

    label: int
    score: float
    box: tuple[float, float, float, float] | None = None


class Result(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One result. `t_ns`: wall clock at capture, ns since 1970; `frame`: number of the frame in its
    pipeline, from 0; `latency_us`: the engine's call; `age_us`: capture to result; `extra`: a small JSON
    object for kinds that are not about a frame, and of one that is: the `file` that it was, the pipeline (`of`), frame
    (`of_frame`) and `label` that it was made of."""

    kind: Kind
    t_ns: int
    frame: int = 0
    latency_us: int = 0
    age_us: int = 0
    items: tuple[Item, ...] = ()
    extra: dict[str, int | float | str] | None = None
