"""Puts the stages of a pipeline together, as its configuration says. Each kind of stage is imported when it is used."""

from pathlib import Path

import msgspec

from edgeinfer.runtime.manifest import Manifest
from edgeinfer.runtime.settings import PipelineConfig, RuntimeConfig
from edgeinfer.runtime.stages import Gate, Observer

__all__ = ["Surroundings", "make_gates", "make_observers"]


class Surroundings(msgspec.Struct, frozen=True):
    """What the stages of all pipelines share: the device's folder and the whole configuration."""

    state_dir: Path
    config: RuntimeConfig


def make_gates(config: PipelineConfig, around: Surroundings) -> list[Gate]:
    """The gates of a pipeline, in the order in which a frame meets them: the cheapest first. Raises ConfigError."""
    del config, around
    return []


def make_observers(
    config: PipelineConfig, manifest: Manifest, labels: tuple[str, ...], around: Surroundings
) -> list[Observer]:
    """The observers of a pipeline. Made anew when another package takes over. Raises ConfigError."""
    del config, manifest, labels, around
    return []
