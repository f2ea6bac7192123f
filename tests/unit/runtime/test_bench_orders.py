"""Packages timed here on an order: which orders are carried out, and what is answered."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.runtime import bench_thread
from edgeinfer.runtime.agent_view import AgentView
from edgeinfer.runtime.bench import Bench
from edgeinfer.runtime.bench_order import BENCH_NOTE, BENCH_SUFFIX, BenchAnswer, BenchOrder, read_order
from edgeinfer.runtime.bench_thread import BenchThread
from edgeinfer.runtime.errors import GateError, RefusedError
from edgeinfer.runtime.handoff import RuntimeDb, SyncDb
from edgeinfer.runtime.package import sha256_file
from edgeinfer.runtime.settings import RuntimeConfig, TrustConfig
from edgeinfer.runtime.store import Store
from edgeinfer.runtime.trust import SigningKey, seal
from edgeinfer.runtime.verify import BenchRequest, ask
from packages import linear_model, make_package
from waiting import wait_until

RELEASE, CONSOLE, STRANGER = SigningKey(b"r" * 32), SigningKey(b"c" * 32), SigningKey(b"s" * 32)
NOW_S = 1_800_000_000
ORDER = BenchOrder("c-1", "dev-1", "bench", NOW_S, NOW_S + 60, "a" * 64, 1000, 20, 1)


def read(**changes: object) -> BenchOrder:
    payload = msgspec.json.encode(msgspec.structs.replace(ORDER, **changes))
    return read_order(payload, device="dev-1", after_s=NOW_S - 1, now_s=NOW_S)


def test_a_good_order() -> None:
    assert read() == ORDER


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": "dev-2"}, "for dev-1, found 'bench' for 'dev-2'"),
        ({"kind": "logs"}, "found 'logs'"),
        ({"issued_s": NOW_S + 301, "expires_s": NOW_S + 900}, "after now"),
        ({"issued_s": NOW_S - 1000, "expires_s": NOW_S - 301}, "expired 301 s ago"),
        ({"issued_s": NOW_S - 1}, "carried out already"),
        ({"blob_sha256": "../x"}, "blob_sha256"),
        ({"blob_bytes": 0}, "blob_bytes"),
        ({"each_ms": 0}, "each_ms"),
        ({"each_ms": 600_001}, "each_ms"),
        ({"threads": 257}, "threads"),
    ],
)
def test_what_is_not_carried_out(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        read(**changes)


@given(st.binary(max_size=200))
def test_anything_is_an_order_or_refused(raw: bytes) -> None:
    with pytest.raises(RefusedError):
        read_order(raw, device="dev-1", after_s=0, now_s=NOW_S)


class Device:
    """The daemon's and the agent's sides of the hand-over, with real databases and a real measuring process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stop = threading.Event()
        self.sync, self.db = SyncDb(folder / "agent" / "sync.db"), RuntimeDb(folder / "runtime.db")
        self.store = Store(folder)
        trust = TrustConfig(release_keys=(RELEASE.public.hex(),), console_keys=(CONSOLE.public.hex(),))
        self.config = RuntimeConfig(device="dev-1", state_dir=str(folder), pipeline=(), trust=trust)
        self.bencher = self.start()

    def start(self) -> BenchThread:
        """A daemon's, which may not be the first."""
        view = AgentView(self.folder / "agent" / "sync.db")
        return BenchThread(
            lambda: self.config, store=self.store, db=self.db, agent=view, stop=self.stop, wall_s=lambda: NOW_S
        )

    def package(self, *, key: SigningKey | None = RELEASE) -> BenchOrder:
        """A package in `incoming`, and the order to time it."""
        file = self.folder / "p.edgepkg"
        make_package(file, linear_model(self.folder / "m.onnx"), name="candidates", golden=1, key=key)
        sha256 = sha256_file(file)
        file.rename(self.store.incoming / f"{sha256}{BENCH_SUFFIX}")
        size = (self.store.incoming / f"{sha256}{BENCH_SUFFIX}").stat().st_size
        return msgspec.structs.replace(ORDER, blob_sha256=sha256, blob_bytes=size)

    def carry_out(self, order: BenchOrder, *, key: SigningKey = CONSOLE) -> BenchAnswer:
        self.sync.set_note(BENCH_NOTE, seal(msgspec.json.encode(order), key))
        self.bencher.look()
        answer = self.db.bench()
        assert answer.done
        assert not self.store.bench_folder.exists()
        return answer


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path)
    yield made
    made.sync.close()
    made.db.close()


