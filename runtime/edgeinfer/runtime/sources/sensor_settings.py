"""What a configuration may say of a sensor: where its rows come from, and which windows are cut from them."""

from typing import Annotated, Literal

import msgspec

from edgeinfer.runtime.config import Section

__all__ = [
    "CsvSource",
    "HostSource",
    "I2cRegister",
    "I2cSource",
    "IioSource",
    "JoinedSource",
    "ModbusRegister",
    "ModbusSource",
    "SensorSource",
    "SerialSource",
    "SeriesSection",
    "StdinSource",
    "TopicSource",
]

Positive = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Seconds = Annotated[float, msgspec.Meta(ge=0.0, le=1e7)]
Interval = Annotated[float, msgspec.Meta(gt=0.0, le=86_400.0)]
Timeout = Annotated[float, msgspec.Meta(gt=0.0, le=60.0)]
Factor = Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)]
Rate = Annotated[float, msgspec.Meta(ge=0.0, le=1e6)]
Character = Annotated[str, msgspec.Meta(min_length=1, max_length=1)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Baud = Annotated[int, msgspec.Meta(ge=50, le=4_000_000)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
HostChannel = Literal["cpu_percent", "memory_percent", "disk_percent", "net_kib_s", "temperature_c"]
IioChannel = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_-]{1,64}\Z")]
TimeUnit = Literal["s", "ms", "us", "ns"]

# So many rows may be made up between two that were measured, at the very most.
_MAX_BRIDGED_ROWS = 1_000_000


class SeriesSection(Section, frozen=True, kw_only=True):
    """Which windows are cut from a sensor's rows. Live rows lie where the monotonic clock says.

    `windows`: `sliding`, `window` rows every `stride` rows; `tumbling`, each row in one window; `session`, from pause
    to pause of more than `gap_s`: the newest `window` rows, a shorter session filled up in front by its first row, one
    of fewer than `min_rows` dropped.

    `missing` says what stands where a value was not given: the channel's last value (`hold`; 0 before there is one),
    one on the line to the next (`interpolate`: rows wait for it, at most `window` of them), `zero`, or nothing: the
    whole row is left out (`drop`). Where a gap lasts longer than `max_gap_s`, no window reaches over it.

    `rate_hz` above 0 resamples the rows to a regular grid: `linear` between two samples (and the mean over a period
    where samples come at twice the rate or faster), or `hold`, the last one. A sample further than `tolerance_s` from
    a row of the grid is not used for it: its value is missing. 0: the span of a window, at least 16 rows.

    The channels that a package names are taken by name, in its order: from a header, the keys of objects, or the names
    that the configuration gives. A source that lacks some of them is refused, and so is a `window` that the package
    does not take. By position goes what has no names, and columns that are listed here under names of which the package
    has none; the log says so. While rows come, a new version is refused for which the source would give others.
    """

    window: Positive = 1
    stride: Positive = 1
    windows: Literal["sliding", "tumbling", "session"] = "sliding"
    gap_s: Seconds = 0.0
    min_rows: Positive = 1
    missing: Literal["hold", "interpolate", "drop", "zero"] = "hold"
    max_gap_s: Seconds = 0.0
    rate_hz: Rate = 0.0
    resample: Literal["linear", "hold"] = "linear"
    tolerance_s: Seconds = 0.0

    def __post_init__(self) -> None:
        if (self.windows == "session") != (self.gap_s > 0):
            raise ValueError("windows = 'session' and gap_s belong together: a session ends with a pause of gap_s")
        if self.min_rows > (self.window if self.windows == "session" else 1):
            raise ValueError("min_rows is for windows = 'session', and at most window")
        if self.windows == "tumbling" and self.stride not in {1, self.window}:
            raise ValueError("windows = 'tumbling' has the stride of a window: leave stride out")
        if self.tolerance_s and not self.rate_hz:
            raise ValueError("tolerance_s needs rate_hz: it is measured from the rows of that grid")
        if 0 < self.tolerance_s * self.rate_hz < 0.5:
            raise ValueError("tolerance_s must be at least half a period of rate_hz, or samples fall between the rows")
        for key in ("gap_s", "max_gap_s", "tolerance_s"):
            if getattr(self, key) * self.rate_hz > _MAX_BRIDGED_ROWS:
                raise ValueError(f"{key} * rate_hz must be at most {_MAX_BRIDGED_ROWS}")

    def needs_time(self) -> bool:
        """Whether windows depend on when rows were measured, not on their order alone."""
        return bool(self.rate_hz or self.max_gap_s or self.gap_s)


class CsvSource(SeriesSection, frozen=True, kw_only=True, tag="csv", tag_field="kind"):
    """Rows of a CSV file with a header.

    `columns` names the channels in order; empty: those that the package names, or, where it names none, every column
    that is a number in the first row, except `time_column`. A cell that is empty or no number is missing. Rows lie
    where `time_column` says: ISO 8601 texts (UTC where they name no zone), or numbers in `time_unit`; the seconds of
    rules are the recording's then, too.
    `interval_s` above 0 plays the rows at that pace as a live source: they lie where they are played.
    """

    path: str
    columns: tuple[str, ...] = ()
    time_column: str = ""
    time_unit: TimeUnit = "s"
    delimiter: Character = ","
    interval_s: Annotated[float, msgspec.Meta(ge=0.0, le=86_400.0)] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.needs_time() and not (self.time_column or self.interval_s):
            raise ValueError("rate_hz, max_gap_s and session windows of a file need its time_column")


class StdinSource(SeriesSection, frozen=True, kw_only=True, tag="stdin", tag_field="kind"):
    """The same from standard input, as it comes: CSV with a header, or a JSON object a line. Without a
    `time_column`, rows lie where they arrive."""

    columns: tuple[str, ...] = ()
    format: Literal["csv", "jsonl"] = "csv"
    delimiter: Character = ","
    time_column: str = ""
    time_unit: TimeUnit = "s"


class SerialSource(SeriesSection, frozen=True, kw_only=True, tag="serial", tag_field="kind"):
    """Lines from a serial port: numbers between delimiters, or JSON objects. Needs the extra `sensors`.

    `columns` names the numbers of a line in their order (a line that holds all these names is a header, and says
    anew where they stand), or the keys of an object. Empty: as many as the first good line has, of a header or an
    object those that the package names. Other lines are passed over. `timeout_s` above 0 is how long the port may be
    silent before it is opened again; 0: for ever, as opening a port restarts many a microcontroller.
    """

    device: str
    baudrate: Baud = 115_200
    format: Literal["csv", "jsonl"] = "csv"
    delimiter: Character = ","
    columns: tuple[str, ...] = ()
    timeout_s: Seconds = 0.0


class IioSource(SeriesSection, frozen=True, kw_only=True, tag="iio", tag_field="kind"):
    """A sensor with a driver of Linux's Industrial I/O, sampled every `interval_s` through sysfs.

    `device`: its name (`bme280`), number or folder (`iio:device0`). `channels`, for instance `accel_x` or `temp`;
    empty: those that the package names, else all, sorted. Values are (raw + offset) * scale in the units of the
    kernel's ABI (mV, milli degrees Celsius, m/s^2, ...).
    """

    device: str | int
    channels: tuple[IioChannel, ...] = ()
    interval_s: Interval = 1.0
    root: str = "/sys/bus/iio/devices"


class I2cRegister(Section, frozen=True, kw_only=True):
    """`length` bytes from `register` of the device at `address`: value = raw * scale + offset."""

    name: Name
    address: Annotated[int, msgspec.Meta(ge=0x03, le=0x77)]
    register: Annotated[int, msgspec.Meta(ge=0, le=255)]
    length: Annotated[int, msgspec.Meta(ge=1, le=8)] = 2
    endian: Literal["big", "little"] = "big"
    signed: bool = False
    scale: Factor = 1.0
    offset: Factor = 0.0


class I2cSource(SeriesSection, frozen=True, kw_only=True, tag="i2c", tag_field="kind"):
    """Registers on an I2C bus (/dev/i2c-N), read every `interval_s`. Needs the extra `sensors`."""

    registers: tuple[I2cRegister, ...]
    bus: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 1
    interval_s: Interval = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_registers(self.registers)


class ModbusRegister(Section, frozen=True, kw_only=True):
    """`address` counts from 0, as on the wire: what manuals call 40001 is `holding` 0. 32-bit types take two registers:
    the high word first (`word_order = "big"`), or the low one. value = raw * scale + offset."""

    name: Name
    address: Annotated[int, msgspec.Meta(ge=0, le=65535)]
    table: Literal["holding", "input"] = "holding"
    type: Literal["int16", "uint16", "int32", "uint32", "float32"] = "uint16"
    word_order: Literal["big", "little"] = "big"
    scale: Factor = 1.0
    offset: Factor = 0.0


class ModbusSource(SeriesSection, frozen=True, kw_only=True, tag="modbus", tag_field="kind"):
    """Registers of a Modbus device, read every `interval_s`: over TCP (`host`, `port`), or RTU on a serial port
    (`device`). Needs the extra `sensors`. `timeout_s` is how long an answer may take; `retries` how often it is asked
    for again."""

    registers: tuple[ModbusRegister, ...]
    host: str = ""
    port: Port = 502
    device: str = ""
    baudrate: Baud = 9600
    parity: Literal["N", "E", "O"] = "N"
    stopbits: Literal[1, 2] = 1
    unit: Annotated[int, msgspec.Meta(ge=0, le=255)] = 1
    interval_s: Interval = 1.0
    timeout_s: Timeout = 1.0
    retries: Annotated[int, msgspec.Meta(ge=0, le=10)] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.host) == bool(self.device):
            raise ValueError("modbus needs a host (TCP) or a device (RTU on a serial port), and not both")
        _check_registers(self.registers)


