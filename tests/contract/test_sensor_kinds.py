"""What each kind of sensor reads: lines, attributes, registers, messages."""

import os
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest

from brokers import Mosquitto
from certificates import Authority
from edgeinfer.runtime.errors import SourceError
from edgeinfer.runtime.frame import Frame
from edgeinfer.runtime.sources.base import open_source
from edgeinfer.runtime.sources.settings import (
    I2cSource,
    IioSource,
    ModbusSource,
    SerialSource,
    TopicSource,
)
from reading import open_files, opened, read, read_until_error
from sensor_devices import FakeI2c, FakeIio, ModbusDevice, SerialDevice, TopicDevice
from waiting import wait_until


class TestSerial:
    @pytest.mark.parametrize(
        ("config", "lines", "expected"),
        [
            ({}, b"1,2\n3,4\n", {(1, 2), (3, 4)}),
            ({"columns": ["b"]}, b"a,b,c\n1,2,3\n", {(2,)}),
            ({"columns": ["a", "b"], "delimiter": ";"}, b"1;2\nnoise\n5;\n1;2;3\n", {(1, 2), (5, 2), (5, 0)}),
            ({"format": "jsonl"}, b'{"x": 1, "s": "on", "y": 2.5}\n[]\nnull\n', {(1, 2.5)}),
            ({"format": "jsonl"}, b"[1, 2, 3]\n[1, 2]\n", {(1, 2, 3), (1, 2)}),
        ],
        ids=["plain", "header", "delimiter", "json", "json list"],
    )
    def test_lines_become_rows(
        self, tmp_path: Path, config: dict[str, object], lines: bytes, expected: set[tuple[float, ...]]
    ) -> None:
        with SerialDevice(tmp_path, lines=lines) as device:
            settings = msgspec.convert({"kind": "serial", "device": str(device.path), **config}, SerialSource)
            with opened(settings) as source:
                found = {tuple(frame.data[0].tolist()) for frame in read(source, 40)}
        assert found <= expected
        assert found

    def test_silence_is_borne_or_not(self) -> None:
        device, port = os.openpty()
        path = os.ttyname(port)
        with opened(SerialSource(device=path, timeout_s=0.3)) as source:
            assert "silent for 0.3 s" in read_until_error(source)
        stop = threading.Event()
        source = open_source(SerialSource(device=path), stop)
        threading.Timer(0.5, stop.set).start()
        assert source.read() is None
        source.close()
        for end in (device, port):
            os.close(end)

    def test_a_second_reader_is_refused(self, tmp_path: Path) -> None:
        with SerialDevice(tmp_path) as device, opened(device.config()) as first:
            assert len(read(first, 2)) == 2
            with opened(device.config()) as second:
                assert "cannot be opened" in read_until_error(second)


