"""Makes the dictionary that heads of chunks are compressed with, from results of every kind, as pipelines make them.

    python packaging/make_dictionary.py runtime/edgeinfer/runtime/codec/dictionary.py

The file is committed. A dictionary that was released is in chunks on disks and is never changed: a new one gets the
next number and stands beside it.
"""

import base64
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import zstandard

from edgeinfer.runtime.codec import PACKED, encode
from edgeinfer.runtime.codec.body import parted
from edgeinfer.runtime.frame import FrameState
from edgeinfer.runtime.learn.drift import DriftReport
from edgeinfer.runtime.results import Item, Kind, Result

NUMBER = 1
SAMPLES = 4000
MAX_BYTES = 4096
LEVEL = 4
SECOND_NS = 1_000_000_000
HEAD = f'''"""The dictionaries that heads of packed chunks are compressed with, by their numbers. Written by
packaging/make_dictionary.py; never changed, as chunks that were made with them lie on disks."""

from base64 import b85decode

__all__ = ["DICTIONARIES", "NEWEST"]

NEWEST = {NUMBER}
'''

Extra = dict[str, int | float | str]


def main(path: Path) -> None:
    draw = random.Random(1)
    heads = [parted(encode(results, PACKED)).head for results in chunks(draw)]
    trained = zstandard.train_dictionary(MAX_BYTES, heads, level=LEVEL).as_bytes()
    text = base64.b85encode(trained).decode()
    lines = [text[start : start + 100] for start in range(0, len(text), 100)]
    body = "\n".join(f'        "{line}"' for line in lines)
    path.write_text(f"{HEAD}DICTIONARIES = {{\n    {NUMBER}: b85decode(\n{body}\n    ),\n}}\n")


def chunks(draw: random.Random) -> Iterator[list[Result]]:
    """Short chunks, as they are packed each second or at an event."""
    for _ in range(SAMPLES):
        of = draw.choice((detections, classifications, scores, events, notes))
        count = draw.choice((1, 1, 1, 2, 3, 5, 10, 30))
        yield list(of(draw, count))


def times(draw: random.Random, count: int) -> Iterator[tuple[int, int]]:
    """Time and number of each frame of a source that has run for some time."""
    period_ns = SECOND_NS // draw.choice((1, 2, 5, 10, 15, 25, 30, 60))
    t_ns = draw.randrange(1_700_000_000, 2_000_000_000) * SECOND_NS + draw.randrange(SECOND_NS)
    frame = draw.randrange(1 << draw.randrange(1, 24))
    for index in range(count):
        yield t_ns + index * period_ns + int(draw.gauss(0, 50_000)), frame + index


def timed(draw: random.Random, kind: Kind, t_ns: int, frame: int, items: Sequence[Item]) -> Result:
    latency_us = int(draw.lognormvariate(9, 0.05))
    return Result(kind, t_ns, frame, latency_us, latency_us + int(draw.lognormvariate(7, 0.2)), tuple(items))


def detections(draw: random.Random, count: int) -> Iterator[Result]:
    """Boxes that move a little from frame to frame."""
    boxes = [[draw.random() * 0.8, draw.random() * 0.8] for _ in range(draw.randrange(4))]
    labels = [draw.randrange(80) for _ in boxes]
    for t_ns, frame in times(draw, count):
        items = []
        for label, corner in zip(labels, boxes, strict=True):
            corner[:] = [min(0.8, max(0.0, value + draw.gauss(0, 0.003))) for value in corner]
            x, y = corner
            items.append(Item(label, draw.randrange(128, 256) / 256, (x, y, x + 0.2, y + 0.2)))
        yield timed(draw, Kind.DETECTION, t_ns, frame, items)


