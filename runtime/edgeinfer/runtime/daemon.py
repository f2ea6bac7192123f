"""The daemon: `edgeinfer run`.

`Daemon.run` brings up buffer, store and pipelines, watches them, and takes them down with everything
durable. The update machine has a thread of its own, because its checks may take longer than the watchdog
waits.
"""

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgeinfer.runtime.buffer import Buffer
from edgeinfer.runtime.config import load_config
from edgeinfer.runtime.engines.base import engine_versions
from edgeinfer.runtime.errors import BufferStorageError, ConfigError, EdgeInferError
from edgeinfer.runtime.handoff import RuntimeDb, SyncDb
from edgeinfer.runtime.logs import set_up_logging
from edgeinfer.runtime.notify import notify, reloading, watchdog_interval_s
from edgeinfer.runtime.pipelines import PipelineSet
from edgeinfer.runtime.settings import RuntimeConfig
from edgeinfer.runtime.slots import Slots
from edgeinfer.runtime.status import final_document, status_document
from edgeinfer.runtime.store import Store
from edgeinfer.runtime.updater import Updater
from edgeinfer.runtime.watched import Watched

__all__ = ["Daemon", "main"]

logger = logging.getLogger(__name__)

_DEFAULT_CONFIG = Path("/etc/edgeinfer/edgeinfer.toml")
_TICK_S = 0.1
_STATUS_EVERY = 10  # ticks: each status is a write, though not a sync
_UPDATE_INTERVAL_S = 0.25
# An engine call that takes longer than this is stuck: the watchdog is no longer fed and ends the daemon.
_STUCK_S = 60.0


class AgentView:
    """What the daemon reads of the agent's database, which comes and goes. Used from one thread."""

    def __init__(self, path: Path | None) -> None:
        self._watched = None if path is None else Watched(path, lambda found: SyncDb(found, read_only=True))

    def db(self) -> SyncDb | None:
        return None if self._watched is None else self._watched.current()

    def acknowledged(self, epoch: int) -> int:
        """0 while the agent's database cannot be read: nothing is dropped then."""
        db = self.db()
        if db is None or self._watched is None:
            return 0
        try:
            return db.acknowledged(epoch)
        except BufferStorageError as error:
            self._watched.failed(error)
            return 0


