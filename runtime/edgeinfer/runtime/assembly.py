"""Puts the stages of a pipeline together, as its configuration says. Each kind of stage is imported when it is used."""

import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edgeinfer.runtime.errors import ConfigError
from edgeinfer.runtime.local.live import LiveBoard
from edgeinfer.runtime.manifest import Manifest
from edgeinfer.runtime.settings import PipelineConfig, RuntimeConfig
from edgeinfer.runtime.sources.audio_settings import check_sound
from edgeinfer.runtime.sources.named_channels import check_channels
from edgeinfer.runtime.sources.settings import AudioSource, CameraSource, SensorSource, SourceConfig, VideoSource
from edgeinfer.runtime.stages import Gate, Observer

__all__ = ["Surroundings", "make_gates", "make_observers"]

logger = logging.getLogger(__name__)


class Surroundings(msgspec.Struct, frozen=True):
    """What the stages of all pipelines share: the device's folder, the whole configuration, and where the local page
    looks for the newest frames, if there is one."""

    state_dir: Path
    config: RuntimeConfig
    live: LiveBoard | None = None


def make_gates(config: PipelineConfig, around: Surroundings) -> list[Gate]:
    """The gates of a pipeline, in the order in which a frame meets them: the cheapest first. Raises ConfigError."""
    gates: list[Gate] = []
    frozen_after_s = _frozen_after_s(config.source)
    if frozen_after_s:
        from edgeinfer.runtime.frozen import FrozenGate

        gates.append(FrozenGate(config.name, frozen_after_s))
    if config.motion is not None or around.config.governor is not None:
        from edgeinfer.runtime.motion import MotionGate
        from edgeinfer.runtime.rules.settings import MotionConfig

        # Where only the governor may want it, it waits for that.
        gates.append(MotionGate(config.motion or MotionConfig(), enabled=config.motion is not None))
    return gates


def _frozen_after_s(source: SourceConfig) -> float:
    """0 for sources whose pictures do not come from a camera, or only as fast as they are read."""
    match source:
        case CameraSource() | VideoSource(paced=True):
            return source.frozen_after_s
        case _:
            return 0.0


def make_observers(
    config: PipelineConfig, manifest: Manifest, labels: tuple[str, ...], around: Surroundings
) -> list[Observer]:
    """The observers of a pipeline: all of them or none. Made anew when another package takes over. Raises
    ConfigError."""
    made: list[Observer] = []
    try:
        if isinstance(config.source, AudioSource):
            check_sound(config.source, manifest.preprocess)
        if isinstance(config.source, SensorSource):
            check_channels(config.name, config.source, manifest.preprocess)
        made.extend(_observers(config, manifest, labels, around))
    except BaseException as error:
        for observer in made:
            observer.close()
        if isinstance(error, ConfigError):
            raise ConfigError(f"pipeline {config.name!r}: {error.message}", hint=error.hint) from error
        raise
    return made


def _observers(
    config: PipelineConfig, manifest: Manifest, labels: tuple[str, ...], around: Surroundings
) -> Iterator[Observer]:
    if config.tracker is not None and not config.rule:
        logger.warning("event=tracker_unused pipeline=%s hint=%r", config.name, "tracks are for rules, and it has none")
    if config.rule:
        from edgeinfer.runtime.postprocess import result_kind
        from edgeinfer.runtime.rules.observer import RuleObserver
        from edgeinfer.runtime.snapshots import snapshots_in

        yield RuleObserver(
            config.name,
            config.rule,
            kind=result_kind(manifest.postprocess),
            labels=labels,
            tracker=config.tracker,
            snapshots=snapshots_in(around.state_dir, around.config.snapshots),
        )
    if config.drift is not None:
        from edgeinfer.runtime.learn.drift_observer import DriftObserver

        yield DriftObserver(config.drift, manifest, pipeline=config.name, state_dir=around.state_dir)
    if config.examples is not None:
        from edgeinfer.runtime.learn.examples import HardExamples

        yield HardExamples(config.examples, manifest, labels=labels, pipeline=config.name, state_dir=around.state_dir)
    if around.live is not None:
        yield around.live.observe(config.name, labels)
