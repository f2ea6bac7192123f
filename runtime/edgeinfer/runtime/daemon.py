"""The daemon: `edgeinfer run`.

`Daemon.run` brings up buffer, store and pipelines, watches them, and takes them down with everything
durable. The update machine has a thread of its own, because its checks may take longer than the watchdog
waits.
"""

import argparse
import functools
import gc
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import msgspec

from edgeinfer.runtime.agent_view import AcknowledgedReader, AgentView
from edgeinfer.runtime.assembly import Surroundings
from edgeinfer.runtime.buffer import Buffer
from edgeinfer.runtime.choosing import chosen_variant
from edgeinfer.runtime.config import load_config
from edgeinfer.runtime.engines.base import engine_versions
from edgeinfer.runtime.errors import BufferStorageError, ConfigError, EdgeInferError, SourceError, UsageError
from edgeinfer.runtime.frame import FrameState
from edgeinfer.runtime.handoff import RuntimeDb
from edgeinfer.runtime.local.desk import Desk
from edgeinfer.runtime.local.live import LiveBoard
from edgeinfer.runtime.logs import set_up_logging
from edgeinfer.runtime.memory import give_back_memory
from edgeinfer.runtime.models import ModelPool
from edgeinfer.runtime.notify import notify, reloading, watchdog_interval_s
from edgeinfer.runtime.pipeline import Pipeline
from edgeinfer.runtime.pipelines import PipelineSet
from edgeinfer.runtime.recent import Recent
from edgeinfer.runtime.rows import UpdateRow
from edgeinfer.runtime.settings import RuntimeConfig
from edgeinfer.runtime.slots import Slots
from edgeinfer.runtime.status import StatusBoard, final_document
from edgeinfer.runtime.store import Store
from edgeinfer.runtime.supervisor import Supervisor
from edgeinfer.runtime.trust import parse_public_key

if TYPE_CHECKING:
    from edgeinfer.runtime.bench_thread import BenchThread
    from edgeinfer.runtime.chooser import Chooser
    from edgeinfer.runtime.update_thread import UpdateThread

__all__ = ["Daemon", "main"]

logger = logging.getLogger(__name__)

_DEFAULT_CONFIG = Path("/etc/edgeinfer/edgeinfer.toml")
_TICK_S = 0.1
_STATUS_S = 1.0
# What a signal to end may take: the pipelines first, the rest (and no less than the least) is the buffer's.
_END_S = 1.5
_END_PIPELINES_S = 1.0
# Pictures that a slow disk takes longer for are written beside the results, which are worth more.
_END_PICTURES_S = 3.0
_END_BUFFER_LEAST_S = 0.5
# A disk that refuses nothing and is only slow costs no result. Counted from the signal, as the service manager does,
# which waits for ten seconds.
_END_SLOW_DISK_S = 8.5
# Nobody waits for a run until the end of its sources; its last results may take a slow disk.
_UNHURRIED_S = 10.0
_UNHURRIED_LOOK_S = 0.5
_UNHURRIED_SLOW_DISK_S = 120.0


