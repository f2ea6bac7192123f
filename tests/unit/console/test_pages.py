"""Every page and every answer, whatever devices say of themselves."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.console.console import Console
from edgeinfer.console.intake import read_message
from edgeinfer.console.repository.base import DeviceChange
from edgeinfer.console.settings import ConsoleConfig
from edgeinfer.console.web.filters import clock, count, flat, latency, size
from edgeinfer.runtime.errors import BufferStorageError, MessageError
from edgeinfer.runtime.results import Item, Kind, Result
from edgeinfer.sync import messages
from kept_chunks import chunk_of

_PATHS = ("/", "/devices/dev-1", "/packages", "/rollouts", "/sign-in", "/fragments/tiles", "/fragments/devices",
    "/fragments/devices/dev-1", "/fragments/devices/dev-1/audit", "/fragments/packages", "/fragments/rollouts",
    "/fragments/results",
    "/api/devices", "/api/devices/dev-1", "/api/v1/devices/dev-1/audit",
    "/api/audit", "/api/series", "/api/results", "/api/status", "/api/keys", "/api/packages", "/api/rollouts",
    "/healthz")  # fmt: skip
_NAMES = st.sampled_from(
    ["model", "variant", "frames", "latency_us", "p50", "source", "error", "captured", "machine", "name", "version",
     "digest", "cpu_percent", "<b>", "items", "keys"]
)  # fmt: skip
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=10,
)
_DOCUMENT = st.dictionaries(_NAMES, _JSON, max_size=4)
_PIPELINES = st.dictionaries(st.sampled_from(["door", "<i>"]), _DOCUMENT, max_size=2)


def _ask(console: Console, path: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(console.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get(path, headers={"accept": "text/html"})

    return asyncio.run(ask())


def _tell(console: Console, rest: str, document: dict[str, Any]) -> None:
    """What ingest would keep of it; what it refuses, nobody gets to see."""
    payload = json.dumps(document).encode()
    try:
        read_message(messages.topic("default", "dev-1", rest), payload, tenant="default")
    except MessageError:
        return
    change = {
        "up/birth": lambda: DeviceChange(profile=document["profile"], engines=document["engines"]),
        "up/reported": lambda: DeviceChange(reported=document),
        "up/tel": lambda: DeviceChange(telemetry=document),
    }[rest]()
    console.repository.change_device("dev-1", change, t_ns=1)


@settings(max_examples=25, deadline=None)
@given(profile=_DOCUMENT, pipelines=_PIPELINES, audit=_DOCUMENT, telemetry=_PIPELINES)
def test_no_document_of_a_device_breaks_a_page(
    tmp_path: Path, profile: dict[str, Any], pipelines: dict[str, Any], audit: dict[str, Any], telemetry: dict[str, Any]
) -> None:
    console = Console(ConsoleConfig(data_dir=str(tmp_path)))
    try:
        _tell(console, "up/birth", {"session": "s", "agent_version": "v", "profile": profile, "engines": {}})
        _tell(console, "up/reported", {"version": 1, "pipelines": pipelines, "audit": audit})
        _tell(console, "up/tel", {"t_ns": 1, "pipelines": telemetry})
        if console.repository.device("dev-1") is not None:
            for path in ("/devices/dev-1", "/", "/api/devices", "/fragments/devices/dev-1/audit"):
                assert _ask(console, path).status_code == 200
    finally:
        console.stop()


@pytest.mark.parametrize("path", _PATHS)
def test_every_page_before_anything_has_come_and_after(tmp_path: Path, path: str) -> None:
    console = Console(ConsoleConfig(data_dir=str(tmp_path)))
    empty = _ask(console, path)
    assert empty.status_code == (404 if "dev-1" in path else 200)
    console.repository.change_device("dev-1", DeviceChange(online=True), t_ns=1)
    extremes = [2**63 - 1, -(2**63)]
    results = [
        Result(Kind(kind), extreme, latency_us=extreme, items=(Item(extreme, float("nan")),))
        for kind, extreme in zip((1, 2, 3, 5, 16), extremes * 3, strict=False)
    ]
    console.repository.add_chunks([chunk_of(results, pipeline="p")])
    assert _ask(console, path).status_code == 200
    console.stop()


def test_a_second_console_with_the_same_data_touches_nothing(tmp_path: Path) -> None:
    console = Console(ConsoleConfig(data_dir=str(tmp_path)))
    (tmp_path / "uploads").mkdir()
    coming = tmp_path / "uploads" / "1.part"
    coming.touch()
    with pytest.raises(BufferStorageError, match="another process is writing it"):
        Console(ConsoleConfig(data_dir=str(tmp_path)))
    assert coming.exists()
    console.stop()
    Console(ConsoleConfig(data_dir=str(tmp_path))).stop()
    assert not coming.exists()


@given(st.none() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2))
def test_filters_write_anything(value: object) -> None:
    for write in (clock, count, latency, size):
        assert isinstance(write(value), str)


def test_flat_is_bounded() -> None:
    deep: dict[str, Any] = {}
    for _ in range(500):
        deep = {"a": deep, "b": list(range(3))}
    assert len(flat(deep)) <= 200
    assert flat({"a": {"b": 1}, "c": [1, 2]}) == [("a.b", "1"), ("c", "1, 2")]
