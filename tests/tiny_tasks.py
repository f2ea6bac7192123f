"""The MLPerf Tiny models and MobileNet as float rows, and plain static quantization as a tool does it unmended."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgeinfer.runtime.engines.base import Array


class Calibrating:
    """An array of rows as calibration samples."""

    def __init__(self, rows: Array) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[list[Array]]:
        return iter([[self.rows[i : i + 1]] for i in range(len(self.rows))])


def tiny_rows(data_dir: Path, task: str) -> Array:
    """float32 rows of `kws`, `vww` or `ic`, as the float models take them (data folder's README)."""
    with np.load(data_dir / "tiny" / f"{task}_samples.npz", allow_pickle=False) as archive:
        x: Array = archive["x"].astype(np.float32)
    if task == "kws":
        x = (x - 83) * 0.5847029089927673
    return np.asarray(x / 255 if task == "vww" else x, np.float32)


def run_onnx(path: Path, rows: Array) -> Array:
    """The first output of each row."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: rows[i : i + 1]})[0] for i in range(len(rows))])


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # onnxruntime publishes no types
    def __init__(self, name: str, rows: Array) -> None:
        self._feeds = iter([{name: rows[i : i + 1]} for i in range(len(rows))])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._feeds, None)


def quantize_u8s8(source: Path, target: Path, rows: Array, *, reduce_range: bool, per_channel: bool = True) -> None:
    """What onnxruntime.quantization makes of the model, calibrated with `rows`."""
    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    name = onnx.load(str(source)).graph.input[0].name
    quantization.quantize_static(
        str(prepared),
        str(target),
        _Reader(name, rows),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=per_channel,
        reduce_range=reduce_range,
    )