class Daemon:
    """Raises on construction where the configuration cannot be run; `ending` and `reload_wanted` are
    set by signal handlers."""

    def __init__(self, config_path: Path, config: RuntimeConfig, *, until_end: bool = False) -> None:
        self._config_path = config_path
        self._config = config
        self._until_end = until_end
        self.stop = threading.Event()
        # Plain flags for signal handlers: one that sets an Event while the main thread waits on it can deadlock.
        self.ending = False
        self.reload_wanted = False
        state_dir = Path(config.state_dir)
        sync_path = Path(config.sync.state_dir) / "sync.db" if config.sync.state_dir else None
        self._make_state_dir(state_dir)
        self._store = Store(state_dir)
        self._db = RuntimeDb(state_dir / "runtime.db")
        recent = Recent()
        board = LiveBoard() if config.local is not None and config.local.page else None
        self._status = StatusBoard(
            RuntimeDb(state_dir / "runtime.db"), recent, has_governor=config.governor is not None
        )
        buffer_config = config.buffer
        if not buffer_config.path:
            buffer_config = msgspec.structs.replace(buffer_config, path=str(state_dir / "buffer.db"))
        self._acknowledged = AcknowledgedReader(sync_path)
        self._update_view = AgentView(sync_path)
        self._bench_view = AgentView(sync_path)
        self.buffer = Buffer(buffer_config, acknowledged=self._acknowledged.acknowledged, seen=self._acknowledged.seen)
        slots = Slots(self._db, self._store, release_keys=config.trust.release_keys)
        append = recent.listening(self.buffer.append)
        self.pool = ModelPool(config.models)
        self.pipelines = PipelineSet(
            store=self._store,
            slots=slots,
            append=append,
            around=Surroundings(state_dir, config, board),
            pool=self.pool,
            until_end=until_end,
            backing=self.buffer,
            chosen=functools.partial(chosen_variant, self._db),
        )
        # Who ends what is stuck must not wait for a disk that is.
        append_at_once = recent.listening(functools.partial(self.buffer.append, wait=False))
        self._supervisor = Supervisor(config, pipelines=self.pipelines, pool=self.pool, append=append_at_once)
        self._slots = slots
        self._updater: UpdateThread | None = None
        self._chooser: Chooser | None = None
        self._bencher: BenchThread | None = None
        self._about: dict[str, Any] = {"device": config.device}
        self._desk = Desk(
            lambda: self._config, store=self._store, slots=slots, db=self._db, pipelines=self.pipelines,
            board=board, status=self._fresh_status, stop=self.stop,
        )  # fmt: skip

    def run(self) -> None:
        """Until the stop event, or with `until_end` until every source has ended. Everything that was
        inferred is durable when this returns. Raises BufferStorageError where it could not be made so."""
        try:
            if self._until_end:
                self._choose_first()
            self.pipelines.start(self._config.pipeline)
            self._start_updater()
            self._start_bencher()
            self._desk.start()
            count = len(self._config.pipeline)
            notify(f"READY=1\nSTATUS={count} pipeline{'s' * (count != 1)}")
            logger.info("event=started device=%s pipelines=%d", self._config.device, count)
            self._supervisor.start()
            self._choose_beside()
            self._watch()
        finally:
            notify("STOPPING=1")
            durable = self._end()
            self._publish_status(always=True)
            logger.info("event=stopped durable_seq=%d", self.buffer.durable_seq)
        if not durable:
            raise BufferStorageError(
                f"{self.buffer.pending} results could not be made durable: {self.buffer.error or 'the disk is slow'}"
            )

    def _start_updater(self) -> None:
        """A device without an agent gets no updates, and need not load what walks them; one that has lost its agent
        in the middle of one still has to end that."""
        if not self._config.sync.state_dir and self._db.update().state == UpdateRow().state:
            return
        from edgeinfer.runtime.update_thread import UpdateThread

        self._updater = UpdateThread(
            self._config,
            store=self._store,
            db=self._db,
            slots=self._slots,
            running=self.pipelines,
            agent=self._update_view,
            stop=self.stop,
        )
        self._updater.start()

    def _start_bencher(self) -> None:
        """Orders to time a package come from a console whose key is known, by the agent."""
        if self._bencher is not None or not (self._config.sync.state_dir and self._config.trust.console_keys):
            return
        from edgeinfer.runtime.bench_thread import BenchThread

        self._bencher = BenchThread(
            lambda: self._config, store=self._store, db=self._db, agent=self._bench_view, stop=self.stop
        )
        self._bencher.start()

    def _choose_first(self) -> None:
        """Recorded data waits until the variants of its models are measured, where their packages ask for that."""
        from edgeinfer.runtime.chooser import choose_before_start

        choose_before_start(self._config, db=self._db, store=self._store, slots=self._slots)

    def _choose_beside(self) -> None:
        """Live sources do not wait: a thread measures beside them, and changes over between two frames."""
        if self._chooser is None:
            if not any(pipeline.model.package.manifest.choose == "measured" for pipeline in self.pipelines.all()):
                return
            from edgeinfer.runtime.chooser import Chooser

            running = self.pipelines
            self._chooser = Chooser(
                self._desk.activation(), models=lambda: {one.model.name for one in running.all()}, stop=self.stop
            )
        self._chooser.start()

    def _end(self) -> bool:
        """Stop everything, whatever the disk does. Whether all results are durable."""
        hurried = self.ending or self.stop.is_set()
        began_s = time.monotonic()
        self.stop.set()
        self._desk.stop()
        self._acknowledged.stop()
        self.buffer.stop_waiting()
        self._supervisor.stop()
        self.pipelines.stop(_END_PIPELINES_S, leave_s=_END_PICTURES_S if hurried else math.inf)
        if not hurried:
            self._flush_unhurried()
            began_s = time.monotonic()
        taken_s = time.monotonic() - began_s
        return self.buffer.close(max(_END_BUFFER_LEAST_S, _END_S - taken_s), slow_s=_END_SLOW_DISK_S - taken_s)

    def _flush_unhurried(self) -> None:
        """Give a slow disk its time, and one that refuses some of it; until a signal says that somebody waits."""
        began_s = time.monotonic()
        while self.buffer.alive and not self.ending and not self.buffer.flush(_UNHURRIED_LOOK_S):
            if time.monotonic() - began_s > (_UNHURRIED_S if self.buffer.error else _UNHURRIED_SLOW_DISK_S):
                break

    def _watch(self) -> None:
        """The main thread's loop: reloads, watchdog, status, the end. It goes by the clock: a turn that has taken long
        must not put off the next sign of life."""
        interval_s = watchdog_interval_s()
        began_s = time.monotonic()
        fed_s = shown_s = float("-inf")
        is_described = False
        while not (self.ending or self.stop.is_set()):
            time.sleep(_TICK_S)
            if self.reload_wanted:
                self.reload_wanted = False
                self._reload()
            now_s = time.monotonic()
            is_due = interval_s is not None and now_s - fed_s >= interval_s
            if is_due and self._supervisor.healthy() and self.buffer.alive:
                notify("WATCHDOG=1")
                fed_s = now_s
            if not is_described and now_s - began_s >= _STATUS_S:
                is_described = True
                self._describe_device()
                self._forget_start()
            if now_s - shown_s >= _STATUS_S:
                shown_s = now_s
                self._publish_status()
            if self._until_end and self.pipelines.ended():
                break

    def _reload(self) -> None:
        """Read the configuration again; one that is wrong is reported and the old one stays."""
        reloading()
        try:
            config = load_config(self._config_path, RuntimeConfig)
            old = self._config
            changeable = msgspec.structs.replace(
                config, pipeline=old.pipeline, trust=old.trust, trial_s=old.trial_s, log_level=old.log_level
            )
            _check_changes(old, changeable)
            _check_keys(config)
            self._slots.release_keys = config.trust.release_keys
            self.pipelines.apply(config.pipeline)
        except EdgeInferError as error:
            logger.error("event=reload_failed error=%s", error)  # noqa: TRY400 - a mistake in a file, not in the code
        except Exception:  # out of threads or files, say: what runs goes on
            logger.exception("event=reload_failed")
        else:
            self._config = config
            if self._updater is not None:
                self._updater.reconfigure(config)
            logging.getLogger("edgeinfer").setLevel(config.log_level)
            self._choose_beside()
            self._start_bencher()
            logger.info("event=reloaded pipelines=%d", len(config.pipeline))
        notify("READY=1")

    def _describe_device(self) -> None:
        """Once, after the pipelines are under way: the profile is worth no delay of the first result."""
        from edgeinfer.devices.probe import probe

        self._about |= {"profile": msgspec.to_builtins(probe()), "engines": engine_versions()}

    @staticmethod
    def _forget_start() -> None:
        """What only the start needed goes back to the system. The rest stays until the end: to look through it again
        with every full collection would hold up each thread for some 10 ms, and find nothing."""
        gc.freeze()
        give_back_memory()

    def _fresh_status(self) -> dict[str, Any]:
        return self._status.fresh(self.pipelines.all(), self.buffer, about=self._about)

    def _publish_status(self, *, always: bool = False) -> None:
        try:
            self._status.show(self.pipelines.all(), self.buffer, about=self._about, always=always)
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