def classifications(draw: random.Random, count: int) -> Iterator[Result]:
    """Some of them of what another pipeline has cut out."""
    label, cascade = draw.randrange(12), draw.random() < 0.3
    for t_ns, frame in times(draw, count):
        first = draw.betavariate(8, 2)
        result = timed(draw, Kind.CLASSIFICATION, t_ns, frame, [Item(label, first), Item(label + 1, (1 - first) / 2)])
        extra: Extra = {"of": "camera", "of_frame": frame + draw.randrange(3), "label": label}
        yield msgspec.structs.replace(result, extra=extra) if cascade else result


def scores(draw: random.Random, count: int) -> Iterator[Result]:
    level = draw.lognormvariate(0, 2)
    for t_ns, frame in times(draw, count):
        score = level * draw.lognormvariate(0, 0.3)
        yield timed(draw, Kind.ANOMALY, t_ns, frame, [Item(int(score > 2 * level), score)])


def events(draw: random.Random, count: int) -> Iterator[Result]:
    """What rules say, with the items that they say it of."""
    rule = draw.choice(("person", "door", "intrusion", "line", "too_hot", "crowd", "anomaly", "vehicle"))
    for t_ns, frame in times(draw, count):
        state = draw.choice(("begin", "end", "pulse"))
        extra: Extra = {"rule": rule, "state": state, "count": draw.randrange(4)}
        more: list[Extra] = [
            {}, {"track": draw.randrange(500)}, {"tracks": "12,13"}, {"direction": draw.choice(("in", "out"))},
            {"suppressed": draw.randrange(1, 9)}, {"clock": "unset"}, {"snapshot": f"snapshots/camera/{frame:08d}.jpg"},
        ]  # fmt: skip
        extra |= draw.choice(more)
        if state == "end":
            extra["held_s"] = round(draw.expovariate(0.1), 3)
        box = (draw.random() / 2, draw.random() / 2, 0.5 + draw.random() / 2, 0.5 + draw.random() / 2)
        yield Result(Kind.EVENT, t_ns, frame, items=(Item(0, draw.random(), box),) * draw.randrange(2), extra=extra)


def notes(draw: random.Random, count: int) -> Iterator[Result]:
    """What a pipeline says of itself."""
    kinds = (Kind.FRAMES, Kind.FRAMES, Kind.SWAP, Kind.STEP, Kind.DRIFT, Kind.SHADOW, Kind.ENGINE, Kind.EXAMPLE)
    kind = draw.choice(kinds)
    for t_ns, frame in times(draw, count):
        yield Result(kind, t_ns, 0 if kind is Kind.FRAMES else frame, extra=note(draw, kind))


def note(draw: random.Random, kind: Kind) -> Extra:
    share, number = round(draw.random(), 6), draw.randrange(1000)
    match kind:
        case Kind.FRAMES:
            return {state.value: draw.randrange(1, 200) for state in FrameState if draw.random() < 0.4}
        case Kind.SWAP:
            return {"from": "1.0.0", "to": "1.1.0", "gap_ms": share, "model": "detector"}
        case Kind.STEP:
            return {
                "step": draw.choice(("frame_rate", "variant", "pause")), "direction": draw.choice(("down", "up")),
                "reason": draw.choice(("temperature", "cpu", "memory", "latency")), "reading": 81.5, "limit": 80.0,
                "level": 1, "fps": 5.0,
            }  # fmt: skip
        case Kind.DRIFT:
            worst = draw.choice(("brightness", "contrast", "sharpness", "score"))
            return DriftReport(share, share, share, share, number, draw.random() < 0.5, worst).extra()
        case Kind.SHADOW:
            return {
                "candidate": "detector 1.1.0", "frames": number, "agreement": share, "psi": share,
                "latency_us_p50": 9 * number, "latency_us_active": 9 * number, "failures": 0,
            }  # fmt: skip
        case Kind.ENGINE:
            return {"what": draw.choice(("restarted", "stuck", "crashed")), "reason": "no answer within 10 s"}
        case _:
            return {
                "file": f"examples/camera/{number:08d}.jpg", "reason": "margin", "detail": "", "margin": share,
                "value": share,
            }  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
