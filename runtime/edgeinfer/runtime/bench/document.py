"""What a measurement says: the document that `edgeinfer bench --json` prints, and other machines read."""

import msgspec

__all__ = ["INTERVAL", "Bench", "Conditions", "Figures", "Machine", "Span"]

INTERVAL = "95 % of the median of the ratios of blocks in the same round, by order statistics"


class Figures(msgspec.Struct, frozen=True):
    """What one variant does here with so many threads: latency of the engine's call, CPU time of its process a call
    (all of its threads), its memory after the last call.

    `ratio` is to the reference's latency, median of the ratios of blocks in the same round; `ratio_low` and
    `ratio_high` are its 95 % interval (`Bench.interval`). `first_us` and `last_us` are the medians of the first and of
    the last `Bench.window_s`, `drift` the last over the first. `energy_uj` is what the machine took during a call, its
    idle power included; None where nothing tells it. `inputs` says what it was fed with: the package's
    golden inputs, or random values. `error` says why there are no figures; they are 0 then.
    """

    variant: str
    engine: str
    precision: str
    bytes: int
    threads: int
    p50_us: float = 0.0
    p99_us: float = 0.0
    min_us: float = 0.0
    mean_us: float = 0.0
    cpu_us: float = 0.0
    rss_bytes: int = 0
    calls: int = 0
    blocks: int = 0
    seconds: float = 0.0
    ratio: float = 0.0
    ratio_low: float = 0.0
    ratio_high: float = 0.0
    first_us: float = 0.0
    last_us: float = 0.0
    drift: float = 0.0
    energy_uj: float | None = None
    inputs: str = ""
    engine_version: str = ""
    error: str = ""


class Machine(msgspec.Struct, frozen=True):
    """Where it was measured: what `edgeinfer probe` says of the device, in short."""

    arch: str
    cpu: str
    features: tuple[str, ...]
    kind: str
    board: str
    cores: int
    memory_bytes: int
    os: str
    kernel: str
    engines: dict[str, str]


class Span(msgspec.Struct, frozen=True):
    """A reading over the whole run."""

    start: float
    end: float
    min: float
    max: float


class Conditions(msgspec.Struct, frozen=True):
    """How the device fared; None and empty where it cannot be read. The temperature is the hottest sensor's, the
    frequency the fastest core's, `throttled` every reason that was seen."""

    temperature_c: Span | None = None
    frequency_mhz: Span | None = None
    throttled: tuple[str, ...] = ()


class Bench(msgspec.Struct, frozen=True):
    """`seconds` were asked for each variant. `energy_source` is rapl, power-monitor or, where nothing here tells energy
    and `cpu_us` has to stand for it, cpu-seconds; `energy_detail` says more. `interrupted`: a person ended it early.
    """

    package: str
    digest: str
    seconds: float
    threads: tuple[int, ...]
    machine: Machine
    conditions: Conditions
    reference: str
    interval: str
    window_s: float
    energy_source: str
    energy_detail: str
    interrupted: bool
    variants: tuple[Figures, ...]