def _check_changes(old: RuntimeConfig, changeable: RuntimeConfig) -> None:
    """`changeable` is the new configuration with the old one's parts that may change. Raises ConfigError."""
    if changeable != old:
        raise ConfigError("only [[pipeline]], [trust], trial_s and log_level can change without a restart")


def _check_keys(config: RuntimeConfig) -> None:
    """A key that is no key would be found out only when an update is refused. A file that is not there yet may come
    (the console makes its key when it is first started), so that is only said."""
    for key in (*config.trust.release_keys, *config.trust.console_keys):
        try:
            parse_public_key(key)
        except UsageError as error:
            if key.endswith(".pub") and not Path(key).exists():
                logger.warning("event=key_missing file=%s", key)
            else:
                raise ConfigError(f"[trust]: {error.message}", hint=error.hint) from error


def main(argv: Sequence[str]) -> int:
    """`edgeinfer run`. Returns the exit status; raises EdgeInferError."""
    arguments = _parse(argv)
    config = load_config(arguments.config, RuntimeConfig)
    set_up_logging(arguments.log_level or config.log_level, config.log_format)
    _check_keys(config)
    daemon = Daemon(arguments.config, config, until_end=arguments.until_end)
    _listen_to_signals(daemon)
    daemon.run()
    document = final_document(daemon.pipelines.all(), daemon.buffer)
    if arguments.json:
        sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    elif arguments.until_end:
        _print_summary(document)
    failed = next((pipeline.failed for pipeline in daemon.pipelines.all() if pipeline.failed is not None), None)
    if failed is not None:
        raise failed
    useless = next((p for p in daemon.pipelines.all() if arguments.until_end and _inferred_nothing(p)), None)
    if useless is not None:
        raise SourceError(f"pipeline {useless.config.name!r}: every frame failed: {useless.status.error}")
    if any(pipeline.stuck for pipeline in daemon.pipelines.all()):
        _leave_at_once()
    return 0