class TestIio:
    def test_every_way_to_name_a_device(self, tmp_path: Path) -> None:
        with FakeIio(tmp_path) as device:
            for name in ("fakeaccel", "iio:device3", 3, "3"):
                config = IioSource(device=name, root=str(device.root), interval_s=0.01)
                with opened(config) as source:
                    (frame,) = read(source, 1)
                x, y = (-512 + 12) * 0.009577, 1024 * 0.009577
                assert np.allclose(frame.data, [[x, y, 23125]]), "all channels, sorted; what the driver computed"
            with opened(IioSource(device="other", root=str(device.root))) as source:
                assert "found iio:device3 (fakeaccel)" in read_until_error(source)
            config = IioSource(device=3, root=str(device.root), channels=("magn_x",))
            with opened(config) as source:
                assert "expected channel in_magn_x, found in_accel_x, in_accel_y, in_temp" in read_until_error(source)

    @pytest.mark.parametrize(
        ("channel", "attributes", "value"),
        [
            ("voltage0", {"in_voltage0_raw": "10", "in_voltage_scale": "0.5", "in_voltage0_offset": "-4"}, 3.0),
            ("voltage0", {"in_voltage0_raw": "10", "in_voltage_scale": "9", "in_voltage0_scale": "2"}, 20.0),
            (
                "voltage0-voltage1",
                {"in_voltage0-voltage1_raw": "8", "in_voltage-voltage_scale": "3", "in_voltage_scale": "1"},
                24.0,
            ),
            ("anglvel_z", {"in_anglvel_z_raw": "7", "in_scale": "2"}, 14.0),
            ("pressure", {"in_pressure_raw": "7", "scale": "4"}, 28.0),
            ("in_temp_raw", {"in_temp_raw": "1.5", "in_temp_input": "9"}, 1.5),
            ("humidityrelative", {"in_humidityrelative_input": "48200"}, 48200.0),
        ],
    )
    def test_scales_and_offsets_of_the_abi(
        self, tmp_path: Path, channel: str, attributes: dict[str, str], value: float
    ) -> None:
        with FakeIio(tmp_path) as device:
            device.write(**attributes)
            with opened(IioSource(device=3, root=str(device.root), channels=(channel,))) as source:
                assert read(source, 1)[0].data.item() == value

    def test_one_channel_that_cannot_be_read_is_missing(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with FakeIio(tmp_path) as device, opened(device.config()) as source:
            read(source, 1)
            (device.device / "in_accel_x_raw").write_text("busy\n")
            device.write(in_accel_y_raw="2048")
            while True:
                (frame,) = read(source, 1)
                if frame.data[0, 1] > 19:
                    break
            assert frame.data[0, 0] == np.float32(-500 * 0.009577), "the last value is held"
        assert "count=1 reason=in_accel_x_raw: expected a number, found 'busy'" in caplog.text


class TestI2c:
    def test_a_bus_that_is_not_there(self) -> None:
        """By smbus2 itself."""
        config = msgspec.convert(
            {"kind": "i2c", "bus": 999, "registers": [{"name": "a", "address": 0x48, "register": 0}]}, I2cSource
        )
        with opened(config) as source:
            assert "/dev/i2c-999: cannot be opened" in read_until_error(source)

    @pytest.mark.parametrize(
        ("register", "content", "value"),
        [
            ({"length": 1}, [200], 200),
            ({"length": 1, "signed": True}, [200], -56),
            ({"length": 2}, [1, 2], 258),
            ({"length": 2, "endian": "little"}, [1, 2], 513),
            ({"length": 3, "signed": True}, [255, 255, 254], -2),
            ({"length": 2, "scale": 0.5, "offset": -1.0}, [0, 9], 3.5),
        ],
    )
    def test_bytes_become_values(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        register: dict[str, object],
        content: list[int],
        value: float,
    ) -> None:
        with FakeI2c(tmp_path, monkeypatch) as device:
            device.write({"64:7": content})
            one = {"name": "a", "address": 64, "register": 7, **register}
            config = msgspec.convert({"kind": "i2c", "registers": [one], "interval_s": 0.01}, I2cSource)
            with opened(config) as source:
                assert read(source, 1)[0].data.item() == value


class TestModbus:
    @pytest.mark.parametrize(
        ("register", "value"),
        [
            ({"address": 0, "type": "int16"}, -123),
            ({"address": 1}, 60_000),
            ({"address": 2, "type": "int32"}, -100_000),
            ({"address": 4, "type": "float32"}, 21.5),
            ({"address": 6, "type": "float32", "word_order": "little"}, -3.25),
            ({"address": 8, "type": "uint32", "word_order": "little"}, 4e9),
            ({"address": 0, "table": "input"}, 7),
            ({"address": 1, "scale": 0.001, "offset": -1.0}, 59),
        ],
    )
    def test_registers_become_values(self, register: dict[str, object], value: float) -> None:
        with ModbusDevice() as device:
            config = msgspec.convert(
                {
                    "kind": "modbus",
                    "host": "127.0.0.1",
                    "port": device.port,
                    "timeout_s": 60.0,
                    "registers": [{"name": "a", **register}],
                },
                ModbusSource,
            )
            with opened(config) as source:
                assert read(source, 1)[0].data.item() == np.float32(value)

    def test_exceptions_of_one_register_and_of_all(self, caplog: pytest.LogCaptureFixture) -> None:
        good, bad = {"name": "good", "address": 1}, {"name": "bad", "address": 500}
        with ModbusDevice() as device:
            made = {"kind": "modbus", "host": "127.0.0.1", "port": device.port, "interval_s": 0.01, "timeout_s": 60.0}
            with opened(msgspec.convert({**made, "registers": [bad, good]}, ModbusSource)) as source:
                assert [frame.data.tolist() for frame in read(source, 12)] == 12 * [[[0.0, 60_000.0]]]
            assert len([record for record in caplog.records if "bad" in record.message]) == 2, "the 1st and the 10th"
            with opened(msgspec.convert({**made, "registers": [bad]}, ModbusSource)) as source:
                assert "no register can be read" in read_until_error(source)


class TestTopic:
    @pytest.mark.parametrize(
        ("settings", "payloads", "expected"),
        [
            ({}, [b"1.5", b"on", b"", b"-2", b'"3"'], [[1.5], [-2.0], [3.0]]),
            ({}, [b"[1, 2]", b"[1]", b"[3, 4]"], [[1, 2], [3, 4]]),
            ({}, [b'{"b": 1, "s": "x", "ok": true, "a": 2}', b'{"a": 5}'], [[1, 2], [1, 5]]),
            ({"columns": ["a", "b"]}, [b'{"b": 1}', b"7", b'{"c": 1}', b'{"a": 4, "b": null}'], [[0, 1], [4, 1]]),
            ({"json": "data.1.v"}, [b'{"data": [0, {"v": 9}]}', b'{"data": []}', b"3"], [[9.0]]),
        ],
        ids=["numbers", "lists", "objects", "columns", "path"],
    )
    def test_payloads_become_rows(
        self, tmp_path: Path, settings: dict[str, object], payloads: list[bytes], expected: list[list[float]]
    ) -> None:
        with TopicDevice(tmp_path) as device:
            client = device.client()
            client.publish("t/a", b"77", retain=True, qos=1).wait_for_publish(60)
            made = {"kind": "topic", "topic": "t/a", "port": device.broker.port, **settings}
            found: list[Frame] = []
            with opened(msgspec.convert(made, TopicSource)) as source:
                reader = threading.Thread(target=lambda: found.extend(read(source, len(expected))))
                reader.start()
                wait_until(lambda: " t/a" in device.broker.log.read_text(), what="the subscription")
                for payload in payloads:
                    client.publish("t/a", payload, qos=1).wait_for_publish(60)
                reader.join(60)
            device.leave(client)
        assert [frame.data[0].tolist() for frame in found] == expected, "and not what was retained"

    def test_messages_that_lack_channels_of_the_package_end_it_with_what_is_missing(self, tmp_path: Path) -> None:
        with TopicDevice(tmp_path) as device:
            client = device.client()
            said: list[str] = []
            config = TopicSource(topic="t/a", port=device.broker.port)
            source = open_source(config, threading.Event(), ("temp", "co2"))
            reader = threading.Thread(target=lambda: said.append(read_until_error(source)))
            reader.start()
            wait_until(lambda: " t/a" in device.broker.log.read_text(), what="the subscription")
            for _ in range(10):
                client.publish("t/a", b'{"temp": 20, "rssi": -70}', qos=1).wait_for_publish(60)
            reader.join(60)
            source.close()
            device.leave(client)
        assert "takes the channels temp, co2; found temp, rssi, without co2" in said[0]
        assert "columns = [...]" in said[0]

    def test_a_refused_client(self, tmp_path: Path) -> None:
        passwords = tmp_path / "passwords"
        passwords.write_text("")
        passwords.chmod(0o600)
        with Mosquitto(tmp_path, config="listener {port} 127.0.0.1", extra=f"password_file {passwords}") as broker:
            with opened(TopicSource(topic="a", port=broker.port)) as source:
                assert "refused by the broker" in read_until_error(source)
            missing = TopicSource(topic="a", port=broker.port, username="u", password_file=str(tmp_path / "none"))
            with opened(missing) as source:
                assert "cannot connect" in read_until_error(source)

    def test_a_tls_handshake_that_fails_leaves_no_socket(self, tmp_path: Path) -> None:
        trusted = str(Authority(tmp_path, "trusted").certificate)
        with Mosquitto(tmp_path) as broker:  # it speaks no TLS
            before = open_files()
            with opened(TopicSource(topic="a", port=broker.port, tls_ca=trusted)) as source:
                with pytest.raises(SourceError, match="cannot connect") as caught:
                    source.read()
                assert open_files() <= before, "although the error that tells of it lives"
            assert caught.value.__cause__ is not None
