"""Sensors against everything that a cable, a bus or a stranger can do; alone and in a daemon."""

import contextlib
import json
import os
import random
import socket
import string
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon_process import Daemon, configuration, results_of, run_until_end
from edgeinfer.runtime.buffer_reader import BufferReader
from edgeinfer.runtime.manifest import AnomalyPost, WindowPre
from edgeinfer.runtime.results import Kind
from edgeinfer.runtime.sources.records import CsvLines, JsonLines, JsonValues, Lines
from edgeinfer.runtime.sources.settings import (
    CsvSource,
    HostSource,
    JoinedSource,
    ModbusSource,
    StdinSource,
    TopicSource,
)
from packages import identity_model, make_package
from reading import opened, read, read_until_error
from sensor_devices import (
    INTERVAL_S,
    Device,
    FakeI2c,
    FakeIio,
    ModbusDevice,
    ModbusLine,
    SerialDevice,
    TopicDevice,
    toml_of,
)
from waiting import wait_until

LINES = 10_000


def random_lines(seed: int) -> list[bytes]:
    """Rows of two channels, cut, changed, glued together and mixed with what no sensor writes; the first is good."""
    rng = random.Random(seed)
    made: list[bytes] = [b"1,2"]
    while len(made) < LINES:
        a, b = rng.uniform(-1e3, 1e3), rng.choice([rng.uniform(-1, 1), float("nan"), float("inf"), 1e300, -1e39, 0.0])
        line = rng.choice([f"{a},{b}", json.dumps({"a": a, "b": b}), json.dumps({"a": a, "b": [b]})]).encode()
        match rng.randrange(8):
            case 0:
                line = line[: rng.randrange(len(line) + 1)]
            case 1:
                line = rng.randbytes(rng.randrange(60)).replace(b"\n", b"")
            case 2:
                place = rng.randrange(len(line))
                line = line[:place] + rng.randbytes(1).replace(b"\n", b"") + line[place + 1 :]
            case 3:
                line = b"".join(rng.choices([line, b",", b'"', b"\x00", b"[" * 2000, b"9" * 400], k=3))
            case 4:
                line = "".join(rng.choices(string.printable.replace("\n", ""), k=rng.randrange(40))).encode()
            case _:
                pass
        made.append(line)
    return made


def balanced(lines: list[bytes]) -> bytes:
    """For CSV with its quotes: a record that never ends is one error at the end, not ten thousand lines."""
    return b"\n".join(line.replace(b'"', b"'") for line in lines) + b"\n"


