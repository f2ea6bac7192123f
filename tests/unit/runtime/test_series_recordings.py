"""Real recordings through grid and windows, against an interpolation of our own that knows nothing of the code."""

import bisect
import csv
import itertools
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.runtime.sources.settings import CsvSource, JoinedSource
from reading import opened, read

pytestmark = pytest.mark.data

Table = tuple[list[float], dict[str, list[float]]]


def table(path: Path, delimiter: str, time_column: str) -> Table:
    """Seconds since 1970, and the columns."""
    with path.open(newline="") as file:
        records = list(csv.DictReader(file, delimiter=delimiter))
    times = [
        datetime.strptime(record[time_column], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp()
        for record in records
    ]
    names = [name for name in records[0] if name != time_column]
    return times, {name: [float(record[name]) for record in records] for name in names}


def on_the_line(times: list[float], values: list[float], at: float) -> float:
    after = bisect.bisect_left(times, at)
    if times[after] == at:
        return values[after]
    share = (at - times[after - 1]) / (times[after] - times[after - 1])
    return values[after - 1] + share * (values[after] - values[after - 1])


def pieces(times: list[float], max_gap_s: float) -> list[tuple[float, float]]:
    """From where to where there is no longer gap."""
    found, start = [], times[0]
    for before, after in itertools.pairwise(times):
        if after - before > max_gap_s:
            found.append((start, before))
            start = after
    return [*found, (start, times[-1])]


SKAB = ["anomaly-free/anomaly-free.csv", "valve1/0.csv", "valve1/5.csv", "other/10.csv"]
CHANNELS = ("Current", "Pressure", "Volume Flow RateRMS")


@pytest.mark.parametrize("name", SKAB)
@pytest.mark.parametrize("rate_hz", [1.0, 2.0])
def test_skab_resampled(data_dir: Path, name: str, rate_hz: float) -> None:
    """Its seconds are not regular: some are missing, and there are pauses."""
    path = data_dir / "sensors" / "skab" / name
    window, stride, max_gap_s = 16, 5, 10.0
    times, columns = table(path, ";", "datetime")
    expected, newest = [], []
    for start, end in pieces(times, max_gap_s):
        ticks = np.arange(start, end + 1e-6, 1 / rate_hz)
        rows = [[on_the_line(times, columns[name], tick) for name in CHANNELS] for tick in ticks]
        for last in range(window, len(rows) + 1, stride):
            expected.append(rows[last - window : last])
            newest.append(ticks[last - 1])
    config = CsvSource(
        path=str(path),
        delimiter=";",
        time_column="datetime",
        columns=CHANNELS,
        rate_hz=rate_hz,
        window=window,
        stride=stride,
        max_gap_s=max_gap_s,
    )
    with opened(config) as source:
        frames = read(source, 100_000)
    assert len(frames) == len(expected) > 50
    assert np.allclose([frame.data for frame in frames], np.array(expected, dtype=np.float32), rtol=1e-6)
    assert [frame.t_ns for frame in frames] == [round(tick * 1e9) for tick in newest]


NAB = [
    "realKnownCause/ec2_request_latency_system_failure.csv",
    "realTraffic/occupancy_6005.csv",
    "artificialNoAnomaly/art_daily_small_noise.csv",
]


@pytest.mark.parametrize("name", NAB)
def test_nab_downsampled_to_hours(data_dir: Path, name: str) -> None:
    """The mean of the polygon, by the trapezoidal rule over a fine grid of its own."""
    path = data_dir / "sensors" / "nab" / name
    times, columns = table(path, ",", "timestamp")
    config = CsvSource(
        path=str(path),
        time_column="timestamp",
        rate_hz=1 / 3600,
        max_gap_s=4 * 3600,
        windows="tumbling",
        window=6,
    )
    with opened(config) as source:
        frames = read(source, 100_000)
    assert frames
    usable = [piece for piece in pieces(times, 4 * 3600) if piece[1] - piece[0] >= 5 * 3600]
    fine = np.linspace(-1800, 1800, 721)
    checked = 0
    for frame in frames:
        newest = frame.t_ns / 1e9
        (start, end) = next(piece for piece in usable if piece[0] <= newest <= piece[1])
        for row in range(6):
            tick = newest - (5 - row) * 3600
            after = bisect.bisect_left(times, tick)
            if tick - 1800 < start or tick + 1800 > end or times[after] - times[after - 1] > 1800:
                continue
            points = np.array([on_the_line(times, columns["value"], tick + offset) for offset in fine])
            expected = float(np.trapezoid(points, fine) / 3600)
            assert frame.data[row, 0] == pytest.approx(expected, rel=1e-3)
            checked += 1
        if checked > 300:
            break
    assert checked > 100


def test_two_files_of_skab_joined_are_one(data_dir: Path) -> None:
    """The columns of one recording, split into two inputs, meet again."""
    path = str(data_dir / "sensors" / "skab" / "valve1" / "3.csv")
    made = {"path": path, "delimiter": ";", "time_column": "datetime"}
    inputs = tuple(CsvSource(columns=(name,), **made) for name in CHANNELS)  # type: ignore[arg-type]  # all are texts
    joined = JoinedSource(inputs=inputs, rate_hz=1.0, tolerance_s=5.0, window=10)
    whole = CsvSource(columns=CHANNELS, rate_hz=1.0, tolerance_s=5.0, window=10, **made)  # type: ignore[arg-type]  # the same
    found = []
    for config in (joined, whole):
        with opened(config) as source:
            found.append(np.array([frame.data for frame in read(source, 100_000)]))
    assert len(found[0]) > 1000
    assert np.array_equal(found[0], found[1])
