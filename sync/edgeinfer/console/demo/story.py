"""What the demo shows, in order: quantize, run, deliver, lose the network, get it back, deploy a new version."""

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import webbrowser
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from edgeinfer.console.commands import deploy, register
from edgeinfer.console.demo.screen import Screen
from edgeinfer.console.demo.stage import CAMERA, DEVICE, Stage, wait_for
from edgeinfer.console.demo.tally import Tally
from edgeinfer.runtime.errors import EdgeInferError, UsageError

__all__ = ["run_demo"]

_DEFAULT_SECONDS = 30.0
_MAX_SECONDS = 86_400.0
# Shares of the time that are spent on looking; quantizing and swapping take what they take.
_WATCH, _OFFLINE, _AFTER = 0.3, 0.25, 0.2


def run_demo(*, seconds: float = 0.0, browser: bool = True, camera: bool = False, as_json: bool = False) -> int:
    """Show the loop for about `seconds` (0: thirty). Returns the exit status: 1 if anything was lost.

    On a terminal, without `seconds`, the page stays up until Ctrl-C. Every process ends with the demo.
    Raises EdgeInferError where a part does not come up, UsageError for a camera that is not there.
    """
    if camera and not Path(CAMERA).exists():
        raise UsageError(f"{CAMERA}: no such camera", hint="leave --camera out to use the clip")
    if not 0 <= seconds <= _MAX_SECONDS:
        raise UsageError(f"--seconds: expected 0 to {_MAX_SECONDS:.0f}, found {seconds:g}")
    signal.signal(signal.SIGTERM, _interrupt)
    folder = Path(tempfile.mkdtemp(prefix="edgeinfer-demo-"))
    stays = not seconds and not as_json and sys.stdin.isatty() and sys.stderr.isatty()
    try:
        stage = Stage(folder, camera=camera)
        try:
            document = _Story(stage, Screen(), seconds=seconds or _DEFAULT_SECONDS, browser=browser, stays=stays).tell()
        finally:
            stage.close()
    except KeyboardInterrupt:
        sys.stderr.write("\nedgeinfer: the demo was interrupted; every process has ended\n")
        return 130
    except EdgeInferError:
        folder = Path()  # kept: its logs tell what happened
        raise
    finally:
        if folder.name:
            shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    else:
        sys.stdout.write(summary(document))
    return 0 if nothing_lost(document) else 1


