"""A database that cannot be written: nothing is acknowledged, the page says so, and it goes on afterwards."""

import sqlite3
from pathlib import Path

import httpx

from brokers import Mosquitto
from consoles import RunningConsole, WireDevice, console_toml, made_results
from waiting import wait_until


def test_what_cannot_be_stored_is_not_acknowledged(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        config = console_toml(tmp_path, broker.port)
        with RunningConsole(config) as console, WireDevice("dev-1", broker.port) as device:
            device.come_online()
            device.send("door", made_results(10))
            device.wait_acked(10)
            other = sqlite3.connect(tmp_path / "data" / "console.db", isolation_level=None, timeout=60)
            other.execute("BEGIN IMMEDIATE")
            device.send("door", made_results(10))
            wait_until(
                lambda: "locked" in console.get("/api/status")["storage_error"],
                what="the console to tell",
            )
            assert httpx.get(console.url + "/healthz", timeout=60).status_code == 503
            assert "Results cannot be stored right now" in httpx.get(console.url, timeout=60).text
            assert device.acked() == 10
            other.execute("ROLLBACK")
            other.close()
            # What was taken is kept and stored now, without being sent again.
            device.wait_acked(20)
            wait_until(lambda: console.get("/api/status")["storage_error"] == "", what="the error to be gone")
            assert (console.audit("dev-1")["stored"], console.audit("dev-1")["gaps"]) == (20, 0)
            assert "Traceback" not in console.log.read_text()
