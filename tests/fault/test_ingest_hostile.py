"""Hostile clients: whatever they send on whatever topic, the console counts it, refuses it and goes on."""

import json
import random
import time
import zlib
from pathlib import Path

import httpx
import msgspec

from brokers import Mosquitto
from consoles import RunningConsole, WireDevice, console_toml, made_results
from edgeinfer.runtime.codec import JSON, encode
from edgeinfer.sync import messages
from edgeinfer.sync.bundle import encode_bundle
from edgeinfer.sync.sinks.framing import Frame
from waiting import wait_until

_DEEP = b"[" * 20_000
_TOPICS = (
    "up/state",
    "up/birth",
    "up/reported",
    "up/job/x",
    "up/get",
    "up/tel",
    "up/res/door",
    "up/res/../x",
    "up/res/_bundle",
    "up/what",
)


def _bodies() -> list[bytes]:
    rng = random.Random(7)
    return [
        b"",
        b"\x00",
        b"{}",
        b"null",
        _DEEP,
        b'{"online": true}',
        b'{"online": "yes", "session": 5}',
        b'{"t_ns": 99999999999999999999999999999}',
        b'{"session":"s","agent_version":"v","epochs":{"-1":1}}',
        b'{"session":"s","agent_version":"v","epochs":{"9999999999999999999999":1}}',
        b'{"version": 1, "models": {"a": 5}}',
        b'{"job":"other","desired_version":1,"state":"COMMITTED"}',
        b'{"sha256":"../../etc/passwd","offset":0,"length":10}',
        b"EI",
        rng.randbytes(100),
        rng.randbytes(70_000),
        b"\xff\xfe\xed" * 10,
        encode_bundle([Frame("up/res/door", b"?")] * 5000),
        encode_bundle([Frame("up/res/_bundle", encode_bundle([Frame("up/res/door", b"?")]))]),
        encode_bundle([Frame("../dev-1/up/res/door", _chunk(first_seq=41))]),
        encode_bundle([Frame("up/res/door", b"?")] * 64),
        encode_bundle([Frame("up/res/door", _chunk())])[:-1],
    ]


def _chunk(**changes: int) -> bytes:
    body = encode(made_results(3), 1)
    chunk = messages.ChunkMessage(codec=1, epoch=1, first_seq=1, n=3, crc=zlib.crc32(body), body=body)
    return messages.encode_chunk(msgspec.structs.replace(chunk, **changes))


def test_everything_on_every_topic_and_the_honest_device_goes_on(tmp_path: Path) -> None:
    began_s = time.monotonic()
    with Mosquitto(tmp_path) as broker:
        config = console_toml(tmp_path, broker.port)
        with RunningConsole(config) as console, WireDevice("dev-1", broker.port) as honest:
            honest.come_online()
            honest.send("door", made_results(20))
            honest.wait_acked(20)
            with WireDevice("dev-2", broker.port) as hostile:
                for rest in _TOPICS:
                    for body in _bodies():
                        hostile.raw(rest, body)
                hostile.link.publish("ei/v1/default/d/bad name!/up/state", b"{}", qos=1)
                assert hostile.link.flush(60.0)
            honest.send("door", made_results(20))
            honest.wait_acked(40)
            audit = console.get("/api/audit")
            assert audit["totals"]["refused"] > 100
            assert audit["totals"]["stored"] == 40
            assert console.audit("dev-1")["refused"] == 0
            log = console.log.read_text()
            assert "Traceback" not in log
            # One line a second at most, whatever comes.
            assert log.count("messages_refused") < 10 + time.monotonic() - began_s


def test_a_bad_chunk_is_neither_stored_nor_acknowledged(tmp_path: Path) -> None:
    bad = {
        "crc32": _chunk(crc=1),
        "found a claim of": _chunk(n=0xFFFFFFFF),
        "sequence numbers from 1": _chunk(first_seq=0),
        "expected a chunk with crc32": _chunk()[:-5],
        "expected a chunk of at least": b"EI",
    }
    with Mosquitto(tmp_path) as broker:
        config = console_toml(tmp_path, broker.port)
        with RunningConsole(config) as console, WireDevice("dev-1", broker.port) as device:
            device.come_online()
            for number, (reason, payload) in enumerate(bad.items(), start=1):
                device.raw("up/res/door", payload)
                wait_until(lambda wanted=number: console.audit("dev-1")["refused"] == wanted, what=reason)  # type: ignore[misc]  # no default is inferred
                assert reason in console.get("/api/devices/dev-1")["refusals"][0]["reason"]
            assert device.acked() == 0
            device.send("door", made_results(5))
            device.wait_acked(5)
            assert console.audit("dev-1")["stored"] == 5


