"""A Kafka topic: each chunk is one record, keyed by the device, so that a device's chunks stay in order.

    key = device, value = the chunk message
    headers: pipeline, epoch, first_seq, n, codec (text), and content-type

Acknowledged is what the cluster has confirmed with acks=all, in order and without a hole. The producer is idempotent;
still, a record can come twice (an agent that was killed sends again): readers tell by (device, epoch, first_seq).
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer.runtime.errors import DependencyError
from edgeinfer.sync.messages import MAX_CHUNK_BYTES, Ack
from edgeinfer.sync.sinks.base import Batch, BatchTooLargeError, Chunk, SinkError, SinkRefusedError
from edgeinfer.sync.sinks.settings import KafkaSinkConfig

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message, Producer

__all__ = ["KafkaSink"]

_log = logging.getLogger(__name__)

_CHUNK_TYPE = b"application/vnd.edgeinfer.chunk"
_MAX_RECORD_BYTES = MAX_CHUNK_BYTES + (64 << 10)
_POLL_S = 0.05
# How long what was given up may take to be let go of: the next delivery starts with a producer of its own.
_PURGE_S = 0.3
# What trying again does not mend (librdkafka's names): who we are, and the topic.
_FINAL = {
    "_AUTHENTICATION",
    "_UNKNOWN_TOPIC",
    "CLUSTER_AUTHORIZATION_FAILED",
    "INVALID_RECORD",
    "POLICY_VIOLATION",
    "SASL_AUTHENTICATION_FAILED",
    "TOPIC_AUTHORIZATION_FAILED",
    "TOPIC_EXCEPTION",
    "UNKNOWN_TOPIC_OR_PART",
    "UNSUPPORTED_SASL_MECHANISM",
}
_HINTS = {
    "_UNKNOWN_TOPIC": "make the topic, or let the cluster make it",
    "UNKNOWN_TOPIC_OR_PART": "make the topic, or let the cluster make it",
}


class KafkaSink:
    """Produces to `config.topic`. See `Sink`. Raises DependencyError where the client is not installed."""

    local_address = ""  # the client does not tell

    def __init__(self, config: KafkaSinkConfig) -> None:
        try:
            from confluent_kafka import Producer
        except ImportError as error:
            raise DependencyError(
                "[sink] kind = 'kafka' needs confluent-kafka, which is not installed here",
                hint="pip install 'edgeinfer[kafka]'",
            ) from error
        self._config = config
        self._make = Producer
        self._producer: Producer | None = None
        self._last_error: KafkaError | None = None
        self._aborted = False

    def deliver(self, batch: Batch) -> Ack:
        """Records that were confirmed before the first one that was not."""
        from confluent_kafka import KafkaException

        deadline_s = time.monotonic() + self._config.timeout_s
        reports: dict[int, KafkaError | None] = {}
        try:
            if self._producer is None:
                self._producer = self._make(self._settings())
            self._produce(self._producer, batch, reports)
            self._wait(self._producer, len(batch.chunks), reports, deadline_s)
        except (KafkaException, BufferError, ValueError) as error:
            self._drop()
            raise self._error(_kafka_error(error), str(error)) from error
        return self._outcome(batch, reports)

    def abort(self) -> None:
        self._aborted = True

    def close(self) -> None:
        self._drop()

    def _produce(self, producer: "Producer", batch: Batch, reports: "dict[int, KafkaError | None]") -> None:
        for chunk in batch.chunks:
            producer.produce(
                self._config.topic,
                key=batch.device.encode(),
                value=chunk.message,
                headers=_headers(batch, chunk),
                on_delivery=_noting(reports, chunk.first_seq),
            )

    def _wait(
        self, producer: "Producer", expected: int, reports: "dict[int, KafkaError | None]", deadline_s: float
    ) -> None:
        """Until each record has been confirmed or given up, or time is up."""
        while len(reports) < expected and time.monotonic() < deadline_s and not self._aborted:
            producer.poll(_POLL_S)
            if any(error is not None for error in reports.values()):
                return

    def _outcome(self, batch: Batch, reports: "dict[int, KafkaError | None]") -> Ack:
        acked = batch.first_seq - 1
        for chunk in batch.chunks:
            if chunk.first_seq not in reports or reports[chunk.first_seq] is not None:
                break
            acked = chunk.last_seq
        if acked == batch.last_seq:
            return Ack(batch.epoch, acked)
        # Records that are still on their way must not overtake those that are sent again.
        self._drop()
        if acked >= batch.first_seq:
            return Ack(batch.epoch, acked)
        failed = next((error for error in reports.values() if error is not None), None)
        raise self._error(failed or self._last_error, "ended" if self._aborted else "no answer in time")

    def _error(self, error: "KafkaError | None", otherwise: str) -> SinkError:
        where = f"{','.join(self._config.brokers)} topic {self._config.topic}"
        if error is None:
            return SinkError(f"{where}: {otherwise}")
        if error.name() == "MSG_SIZE_TOO_LARGE":
            return BatchTooLargeError(
                f"{where}: {error.str()}", hint=f"max.message.bytes of the topic: {_MAX_RECORD_BYTES} takes any chunk"
            )
        if error.name() in _FINAL:
            return SinkRefusedError(f"{where}: {error.str()}", hint=_HINTS.get(error.name(), ""))
        return SinkError(f"{where}: {error.str()}")

    def _drop(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            producer.flush(_PURGE_S)

    def _settings(self) -> dict[str, str | int | bool | object]:
        """librdkafka's own names (CONFIGURATION.md there)."""
        config = self._config
        secure = config.tls or bool(config.tls_ca) or bool(config.tls_cert)
        protocol = ("SASL_" if config.username else "") + ("SSL" if secure else "PLAINTEXT")
        settings: dict[str, str | int | bool | object] = {
            "bootstrap.servers": ",".join(config.brokers),
            "client.id": "edgeinfer",
            "security.protocol": protocol,
            "acks": "all",
            "enable.idempotence": True,
            "message.timeout.ms": int(config.timeout_s * 1000),
            "message.max.bytes": _MAX_RECORD_BYTES,  # the cluster's own limit decides
            "queue.buffering.max.kbytes": 16 << 10,
            "partitioner": "murmur2_random",  # as Java's clients place a key
            "compression.type": "none",  # chunks are compressed
            "log_level": 0,
            "error_cb": self._note_error,
        }
        files = {
            "ssl.ca.location": config.tls_ca,
            "ssl.certificate.location": config.tls_cert,
            "ssl.key.location": config.tls_key,
        }
        settings |= {name: path for name, path in files.items() if path}
        if config.username:
            settings["sasl.mechanism"] = config.mechanism
            settings["sasl.username"] = config.username
            settings["sasl.password"] = _password(config.password_file)
        return settings

    def _note_error(self, error: "KafkaError") -> None:
        self._last_error = error
        _log.debug("event=kafka_error reason=%r", error.str())


def _headers(batch: Batch, chunk: Chunk) -> list[tuple[str, str | bytes | None]]:
    return [
        ("content-type", _CHUNK_TYPE),
        ("pipeline", chunk.pipeline),
        ("epoch", str(batch.epoch)),
        ("first_seq", str(chunk.first_seq)),
        ("n", str(chunk.n)),
        ("codec", str(chunk.codec)),
    ]


def _noting(reports: "dict[int, KafkaError | None]", first_seq: int) -> "Callable[[KafkaError | None, Message], None]":
    def note(error: "KafkaError | None", _message: "Message") -> None:
        reports[first_seq] = error

    return note


def _kafka_error(error: Exception) -> "KafkaError | None":
    from confluent_kafka import KafkaError

    found = error.args[0] if error.args else None
    return found if isinstance(found, KafkaError) else None


def _password(path: str) -> str:
    """Raises SinkRefusedError."""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SinkRefusedError(f"{path}: the password cannot be read: {reason}") from error