class _Story:
    def __init__(self, stage: Stage, screen: Screen, *, seconds: float, browser: bool, stays: bool) -> None:
        self._stage = stage
        self._screen = screen
        self._seconds = seconds
        self._browser = browser
        self._stays = stays
        self._tally = Tally(stage)
        self._offline: dict[str, float] = {}
        self._swap: dict[str, Any] = {}

    def tell(self) -> dict[str, Any]:
        self._quantize()
        self._bring_up()
        self._watch(_WATCH * self._seconds)
        self._lose_the_broker(_OFFLINE * self._seconds)
        self._deploy()
        self._watch(_AFTER * self._seconds)
        if self._stays:
            self._stay()
        return self._close()

    def _quantize(self) -> None:
        self._screen.step("Quantize: the float model becomes the fastest package that keeps its accuracy")
        with self._screen.progress("digits 1.0.0") as progress:
            digits = self._stage.quantize_digits("1.0.0", progress)
        self._tell_search("digits 1.0.0", digits)
        with self._screen.progress("vitals 1.0.0") as progress:
            vitals = self._stage.quantize_vitals(progress)
        self._tell_search("vitals 1.0.0", vitals)

    def _tell_search(self, what: str, document: dict[str, Any]) -> None:
        before, chosen = document["float"], document["chosen"]
        self._screen.say(
            f"{what}: {chosen['variant']}, {document['metric']} {before['metric_value']:.3f} -> "
            f"{chosen['metric_value']:.3f}, {before['bytes'] // 1024} -> {chosen['bytes'] // 1024} KiB, "
            f"{chosen['latency_ratio']:.2f} of the float model's time"
        )
        if not chosen["quantized"]:
            self._screen.say("  (so small a model gains nothing from int8 here: the float one stays first)")

    def _bring_up(self) -> None:
        stage, screen = self._stage, self._screen
        screen.step("Start: an MQTT broker, the console, and a device (daemon and agent)")
        stage.start()
        wait_for("the console's page", lambda: stage.get("healthz") is not None, stage=stage)
        screen.say(f"the console's page: {stage.page}")
        for package in (stage.package("digits", "1.0.0"), stage.package("vitals", "1.0.0")):
            register(package, console_url=stage.page)
        wait_for("the device to come online", self._tally.device_is_online, stage=stage)
        wait_for("the first result to be acknowledged", lambda: self._tally.read().acknowledged > 0, stage=stage)
        screen.say(f"{DEVICE} is online; its results arrive")
        if self._browser and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            threading.Thread(target=webbrowser.open, args=(stage.page,), daemon=True).start()

    def _watch(self, seconds: float) -> None:
        """Results go from the buffer to the console; what is shown is read from both."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            self._stage.check_alive()
            self._screen.moving(self._tally.line())
            time.sleep(0.2)
        self._screen.say(self._tally.line())

    def _lose_the_broker(self, seconds: float) -> None:
        stage, screen = self._stage, self._screen
        screen.step(f"Cut the network for {seconds:.0f} s: the broker is killed, the device goes on")
        before = self._tally.read()
        stage.broker.kill()
        began = time.monotonic()
        self._watch(seconds)
        buffered = self._tally.read().backlog
        self._offline = {"seconds": round(time.monotonic() - began, 3), "buffered": buffered}
        screen.say(f"{buffered} results wait in the device's buffer (before the cut: {before.backlog})")
        screen.step("The network is back")
        stage.broker.start()
        # Whatever was waiting when the broker came back has to arrive, not only what comes after it.
        target = self._tally.read().durable
        wait_for("the buffer to drain", lambda: self._drained(target), stage=stage)
        screen.say(f"all {buffered} have arrived, each once: {self._tally.line()}")

    def _drained(self, target: int) -> bool:
        self._screen.moving(self._tally.line())
        return self._tally.read().acknowledged >= target

    def _deploy(self) -> None:
        stage, screen = self._stage, self._screen
        screen.step("Deploy: digits 2.0.0, trained longer, signed, pulled in ranges, checked, swapped in")
        with screen.progress("digits 2.0.0") as progress:
            document = stage.quantize_digits("2.0.0", progress)
        self._tell_search("digits 2.0.0", document)
        deploy(
            stage.package("digits", "2.0.0"),
            to="all",
            console_url=stage.page,
            wait=True,
            timeout_s=180,
        )
        row = self._tally.update_row()
        if row.state in {"FAILED", "ROLLED_BACK"}:
            raise EdgeInferError(f"the device refused digits 2.0.0: {row.reason}")
        gap_ms = round(row.swap_ms, 3)
        self._swap = {"from": "1.0.0", "to": row.version, "gap_ms": gap_ms}
        screen.say(
            f"the device runs digits {row.version}; its last result of 1.0.0 and its first of 2.0.0 lie {gap_ms:.0f} ms"
        )
        screen.say("apart: the clip has a frame each 80 ms, none was skipped")

    def _stay(self) -> None:
        """Someone is watching: leave everything up until they have seen enough."""
        self._screen.step(f"Look around: {self._stage.page}  (Ctrl-C ends every process)")
        try:
            while True:
                self._stage.check_alive()
                self._screen.moving(self._tally.line())
                time.sleep(0.2)
        except KeyboardInterrupt:
            pass

    def _close(self) -> dict[str, Any]:
        """Stop the device as its service manager would, let the agent deliver the rest, count on both sides."""
        stage = self._stage
        self._screen.step("Stop the device, deliver the rest, compare both sides")
        stage.stop_daemon()
        target = self._tally.read().durable
        wait_for("the last results to be acknowledged", lambda: self._drained(target), stage=stage)
        self._screen.say(self._tally.line())
        return {
            "frames": self._tally.frames(),
            "results": self._tally.results(),
            "swap": self._swap,
            "offline": self._offline,
            "page": stage.page,
        }


def nothing_lost(document: dict[str, Any]) -> bool:
    results = document["results"]
    return bool(
        results["durable"] == results["stored"] == results["acknowledged"]
        and not results["gaps"]
        and not results["evicted"]
    )


def summary(document: dict[str, Any]) -> str:
    """The closing summary, for a person."""
    results, swap, offline = document["results"], document["swap"], document["offline"]
    frames = ", ".join(f"{count} {state}" for state, count in document["frames"].items())
    rows = [
        ("frames", frames),
        ("results made durable on the device", results["durable"]),
        ("results stored by the console", results["stored"]),
        ("acknowledged to the device", results["acknowledged"]),
        ("gaps", results["gaps"]),
        ("duplicates refused by the console", results["duplicates"]),
        ("offline", f"{offline['seconds']:.1f} s, {offline['buffered']} results waited and arrived"),
        ("swap", f"digits {swap['from']} -> {swap['to']}, {swap['gap_ms']:.0f} ms from result to result"),
        ("page", document["page"]),
    ]
    width = max(len(name) for name, _ in rows)
    lines = "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)
    verdict = "Nothing was lost." if nothing_lost(document) else "SOMETHING IS MISSING: see the rows above."
    return f"\n{lines}\n\n  {verdict}\n"


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
