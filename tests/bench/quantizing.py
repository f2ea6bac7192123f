"""The quantizer: what it chooses, against the float model, against everything there is, and against plain tools.

Ratios are of latencies that are measured anew here, side by side in blocks, one thread: the search's own figures are
what it chose by, and would flatter the choice.
"""

import contextlib
import io
import math
import shutil
import statistics
import sys
import tempfile
import time
import wave
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_files import is_published

Figures = dict[str, float]
Array = Any
ROUNDS = 21


@dataclass(frozen=True)
class Task:
    """A task of MLPerf Tiny, with what is asked of its package."""

    name: str
    kind: str = "classification"
    max_drop: float = 1.0
    min_agreement: float | None = None


TINY = (
    Task("ic"),
    Task("kws", min_agreement=0.99),
    Task("vww", min_agreement=0.99),
    Task("ad", kind="anomaly", max_drop=0.5),
)


def measure(data: Path) -> Figures:
    """Every figure of the quantizer. `data` is the folder of the sample data."""
    if not (data / "tiny" / "ic.onnx").is_file():
        return {}
    with tempfile.TemporaryDirectory(prefix="edgeinfer-bench-") as name, _silent():
        return _tiny(data, Path(name)) | _worst(data, Path(name))


def _tiny(data: Path, folder: Path) -> Figures:
    ratios, sizes, drops, agreements, searches, regrets, shares = [], [], [], [], [], [], []
    figures: Figures = {}
    for task in TINY:
        request = _request(task, data, folder)
        seconds, found = _searched(request)
        chosen = found.report.chosen
        exhausted_s, exhaustive = _searched(replace(request, exhaustive=True, identity=_named(request, "all")))
        files = {
            "float": ("onnx", data / "tiny" / f"{task.name}.onnx"),
            "chosen": _variant(found.package, folder / f"{task.name}-chosen"),
            "best": _variant(exhaustive.package, folder / f"{task.name}-best"),
        }
        timed = _timed(files, _sample(request))
        ratios.append(_ratio(timed, "chosen", "float"))
        regrets.append(_ratio(timed, "chosen", "best"))
        floats = [data / "tiny" / f"{task.name}.onnx", data / "tiny" / f"{task.name}_float.tflite"]
        sizes.append(chosen.bytes / min(path.stat().st_size for path in floats))
        drops.append(chosen.drop)
        searches.append(seconds)
        shares.append(seconds / exhausted_s)
        if task.min_agreement is not None:
            agreements.append(chosen.agreement)
        figures |= {
            f"quantize_{task.name}_ratio": ratios[-1],
            f"quantize_{task.name}_drop": chosen.drop,
            f"quantize_{task.name}_regret": regrets[-1],
        }
        best, spent = exhaustive.report.chosen.variant, f"{seconds:.1f} of {exhausted_s:.1f} s"
        _say(f"{task.name}: {chosen.variant} {ratios[-1]:.3f}, best of all {best}, {spent}")
    return {
        "quantize_geomean_ratio": statistics.geometric_mean(ratios),
        "quantize_bytes_ratio_max": max(sizes),
        "quantize_drop_max": max(drops),
        "quantize_agreement_min": min(agreements),
        "quantize_search_s_max": max(searches),
        "quantize_regret_max": max(regrets),
        "quantize_search_share_max": max(shares),
        **figures,
    }


def _request(task: Task, data: Path, folder: Path) -> Any:
    from edgeinfer.quantize.pack import Identity
    from edgeinfer.quantize.request import Request

    samples = folder / f"{task.name}.npz"
    if not samples.exists():
        np.savez(samples, allow_pickle=False, **_samples(data / "tiny", task.name))
    return Request(
        models=[data / "tiny" / f"{task.name}.onnx", data / "tiny" / f"{task.name}_float.tflite"],
        data=samples,
        identity=Identity(task.name, "1.0.0", task.kind, folder / f"{task.name}.edgepkg"),  # type: ignore[arg-type]  # one of the tasks
        max_drop=task.max_drop,
        min_agreement=task.min_agreement,
    )


def _samples(folder: Path, name: str) -> dict[str, Array]:
    """As the float models take them. None of those that calibrate is among those that evaluate."""
    with np.load(folder / f"{name}_samples.npz") as archive:
        data = {key: archive[key] for key in archive.files if key != "names"}
    if name == "ad":
        with np.load(folder / "ad_calibration.npz") as calibration:
            normal = _windows(calibration["frames"], 10)
        x = _windows(data["frames"], 1)
        count = len(x) // len(data["y"])
        group = np.repeat(np.arange(len(data["y"])), count)
        return {"x": x, "y": np.repeat(data["y"], count), "group": group, "x_calibration": normal}
    if name == "ic":
        with np.load(folder / "ic_calibration.npz") as calibration:
            return {"x": data["x"], "y": data["y"], "x_calibration": calibration["x"]}
    x = data["x"].astype(np.float32)
    return {"x": (x - 83) * np.float32(0.5847029089927673) if name == "kws" else x / np.float32(255), "y": data["y"]}


