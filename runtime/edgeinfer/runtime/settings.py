"""What `edgeinfer.toml` may say."""

from typing import Annotated, Literal

import msgspec

from edgeinfer.runtime.buffer import BufferConfig
from edgeinfer.runtime.config import Section
from edgeinfer.runtime.engine_settings import EngineConfig, GovernorConfig, ModelsConfig
from edgeinfer.runtime.learn.settings import DriftConfig, ExamplesConfig, ShadowConfig
from edgeinfer.runtime.local.settings import LocalConfig
from edgeinfer.runtime.logs import LogFormat
from edgeinfer.runtime.rules.settings import MotionConfig, RuleConfig, SnapshotConfig, TrackerConfig, check_rules
from edgeinfer.runtime.sources.settings import SourceConfig

__all__ = ["GateConfig", "PipelineConfig", "RuntimeConfig", "SyncPaths", "TrustConfig"]

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")]


_LEAST_FPS = 0.001


class TrustConfig(Section, frozen=True):
    """Public keys, in hex or as paths of `.pub` files. `release_keys` may sign packages: those that come over the
    network always, and a file that a pipeline names where any key is given here. `console_keys` may sign what the
    console assigns. Without both no update is ever accepted."""

    release_keys: tuple[str, ...] = ()
    console_keys: tuple[str, ...] = ()


class SyncPaths(Section, frozen=True):
    """Where the agent keeps its database; empty: this device has no agent."""

    state_dir: str = ""


class PipelineConfig(Section, frozen=True):
    """`package` is the package to begin with; once a newer one was deployed for its model, that one is
    used. `model` names one that is already installed. `threads` are the engine's own, where only the latest frame
    counts; of a recorded source as many frames are inferred at once. One, unless measured to be worth it. `priority`:
    pipelines of the lowest are paused first when the device must save. `max_fps` above 0 is the most frames a second
    that are inferred: of a live source the others are counted as shed, a recorded one waits. `latency_budget_ms` above
    0 is what a frame may take from capture to result before the governor steps down."""

    name: Name
    source: SourceConfig
    package: str = ""
    model: str = ""
    variant: str = ""
    threads: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    priority: Annotated[int, msgspec.Meta(ge=-1000, le=1000)] = 0
    max_fps: Annotated[float, msgspec.Meta(ge=0.0, le=1e6)] = 0.0
    latency_budget_ms: Annotated[float, msgspec.Meta(ge=0.0, le=1e9)] = 0.0
    engine: EngineConfig = EngineConfig()
    motion: MotionConfig | None = None
    tracker: TrackerConfig | None = None
    rule: tuple[RuleConfig, ...] = ()
    drift: DriftConfig | None = None
    examples: ExamplesConfig | None = None

    def __post_init__(self) -> None:
        if not (self.package or self.model):
            raise ValueError(f"pipeline {self.name!r} needs a package (a file) or a model (an installed one)")
        if 0 < self.max_fps < _LEAST_FPS:
            raise ValueError(f"max_fps: expected 0 (no limit) or at least {_LEAST_FPS}, found {self.max_fps}")
        if self.name.startswith("_"):
            raise ValueError("names that begin with _ are the daemon's own")
        try:
            check_rules(self.tracker, self.rule)
        except ValueError as error:
            raise ValueError(f"pipeline {self.name!r}: {error}") from error


class GateConfig(Section, frozen=True):
    """What a new version of a model may take on this device, measured before it is tried: the median inference and
    the memory that it adds to a process. 0: no bound."""

    max_latency_ms: Annotated[float, msgspec.Meta(ge=0.0, le=1e9)] = 0.0
    max_memory_mb: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] = 0


class RuntimeConfig(Section, frozen=True):
    """The whole file. `trial_s` is how long a new version must run without failing before it counts. `log_format`:
    `text` lines, `json` (an object a line), or `auto`: the journal's own fields under systemd, else text."""

    device: Name
    state_dir: str = "/var/lib/edgeinfer"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: LogFormat = "auto"
    trial_s: Annotated[float, msgspec.Meta(ge=0.0)] = 3.0
    buffer: BufferConfig = BufferConfig()
    trust: TrustConfig = TrustConfig()
    sync: SyncPaths = SyncPaths()
    models: ModelsConfig = ModelsConfig()
    governor: GovernorConfig | None = None
    gate: GateConfig = GateConfig()
    shadow: ShadowConfig = ShadowConfig()
    snapshots: SnapshotConfig = SnapshotConfig()
    local: LocalConfig | None = None
    pipeline: tuple[PipelineConfig, ...] = ()

    def __post_init__(self) -> None:
        names = [pipeline.name for pipeline in self.pipeline]
        if self.governor is None and any(pipeline.latency_budget_ms for pipeline in self.pipeline):
            raise ValueError("latency_budget_ms is kept by the governor: add a section [governor]")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"pipeline {twice[0]!r} is configured twice: names are how results are told apart")
