"""Transforms on real models: what they keep, what they gain, and as switches of a scheme."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.quantize.schemes.base import Calibration, Plan, Scheme
from edgeinfer.quantize.transforms.bias import correct_bias
from edgeinfer.quantize.transforms.equalize import equalize
from edgeinfer.quantize.transforms.prune import Pruned, prune
from edgeinfer.quantize.transforms.prune_litert import prune_litert
from edgeinfer.quantize.transforms.switches import pruned_float, with_switches
from edgeinfer.runtime.engines import load_engine
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import ModelError, UsageError
from tiny_tasks import Calibrating, quantize_u8s8, run_onnx, tiny_rows


def _run_litert(path: Path, rows: Array) -> Array:
    engine = load_engine("litert", path, threads=1)
    try:
        return np.concatenate([engine.run([rows[i : i + 1]])[0].copy() for i in range(len(rows))])
    finally:
        engine.close()


_FORMS = [(prune, "vww.onnx", run_onnx), (prune_litert, "vww_float.tflite", _run_litert)]


@pytest.mark.data
@pytest.mark.parametrize(("remove", "name", "run"), _FORMS, ids=["onnx", "litert"])
def test_most_of_vww_is_dead_and_goes(
    remove: Callable[..., Pruned], name: str, run: Callable[[Path, Array], Array], data_dir: Path, tmp_path: Path
) -> None:
    """Its training left 978 of 1496 channels that never open: also not on samples that were not looked at."""
    rows = tiny_rows(data_dir, "vww")[:120]
    source, target = data_dir / "tiny" / name, tmp_path / name
    pruned = remove(source, target, Calibrating(rows[::3]))
    assert pruned.refused == ""
    assert pruned.of == 1496
    assert pruned.channels > 900
    assert pruned.bytes > 650_000
    assert target.stat().st_size < 0.3 * source.stat().st_size
    np.testing.assert_allclose(run(target, rows), run(source, rows), atol=1e-5)


@pytest.mark.data
def test_nothing_is_dead_in_kws(data_dir: Path, tmp_path: Path) -> None:
    samples = Calibrating(tiny_rows(data_dir, "kws")[:40])
    for remove, name in ((prune, "kws.onnx"), (prune_litert, "kws_float.tflite")):
        pruned = remove(data_dir / "tiny" / name, tmp_path / name, samples)
        assert (pruned.channels, pruned.of) == (0, 320)
        assert pruned.refused.startswith("no channel to remove: of 320")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.data
def test_a_share_of_kws_goes_the_same_way_in_both_formats(data_dir: Path, tmp_path: Path) -> None:
    rows = tiny_rows(data_dir, "kws")[:60]
    outputs = []
    for remove, name in ((prune, "kws.onnx"), (prune_litert, "kws_float.tflite")):
        pruned = remove(data_dir / "tiny" / name, tmp_path / name, Calibrating(rows[:40]), share=0.25)
        assert pruned.channels == 80
        run = run_onnx if name.endswith(".onnx") else _run_litert
        outputs.append(run(tmp_path / name, rows))
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-3)


@pytest.mark.data
@pytest.mark.parametrize(("name", "pairs"), [("ic", 3), ("kws", 9), ("vww", 27)])
def test_equalized_models_say_the_same(name: str, pairs: int, data_dir: Path, tmp_path: Path) -> None:
    rows = tiny_rows(data_dir, name)[:40]
    source, target = data_dir / "tiny" / f"{name}.onnx", tmp_path / "target.onnx"
    assert equalize(source, target).pairs == pairs
    np.testing.assert_allclose(run_onnx(target, rows), run_onnx(source, rows), atol=1e-4)


@pytest.mark.data
def test_bias_correction_brings_outputs_nearer(data_dir: Path, tmp_path: Path) -> None:
    """vww with one scale a tensor: its depthwise layers err to one side."""
    rows = tiny_rows(data_dir, "vww")
    source, plain, corrected = data_dir / "tiny/vww.onnx", tmp_path / "plain.onnx", tmp_path / "corrected.onnx"
    quantize_u8s8(source, plain, rows[:300:10], reduce_range=True, per_channel=False)
    shutil.copy(plain, corrected)
    assert correct_bias(source, corrected, Calibrating(rows[:300:10])) == ""
    expected = run_onnx(source, rows[300:400])
    before, after = (float(np.square(run_onnx(path, rows[300:400]) - expected).mean()) for path in (plain, corrected))
    assert after < 0.6 * before
    assert correct_bias(source, source, Calibrating(rows[:2])).startswith("no bias to correct")


def _scheme(engine: str = "onnx", *, calibrates: bool = True, refused: str = "") -> Scheme:
    def make(source: Path, target: Path, calibration: Calibration, plan: Plan) -> str:
        del plan
        rows = np.concatenate([sample[0] for sample in calibration])
        quantize_u8s8(source, target, rows, reduce_range=True)
        return refused

    return Scheme("onnx-u8s8", engine, "int8", "static", make, calibrates=calibrates)


@pytest.mark.data
def test_switches_compose(data_dir: Path, tmp_path: Path) -> None:
    rows = tiny_rows(data_dir, "vww")[:64]
    source, target = data_dir / "tiny/vww.onnx", tmp_path / "out.onnx"
    scheme = with_switches(_scheme(), equalize=True, correct_bias=True, prune=0.0)
    assert scheme.id == "onnx-u8s8-pruned-cle-bc"
    assert scheme.make(source, target, Calibrating(rows[:32]), {}) == ""
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]
    assert target.stat().st_size < 0.2 * source.stat().st_size
    same = run_onnx(target, rows).argmax(axis=1) == run_onnx(source, rows).argmax(axis=1)
    assert same.mean() > 0.9


@pytest.mark.data
def test_a_switch_that_does_nothing_makes_nothing(data_dir: Path, tmp_path: Path) -> None:
    samples = Calibrating(tiny_rows(data_dir, "kws")[:24])
    source, target = data_dir / "tiny/kws.onnx", tmp_path / "out.onnx"
    pruned = with_switches(_scheme(), equalize=False, correct_bias=False, prune=0.0)
    assert pruned.make(source, target, samples, {}).startswith("no channel to remove")
    failing = with_switches(_scheme(refused="no use"), equalize=True, correct_bias=True, prune=None)
    assert failing.make(source, target, samples, {}) == "no use"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(ModelError):
        pruned.make(tmp_path / "bad.onnx", target, samples, {})


@pytest.mark.data
@pytest.mark.parametrize(("engine", "name"), [("onnx", "vww.onnx"), ("litert", "vww_float.tflite")])
def test_the_float_model_without_dead_channels_is_a_scheme(
    engine: str, name: str, data_dir: Path, tmp_path: Path
) -> None:
    scheme = pruned_float(engine)
    assert (scheme.id, scheme.quantizes) == (f"{engine}-fp32-pruned", False)
    samples = Calibrating(tiny_rows(data_dir, "vww")[:40])
    assert scheme.make(data_dir / "tiny" / name, tmp_path / name, samples, {}) == ""
    assert (tmp_path / name).stat().st_size < 250_000


def test_switches_fit_or_say_so() -> None:
    plain = _scheme()
    assert with_switches(plain) is plain
    assert with_switches(plain, prune=0.25).id == "onnx-u8s8-pruned25"
    weights = with_switches(_scheme("litert", calibrates=False), prune=0.0)
    assert weights.calibrates
    for unfit in (_scheme("litert"), _scheme(calibrates=False)):
        with pytest.raises(UsageError, match="static ONNX"):
            with_switches(unfit, equalize=True)
    with pytest.raises(UsageError, match="share"):
        with_switches(plain, prune=1.5)


@pytest.mark.data
@pytest.mark.slow
def test_switches_on_the_schemes_that_there_are(data_dir: Path, tmp_path: Path) -> None:
    from edgeinfer.quantize.schemes.onnx import schemes

    source = data_dir / "tiny/kws.onnx"
    rows = tiny_rows(data_dir, "kws")[:40]
    expected = run_onnx(source, rows).argmax(axis=1)
    static = [scheme for scheme in schemes(source) if scheme.calibrates and scheme.rung == 0]
    assert static
    for scheme in static:
        switched = with_switches(scheme, equalize=True, correct_bias=True)
        target = tmp_path / f"{switched.id}.onnx"
        assert switched.make(source, target, Calibrating(rows), {}) == "", switched.id
        assert (run_onnx(target, rows).argmax(axis=1) == expected).mean() > 0.9, switched.id


def test_a_channel_that_is_dead_on_a_handful_of_samples_stays(data_dir: Path, tmp_path: Path) -> None:
    samples = Calibrating(tiny_rows(data_dir, "vww")[:5])
    pruned = with_switches(_scheme(), prune=0.0)
    refused = pruned.make(data_dir / "tiny/vww.onnx", tmp_path / "out.onnx", samples, {})
    assert refused == "5 samples are too few to tell that a channel never changes: 20 are needed"