class TestRandomLines:
    def test_csv_file(self, tmp_path: Path) -> None:
        path = tmp_path / "s.csv"
        path.write_bytes(b"a,b\n" + balanced(random_lines(1)))
        with opened(CsvSource(path=str(path), window=4, columns=("a", "b"))) as source:
            frames = read(source, 10 * LINES)
        assert len(frames) > LINES // 2
        assert all(np.isfinite(frame.data).all() and frame.data.shape == (4, 2) for frame in frames)

    @pytest.mark.parametrize("missing", ["hold", "interpolate", "drop", "zero"])
    def test_csv_file_with_times_of_all_kinds(self, tmp_path: Path, missing: str) -> None:
        rng = random.Random(2)
        path = tmp_path / "s.csv"
        at = 1.6e9
        rows = ["t,a,b", "1600000000,0,0"]
        for line in random_lines(2):
            at += rng.choice([0.0, 1.0, 1.0, 1.0, 1.2, 90.0, -5.0])
            time = rng.choice([str(at), str(at), str(at), "never", "", "1e300", str(-at), str(rng.uniform(0, 1e11))])
            rows.append(f"{time},{line.decode(errors='replace')}".replace("\r", "").replace('"', ""))
        path.write_text("\n".join(rows), encoding="utf-8")
        made = {"kind": "csv", "path": str(path), "time_column": "t", "columns": ["a", "b"], "missing": missing}
        config = msgspec.convert({**made, "rate_hz": 1, "window": 4, "max_gap_s": 30}, CsvSource)
        with opened(config) as source:
            frames = read(source, 100 * LINES)
        assert frames
        assert all(np.isfinite(frame.data).all() for frame in frames)
        assert all(0 <= frame.t_ns < 1 << 63 for frame in frames)

    @pytest.mark.parametrize("form", ["csv", "jsonl"])
    def test_standard_input(self, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
        reading, writing = os.pipe()
        lines = random_lines(3)
        content = b"a,b\n" + balanced(lines) if form == "csv" else b'{"a": 1, "b": 2}\n' + b"\n".join(lines)

        def write() -> None:
            with os.fdopen(writing, "wb") as file, contextlib.suppress(BrokenPipeError):
                file.write(content)

        writer = threading.Thread(target=write)
        writer.start()
        with os.fdopen(reading) as file:
            monkeypatch.setattr("sys.stdin", file)
            config = msgspec.convert({"kind": "stdin", "format": form, "columns": ["a", "b"], "window": 3}, StdinSource)
            with opened(config) as source:
                frames = read(source, 10 * LINES)
        writer.join()
        assert len(frames) > LINES // 10
        assert all(np.isfinite(frame.data).all() for frame in frames)

    @pytest.mark.parametrize("as_json", [False, True])
    def test_serial(self, tmp_path: Path, as_json: bool) -> None:
        content = b"\n".join(random_lines(4)) + b"\n"
        with SerialDevice(tmp_path, lines=content, as_json=as_json) as device:
            with opened(device.config(window=3)) as source:
                frames = read(source, 1500)
            assert len(frames) == 1500
            assert all(np.isfinite(frame.data).all() and frame.data.shape == (3, 2) for frame in frames)

    @given(st.binary(max_size=300), st.integers(1, 40), st.lists(st.integers(0, 300), max_size=5))
    def test_lines_are_the_same_however_they_are_cut(self, content: bytes, longest: int, cuts: list[int]) -> None:
        lines = Lines(longest)
        found = []
        for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(content)], strict=True):
            found += lines.feed(content[start : max(start, end)])
        expected = [line for line in content[: content.rfind(b"\n") + 1].split(b"\n")[:-1] if len(line) <= longest]
        assert found == [line.decode("utf-8", errors="replace").rstrip("\r") for line in expected]

    @given(st.lists(st.one_of(st.text(max_size=30), st.from_regex(r"-?\d+(,-?\d+)?")), max_size=8), st.booleans())
    def test_parsers_give_rows_of_one_length_or_refuse(self, lines: list[str], named: bool) -> None:
        columns = ("a", "b") if named else ()
        for parser in (CsvLines(columns, ","), JsonLines(columns)):
            widths = set()
            for line in lines:
                with contextlib.suppress(ValueError):
                    values = parser.parse(line)
                    widths |= {len(values)} if values is not None else set()
            assert len(widths) <= 1
            assert not named or widths <= {2}

    @given(
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.floats(), st.text(max_size=3)),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b"]), inner),
        ),
        st.sampled_from(["", "a", "a.0.b"]),
    )
    def test_any_document_gives_numbers_or_is_refused(self, document: object, path: str) -> None:
        for columns in ((), ("a", "b")):
            with contextlib.suppress(ValueError):
                assert all(isinstance(value, float) for value in JsonValues(columns, path).values(document))


class TestNoise:
    def test_a_line_without_end_is_lost_and_what_follows_is_not(self, tmp_path: Path) -> None:
        content = b"1,2\n" * 50 + b"7" * 300_000 + b"\n"
        with SerialDevice(tmp_path, lines=content) as device, opened(device.config()) as source:
            frames = read(source, 200)
        assert {tuple(frame.data[0].tolist()) for frame in frames} == {(1, 2)}

    def test_noise_alone_gives_no_row_and_a_stop_ends_it(self, tmp_path: Path) -> None:
        with SerialDevice(tmp_path, lines=b"\x00\xff\xfe\n" * 1000) as device, opened(device.config()) as source:
            stop: threading.Event = source._stop  # type: ignore[attr-defined]  # of a Series
            threading.Timer(0.5, stop.set).start()
            assert source.read() is None


_SHIFTED_CLOCK = """
import time

_time_ns = time.time_ns


def time_ns():
    with open({path!r}) as file:
        return _time_ns() + int(file.read()) * 10**9


time.time_ns = time_ns
time.time = lambda: time_ns() / 1e9
"""


