"""Energy, temperature and frequency, read from trees that look like the kernel's."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.runtime.bench.energy import Meter, PowerMeter, RaplMeter, find_meter
from edgeinfer.runtime.bench.machine import available_bytes
from edgeinfer.runtime.bench.sensors import Watcher


def put(root: Path, path: str, value: object) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{value}\n")
    return file


def rapl(root: Path, domain: str, name: str, energy_uj: int, range_uj: int = 1_000_000) -> Path:
    folder = f"sys/class/powercap/{domain}"
    put(root, f"{folder}/name", name)
    put(root, f"{folder}/max_energy_range_uj", range_uj)
    return put(root, f"{folder}/energy_uj", energy_uj)


def meter_of(root: Path) -> Meter:
    meter, _ = find_meter(root)
    assert meter is not None
    return meter


def test_rapl_sums_the_packages_and_survives_the_wrap(tmp_path: Path) -> None:
    first = rapl(tmp_path, "intel-rapl:0", "package-0", 999_000)
    second = rapl(tmp_path, "intel-rapl:1", "package-1", 5_000)
    rapl(tmp_path, "intel-rapl:0:0", "core", 1)
    meter, about = find_meter(tmp_path)
    assert isinstance(meter, RaplMeter)
    assert (meter.source, meter.period_s, about) == ("rapl", None, "RAPL package-0, package-1")
    meter.begin(0.0)
    first.write_text("500\n")  # 1000 up to the range, then 500
    second.write_text("7000\n")
    assert meter.end(1.0) == 3500.0
    meter.begin(1.0)
    assert meter.end(2.0) == 0.0


def test_the_platform_counts_more_than_its_packages(tmp_path: Path) -> None:
    rapl(tmp_path, "intel-rapl:0", "package-0", 1)
    rapl(tmp_path, "intel-rapl:1", "psys", 1)
    assert find_meter(tmp_path)[1] == "RAPL psys"


def test_a_counter_that_vanishes_gives_nothing(tmp_path: Path) -> None:
    counter = rapl(tmp_path, "intel-rapl:0", "package-0", 1)
    meter = meter_of(tmp_path)
    meter.begin(0.0)
    counter.unlink()
    assert meter.end(1.0) is None


def test_a_counter_that_only_root_reads_is_named(tmp_path: Path) -> None:
    rapl(tmp_path, "intel-rapl:0", "package-0", 1).unlink()
    assert find_meter(tmp_path) == (None, "RAPL is there, but only root may read it")
    assert find_meter(tmp_path / "nothing") == (None, "no RAPL and no power monitor is readable here")


def test_an_ina_chip_is_integrated_over_time(tmp_path: Path) -> None:
    put(tmp_path, "sys/class/hwmon/hwmon0/name", "ina226")
    power = put(tmp_path, "sys/class/hwmon/hwmon0/power1_input", 2_000_000)
    put(tmp_path, "sys/class/hwmon/hwmon1/name", "amdgpu")
    put(tmp_path, "sys/class/hwmon/hwmon1/power1_input", 90_000_000)
    meter, about = find_meter(tmp_path)
    assert isinstance(meter, PowerMeter)
    assert (meter.source, about) == ("power-monitor", "power monitor ina226 power1_input")
    meter.begin(10.0)
    power.write_text("4000000\n")
    meter.sample(11.0)  # 3 J
    assert meter.end(13.0) == pytest.approx(11e6)  # and 8 J
    meter.begin(20.0)
    assert meter.end(20.0) is None


def test_the_widest_rail_of_volts_and_amperes_is_chosen(tmp_path: Path) -> None:
    put(tmp_path, "sys/class/hwmon/hwmon0/name", "ina3221")
    for place, (millivolts, milliamperes) in enumerate(((5000, 800), (3300, 100)), start=1):
        put(tmp_path, f"sys/class/hwmon/hwmon0/in{place}_input", millivolts)
        put(tmp_path, f"sys/class/hwmon/hwmon0/curr{place}_input", milliamperes)
    rapl(tmp_path, "intel-rapl:0", "package-0", 1)
    meter, about = find_meter(tmp_path)
    assert about == "power monitor ina3221 curr1_input"
    assert meter is not None
    meter.begin(0.0)
    assert meter.end(1.0) == pytest.approx(4e6)


def test_iio_counts_in_scaled_milliwatts(tmp_path: Path) -> None:
    folder = "sys/bus/iio/devices/iio:device0"
    put(tmp_path, f"{folder}/name", "ina226")
    put(tmp_path, f"{folder}/in_power2_raw", 150)
    put(tmp_path, f"{folder}/in_power2_scale", "12.5")
    meter = meter_of(tmp_path)
    meter.begin(0.0)
    assert meter.end(2.0) == pytest.approx(3.75e6)


@given(text=st.text(max_size=30))
def test_nonsense_in_a_sensor_is_unknown(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    root = tmp_path_factory.mktemp("tree")
    put(root, "sys/class/hwmon/hwmon0/name", "ina226")
    (root / "sys/class/hwmon/hwmon0/power1_input").write_text(text, encoding="utf-8")
    (rapl(root, "intel-rapl:0", "package-0", 1)).write_text(text, encoding="utf-8")
    meter, _ = find_meter(root)
    if meter is not None:
        meter.begin(0.0)
        meter.end(1.0)


def test_heat_and_clock_over_a_run(tmp_path: Path) -> None:
    put(tmp_path, "sys/class/thermal/thermal_zone0/type", "cpu-thermal")
    heat = put(tmp_path, "sys/class/thermal/thermal_zone0/temp", 40_000)
    clock = put(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", 1_800_000)
    put(tmp_path, "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq", 600_000)
    watcher = Watcher(tmp_path)
    watcher.look(0.0)
    for now_s, degrees, mhz in ((1.5, 85_000, 1500), (1.6, 99_000, 100), (3.0, 70_000, 1700)):
        heat.write_text(f"{degrees}\n")
        clock.write_text(f"{mhz * 1000}\n")
        watcher.look(now_s)
    found = watcher.conditions()
    assert found.temperature_c is not None
    assert found.frequency_mhz is not None
    spans = [(span.start, span.end, span.min, span.max) for span in (found.temperature_c, found.frequency_mhz)]
    assert spans == [(40.0, 70.0, 40.0, 85.0), (1800.0, 1700.0, 1500.0, 1800.0)]
    assert (watcher.temperature_c, watcher.frequency_mhz) == (70.0, 1700.0)


def test_a_device_without_sensors_has_no_conditions(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path)
    watcher.look(0.0)
    found = watcher.conditions()
    assert (found.temperature_c, found.frequency_mhz, found.throttled) == (None, None, ())


def test_free_memory(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) is None
    put(tmp_path, "proc/meminfo", "MemTotal: 100 kB\nMemAvailable:   40 kB")
    assert available_bytes(tmp_path) == 40 * 1024