def test_figures_come_back_once(device: Device) -> None:
    order = device.package()
    answer = device.carry_out(order)
    assert answer.error == ""
    found = msgspec.json.decode(answer.document, type=Bench)
    (row,) = found.variants
    assert (row.variant, row.error, row.p50_us > 0, found.threads) == ("onnx-fp32", "", True, (1,))
    assert device.carry_out(order) == answer
    assert device.db.models() == ()
    replayed = device.carry_out(msgspec.structs.replace(order, id="c-2"))
    assert (replayed.document, "carried out already" in replayed.error) == ("", True)
    later = device.carry_out(msgspec.structs.replace(order, issued_s=NOW_S + 1))
    assert later.document


@pytest.mark.parametrize("key", [None, STRANGER])
def test_only_what_is_signed_by_a_release_key_is_timed(device: Device, key: SigningKey | None) -> None:
    answer = device.carry_out(device.package(key=key))
    assert (answer.document, "sign" in answer.error) == ("", True)


def test_orders_of_strangers_are_refused(device: Device) -> None:
    order = device.package()
    assert "none of the 1 trusted keys" in device.carry_out(order, key=STRANGER).error
    assert device.carry_out(order).document  # and shut out no good one


def test_expired_orders_are_refused(device: Device) -> None:
    order = msgspec.structs.replace(device.package(), issued_s=NOW_S - 5000, expires_s=NOW_S - 4000)
    assert "expired" in device.carry_out(order).error


def test_what_is_not_the_package_that_was_ordered_is_refused(device: Device) -> None:
    order = device.package()
    blob = device.store.incoming / f"{order.blob_sha256}{BENCH_SUFFIX}"
    raw = bytearray(blob.read_bytes())
    raw[-1] ^= 1
    blob.write_bytes(raw)
    assert "expected sha256" in device.carry_out(order).error
    blob.unlink()
    blob.symlink_to("/etc/passwd")
    assert "plain file" in device.carry_out(msgspec.structs.replace(order, issued_s=NOW_S + 1)).error
    blob.unlink()
    assert "plain file" in device.carry_out(msgspec.structs.replace(order, issued_s=NOW_S + 2)).error


def test_nothing_is_answered_where_nothing_is_asked(device: Device) -> None:
    device.bencher.look()
    device.sync.set_note(BENCH_NOTE, b"x" * 100_000)
    device.bencher.look()
    assert device.db.bench() == BenchAnswer()


def test_what_was_under_way_when_the_daemon_ended_is_answered(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    order = device.package()

    def killed(request: Any, **_: object) -> bytes:
        if isinstance(request, BenchRequest):
            raise KeyboardInterrupt
        return ask(request)

    monkeypatch.setattr(bench_thread, "ask", killed)
    device.sync.set_note(BENCH_NOTE, seal(msgspec.json.encode(order), CONSOLE))
    with pytest.raises(KeyboardInterrupt):
        device.bencher.look()
    assert not device.db.bench().done
    monkeypatch.undo()
    device.start().look()
    assert "broken off" in device.db.bench().error


def test_figures_that_are_too_many_are_refused(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    order = device.package()

    def talkative(request: Any, **_: object) -> bytes:
        return b" " * 300_000 if isinstance(request, BenchRequest) else ask(request)

    monkeypatch.setattr(bench_thread, "ask", talkative)
    assert "at most 262144 bytes, found 300000" in device.carry_out(order).error


@pytest.mark.parametrize(
    "end", [lambda device: device.sync.set_note(BENCH_NOTE, b""), lambda device: device.stop.set()]
)
def test_an_order_that_is_withdrawn_ends(device: Device, end: Callable[[Device], None]) -> None:
    order = msgspec.structs.replace(device.package(), each_ms=600_000, expires_s=NOW_S + 3600)
    device.sync.set_note(BENCH_NOTE, seal(msgspec.json.encode(order), CONSOLE))
    device.bencher.start()
    wait_until(lambda: device.db.bench().order != "", what="the order to be taken up")
    end(device)
    wait_until(lambda: device.db.bench().done, what="the answer")
    assert "called off" in device.db.bench().error
    wait_until(lambda: not device.store.bench_folder.exists(), what="the folder to be gone")
    device.stop.set()


def test_a_process_that_takes_too_long_is_ended(device: Device) -> None:
    order = device.package()
    with device.store.bench_room(order.blob_sha256, order.blob_bytes) as path:
        request = BenchRequest(str(path), (RELEASE.public.hex(),), seconds=600.0, threads=1)
        with pytest.raises(GateError, match="longer than 1 s"):
            ask(request, timeout_s=1.0)
