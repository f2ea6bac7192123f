"""The status document as Prometheus metrics, in its text format.

Names follow https://prometheus.io/docs/practices/naming/: base units (seconds, bytes, celsius), `_total` for what only
grows. Quantiles are over the newest 512 frames of a pipeline; rates are the reader's to make, of the counters.
"""

import functools
from collections.abc import Iterator
from typing import Any

from edgeinfer.runtime.errors import DependencyError

__all__ = ["CONTENT_TYPE", "render"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PIPELINE = "pipeline"
_MICROS = 1e6

Document = dict[str, Any]


def render(document: Document) -> bytes:
    """Raises DependencyError where prometheus-client is not installed."""
    try:
        from prometheus_client import CollectorRegistry, ProcessCollector
        from prometheus_client.exposition import generate_latest
    except ImportError as error:
        raise DependencyError(
            "metrics need prometheus-client, which is not installed here", hint="pip install 'edgeinfer[metrics]'"
        ) from error
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(document))
    ProcessCollector(registry=registry)  # process_resident_memory_bytes, process_cpu_seconds_total, ...
    return generate_latest(registry)


class _Collector:
    """A collector of prometheus_client; what the document does not have is left out, not shown as zero."""

    def __init__(self, document: Document) -> None:
        self._document = document

    def describe(self) -> list[Any]:
        """Nothing: the names are not to be checked against those of other collectors."""
        return []

    def collect(self) -> Iterator[Any]:
        document = self._document
        yield from _device(document)
        yield from _pipelines(document.get("pipelines", {}))
        yield from _models(document)
        yield from _buffer(document.get("buffer", {}))
        if document.get("governor"):
            level = document["governor"].get("level", 0)
            yield _gauge("edgeinfer_governor_level", "Steps that the governor has taken down; 0: full speed.", level)
        yield from _drift(document.get("drift", {}))


def _device(document: Document) -> Iterator[Any]:
    from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

    yield InfoMetricFamily(
        "edgeinfer", "What runs here.", {"device": document.get("device", ""), "version": _version()}
    )
    yield _gauge("edgeinfer_uptime_seconds", "Since the daemon's start.", document.get("uptime_s", 0.0))
    temperature = GaugeMetricFamily("edgeinfer_temperature_celsius", "The hottest thermal zone.")
    if document.get("temperature_c") is not None:
        temperature.add_metric([], document["temperature_c"])
        yield temperature


@functools.cache
def _version() -> str:
    from importlib.metadata import version

    return version("edgeinfer")


def _gauge(name: str, about: str, value: float) -> Any:
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(name, about, value)


def _pipelines(pipelines: dict[str, Document]) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    frames = CounterMetricFamily("edgeinfer_frames", "Frames by the state they ended in.", labels=[_PIPELINE, "state"])
    for name, pipeline in pipelines.items():
        for state, count in pipeline["frames"].items():
            frames.add_metric([name, state], count)
    yield frames
    for key, metric, about in (
        ("captured", "edgeinfer_frames_captured", "Frames read from the source."),
        ("results", "edgeinfer_results", "Results of frames."),
        ("events", "edgeinfer_events", "Events that rules raised."),
        ("restarts", "edgeinfer_engine_restarts", "Engines that were ended and started again."),
    ):
        counter = CounterMetricFamily(metric, about, labels=[_PIPELINE])
        for name, pipeline in pipelines.items():
            counter.add_metric([name], pipeline.get(key, 0))
        yield counter
    for key, metric, about in (
        ("latency_us", "edgeinfer_inference_latency_seconds", "The engine's call."),
        ("age_us", "edgeinfer_frame_age_seconds", "Capture to result."),
    ):
        yield _summary(metric, about, pipelines, key)
    up = GaugeMetricFamily("edgeinfer_source_up", "1 while the source gives frames.", labels=[_PIPELINE])
    for name, pipeline in pipelines.items():
        up.add_metric([name], float(pipeline["source"] == "running"))
    yield up


def _summary(metric: str, about: str, pipelines: dict[str, Document], key: str) -> Any:
    """A summary of quantiles and a count; the sum, which the format lets be absent, is not kept."""
    from prometheus_client.core import Metric

    family = Metric(metric, about, "summary")
    for name, pipeline in pipelines.items():
        found = pipeline.get(key) or {}
        for quantile, short in (("0.5", "p50"), ("0.99", "p99")):
            if found.get(short):
                family.add_sample(metric, {_PIPELINE: name, "quantile": quantile}, found[short] / _MICROS)
        family.add_sample(f"{metric}_count", {_PIPELINE: name}, pipeline["results"])
    return family


def _models(document: Document) -> Iterator[Any]:
    from prometheus_client.core import GaugeMetricFamily

    labels = ["model", "version", "variant", "digest"]
    info = GaugeMetricFamily("edgeinfer_model_info", "Always 1; the labels say what runs.", labels=labels)
    for name, model in document.get("models", {}).items():
        info.add_metric([name, model["version"], model["variant"], model["digest"]], 1)
    yield info
    sizes = GaugeMetricFamily("edgeinfer_model_bytes", "Memory that a loaded model takes.", labels=["model"])
    for name, size in document.get("model_bytes", {}).items():
        sizes.add_metric([name], size)
    yield sizes


def _buffer(buffer: Document) -> Iterator[Any]:
    for key, metric, about in (
        ("durable_seq", "edgeinfer_durable_seq", "The highest result number that survives a power cut."),
        ("pending", "edgeinfer_buffer_pending_results", "Results that are not on disk yet."),
        ("bytes", "edgeinfer_buffer_bytes", "The buffer on the disk."),
        ("max_bytes", "edgeinfer_buffer_max_bytes", "What the buffer may take of the disk."),
    ):
        if key in buffer:
            yield _gauge(metric, about, buffer[key])
    yield _gauge("edgeinfer_buffer_healthy", "0 while results cannot be written.", float(not buffer.get("error")))


def _drift(drift: dict[str, Document]) -> Iterator[Any]:
    """Every number that the newest drift result of a pipeline says."""
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(
        "edgeinfer_drift", "Distance of scores and inputs from the package's reference.", labels=[_PIPELINE, "measure"]
    )
    for name, said in drift.items():
        for measure, value in said.items():
            if isinstance(value, int | float):
                family.add_metric([name, measure], value)
    if drift:
        yield family