def _windows(frames: Array, stride: int) -> Array:
    return np.concatenate([np.stack([one[i : i + 5].reshape(-1) for i in range(0, 196, stride)]) for one in frames])


def _named(request: Any, suffix: str) -> Any:
    identity = request.identity
    return replace(identity, output=identity.output.with_name(f"{identity.name}-{suffix}.edgepkg"))


def _searched(request: Any) -> tuple[float, Any]:
    from edgeinfer.quantize.searching import search_package

    before = time.monotonic()
    found = search_package(request)
    return time.monotonic() - before, found


def _variant(package: Path, folder: Path) -> tuple[str, Path]:
    """The engine and the file of a package's first variant."""
    from edgeinfer.runtime.package import PackageFile

    folder.mkdir()
    with PackageFile(package) as opened:
        opened.extract_to(folder)
        first = opened.manifest.variants[0]
    return first.engine, folder / first.file


def _sample(request: Any) -> Array:
    from edgeinfer.quantize.searching import prepare

    with tempfile.TemporaryDirectory() as name:
        return prepare(request, Path(name)).samples.x.row(0)


def _timed(files: Mapping[str, tuple[str, Path]], sample: Array, feeding: Any = None) -> list[dict[str, float]]:
    """The median call of each in microseconds, of each round in which all took turns."""
    from edgeinfer.quantize.candidate import Candidate, open_candidate
    from edgeinfer.quantize.feeding import FED_ALONE
    from edgeinfer.quantize.latency import run_rounds

    with contextlib.ExitStack() as stack:
        engines = {
            name: open_candidate(Candidate(name, engine, "", path, quantized=False, feeding=feeding or FED_ALONE))
            for name, (engine, path) in files.items()
        }
        for engine in engines.values():
            stack.callback(engine.close)
        rounds = run_rounds(engines, sample, count=ROUNDS)
    return [{name: block.call_s * 1e6 for name, block in one.items()} for one in rounds]


def _ratio(rounds: list[dict[str, float]], name: str, other: str) -> float:
    """The median of the rounds' own ratios: what slows the machine for a while slows both."""
    return statistics.median(one[name] / one[other] for one in rounds)


def _over(rounds: list[dict[str, float]], name: str, other: str) -> tuple[float, str]:
    """The ratio as `_ratio` has it, and in words with its 95 % interval: a tie, where that has 1 in it and is no wider
    than what the search itself takes for settled."""
    from edgeinfer.quantize.search.settle import SAME
    from edgeinfer.quantize.search.statistics import median_interval

    ratio = _ratio(rounds, name, other)
    low, high = median_interval([one[name] / one[other] for one in rounds])
    said = f"{ratio:.4f} (95 % interval {low:.4f} to {high:.4f})"
    tied = low <= 1.0 <= high and high - low <= 2 * SAME
    return ratio, f"a tie, {said}" if tied else said


def _worst(data: Path, folder: Path) -> Figures:
    """The choice over the best of what ONNX Runtime's own tools make without any search, within the same budget."""
    figures: Figures = {}
    for request in _hard_requests(data, folder):
        name = request.identity.name
        _, found = _searched(request)
        if found.package is None:
            _say(f"{name}: refused, {found.report.answer}")
            figures[f"quantize_{name}_over_plain"] = math.nan
            continue
        files = {"chosen": _variant(found.package, folder / f"{name}-chosen")}
        files |= {kind: ("onnx", path) for kind, path in _plain_within_budget(request, folder)}
        timed = _timed(files, _sample(request), request.feeding)
        plain = [kind for kind in files if kind != "chosen"]
        best = min(plain, key=lambda kind: statistics.median(one[kind] for one in timed))
        figures[f"quantize_{name}_over_plain"], said = _over(timed, "chosen", best)
        _say(f"{name}: {found.report.chosen.variant} over plain {best}: {said}")
    known = [value for value in figures.values() if not math.isnan(value)]
    return {"quantize_worst_ratio": max(known, default=math.nan), **figures}