def _leave_at_once() -> None:
    """A thread is still in an engine's call: the interpreter's own end would pull the library away from under it, and
    the process would abort. Everything is durable, nothing is left to do."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _inferred_nothing(pipeline: Pipeline) -> bool:
    counts = pipeline.counts.totals()
    return bool(counts[FrameState.FAILED]) and not counts[FrameState.INFERRED]


def _listen_to_signals(daemon: Daemon) -> None:
    def end(_signal: int, _frame: FrameType | None) -> None:
        daemon.ending = True

    def reload(_signal: int, _frame: FrameType | None) -> None:
        daemon.reload_wanted = True

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGHUP, reload)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="edgeinfer run",
        description="Run the pipelines of a configuration.",
        epilog="--with-sync FILE runs the agent with that sync.toml in the same process.",
    )
    parser.add_argument("--config", type=Path, default=_DEFAULT_CONFIG, metavar="FILE", help="edgeinfer.toml")
    parser.add_argument("--until-end", action="store_true", help="stop when every source has ended")
    parser.add_argument("--json", action="store_true", help="print one JSON document at the end")
    levels = ("DEBUG", "INFO", "WARNING", "ERROR")
    parser.add_argument(
        "--log-level", default="", type=str.upper, choices=levels, help="in place of the configured one"
    )
    return parser.parse_args(argv)


def _print_summary(document: dict[str, Any]) -> None:
    for pipeline in document["pipelines"]:
        frames = ", ".join(f"{state} {count}" for state, count in pipeline["frames"].items() if count)
        sys.stdout.write(
            f"{pipeline['name']}: {pipeline['package']} ({pipeline['variant']}): {pipeline['captured']} frames "
            f"({frames}), {pipeline['results']} results, {pipeline['fps']:.1f} frames/s, "
            f"p50 {pipeline['latency_us']['p50']} us\n"
        )
