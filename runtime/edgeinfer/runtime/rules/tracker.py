"""Follows detections from frame to frame.

Association in two stages after Y. Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box",
ECCV 2022: tracks are matched by overlap with the detections of a high score first, and what is left of those that
were seen a moment ago with those of a low score, which are often the same thing half hidden. A thing is a track, and
gets its number, once it was seen in `min_hits` frames in a row.

Where a track is expected is told by a Kalman filter of constant velocity, with the noise of N. Wojke et al., "Simple
Online and Realtime Tracking with a Deep Association Metric", ICIP 2017: relative to the size of the box, the same for
each of its coordinates. So all coordinates of a track share one covariance of three numbers, in units of its size, and
the corners can be filtered as well as centre and size. A step is a captured frame, not a second: then it matters
neither how fast a file is read nor that a frame was skipped.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeinfer.runtime.results import Item
from edgeinfer.runtime.rules.assignment import assign
from edgeinfer.runtime.rules.settings import TrackerConfig

__all__ = ["Tracked", "Tracker", "overlaps"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Rows = list[int]
Pairs = list[tuple[int, int]]

_SECOND_NS = 1_000_000_000
# Shares of the box's size, as variances a step: DeepSORT's and ByteTrack's 1/20 and 1/160.
_MEASURED = _MOVED = (1 / 20) ** 2
_SPED_UP = (1 / 160) ** 2
_BEGIN = (4 * _MEASURED, 0.0, 100 * _SPED_UP)  # position, position and velocity, velocity
# Nothing is foreseen further than this: where frames were skipped because nothing moved, nothing did.
_MAX_STEPS = 5
# A hidden thing is matched less readily with half a detection, and something new less readily with anything.
_MIN_IOU_LOW = 0.5
_MIN_IOU_NEW = 0.3
# A track is given up only after some looks, however long the time between them was.
_LEAST_MISSES = 3
_MAX_TRACKS = 512


class Tracked(NamedTuple):
    """The track of each item, 0 for none yet; the tracks that were given up with this frame."""

    tracks: tuple[int, ...]
    gone: tuple[int, ...]


class Tracker:
    """One pipeline's. Only items of the same label are the same thing; items without a box belong to no track."""

    def __init__(self, config: TrackerConfig) -> None:
        self._config = config
        self._max_lost_ns = int(config.max_lost_s * _SECOND_NS)
        self._last_id = 0
        # A row a track: corners x1 y1 x2 y2 and their velocities a step; the covariance as in _BEGIN.
        self._boxes: Floats = np.empty((0, 4))
        self._velocities: Floats = np.empty((0, 4))
        self._covariances: Floats = np.empty((0, 3))
        self._labels: Integers = np.empty(0, np.int64)
        self._ids: Integers = np.empty(0, np.int64)  # 0: not a track yet
        self._hits: Integers = np.empty(0, np.int64)
        self._misses: Integers = np.empty(0, np.int64)
        self._missed_ns: Integers = np.empty(0, np.int64)  # since when; means something where misses > 0

    def update(self, items: Sequence[Item], *, steps: int, now_ns: int) -> Tracked:
        """`items` of a frame that was captured `steps` frames after the last one, at monotonic `now_ns`."""
        boxed = [index for index, item in enumerate(items) if item.box is not None]
        if not boxed and not len(self._ids):
            return Tracked((0,) * len(items), ())
        boxes = np.array([items[index].box for index in boxed], np.float64).reshape(-1, 4)
        labels = np.array([items[index].label for index in boxed], np.int64)
        scores = [items[index].score for index in boxed]
        self._predict(min(max(1, steps), _MAX_STEPS))
        pairs, unmatched = self._associate(boxes, labels, scores)
        unmatched = [detection for detection in unmatched if scores[detection] >= self._config.begin]
        self._correct(pairs, boxes)
        tracks = [0] * len(items)
        for row, detection in pairs:
            tracks[boxed[detection]] = int(self._ids[row])
        gone = self._give_up(now_ns)
        for detection, identity in zip(unmatched, self._begin(boxes[unmatched], labels[unmatched]), strict=True):
            tracks[boxed[detection]] = identity
        return Tracked(tuple(tracks), gone)

    def _predict(self, steps: int) -> None:
        """Where each box will be, and how far that can be trusted. Constant velocity, with white noise each step."""
        if not len(self._ids):
            return
        self._boxes += steps * self._velocities
        position, mixed, velocity = self._covariances.T
        position += 2 * steps * mixed + steps * steps * velocity + steps * _MOVED
        mixed += steps * velocity
        velocity += steps * _SPED_UP

    def _associate(self, boxes: Floats, labels: Integers, scores: Sequence[float]) -> tuple[Pairs, Rows]:
        """Pairs (row, detection), and the detections of a high score that are in none."""
        config = self._config
        high = [index for index, score in enumerate(scores) if score >= config.high]
        if not len(self._ids):
            return [], high
        overlap = overlaps(self._boxes, boxes)
        overlap[self._labels[:, None] != labels] = 0.0
        rows = [row for row, identity in enumerate(self._ids.tolist()) if identity]
        pairs = _matched(overlap, rows, high, config.min_iou)
        low = [index for index, score in enumerate(scores) if config.low <= score < config.high]
        if low:
            pairs += _matched(overlap, [r for r in _rest(rows, pairs, 0) if not self._misses[r]], low, _MIN_IOU_LOW)
        high = _rest(high, pairs, 1)
        if len(rows) < len(self._ids):
            pairs += _matched(overlap, np.flatnonzero(self._ids == 0).tolist(), high, _MIN_IOU_NEW)
            high = _rest(high, pairs, 1)
        return pairs, high

    def _correct(self, pairs: Pairs, boxes: Floats) -> None:
        """Move the matched tracks towards their detections, and count the misses of all others."""
        self._misses += 1
        if not pairs:
            return
        rows, detections = np.array(pairs).T
        position, mixed, velocity = self._covariances[rows].T
        gain, gain_velocity = position / (position + _MEASURED), mixed / (position + _MEASURED)
        residual = boxes[detections] - self._boxes[rows]
        self._boxes[rows] += gain[:, None] * residual
        self._velocities[rows] += gain_velocity[:, None] * residual
        self._covariances[rows] = np.stack(
            [(1 - gain) * position, (1 - gain) * mixed, velocity - gain_velocity * mixed], axis=1
        )
        self._misses[rows] = 0
        self._hits[rows] += 1
        for row in rows[(self._ids[rows] == 0) & (self._hits[rows] >= self._config.min_hits)]:
            self._ids[row] = self._next_id()

    def _give_up(self, now_ns: int) -> tuple[int, ...]:
        """Forget what was lost for too long, and at once what was never a track."""
        missed = self._misses > 0
        if not missed.any():
            return ()
        newly = self._misses == 1
        self._missed_ns[newly] = now_ns
        # Hidden, a thing goes on moving, but it does not go on growing.
        for axis in (0, 1):
            velocity = self._velocities[newly][:, [axis, axis + 2]].mean(axis=1)
            self._velocities[newly, axis] = self._velocities[newly, axis + 2] = velocity
        expired = (now_ns - self._missed_ns >= self._max_lost_ns) & (self._misses >= _LEAST_MISSES)
        lost = missed & (expired | (self._ids == 0))
        if not lost.any():
            return ()
        gone = tuple(self._ids[lost & (self._ids > 0)].tolist())
        self._keep(~lost)
        return gone

    def _begin(self, boxes: Floats, labels: Integers) -> Rows:
        """A row for each detection; their numbers, 0 for those that have to be seen again first."""
        count = len(boxes)
        if not count:
            return []
        at_once = self._config.min_hits == 1
        added = min(count, _MAX_TRACKS - len(self._ids))
        ids = [self._next_id() if at_once and index < added else 0 for index in range(count)]
        self._boxes = np.concatenate([self._boxes, boxes[:added]])
        self._velocities = np.concatenate([self._velocities, np.zeros((added, 4))])
        self._covariances = np.concatenate([self._covariances, np.tile(_BEGIN, (added, 1))])
        self._labels = np.concatenate([self._labels, labels[:added]])
        self._ids = np.concatenate([self._ids, np.array(ids[:added], np.int64)])
        self._hits = np.concatenate([self._hits, np.ones(added, np.int64)])
        self._misses = np.concatenate([self._misses, np.zeros(added, np.int64)])
        self._missed_ns = np.concatenate([self._missed_ns, np.zeros(added, np.int64)])
        return ids

    def _keep(self, rows: npt.NDArray[np.bool_]) -> None:
        self._boxes, self._velocities = self._boxes[rows], self._velocities[rows]
        self._covariances, self._labels, self._ids = self._covariances[rows], self._labels[rows], self._ids[rows]
        self._hits, self._misses, self._missed_ns = self._hits[rows], self._misses[rows], self._missed_ns[rows]

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id