@contextlib.contextmanager
def hostile_server(answer: bytes, *, close: bool) -> Iterator[int]:
    """Accepts, says `answer` whatever it hears, and then hangs up or is silent; its port."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)
        kept: list[socket.socket] = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    kept.append(client)
                    with contextlib.suppress(OSError):
                        client.recv(1000)
                        client.sendall(answer)
                    if close:
                        client.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for client in kept:
                client.close()
            thread.join()


HOSTILE = {
    "silence": b"",
    "noise": random.Random(5).randbytes(5000),
    "zeros": bytes(3000),
    "half an answer": bytes.fromhex("000100000005010304"),
    "another's answer": bytes.fromhex("00070000000501030212340000"),
    "an exception": bytes.fromhex("000100000003018302"),
    "text": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "a connack of nonsense": bytes.fromhex("20ff7f"),
}


@pytest.mark.parametrize("close", [True, False], ids=["hangs up", "stays"])
@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE.keys())
class TestHostileServers:
    def test_modbus(self, answer: bytes, close: bool) -> None:
        with hostile_server(answer, close=close) as port:
            made = {"kind": "modbus", "host": "127.0.0.1", "port": port, "timeout_s": 0.2, "retries": 1}
            config = msgspec.convert({**made, "registers": [{"name": "a", "address": 0}]}, ModbusSource)
            with opened(config) as source:
                assert "modbus 127.0.0.1" in read_until_error(source)

    def test_topic(self, answer: bytes, close: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("edgeinfer.runtime.sources.topic._HANDSHAKE_TURNS", 3)
        with hostile_server(answer, close=close) as port, opened(TopicSource(topic="a", port=port)) as source:
            assert "topic a at 127.0.0.1" in read_until_error(source)


class TestNobodyAnswers:
    def test_a_modbus_device_that_hangs(self) -> None:
        with ModbusDevice() as device, opened(device.config()) as source:
            read(source, 2)
            assert device.process is not None
            device.process.send_signal(19)  # SIGSTOP
            assert "no answer" in read_until_error(source)

    def test_a_stop_is_heard_while_a_device_hangs(self) -> None:
        stop = threading.Event()
        with hostile_server(b"", close=False) as port:
            made = {"kind": "modbus", "host": "127.0.0.1", "port": port, "timeout_s": 30.0}
            config = msgspec.convert({**made, "registers": [{"name": "a", "address": 0}]}, ModbusSource)
            with opened(config) as source:
                stop = source._stop  # type: ignore[attr-defined]  # of a Series
                threading.Timer(0.3, stop.set).start()
                assert source.read() is None

    def test_a_broker_that_hangs_and_comes_back_gives_its_messages(self, tmp_path: Path) -> None:
        with TopicDevice(tmp_path) as device, opened(device.config()) as source:
            read(source, 2)
            device.broker.pause()
            threading.Timer(0.5, device.broker.resume).start()
            assert len(read(source, 20)) == 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Packages `w2`, `w3` and `w5` for windows of four rows of so many channels."""
    for channels in (2, 3, 5):
        model = identity_model(tmp_path / f"w{channels}.onnx", features=4 * channels)
        make_package(
            tmp_path / f"w{channels}.edgepkg", model, name=f"w{channels}", pre=WindowPre(4), post=AnomalyPost(0.5)
        )
    return tmp_path


def pipeline(folder: Path, name: str, source: str, *, channels: int = 2) -> str:
    return f'name = "{name}"\npackage = "{folder}/w{channels}.edgepkg"\n[pipeline.source]\n{source}'


def check_accounts(daemon: Daemon, folder: Path) -> None:
    """After its end: what was captured is what the states, the results and the buffer say."""
    with BufferReader(folder / "state" / "buffer.db") as reader:
        frames = reader.frames()
    for name, found in daemon.status()["pipelines"].items():
        assert found["captured"] == sum(found["frames"].values()) == sum(frames[name].values())
        results = [row.frame for row in results_of(folder, name) if row.kind is Kind.ANOMALY]
        assert len(results) == found["frames"]["inferred"]
        assert results == sorted(set(results))
        assert found["frames"]["failed"] == 0


