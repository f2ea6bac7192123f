"""Metrics: how good a candidate is, by labels or against the float model.

metric = choose_metric("", task, samples)
scored = score_rows(candidate, samples.x, post=post, lowest=metric.lowest, keep_outputs=metric.outputs)
judged = metric.judge(scored, reference, samples)
judged.value, judged.per_example, judged.resample(places)
"""

from edgeinfer.quantize.metrics.agreement import agreement, agreements
from edgeinfer.quantize.metrics.base import Judged, Metric, Unit
from edgeinfer.quantize.metrics.choice import METRICS, choose_metric, default_metric

__all__ = ["METRICS", "Judged", "Metric", "Unit", "agreement", "agreements", "choose_metric", "default_metric"]