class TopicSource(SeriesSection, frozen=True, kw_only=True, tag="topic", tag_field="kind"):
    """Messages of an MQTT topic, each of them a row: a JSON object with `columns` as its keys (empty: those that the
    package names, else its numbers), a list of numbers, or a plain number. `json` leads to the value inside of an
    object, for instance `data.readings`. `topic` may have wildcards. Retained messages are passed over: nobody knows
    how old they are.

    The password is read from its file at each connect. `client_id` empty: a random one.
    """

    topic: Annotated[str, msgspec.Meta(min_length=1, max_length=65535)]
    columns: tuple[str, ...] = ()
    json: str = ""
    host: str = "127.0.0.1"
    port: Port = 1883
    protocol: Literal[4, 5] = 5
    qos: Literal[0, 1] = 0
    client_id: str = ""
    username: str = ""
    password_file: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    keepalive_s: Annotated[int, msgspec.Meta(ge=5, le=65535)] = 30


class HostSource(SeriesSection, frozen=True, kw_only=True, tag="host", tag_field="kind"):
    """The machine's own vitals, sampled every `interval_s`: those of `columns`, in that order; empty: all. `disk`: a
    path on the file system whose use is `disk_percent`."""

    window: Positive = 16
    interval_s: Interval = 1.0
    columns: tuple[HostChannel, ...] = ()
    disk: str = "/"


