"""Which metric judges: the named one, or what suits the task and the samples."""

import re

from edgeinfer.quantize.dataset import Samples
from edgeinfer.quantize.metrics.agreement import Agreement
from edgeinfer.quantize.metrics.base import Metric
from edgeinfer.quantize.metrics.classes import TopK
from edgeinfer.quantize.metrics.detections import BoxF1, BoxMap
from edgeinfer.quantize.metrics.ranking import Auc
from edgeinfer.quantize.metrics.user import installed_metrics, load_function
from edgeinfer.quantize.metrics.values import Closeness, Cosine, MeanSquaredError, PixelAgreement, PointCloseness
from edgeinfer.runtime.errors import UsageError
from edgeinfer.runtime.manifest import Task

__all__ = ["METRICS", "choose_metric", "default_metric"]

# By task, the one to take first: of those that need labels, where the samples have some.
METRICS: dict[Task, tuple[Metric, ...]] = {
    "classification": (TopK(k=1), TopK(k=5), Auc()),
    "anomaly": (Auc(),),
    "detection": (BoxMap(), BoxF1()),
    "regression": (MeanSquaredError(), Closeness(), Auc()),
    "keypoints": (PointCloseness(),),
    "segmentation": (PixelAgreement(),),
    "embedding": (Cosine(), Closeness()),
    "raw": (Closeness(), Cosine()),
}
_SHORT = {"top1": "top1_accuracy", "map50": "box_map50", "f1": "box_f1", "cosine": "cosine_similarity"}
_TOP_K = re.compile(r"top([1-9]\d{0,3})(_accuracy)?\Z")


def default_metric(task: Task, samples: Samples) -> Metric:
    """The first of the task that the samples have the labels for."""
    fitting = [metric for metric in METRICS[task] if not metric.labelled or _has_labels(metric, samples)]
    return fitting[0] if fitting else METRICS[task][0]


def _has_labels(metric: Metric, samples: Samples) -> bool:
    return any(samples.boxes or ()) if isinstance(metric, BoxMap) else samples.labelled


def choose_metric(name: str, task: Task, samples: Samples) -> Metric:
    """The metric called `name` (`top5`, `auc`, ..., `module:function`, an entry point), or the task's where it is
    empty. Raises UsageError."""
    if not name:
        return default_metric(task, samples)
    if name in installed_metrics() or ":" in name:
        return load_function(name)
    if task == "classification" and (top := _TOP_K.match(name)):
        return TopK(k=int(top[1]))
    known = {metric.name: metric for metric in (*METRICS[task], Agreement(task))}
    wanted = _SHORT.get(name, name)
    if wanted not in known:
        theirs = "".join(f", {entry}" for entry in installed_metrics())
        raise UsageError(
            f"--metric: expected one for the task {task} ({', '.join(known)}{theirs}), found {name!r}",
            hint="module:function names a function of your own",
        )
    return known[wanted]
