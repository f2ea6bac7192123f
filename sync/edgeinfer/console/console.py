"""One console, put together: database, broker link, ingest, registry, rollouts and the page's application.

with Console(config) as console:
    serve(console.app)
"""

import logging
from pathlib import Path
from typing import Any, Self

from starlette.applications import Starlette

from edgeinfer.console.audit import Auditor
from edgeinfer.console.batch import Passed
from edgeinfer.console.benches import Benches
from edgeinfer.console.blobs import BlobStore
from edgeinfer.console.commander import Commander
from edgeinfer.console.deployer import Deployer
from edgeinfer.console.device_tokens import DeviceTokens
from edgeinfer.console.documents import Documents
from edgeinfer.console.incoming import Incoming
from edgeinfer.console.ingest import Ingest
from edgeinfer.console.labels import Labels
from edgeinfer.console.live import LiveFeed
from edgeinfer.console.reception import Reception
from edgeinfer.console.registry import Registry
from edgeinfer.console.repository import SqliteRepository
from edgeinfer.console.sent_files import SentFiles
from edgeinfer.console.settings import ConsoleConfig, read_token
from edgeinfer.console.web import Site, make_app
from edgeinfer.console.web.guard import Access
from edgeinfer.console.web.receive import receive_routes
from edgeinfer.runtime.errors import ConfigError
from edgeinfer.runtime.locking import lock, unlock
from edgeinfer.runtime.trust import SigningKey
from edgeinfer.sync.messages import PREFIX, BlobPart, BlobStored, CommandResult, encode, topic
from edgeinfer.sync.mqtt import MqttLink

__all__ = ["Console"]

_log = logging.getLogger(__name__)

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


class Console:
    """Owns the threads and files of a console. `start()` never waits for a broker.

    Raises ConfigError (token, keys), StorageError (database), and BufferStorageError where another
    console has the same data.
    """

    def __init__(self, config: ConsoleConfig) -> None:
        self.config = config
        self._access = _access(config)
        folder = _make_folder(config)
        # Before anything in there is touched: opening an older database converts it.
        self._lock: int | None = lock(folder / "console.db", hint="is a console running with this data_dir?")
        try:
            _remove_uploads(folder)
            self.repository = SqliteRepository(folder / "console.db")
        except BaseException:
            self._unlock()
            raise
        self.feed = LiveFeed()
        blobs = BlobStore(folder / "blobs", self.repository)
        self.registry = Registry(self.repository, blobs, release_keys=config.trust.release_keys)
        self.link = MqttLink(
            config.broker,
            client_id=f"edgeinfer-console-{config.tenant}",
            will=None,
            subscriptions=[(f"{PREFIX}/{config.tenant}/d/+/up/#", 1)],
            on_change=self._link_changed,
        )
        key = SigningKey.load_or_create(folder / "keys" / "console.key")
        self.deployer = Deployer(
            self.repository,
            self.registry,
            self.link,
            key=key,
            tenant=config.tenant,
            changed=self.feed.deployment,
        )
        self.commander = Commander(self.repository, self.link, key=key, tenant=config.tenant)
        self.benches = Benches(self.commander, self.registry, blobs)
        self.incoming = Incoming(
            folder / "blobs-in",
            self.repository,
            config.limits,
            answer=self._answer_part,
            changed=lambda device: self.feed.devices([device]),
        )
        self.ingest = Ingest(
            self.link,
            self.repository,
            deployer=self.deployer,
            blobs=blobs,
            feed=self.feed,
            tenant=config.tenant,
            limits=config.limits,
            pass_on=self._pass_on,
        )
        self.reception = Reception(self.ingest.deliver, self.repository, key=key, tenant=config.tenant)
        self.app = self._make_app()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self, *, connect: bool = True) -> None:
        """Without `connect` it hears no broker, and takes only what is handed in."""
        self.repository.all_offline()
        self.incoming.start()
        self.ingest.start()
        if connect:
            self.link.start()

    def stop(self) -> None:
        """Everything that was acknowledged is durable already; this ends the threads within about a second."""
        self.ingest.stop(timeout_s=0.8)
        self.incoming.stop(timeout_s=0.4)
        self.link.stop(timeout_s=0.4)
        self.repository.close()
        self._unlock()

    def reload(self, config: ConsoleConfig) -> None:
        """Take over the token, who may release, and nothing else: the rest needs a restart."""
        self.registry.set_release_keys(config.trust.release_keys)
        self._access = _access(config)
        for field in ("tenant", "data_dir", "broker", "limits"):
            if getattr(config, field) != getattr(self.config, field):
                _log.warning("event=reload_needs_restart section=%s", field)
        for field in ("host", "port", "max_package_bytes"):
            if getattr(config.web, field) != getattr(self.config.web, field):
                _log.warning("event=reload_needs_restart section=web.%s", field)

    def status(self) -> dict[str, Any]:
        broker = self.config.broker
        return {
            "tenant": self.config.tenant,
            "broker": {
                "connected": self.link.connected,
                "address": f"{broker.host}:{broker.port}",
                "error": "" if self.link.connected else self.link.last_error,
            },
            "storage_error": self.ingest.storage_error,
        }

    def _unlock(self) -> None:
        if self._lock is not None:
            unlock(self._lock)
            self._lock = None

    def _link_changed(self) -> None:
        self.ingest.link_changed()

    def _pass_on(self, device: str, message: Passed) -> None:
        if isinstance(message, BlobPart):
            self.incoming.offer(device, message)
        else:
            self.commander.heard(device, message)
            if isinstance(message, CommandResult):
                self.benches.heard(device, message)

    def _answer_part(self, device: str, answer: BlobStored) -> None:
        self.link.publish(topic(self.config.tenant, device, "down/blob"), encode(answer), qos=1)

    def _make_app(self) -> Starlette:
        documents = Documents(self.repository, Labels(self.repository))
        site = Site(
            repository=self.repository,
            documents=documents,
            auditor=Auditor(self.repository),
            sent_files=SentFiles(self.repository, documents),
            incoming=self.incoming,
            commander=self.commander,
            benches=self.benches,
            registry=self.registry,
            deployer=self.deployer,
            feed=self.feed,
            status=self.status,
            access=lambda: self._access,
            uploads=self.config.folder / "uploads",
            max_package_bytes=self.config.web.max_package_bytes,
        )
        tokens = DeviceTokens(self.config.folder / "devices")
        return make_app(site, receive_routes(self.reception, access=site.access, tokens=tokens))


def _access(config: ConsoleConfig) -> Access:
    token = read_token(config.web)
    if config.web.allowed_hosts or token is None:
        hosts: tuple[str, ...] = (*_LOOPBACK_NAMES, config.web.host, *config.web.allowed_hosts)
    else:
        hosts = ()
    return Access(token=token, for_reading=config.web.token_for_reading, hosts=hosts)


def _make_folder(config: ConsoleConfig) -> Path:
    folder = config.folder
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
    except OSError as error:
        raise ConfigError(f"data_dir: {folder}: cannot be used: {error.strerror}") from error
    return folder


def _remove_uploads(folder: Path) -> None:
    """What was on its way when the console was ended. Raises ConfigError."""
    try:
        for left_over in (folder / "uploads").glob("*.part"):
            left_over.unlink()
    except OSError as error:
        raise ConfigError(f"data_dir: {folder}: cannot be used: {error.strerror}") from error