class Daemon:
    """Raises on construction where the configuration cannot be run; `stop` and `reload` may be set by
    signal handlers."""

    def __init__(self, config_path: Path, config: RuntimeConfig, *, until_end: bool = False) -> None:
        self._config_path = config_path
        self._config = config
        self._until_end = until_end
        self.stop = threading.Event()
        self.reload = threading.Event()
        state_dir = Path(config.state_dir)
        sync_path = Path(config.sync.state_dir) / "sync.db" if config.sync.state_dir else None
        self._make_state_dir(state_dir)
        self._store = Store(state_dir)
        self._db = RuntimeDb(state_dir / "runtime.db")
        self._status_db = RuntimeDb(state_dir / "runtime.db")
        buffer_config = config.buffer
        if not buffer_config.path:
            buffer_config = msgspec.structs.replace(buffer_config, path=str(state_dir / "buffer.db"))
        self._buffer_view = AgentView(sync_path)
        self._update_view = AgentView(sync_path)
        self.buffer = Buffer(buffer_config, acknowledged=self._buffer_view.acknowledged)
        slots = Slots(self._db, self._store)
        self.pipelines = PipelineSet(store=self._store, slots=slots, append=self.buffer.append, until_end=until_end)
        self._updater_parts = (self._db, slots)
        self._about: dict[str, Any] = {}

    def run(self) -> None:
        """Until the stop event, or with `until_end` until every source has ended. Everything that was
        inferred is durable when this returns. Raises BufferStorageError where it could not be made so."""
        try:
            self.pipelines.start(self._config.pipeline)
            updater = threading.Thread(target=self._update, name="updater", daemon=True)
            updater.start()
            notify(f"READY=1\nSTATUS={len(self._config.pipeline)} pipelines")
            logger.info("event=started device=%s pipelines=%d", self._config.device, len(self._config.pipeline))
            self._watch()
        finally:
            notify("STOPPING=1")
            self.stop.set()
            self.pipelines.stop()
            durable = self.buffer.close()
            self._publish_status()
            logger.info("event=stopped durable_seq=%d", self.buffer.durable_seq)
        if not durable:
            raise BufferStorageError(
                f"{self.buffer.pending} results could not be made durable: {self.buffer.error or 'the disk is slow'}"
            )

    def _watch(self) -> None:
        """The main thread's loop: reloads, watchdog, status, the end."""
        interval_s = watchdog_interval_s()
        watchdog_every = max(1, int(interval_s / _TICK_S)) if interval_s else 0
        tick = 0
        while not self.stop.wait(_TICK_S):
            if self.reload.is_set():
                self.reload.clear()
                self._reload()
            if watchdog_every and tick % watchdog_every == 0 and self.pipelines.stuck_s() < _STUCK_S:
                notify("WATCHDOG=1")
            if tick == _STATUS_EVERY:
                self._describe_device()
            if tick % _STATUS_EVERY == 0:
                self._publish_status()
            if self._until_end and self.pipelines.ended():
                break
            tick += 1

    def _update(self) -> None:
        """The updater's thread. Its database connection is its own."""
        db, slots = self._updater_parts
        try:
            updater = Updater(
                self._config, store=self._store, db=db, slots=slots, running=self.pipelines, sync=self._update_view.db
            )
            while not self.stop.wait(_UPDATE_INTERVAL_S):
                updater.tick()
        except Exception:
            logger.exception("event=updater_crashed")

    def _reload(self) -> None:
        """Read the configuration again; one that is wrong is reported and the old one stays."""
        reloading()
        try:
            config = load_config(self._config_path, RuntimeConfig)
            if msgspec.structs.replace(config, pipeline=self._config.pipeline) != self._config:
                raise ConfigError("only [[pipeline]] can change without a restart")
            self.pipelines.apply(config.pipeline)
        except EdgeInferError as error:
            logger.error("event=reload_failed error=%s", error)  # noqa: TRY400 - a mistake in a file, not in the code
        else:
            self._config = config
            logger.info("event=reloaded pipelines=%d", len(config.pipeline))
        notify("READY=1")

    def _describe_device(self) -> None:
        """Once, after the pipelines are under way: the profile is worth no delay of the first result."""
        from edgeinfer.devices.probe import probe

        self._about = {"profile": msgspec.to_builtins(probe()), "engines": engine_versions()}

    def _publish_status(self) -> None:
        try:
            self._status_db.set_status(status_document(self.pipelines.all(), self.buffer, about=self._about))
        except BufferStorageError as error:
            logger.warning("event=status_failed error=%s", error)

    @staticmethod
    def _make_state_dir(path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"state_dir {path}: cannot be made: {error.strerror}", hint="name a folder that this user may write"
            ) from error


def main(argv: Sequence[str]) -> int:
    """`edgeinfer run`. Returns the exit status; raises EdgeInferError."""
    arguments = _parse(argv)
    config = load_config(arguments.config, RuntimeConfig)
    set_up_logging(arguments.log_level or config.log_level)
    daemon = Daemon(arguments.config, config, until_end=arguments.until_end)
    signal.signal(signal.SIGTERM, lambda *_: daemon.stop.set())
    signal.signal(signal.SIGINT, lambda *_: daemon.stop.set())
    signal.signal(signal.SIGHUP, lambda *_: daemon.reload.set())
    daemon.run()
    document = final_document(daemon.pipelines.all(), daemon.buffer)
    if arguments.json:
        sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    elif arguments.until_end:
        _print_summary(document)
    failed = next((pipeline.failed for pipeline in daemon.pipelines.all() if pipeline.failed is not None), None)
    if failed is not None:
        raise failed
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="edgeinfer run",
        description="Run the pipelines of a configuration.",
        epilog="--with-sync FILE runs the agent with that sync.toml in the same process.",
    )
    parser.add_argument("--config", type=Path, default=_DEFAULT_CONFIG, metavar="FILE", help="edgeinfer.toml")
    parser.add_argument("--until-end", action="store_true", help="stop when every source has ended")
    parser.add_argument("--json", action="store_true", help="print one JSON document at the end")
    parser.add_argument("--log-level", default="", metavar="LEVEL", help="DEBUG, INFO, WARNING or ERROR")
    return parser.parse_args(argv)


def _print_summary(document: dict[str, Any]) -> None:
    for pipeline in document["pipelines"]:
        frames = ", ".join(f"{state} {count}" for state, count in pipeline["frames"].items() if count)
        sys.stdout.write(
            f"{pipeline['name']}: {pipeline['package']} ({pipeline['variant']}): {pipeline['captured']} frames "
            f"({frames}), {pipeline['results']} results, {pipeline['fps']:.1f} frames/s, "
            f"p50 {pipeline['latency_us']['p50']} us\n"
        )
