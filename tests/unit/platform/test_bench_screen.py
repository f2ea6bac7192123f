"""What a person sees of `edgeinfer bench`: a table of 80 columns, and a line while it runs."""

import io
import os

import msgspec
import pytest

from edgeinfer.cli.bench import parse_threads
from edgeinfer.cli.bench_screen import LiveLine, describe, lines, microseconds
from edgeinfer.runtime.bench import Bench, Conditions, Figures, Machine, Span
from edgeinfer.runtime.bench.race import Moment
from edgeinfer.runtime.errors import UsageError

ROW = Figures(
    variant="onnx-fp32",
    engine="onnx",
    precision="fp32",
    bytes=1,
    threads=1,
    p50_us=20_812.34,
    p99_us=21_212.34,
    min_us=20_000.0,
    mean_us=20_900.0,
    cpu_us=20_850.0,
    rss_bytes=260 << 20,
    calls=100,
    blocks=100,
    seconds=30.0,
    ratio=1.0,
    ratio_low=1.0,
    ratio_high=1.0,
    drift=1.123,
)
OTHER = msgspec.structs.replace(
    ROW, variant="litert-int8-weights", ratio=0.64123, ratio_low=0.63, ratio_high=0.6543, drift=0.99996, p50_us=8.3121
)
FOUND = Bench(
    package="p.edgepkg",
    digest="0",
    seconds=30.0,
    threads=(1,),
    machine=Machine("aarch64", "Cortex-A72", ("neon",), "rpi4", "Raspberry Pi 4", 4, 1, "", "", {}),
    conditions=Conditions(),
    reference="onnx-fp32",
    interval="",
    window_s=60.0,
    energy_source="cpu-seconds",
    energy_detail="no RAPL and no power monitor is readable here",
    interrupted=False,
    variants=(ROW, OTHER),
)


def test_the_table() -> None:
    assert list(lines(FOUND)) == [
        "Cortex-A72, 4 cores, rpi4",
        "",
        "variant              p50 us    p99    cpu    MiB  ratio         95 %   drift",
        "onnx-fp32             20812  21212  20850  260.0  1.000               +12.3%",
        "litert-int8-weights   8.312  21212  20850  260.0  0.641  0.630-0.654   +0.0%",
        "",
        "p99, cpu: us, cpu of all threads together",
        "ratio: to onnx-fp32, round by round, with its 95 % interval",
        "drift: from the first 60 s to the last 60 s",
        "energy: no RAPL and no power monitor is readable here; cpu stands for it",
    ]


def test_all_that_a_board_can_tell_fits_on_a_terminal() -> None:
    found = msgspec.structs.replace(
        FOUND,
        energy_source="power-monitor",
        energy_detail="power monitor ina226 power1_input",
        conditions=Conditions(Span(40.0, 84.6, 40.0, 85.2), Span(1800.0, 1500.0, 600.0, 1800.0), ("throttled",)),
        threads=(1, 4),
        variants=(
            msgspec.structs.replace(ROW, energy_uj=6712.3),
            msgspec.structs.replace(OTHER, energy_uj=6712.3),
            msgspec.structs.replace(OTHER, variant="onnx-int8-dyn", threads=4, energy_uj=None),
        ),
    )
    shown = list(lines(found))
    assert max(map(len, shown)) <= 80
    assert shown[2].endswith("uJ")
    assert shown[3].endswith("6712")
    assert shown[5].startswith("onnx-int8-dyn x4")
    assert shown[5].endswith("-")
    assert shown[-3:] == [
        "temperature: 40 C at the start, 85 at the end, 40 to 85",
        "clock: 1800 MHz at the start, 1500 at the end, 600 to 1800",
        "THE DEVICE HELD ITSELF BACK: throttled",
    ]
    assert "p99, cpu: us, cpu of all threads together; x4: 4 threads" in shown


def test_what_could_not_be_measured_is_told() -> None:
    failed = msgspec.structs.replace(ROW, error="the engine onnx is not installed")
    found = msgspec.structs.replace(FOUND, variants=(failed,), reference="")
    assert list(lines(found)) == [
        "Cortex-A72, 4 cores, rpi4",
        "onnx-fp32: not measured: the engine onnx is not installed",
    ]
    short = msgspec.structs.replace(ROW, blocks=3)
    shown = list(lines(msgspec.structs.replace(FOUND, variants=(short, failed), interrupted=True, window_s=0.1)))
    assert "interrupted: these are the figures until then" in shown
    assert any("too few rounds" in line for line in shown)
    assert not any("drift" in line for line in shown)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.000"), (8.3121, "8.312"), (99.999, "100.00"), (831.26, "831.3"), (83120.6, "83121")]
)
def test_digits(value: float, text: str) -> None:
    assert microseconds(value) == text


def test_the_live_line() -> None:
    moment = Moment("litert-int8 x2", 812.34, 0.425, 75.2, 71.2, 1800.0)
    assert describe(moment) == " 42%  1:15 left  71 C  1800 MHz  litert-int8 x2 812.3 us"
    assert describe(Moment("loading a", 0.0, 0.0, 5.0, None, None)) == "  0%  0:05 left  loading a"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_only_a_terminal_shows_it() -> None:
    moment = Moment("loading " + "x" * 200, 0.0, 0.0, 5.0, None, None)
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        with LiveLine(stream) as live:
            live.draw(moment)
    assert file.getvalue() == ""
    assert max(len(part) for part in terminal.getvalue().split("\r\x1b[K")) == 79
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_threads() -> None:
    assert parse_threads("1") == (1,)
    assert parse_threads("1, 2,4") == (1, 2, 4)
    cores = len(os.sched_getaffinity(0))
    assert parse_threads("sweep")[0] == 1
    assert parse_threads("sweep")[-1] == cores
    for wrong in ("", "x", "1,", "1.5", "all"):
        with pytest.raises(UsageError, match="--threads"):
            parse_threads(wrong)