def _hard_requests(data: Path, folder: Path) -> Iterator[Any]:
    from edgeinfer.quantize.dataset import SampleOptions
    from edgeinfer.quantize.feeding import Feeding
    from edgeinfer.quantize.pack import Identity
    from edgeinfer.quantize.request import Request
    from edgeinfer.runtime.manifest import Constant, StateTensor

    yield Request(
        models=[data / "models" / "mobilenet_v1_0.5_160_float.onnx"],
        data=data / "images" / "imagenet",
        identity=Identity("mobilenet", "1.0.0", "classification", folder / "mobilenet.edgepkg"),
        options=SampleOptions(label_column="class_index_1001"),
        preprocess="kind=image,mean=128,std=128,crop=0.875,resize=crop",
    )
    yield Request(
        models=[data / "models" / "FastestDet.onnx"],
        data=data / "images" / "coco",
        identity=Identity("fastestdet", "1.0.0", "detection", folder / "fastestdet.edgepkg"),
        labels=data / "labels" / "coco_names_80.txt",
        preprocess="kind=image,color=bgr,layout=nchw,mean=0,std=255,interpolation=area",
        postprocess="score_threshold=0.65",
    )
    yield Request(
        models=[data / "models" / "face_rfb_320.onnx"],
        data=data / "images" / "faces",
        identity=Identity("face", "1.0.0", "detection", folder / "face.edgepkg"),
        preprocess="kind=image,color=rgb,layout=nchw,mean=127,std=128",
        postprocess="format=boxes,score_threshold=0.7",
    )
    silero = data / "models" / "silero_vad_16k_op15.onnx"
    if not is_published(data, "models/silero_vad_16k_op15.onnx"):
        _say(f"{silero.name} is not the file that models.json names: left out")
    else:
        yield Request(
            models=[silero],
            data=_speech(data, folder),
            identity=Identity("silero", "1.0.0", "raw", folder / "silero.edgepkg"),
            feeding=Feeding((StateTensor("state", "stateN"),), (Constant("sr", 16000.0),)),
        )


def _speech(data: Path, folder: Path) -> Path:
    """Steps of 512 samples behind 64 of context, of one recording: one sequence, along which the state is carried."""
    with wave.open(str(data / "audio" / "vad_test.wav")) as sound:
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2").astype(np.float32) / 32768
    padded = np.concatenate([np.zeros(64, np.float32), samples])
    steps = np.stack([padded[start : start + 576] for start in range(0, len(samples) - 512, 512)])[:600]
    path = folder / "speech.npz"
    np.savez(path, x=steps, group=np.arange(len(steps)) // 100)
    return path


def _plain_within_budget(request: Any, folder: Path) -> Iterator[tuple[str, Path]]:
    """Plain float, plain static and plain dynamic int8: those that lose no more than the budget."""
    from edgeinfer.quantize.candidate import Candidate
    from edgeinfer.quantize.judging import Judge
    from edgeinfer.quantize.searching import prepare
    from edgeinfer.runtime.errors import EdgeInferError

    inside = folder / f"{request.identity.name}-plain"
    inside.mkdir()
    ready = prepare(request, inside)
    source = ready.models[0].path
    judge = Judge(ready.samples, request.identity.task, ready.post, ready.metric)
    judge.open(Candidate("fp32", "onnx", "fp32", source, quantized=False, feeding=request.feeding))
    yield "fp32", source
    for kind, path in _plain(source, ready.samples, inside):
        try:
            judged, _ = judge.judge(Candidate(kind, "onnx", "int8", path, quantized=True, feeding=request.feeding))
        except EdgeInferError as error:
            _say(f"{request.identity.name}: plain {kind} cannot be run: {error}")
            continue
        if judged.difference.value * 100.0 <= request.max_drop:
            yield kind, path


def _plain(source: Path, samples: Any, folder: Path) -> Iterator[tuple[str, Path]]:
    from onnxruntime import quantization

    prepared, static, dynamic = (folder / f"{name}.onnx" for name in ("prepared", "static", "dynamic"))
    try:
        quantization.quant_pre_process(str(source), str(prepared))
    except Exception as error:  # whatever its parts raise: then without
        _say(f"{source.name}: plain preparation failed: {error}")
        shutil.copy(source, prepared)
    makers: dict[str, tuple[Path, Callable[[], None]]] = {
        "static": (
            static,
            lambda: quantization.quantize_static(str(prepared), str(static), _Feeds(source, samples.calibration)),
        ),
        "dynamic": (dynamic, lambda: quantization.quantize_dynamic(str(prepared), str(dynamic))),
    }
    for name, (path, make) in makers.items():
        try:
            make()
        except Exception as error:  # as above
            _say(f"{source.name}: plain {name} cannot be made: {error}")
            continue
        yield name, path


class _Feeds:
    """Calibration samples, one at a time, as ONNX Runtime's quantizer asks for them."""

    def __init__(self, source: Path, rows: Any) -> None:
        from edgeinfer.runtime.engines import load_engine

        engine = load_engine("onnx", source)
        self._name = engine.inputs[0].name
        engine.close()
        self._rows = iter([rows.row(index) for index in range(min(len(rows), 100))])

    def get_next(self) -> dict[str, Array] | None:
        row = next(self._rows, None)
        return None if row is None else {self._name: row}

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return iter(self.get_next, None)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """The tools print on stdout, which is for the table."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _say(line: str) -> None:
    sys.stderr.write(f"edgeinfer: {line}\n")
