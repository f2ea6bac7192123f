"""Makes the sink that the configuration asks for, and the way that results take through it."""

from collections.abc import Callable

from edgeinfer.runtime.handoff import SyncDb
from edgeinfer.sync.allowance import Allowance
from edgeinfer.sync.settings import SyncConfig
from edgeinfer.sync.sinks.base import Sink
from edgeinfer.sync.sinks.driver import SinkWay
from edgeinfer.sync.sinks.settings import HttpSinkConfig, KafkaSinkConfig, MqttSinkConfig

__all__ = ["open_sink", "open_way"]


def open_way(config: SyncConfig, db: SyncDb, allowance: Allowance, *, wake: Callable[[], None]) -> SinkWay:
    """For a `[sink]` of any kind but mqtt. `wake` is called, from another thread, when there is something for `step`.

    Connects to nothing. Raises DependencyError where the sink's client is not installed.
    """
    sink = config.sink
    if isinstance(sink, MqttSinkConfig):
        raise TypeError("expected a sink with answers of its own: mqtt is the Uploader's")
    return SinkWay(config, sink, db, open_sink(sink), allowance=allowance, wake=wake)


def open_sink(config: HttpSinkConfig | KafkaSinkConfig) -> Sink:
    """Each kind's module is imported when it is used. Raises DependencyError."""
    if isinstance(config, HttpSinkConfig):
        from edgeinfer.sync.sinks.http_post import HttpSink

        return HttpSink(config)
    from edgeinfer.sync.sinks.kafka import KafkaSink

    return KafkaSink(config)