Input = CsvSource | StdinSource | SerialSource | IioSource | I2cSource | ModbusSource | TopicSource | HostSource


class JoinedSource(SeriesSection, frozen=True, kw_only=True, tag="joined", tag_field="kind"):
    """Several sensors joined on time: at every row of the grid of `rate_hz`, the columns of all `inputs`, one after
    the other. What an input gave within `tolerance_s` of the row is used (0: one period), otherwise its columns are
    missing there. An input that fails is opened again after growing waits, while the others go on.

    Either all inputs are live, or all are recorded with a `time_column`.
    """

    inputs: tuple[Input, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.inputs:
            raise ValueError("joined needs at least one input")
        if not self.rate_hz:
            raise ValueError("joined needs rate_hz: sensors meet on the rows of a regular grid")
        for one in self.inputs:
            _check_input(one)
        if len({has_recorded_times(one) for one in self.inputs}) > 1:
            raise ValueError("joined inputs must all be live, or all be recorded with a time_column")


SensorSource = Input | JoinedSource


def has_recorded_times(config: SensorSource) -> bool:
    """Whether the rows lie where a recording says, not where the clock does."""
    if isinstance(config, CsvSource):
        return not config.interval_s
    if isinstance(config, StdinSource):
        return bool(config.time_column)
    return isinstance(config, JoinedSource) and has_recorded_times(config.inputs[0])


def _check_registers(registers: tuple[I2cRegister, ...] | tuple[ModbusRegister, ...]) -> None:
    names = [register.name for register in registers]
    if not names:
        raise ValueError("registers: expected at least one")
    if len(set(names)) < len(names):
        raise ValueError("registers: each needs a name of its own")


def _check_input(config: Input) -> None:
    """The windows are the joined source's; and how many columns an input has must be known while it is away."""
    kind = config.__struct_config__.tag
    for field in msgspec.structs.fields(SeriesSection):
        usual = HostSource().window if isinstance(config, HostSource) and field.name == "window" else field.default
        if getattr(config, field.name) != usual:
            raise ValueError(f"{field.name} belongs to the joined source, not to its input {kind!r}")
    if isinstance(config, CsvSource) and not (config.time_column or config.interval_s):
        raise ValueError("a joined csv input needs time_column")
    if isinstance(config, CsvSource | StdinSource | SerialSource | TopicSource) and not config.columns:
        raise ValueError(f"a joined {kind} input needs columns")
    if isinstance(config, IioSource) and not config.channels:
        raise ValueError("a joined iio input needs channels")
