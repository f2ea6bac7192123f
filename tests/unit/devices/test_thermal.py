"""Readings of the device, from trees of files as boards of several kinds have them."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.devices.thermal import DeviceReadings, DeviceSensors

PI = {
    "sys/class/thermal/thermal_zone0/temp": "61234\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "600000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "1800000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1800000\n",
    "proc/pressure/cpu": "some avg10=12.50 avg60=1.11 avg300=1.94 total=594056488\nfull avg10=0.00 avg60=0.00\n",
    "proc/pressure/memory": "some avg10=0.25 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.10 avg60=0.00 avg300=0.0\n",
}
LAPTOP = {
    "sys/class/thermal/thermal_zone0/temp": "27800\n",
    "sys/class/hwmon/hwmon0/name": "nvme\n",
    "sys/class/hwmon/hwmon0/temp1_input": "70000\n",
    "sys/class/hwmon/hwmon1/name": "coretemp\n",
    "sys/class/hwmon/hwmon1/temp1_input": "48000\n",
    "sys/class/hwmon/hwmon1/temp2_input": "51000\n",
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "7\n",
    "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "0\n",
    "sys/class/power_supply/AC/type": "Mains\n",
    "sys/class/power_supply/AC/online": "0\n",
    "sys/class/power_supply/BAT0/type": "Battery\n",
    "sys/class/power_supply/BAT0/capacity": "41\n",
    "sys/class/power_supply/BAT0/status": "Discharging\n",
    "sys/class/power_supply/BAT0/power_now": "9500000\n",
    "sys/class/power_supply/mouse/type": "Battery\n",
    "sys/class/power_supply/mouse/scope": "Device\n",
    "sys/class/power_supply/mouse/capacity": "3\n",
    "sys/class/power_supply/mouse/status": "Discharging\n",
}


def plant(root: Path, files: dict[str, str]) -> DeviceSensors:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return DeviceSensors(root)


def test_a_device_that_tells_nothing(tmp_path: Path) -> None:
    assert DeviceSensors(tmp_path).read(0.0) == DeviceReadings()


def test_this_very_machine_can_be_read() -> None:
    sensors = DeviceSensors()
    for now_s in (0.0, 1.0, 100.0):
        readings = sensors.read(now_s)
        assert readings.temperature_c is None or -60 < readings.temperature_c < 200
        assert readings.cpu_pressure is None or 0 <= readings.cpu_pressure <= 100


def test_a_raspberry_pi(tmp_path: Path) -> None:
    readings = plant(tmp_path, PI).read(0.0)
    assert readings == DeviceReadings(
        temperature_c=61.234,
        throttled=("throttled", "under_voltage"),
        cpu_pressure=12.5,
        memory_pressure=0.25,
        frequency_ratio=1 / 3,
    )


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("0", ()),
        ("0x0", ()),
        ("50000", ()),  # it was so once, not now
        ("0x2", ("frequency_capped",)),
        ("8", ("soft_temperature_limit",)),
        ("", ()),
        ("no", ()),
        ("-1", ()),
        ("f" * 99, ()),
    ],
)
def test_flags_of_the_firmware(tmp_path: Path, text: str, flags: tuple[str, ...]) -> None:
    sensors = plant(tmp_path, {"sys/devices/platform/soc/soc:firmware/get_throttled": text})
    assert sensors.read(0.0).throttled == flags


def test_a_laptop_on_battery(tmp_path: Path) -> None:
    sensors = plant(tmp_path, LAPTOP)
    assert sensors.read(0.0) == DeviceReadings(temperature_c=51.0, battery_percent=41, on_battery=True, power_w=9.5)


def test_a_laptop_on_mains(tmp_path: Path) -> None:
    sensors = plant(tmp_path, LAPTOP | {"sys/class/power_supply/AC/online": "1\n"})
    readings = sensors.read(0.0)
    assert (readings.battery_percent, readings.on_battery, readings.power_w) == (41, False, None)


def test_a_core_that_throttles_is_seen_by_its_count_going_up(tmp_path: Path) -> None:
    sensors = plant(tmp_path, LAPTOP)
    assert sensors.read(0.0).throttled == (), "it may have been long ago"
    count = tmp_path / "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count"
    count.write_text("1\n")
    assert sensors.read(1.0).throttled == ("core_throttled",)
    assert sensors.read(2.0).throttled == ()


def test_a_clock_that_was_capped_by_hand_is_no_throttling(tmp_path: Path) -> None:
    name = "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq"
    sensors = plant(tmp_path, {name: "1000\n"})
    assert sensors.read(0.0).throttled == ()
    (tmp_path / name).write_text("900\n")
    assert sensors.read(1.0).throttled == ("frequency_capped",)
    (tmp_path / name).write_text("1000\n")
    assert sensors.read(2.0).throttled == ()


def test_a_cooling_device_that_slows_the_processor(tmp_path: Path) -> None:
    folder = "sys/class/thermal/cooling_device0"
    sensors = plant(tmp_path, {f"{folder}/type": "thermal-cpufreq-0\n", f"{folder}/cur_state": "2\n"})
    assert sensors.read(0.0).throttled == ("cooling",)
    fan = {"sys/class/thermal/cooling_device0/type": "pwm-fan\n"}
    assert plant(tmp_path, fan).read(0.0).throttled == ()


def test_broken_sensors_are_passed_over(tmp_path: Path) -> None:
    zones = {f"sys/class/thermal/thermal_zone{i}/temp": text for i, text in enumerate(["-274000", "", "4294967295"])}
    assert plant(tmp_path, zones).read(0.0).temperature_c is None


def test_energy_counters_make_power(tmp_path: Path) -> None:
    package = "sys/class/powercap/intel-rapl:0"
    sensors = plant(
        tmp_path,
        {
            f"{package}/name": "package-0\n",
            f"{package}/energy_uj": "1000000\n",
            "sys/class/powercap/intel-rapl:0:0/name": "core\n",
            "sys/class/powercap/intel-rapl:0:0/energy_uj": "900000\n",
        },
    )
    assert sensors.read(10.0).power_w is None
    (tmp_path / package / "energy_uj").write_text("31000000\n")
    assert sensors.read(12.0).power_w == 15.0
    (tmp_path / package / "energy_uj").write_text("5\n")
    assert sensors.read(13.0).power_w is None, "the counter has begun anew"


def test_of_several_rails_the_widest_counts(tmp_path: Path) -> None:
    """An INA3221 gives millivolts and milliamperes, an INA219 microwatts."""
    sensors = plant(
        tmp_path,
        {
            "sys/class/hwmon/hwmon0/name": "ina3221\n",
            "sys/class/hwmon/hwmon0/in1_input": "5000\n",
            "sys/class/hwmon/hwmon0/curr1_input": "1500\n",
            "sys/class/hwmon/hwmon0/in2_input": "3300\n",
            "sys/class/hwmon/hwmon0/curr2_input": "100\n",
            "sys/class/hwmon/hwmon1/name": "ina219\n",
            "sys/class/hwmon/hwmon1/power1_input": "2500000\n",
        },
    )
    assert sensors.read(0.0).power_w == 7.5


def test_sensors_that_come_later_are_found(tmp_path: Path) -> None:
    sensors = DeviceSensors(tmp_path)
    assert sensors.read(0.0).temperature_c is None
    plant(tmp_path, PI)
    assert sensors.read(61.0).temperature_c == 61.234


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from([*PI, *LAPTOP]), st.binary(max_size=40)), min_size=1, max_size=8))
def test_no_content_is_an_error(tmp_path: Path, contents: list[tuple[str, bytes]]) -> None:
    plant(tmp_path, PI | LAPTOP)
    for name, content in contents:
        (tmp_path / name).write_bytes(content)
    sensors = DeviceSensors(tmp_path)
    for now_s in (0.0, 1.0):
        assert isinstance(sensors.read(now_s), DeviceReadings)
