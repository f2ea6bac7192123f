"""What every sensor promises, tried on each kind with its real protocol, alone and joined."""

import gc
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.runtime.config import parse_config
from edgeinfer.runtime.errors import SourceError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.settings import RuntimeConfig
from edgeinfer.runtime.sources.base import Source, is_live, is_recorded, open_source
from edgeinfer.runtime.sources.sensor import Series
from edgeinfer.runtime.sources.settings import (
    CsvSource,
    HostSource,
    IioSource,
    JoinedSource,
    SerialSource,
)
from reading import open_files, opened, read, read_until_error
from sensor_devices import Device, FakeI2c, FakeIio, ModbusDevice, ModbusLine, SerialDevice, TopicDevice, toml_of
from waiting import wait_until

KINDS = ["serial csv", "serial json", "iio", "i2c", "modbus tcp", "modbus rtu", "topic"]


def make_device(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    match kind:
        case "serial csv":
            return SerialDevice(folder)
        case "serial json":
            return SerialDevice(folder, as_json=True)
        case "iio":
            return FakeIio(folder)
        case "i2c":  # no bus on the machines that run this
            return FakeI2c(folder, monkeypatch)
        case "modbus tcp":
            return ModbusDevice()
        case "modbus rtu":
            return ModbusLine(folder)
        case _:
            return TopicDevice(folder)


@pytest.fixture(params=KINDS)
def device(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    return make_device(request.param, tmp_path, monkeypatch)


class TestEveryKind:
    def test_windows_come_with_their_times(self, device: Device) -> None:
        with device, opened(device.config(window=3, stride=2)) as source:
            assert source.live
            frames = read(source, 4)
            now_ns, mono_ns = time.time_ns(), time.monotonic_ns()
        assert [frame.index for frame in frames] == [0, 1, 2, 3]
        for before, frame in zip([None, *frames], frames, strict=False):
            assert frame.data.shape == (3, 2)
            assert frame.data.dtype == np.float32
            assert np.isfinite(frame.data).all()
            assert abs((now_ns - frame.t_ns) - (mono_ns - frame.mono_ns)) < 1e9, "both clocks say the same moment"
            if before is not None:
                assert frame.mono_ns > before.mono_ns
                assert np.array_equal(frame.data[0], before.data[-1]), "windows slide"

    def test_a_device_that_is_not_there_is_a_source_error(self, device: Device) -> None:
        config = device.config(window=1)
        with pytest.raises(SourceError), opened(config) as source:
            read(source, 1)
        assert is_live(config)
        assert not is_recorded(config)

    def test_one_that_goes_away_is_a_source_error_and_it_can_be_opened_again(self, device: Device) -> None:
        with device:
            for _ in range(2):
                with opened(device.config(window=1)) as source:
                    assert len(read(source, 3)) == 3
                    device.vanish()
                    read_until_error(source)
                device.appear()
            with opened(device.config(window=1)) as source:
                assert len(read(source, 3)) == 3

    def test_a_stop_ends_it_at_once(self, device: Device) -> None:
        stop = threading.Event()
        with device:
            source = open_source(device.config(window=100_000), stop)
            found: list[Frame | None] = []
            reader = threading.Thread(target=lambda: found.append(source.read()))
            reader.start()
            threading.Event().wait(0.2)  # it reads
            stop.set()
            reader.join(60)
            assert found == [None]
            source.close()
            source.close()
        wait_until(
            lambda: not any(t.name.startswith("sensor-") for t in threading.enumerate()), what="its thread's end"
        )

    def test_what_is_closed_holds_no_file_open(self, device: Device) -> None:
        with device:
            with opened(device.config(window=1)) as source:
                read(source, 3)
            gc.collect()
            before = open_files()
            gc.disable()  # nothing may wait for it
            try:
                for _ in range(3):
                    with opened(device.config(window=1)) as source:
                        read(source, 3)
                wait_until(lambda: open_files() <= before, what="the end of what was opened")
            finally:
                gc.enable()

    def test_a_declared_rate_and_sessions(self, device: Device) -> None:
        with device:
            with opened(device.config(window=4, rate_hz=20.0, missing="interpolate")) as source:
                frames = read(source, 6)
            steps = np.diff([frame.t_ns for frame in frames])
            assert abs(np.median(steps) - 5e7) < 5e6, "a regular grid, up to how the two clocks are read"
            # Each of these rows is a session of its own: they come ten times further apart.
            with opened(device.config(window=5, windows="session", gap_s=0.001)) as source:
                frames = read(source, 3)
            assert all(frame.data.shape == (5, 2) and np.isfinite(frame.data).all() for frame in frames)

    def test_a_session_ends_where_its_sensor_fails(self, device: Device) -> None:
        with device, opened(device.config(window=5, windows="session", gap_s=60.0)) as source:
            found: list[Frame | SourceError | None] = []

            def read_all() -> None:
                try:
                    found.append(source.read())
                    found.append(source.read())
                except SourceError as error:
                    found.append(error)

            reader = threading.Thread(target=read_all)
            reader.start()
            assert isinstance(source, Series)
            wait_until(lambda: source._shaper._last is not None, what="a row")
            device.vanish()
            reader.join(60)
            assert [type(one) for one in found] == [Frame, SourceError], found


class TestJoined:
    def test_recordings_meet_at_every_row_of_the_grid(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("t,x\n" + "".join(f"{i},{i}\n" for i in range(10)))
        (tmp_path / "b.csv").write_text("t,y,z\n" + "".join(f"{i + 0.25},{10 * i},7\n" for i in range(2, 6)))
        inputs = (
            CsvSource(path=str(tmp_path / "a.csv"), time_column="t", columns=("x",)),
            CsvSource(path=str(tmp_path / "b.csv"), time_column="t", columns=("z", "y")),
        )
        config = JoinedSource(inputs=inputs, rate_hz=2.0, tolerance_s=0.5, window=1)
        assert is_recorded(config)
        assert not is_live(config)
        with opened(config) as source:
            assert not source.live
            found = {frame.index * 0.5: frame.data[0].tolist() for frame in read(source, 1000)}
        assert max(found) == 9.0
        assert all(found[t][0] == t for t in found)
        assert found[1.5] == [1.5, 0, 0], "before b has begun"
        assert found[2.0] == [2, 7, 20], "its first sample lies within the tolerance"
        assert found[3.0] == [3, 7, 30], "of the two beside it only one does: it is not on the line"
        assert found[5.5] == [5.5, 7, 50]
        assert found[9.0] == [9, 7, 50], "held from there on"

    def test_live_sensors_go_on_while_one_is_away(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO", logger="edgeinfer")
        with SerialDevice(tmp_path) as serial, FakeIio(tmp_path) as iio:
            inputs = (serial.config(), iio.config(), HostSource(columns=("memory_percent",), interval_s=0.02))
            config = JoinedSource(inputs=inputs, rate_hz=50.0, tolerance_s=0.06, missing="zero", window=2)
            assert is_live(config)

            def wait_for(source: Source, serial_is_there: bool) -> None:
                deadline = time.monotonic() + 60
                while time.monotonic() < deadline:
                    (frame,) = read(source, 1)
                    assert frame.data.shape == (2, 5)
                    assert np.isfinite(frame.data).all()
                    if (frame.data[:, 0] > 0).all() == serial_is_there and (frame.data[:, 3:] > 0).all():
                        return
                raise AssertionError(f"waited for serial_is_there={serial_is_there}")

            with opened(config) as source:
                for _ in range(2):
                    wait_for(source, True)
                    serial.vanish()
                    wait_for(source, False)
                    serial.appear()
                wait_for(source, True)
        messages = [record.getMessage() for record in caplog.records]
        assert any("event=input_failed input=0 (serial)" in message for message in messages)
        assert sum("event=input_back input=0 (serial)" in message for message in messages) == 2

    def test_with_all_of_them_away_it_fails(self, tmp_path: Path) -> None:
        inputs = (
            SerialSource(device=str(tmp_path / "none"), columns=("a",)),
            IioSource(device=0, root=str(tmp_path), channels=("temp",)),
        )
        with opened(JoinedSource(inputs=inputs, rate_hz=1.0)) as source:
            message = read_until_error(source)
        assert "none: cannot be opened" in message
        assert "expected IIO device 0" in message

    def test_it_ends_when_all_inputs_have(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("x\n" + "1\n" * 10)
        one = CsvSource(path=str(tmp_path / "a.csv"), columns=("x",), interval_s=0.01)
        with opened(JoinedSource(inputs=(one, one), rate_hz=20.0)) as source:
            assert source.live
            frames = read(source, 1000)
            assert frames
            assert source.read() is None


def test_a_configuration_is_read_as_it_was_written(device: Device) -> None:
    config = device.config(window=7, missing="interpolate", rate_hz=12.5)
    text = f'device = "d"\n[[pipeline]]\nname = "p"\npackage = "m"\n[pipeline.source]\n{toml_of(config)}\n'
    assert parse_config(text, RuntimeConfig).pipeline[0].source == config