def test_what_came_whole_and_cannot_be_read_does_not_hold_up_the_rest(tmp_path: Path) -> None:
    unreadable = (_chunk(n=4), _chunk(codec=9, first_seq=5), _chunk(codec=JSON, first_seq=8))
    with Mosquitto(tmp_path) as broker:
        config = console_toml(tmp_path, broker.port)
        with RunningConsole(config) as console, WireDevice("dev-1", broker.port) as device:
            device.come_online()
            for payload in unreadable:
                device.raw("up/res/door", payload)
            device.send("door", made_results(5), first_seq=11)
            device.wait_acked(15)
            audit = console.audit("dev-1")
            assert (audit["stored"], audit["undecodable"], audit["gaps"], audit["refused"]) == (5, 10, 0, 3)
            assert not audit["complete"]
            document = console.get("/api/devices/dev-1")
            assert {absent["cause"] for absent in document["absent"]} == {"undecodable"}
            assert all(
                a["reason"] and a["reason"] in r["reason"]
                for a, r in zip(document["absent"], document["refusals"], strict=True)
            )
            assert "10 undecodable" in httpx.get(f"{console.url}/devices/dev-1", timeout=60).text


def test_numbers_too_large_for_the_database_are_refused(tmp_path: Path) -> None:
    import zstandard

    body = zstandard.compress(json.dumps([{"kind": 1, "t_ns": 1 << 70}]).encode())
    payload = messages.encode_chunk(messages.ChunkMessage(JSON, 1, 1, 1, zlib.crc32(body), body))
    with Mosquitto(tmp_path) as broker:
        config = console_toml(tmp_path, broker.port)
        with RunningConsole(config) as console, WireDevice("dev-1", broker.port) as device:
            device.come_online()
            device.raw("up/res/door", payload)
            wait_until(lambda: console.audit("dev-1")["refused"] == 1, what="the refusal")
            assert "64 bits" in console.get("/api/devices/dev-1")["refusals"][0]["reason"]


def test_a_device_cannot_open_gaps_without_end(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        config = console_toml(
            tmp_path, broker.port, more="[limits]\nmax_ranges = 10\nmax_pipelines = 3\nmax_epochs = 2"
        )
        with RunningConsole(config) as console, WireDevice("dev-1", broker.port) as device:
            device.come_online()
            for number in range(20):
                device.send("door", made_results(1), first_seq=10 + 10 * number)
            wait_until(lambda: console.audit("dev-1")["refused"] == 10, what="the limit")
            for name in ("a", "b", "c", "d"):
                device.send(name, made_results(1), first_seq=1)
            wait_until(lambda: console.audit("dev-1")["refused"] == 12, what="the other limits")
            stored = console.audit("dev-1")["stored"]
            # Epoch 1 has gaps and stays; of the others, the older gives way.
            for epoch in (7, 5, 6, 7):
                device.epoch = epoch
                device.send("door", made_results(1), first_seq=1)
                device.wait_acked(1)
            wait_until(lambda: console.audit("dev-1")["epochs"][0]["epoch"] == 7, what="the first one to come back")
            audit = console.audit("dev-1")
            assert [epoch["epoch"] for epoch in audit["epochs"]] == [7, 1]
            assert (audit["stored"] - stored, audit["refused"]) == (3, 12)
            assert audit["retired"]["stored"] == 3
            assert "earlier ones" in httpx.get(f"{console.url}/devices/dev-1", timeout=60).text


def test_gaps_are_named_and_what_fills_them_is_taken(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        config = console_toml(tmp_path, broker.port)
        with RunningConsole(config) as console, WireDevice("dev-1", broker.port) as device:
            device.come_online()
            device.send("door", made_results(10), first_seq=11)
            wait_until(lambda: device.acked() == 0 and bool(device.acks) and bool(device.acks[-1].gaps), what="a gap")
            assert device.acks[-1].gaps == ((1, 10),)
            assert console.audit("dev-1")["gaps"] == 10
            device.send("door", made_results(10), first_seq=1)
            device.wait_acked(20)
            assert console.audit("dev-1")["gaps"] == 0


def test_what_a_device_no_longer_has_is_recorded_as_missing_or_evicted(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        config = console_toml(tmp_path, broker.port)
        with RunningConsole(config) as console, WireDevice("dev-1", broker.port) as device:
            device.come_online(lowest=101)
            device.wait_acked(100)
            device.evicted(101, 50, "the disk was full")
            device.send("door", made_results(10), first_seq=151)
            device.wait_acked(160)
            audit = console.audit("dev-1")
            assert (audit["missing"], audit["evicted"], audit["stored"], audit["complete"]) == (100, 50, 10, False)
            absent = console.get("/api/devices/dev-1")["absent"]
            assert [(a["first"], a["last"], a["cause"]) for a in absent] == [(101, 150, "evicted"), (1, 100, "missing")]
            assert absent[0]["reason"] == "the disk was full"


def test_blobs_go_only_to_devices_and_only_known_ones(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        config = console_toml(tmp_path, broker.port)
        with RunningConsole(config) as console, WireDevice("dev-1", broker.port) as device:
            request = messages.BlobRequest("a" * 64, 0, 100)
            device.say("up/get", request)  # not introduced yet: no answer
            device.come_online()
            device.say("up/get", messages.BlobRequest("b" * 64, 0, 100))
            wait_until(lambda: bool(device.received_ranges()), what="an answer")
            assert [(r.sha256, r.total_bytes) for r in device.ranges] == [("b" * 64, 0)]
            assert console.get("/healthz")["ok"]
