"""Detection: the reader of the layout that a package declares. Each family has a module of its own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from edgeinfer.runtime.manifest import DetectPost, TensorSpec
from edgeinfer.runtime.preprocess import Region
from edgeinfer.runtime.results import Item

__all__ = ["compile_detector"]

Array = npt.NDArray[Any]
Detector = Callable[[Array, Sequence[Array], Region], tuple[Item, ...]]


def compile_detector(
    declared: DetectPost, model_input: TensorSpec, outputs: Sequence[TensorSpec], arrays: Mapping[str, Array]
) -> Detector:
    """Raises ModelError where the outputs are not those of the declared format."""
    match declared.format:
        case "tflite_ssd":
            from edgeinfer.runtime.postprocess.ssd import FinishedSsd

            return FinishedSsd(declared, outputs)
        case "ssd":
            from edgeinfer.runtime.postprocess.ssd import AnchoredSsd

            return AnchoredSsd(declared, model_input, outputs, arrays)
        case "boxes":
            from edgeinfer.runtime.postprocess.ssd import SeparateBoxes

            return SeparateBoxes(declared, model_input, outputs)
        case "fastestdet":
            from edgeinfer.runtime.postprocess.fastestdet import FastestDet

            return FastestDet(declared, outputs)
        case "yolo" | "yolov5" | "yolov8":
            from edgeinfer.runtime.postprocess.yolo import Yolo

            return Yolo(declared, model_input, outputs)
        case "yolov10":
            from edgeinfer.runtime.postprocess.yolo import YoloEndToEnd

            return YoloEndToEnd(declared, model_input, outputs)
        case "yolo_dfl":
            from edgeinfer.runtime.postprocess.distribution import YoloHeads

            return YoloHeads(declared, model_input, outputs)
        case "nanodet":
            from edgeinfer.runtime.postprocess.distribution import NanoDet

            return NanoDet(declared, model_input, outputs)
