"""What a configuration may say of rules, tracking, motion and snapshots."""

from typing import Annotated

import msgspec

from edgeinfer.runtime.config import Section

__all__ = ["MotionConfig", "RuleConfig", "SnapshotConfig", "TrackerConfig"]


class MotionConfig(Section, frozen=True):
    """Frames in which nothing moves are not inferred."""


class TrackerConfig(Section, frozen=True):
    """Follows detections from frame to frame, so that one thing is one event."""


class RuleConfig(Section, frozen=True):
    """When a result is an event."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class SnapshotConfig(Section, frozen=True):
    """`max_bytes` is what all pictures and windows of events may take together; the oldest go first."""

    max_bytes: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)] = 64 << 20
