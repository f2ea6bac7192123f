"""`edgeinfer console`: the console as a service, with its page served from the same process."""

import argparse
import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvicorn

from edgeinfer.console.console import Console
from edgeinfer.console.settings import WebConfig, load_console_config
from edgeinfer.runtime.errors import ConfigError, EdgeInferError
from edgeinfer.runtime.logs import set_up_logging
from edgeinfer.runtime.notify import notify, reloading, watchdog_interval_s

__all__ = ["main", "page_address"]

_log = logging.getLogger(__name__)

# Open event streams are ended at once; what is left is short.
_GRACE_S = 1
_DEFAULT_CONFIG = "/etc/edgeinfer/console.toml"


def main(argv: Sequence[str]) -> int:
    """Run until SIGTERM or SIGINT. Raises ConfigError and what `Console` raises before it serves."""
    arguments = _parser().parse_args(argv)
    set_up_logging()
    path = Path(arguments.config)
    config = load_console_config(path)
    console = Console(config)
    listener = _listen(config.web)
    address = page_address(config.web, listener)
    print(f"edgeinfer console: {address}", file=sys.stderr, flush=True)  # noqa: T201 - where to look
    if arguments.json:
        print(json.dumps({"page": address}), flush=True)  # noqa: T201 - the documented output
    with console:
        asyncio.run(_serve(console, listener, path))
    return 0


def page_address(web: WebConfig, listener: socket.socket) -> str:
    """The page's address, as a browser on this machine would open it."""
    host, port = listener.getsockname()[:2]
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{'localhost' if web.host == 'localhost' else name}:{port}/"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgeinfer console",
        description="The fleet side: ingest, page, rollouts.",
        epilog="Of a console that runs: edgeinfer console audit DEVICE, console logs DEVICE, console import DIR.",
    )
    parser.add_argument("--config", default=_DEFAULT_CONFIG, metavar="FILE", help="console.toml")
    parser.add_argument("--json", action="store_true", help="print the page's address as one JSON document")
    return parser


def _listen(web: WebConfig) -> socket.socket:
    """Raises ConfigError when the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            web.host, web.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise ConfigError(
            f"web: cannot listen on {web.host}:{web.port}: {error.strerror or error}",
            hint="is another console running? set web.port",
        ) from error
    return listener


class _Server(uvicorn.Server):
    """uvicorn, without its own signal handlers, and with an event for the moment when it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.serving = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.serving.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(console: Console, listener: socket.socket, path: Path) -> None:
    server = _Server(
        uvicorn.Config(
            console.app,
            access_log=False,
            log_config=None,
            log_level="warning",
            timeout_graceful_shutdown=_GRACE_S,
            ws="none",
            server_header=False,
        )
    )

    def stop() -> None:
        notify("STOPPING=1")
        console.app.state.hub.end_streams()
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, _reload, console, path)
    watchdog = asyncio.create_task(_watch(console, server.serving), name="watchdog")
    try:
        await server.serve(sockets=[listener])
    finally:
        watchdog.cancel()
        await asyncio.gather(watchdog, return_exceptions=True)


async def _watch(console: Console, serving: asyncio.Event) -> None:
    """READY once the page is served; then WATCHDOG for as long as ingest turns."""
    await serving.wait()
    notify("READY=1\nSTATUS=serving")
    interval_s = watchdog_interval_s()
    if interval_s is None:
        return
    turns = -1
    while True:
        if console.ingest.alive and console.ingest.turns != turns:
            turns = console.ingest.turns
            notify("WATCHDOG=1")
        await asyncio.sleep(interval_s)


def _reload(console: Console, path: Path) -> None:
    """SIGHUP. A configuration that is wrong changes nothing."""
    reloading()
    try:
        console.reload(load_console_config(path))
        _log.info("event=reloaded config=%s", path)
    except EdgeInferError as error:
        _log.error("event=reload_failed error=%r", str(error))
    notify("READY=1")
