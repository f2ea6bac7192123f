"""`edgeinfer sync`: the agent as a service, or once by hand.

SIGTERM and SIGINT end it within two seconds with everything durable. SIGHUP reads the configuration again; a
wrong one is reported and the old one stays. systemd is told when it is ready, and that it is alive.
"""

import argparse
import logging
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import msgspec

from edgeinfer.runtime.errors import ConfigError
from edgeinfer.runtime.logs import set_up_logging
from edgeinfer.runtime.notify import notify, reloading, watchdog_interval_s
from edgeinfer.sync.agent import Agent, DrainReport
from edgeinfer.sync.settings import SyncConfig, load_sync_config

__all__ = ["main"]

_log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit status. Raises EdgeInferError for the command line to report."""
    arguments = _parse(argv)
    config = load_sync_config(arguments.config)
    set_up_logging(arguments.log_level or config.log_level, config.log_format)
    if arguments.once:
        return _once(config, timeout_s=arguments.timeout, as_json=arguments.json)
    _Service(arguments.config, config, log_level=arguments.log_level).run()
    return 0


class _Signals:
    """What was signalled, in plain flags that the loop looks at each turn.

    A handler runs in the main thread between any two instructions. One that sets an Event while it has interrupted
    `Event.wait` wants a lock that the interrupted frame holds, and both wait for ever.
    """

    def __init__(self) -> None:
        self.ending = False
        self.reload_wanted = False

    def install(self, *, hangup: bool = True) -> None:
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, self._end)
        if hangup:
            signal.signal(signal.SIGHUP, self._reload)

    def _end(self, _signal: int, _frame: FrameType | None) -> None:
        self.ending = True

    def _reload(self, _signal: int, _frame: FrameType | None) -> None:
        self.reload_wanted = True


class _Service:
    """Keeps an agent running, and replaces it by one with the new configuration after SIGHUP."""

    def __init__(self, path: Path, config: SyncConfig, *, log_level: str | None = None) -> None:
        self._path = path
        self._config = config
        self._log_level = log_level
        self._signals = _Signals()
        self._leave = threading.Event()  # the present agent is to return
        self._watchdog_s = watchdog_interval_s()
        self._watched_s = 0.0

    def run(self) -> None:
        self._signals.install()
        while not self._signals.ending:
            self._leave.clear()
            agent = Agent(self._config)
            _log.info("event=agent_started device=%s state_dir=%s", self._config.device, self._config.state_dir)
            notify("READY=1\nSTATUS=sync agent of " + self._config.device)
            agent.run(self._leave, on_turn=self._on_turn)
        notify("STOPPING=1")
        _log.info("event=agent_stopped device=%s", self._config.device)

    def _on_turn(self) -> None:
        if self._signals.ending:
            self._leave.set()
        if self._signals.reload_wanted:
            self._signals.reload_wanted = False
            self._read_again()
        now_s = time.monotonic()
        if self._watchdog_s is not None and now_s - self._watched_s >= self._watchdog_s:
            self._watched_s = now_s
            notify("WATCHDOG=1")

    def _read_again(self) -> None:
        reloading()
        try:
            config = load_sync_config(self._path)
        except ConfigError as error:
            _log.error("event=reload_refused reason=%r", str(error))
        else:
            set_up_logging(self._log_level or config.log_level, config.log_format)
            _log.info("event=reloaded changed=%s", config != self._config)
            if config != self._config:
                self._config = config
                self._leave.set()
        if not self._leave.is_set():
            notify("READY=1")


def _once(config: SyncConfig, *, timeout_s: float, as_json: bool) -> int:
    stop, signals = threading.Event(), _Signals()
    signals.install(hangup=False)

    def on_turn() -> None:
        if signals.ending:
            stop.set()

    report = Agent(config).drain_once(timeout_s, stop=stop, on_turn=on_turn)
    sys.stdout.write(_render(report, as_json=as_json) + "\n")
    return 0


def _render(report: DrainReport, *, as_json: bool) -> str:
    if as_json:
        return msgspec.json.encode(report).decode()
    return (
        f"sent {report.sent} results ({report.bytes} bytes), {report.acknowledged} acknowledged, "
        f"in {report.seconds:.1f} s; update {report.update}"
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="edgeinfer sync", description="Carry results to the console, and wishes and packages to this device."
    )
    parser.add_argument("--config", type=Path, default=Path("/etc/edgeinfer/sync.toml"), metavar="FILE")
    parser.add_argument("--once", action="store_true", help="send what there is, finish a download, and leave")
    parser.add_argument("--json", action="store_true", help="with --once: print one JSON document")
    parser.add_argument(
        "--timeout", type=_seconds, default=30.0, metavar="S", help="with --once: longest wait without progress"
    )
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="instead of log_level")
    return parser.parse_args(list(argv))


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, found {text}")
    return value