def overlaps(first: Floats, second: Floats) -> Floats:
    """Intersection over union of each of `first` (n, 4) with each of `second` (m, 4), corners: (n, m) in 0..1."""
    corner = np.maximum(first[:, None, :2], second[None, :, :2])
    opposite = np.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = np.maximum(opposite - corner, 0.0)
    both = sides[..., 0] * sides[..., 1]
    union = _areas(first)[:, None] + _areas(second)[None, :] - both
    found: Floats = np.divide(both, union, out=np.zeros_like(both), where=union > 0.0)
    return found


def _areas(boxes: Floats) -> Floats:
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0)
    found: Floats = sides[:, 0] * sides[:, 1]
    return found


def _matched(overlap: Floats, rows: Rows, detections: Rows, least: float) -> Pairs:
    """The best pairs among these that overlap by more than `least`."""
    if not rows or not detections:
        return []
    if (len(rows), len(detections)) == overlap.shape:  # all of them, as in most frames
        return assign(overlap - least)
    pairs = assign(overlap[np.ix_(rows, detections)] - least)
    return [(rows[row], detections[detection]) for row, detection in pairs]


def _rest(indices: Rows, pairs: Pairs, side: int) -> Rows:
    """Those of `indices` that are on that side of no pair."""
    taken = {pair[side] for pair in pairs}
    return [index for index in indices if index not in taken]