class TestDaemon:
    @pytest.mark.slow
    def test_every_kind_at_once_through_a_loss_of_each(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        devices: dict[str, Device] = {
            "serial": SerialDevice(folder),
            "iio": FakeIio(folder),
            "i2c": FakeI2c(folder, monkeypatch),
            "modbus": ModbusDevice(),
            "rtu": ModbusLine(folder),
            "topic": TopicDevice(folder),
        }
        texts = [pipeline(folder, name, toml_of(one.config(window=4))) for name, one in devices.items()]
        host = HostSource(window=4, interval_s=INTERVAL_S)
        texts.append(pipeline(folder, "host", toml_of(host), channels=5))
        inputs = (
            FakeIio(folder).config(),
            HostSource(columns=("memory_percent",), interval_s=INTERVAL_S),
        )
        joined = JoinedSource(inputs=inputs, rate_hz=50.0, tolerance_s=0.1, window=4)
        texts.append(pipeline(folder, "joined", toml_of(joined), channels=3))
        with Daemon(folder, configuration(folder, *texts)) as daemon:
            names = [*devices, "host", "joined"]

            def grow(names: list[str]) -> None:
                before = {name: daemon.pipeline(name).get("captured", 0) for name in names}
                wait_until(
                    lambda: all(daemon.pipeline(name).get("captured", 0) > before[name] + 5 for name in names),
                    what="frames of every kind",
                )

            with contextlib.ExitStack() as stack:
                daemon.wait_for("event=source_failed", times=len(devices))
                for one in devices.values():
                    stack.enter_context(one)
                grow(names)
                for one in devices.values():
                    one.vanish()
                for name in devices:
                    wait_until(
                        lambda name=name: daemon.pipeline(name).get("source") == "waiting",  # type: ignore[misc]  # bound in the loop
                        what=f"the loss of {name}",
                    )
                grow(["joined"])
                assert any("event=input_failed input=0 (iio)" in line for line in daemon.log)
                for one in devices.values():
                    one.appear()
                grow(names)
                daemon.end()
            assert daemon.process.returncode == 0
            assert not any("Traceback" in line for line in daemon.log), [x for x in daemon.log if "Traceback" in x]
            check_accounts(daemon, folder)

    def test_windows_that_do_not_fit_the_model_are_counted_as_failed(self, folder: Path) -> None:
        (folder / "s.csv").write_text("a,b\n" + "1,2\n" * 10)
        text = pipeline(folder, "p", f'kind = "csv"\npath = "{folder}/s.csv"\nwindow = 3')
        done = run_until_end(configuration(folder, text), "--json")
        (found,) = json.loads(done.stdout)["pipelines"]
        assert found["frames"]["failed"] == found["captured"] == 8

    def test_sessions_resampling_and_joins_of_recordings(self, folder: Path) -> None:
        (folder / "s.csv").write_text("t,a,b\n" + "".join(f"{t},{t},1\n" for t in (0, 1, 3, 4, 5, 6, 7, 100, 101)))
        common = f'kind = "csv"\npath = "{folder}/s.csv"\ntime_column = "t"\nwindow = 4\n'
        one = f'{{kind = "csv", path = "{folder}/s.csv", time_column = "t", columns = '
        joined = f'kind = "joined"\nrate_hz = 1\nwindow = 4\ninputs = [{one}["a"]}}, {one}["b"]}}]'
        texts = [
            pipeline(folder, "session", common + 'windows = "session"\ngap_s = 10'),
            pipeline(folder, "grid", common + "rate_hz = 1\nmax_gap_s = 10"),
            pipeline(folder, "tumbling", common + 'windows = "tumbling"'),
            pipeline(folder, "joined", joined),
        ]
        done = run_until_end(configuration(folder, *texts), "--json")
        assert done.returncode == 0, done.stderr
        found = {one["name"]: one["frames"]["inferred"] for one in json.loads(done.stdout)["pipelines"]}
        assert found == {"session": 2, "grid": 5, "tumbling": 2, "joined": 5}

    @pytest.mark.parametrize("years", [-10, 10])
    def test_a_clock_that_jumps_moves_no_window(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, years: int
    ) -> None:
        """The wall clock as the daemon's own process sees it."""
        shift = folder / "shift"
        shift.write_text("0")
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(_SHIFTED_CLOCK.format(path=str(shift)))
        monkeypatch.setenv("PYTHONPATH", str(folder / "site"))
        text = pipeline(folder, "p", 'kind = "host"\nwindow = 4\ninterval_s = 0.1\nmax_gap_s = 60.0', channels=5)
        daemon = Daemon(folder, configuration(folder, text))
        with daemon:
            wait_until(lambda: daemon.pipeline("p").get("captured", 0) > 20)
            new = folder / "new"
            new.write_text(str(years * 365 * 86_400))
            new.rename(shift)
            before = daemon.pipeline("p")["captured"]
            wait_until(lambda: daemon.pipeline("p").get("captured", 0) > before + 30)
            daemon.end()
            captured = daemon.pipeline("p")["captured"]
            check_accounts(daemon, folder)
        rows = [row for row in results_of(folder, "p") if row.kind is Kind.ANOMALY]
        times = np.array([row.t_ns for row in rows]) / 1e9
        jumps = np.flatnonzero(np.abs(np.diff(times)) > 86_400)
        assert len(jumps) == 1, "the wall clock of the results jumps once"
        frames = [row.frame for row in rows]
        assert captured - len(frames) < captured / 2
        assert frames == sorted(set(frames)), "and no window is made twice"
