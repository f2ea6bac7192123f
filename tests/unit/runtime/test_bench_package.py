"""`bench_package` on packages made here: what is fed, who takes turns, and what becomes of variants that cannot run."""

import io
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgeinfer.runtime.bench import bench_package
from edgeinfer.runtime.bench.child import Runner
from edgeinfer.runtime.bench.contestant import child_command
from edgeinfer.runtime.bench.race import Moment
from edgeinfer.runtime.engines.base import available_engines
from edgeinfer.runtime.errors import ModelError, UsageError
from edgeinfer.runtime.manifest import Constant, Manifest, StateTensor, TensorPre
from edgeinfer.runtime.package import MANIFEST, PackageFile, encode_manifest, write_package
from packages import linear_model, make_package
from stateful import loudness_model

SECONDS = 0.05


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("single")
    make_package(folder / "one.edgepkg", linear_model(folder / "m.onnx"), name="one", golden=3)
    return folder / "one.edgepkg"


def with_variants(source: Path, target: Path, *names: tuple[str, str]) -> Path:
    """A package whose variants, each an id and an engine, are all the same file."""
    with PackageFile(source) as package:
        manifest = package.manifest
        files: dict[str, bytes | Path] = {name: package.read(name) for name in package.files()}
    (first,) = manifest.variants
    variants = tuple(
        msgspec.structs.replace(
            first,
            id=name,
            engine="onnx" if engine == "onnx" else "openvino",
            precision="fp32" if place == 0 else "int8",
        )
        for place, (name, engine) in enumerate(names)
    )
    golden = manifest.golden
    assert golden is not None
    golden = msgspec.structs.replace(golden, tolerance={name: golden.tolerance[first.id] for name, _ in names})
    write_package(target, encode_manifest(msgspec.structs.replace(manifest, variants=variants, golden=golden)), files)
    return target


def test_figures_of_one_variant(single: Path) -> None:
    moments: list[Moment] = []
    found = bench_package(single, seconds=SECONDS, watch=moments.append)
    (row,) = found.variants
    assert (found.reference, row.variant, row.threads, row.inputs, row.error) == (
        "onnx-fp32",
        "onnx-fp32",
        1,
        "golden",
        "",
    )
    assert row.ratio == row.ratio_low == row.ratio_high == 1.0
    assert 0 < row.min_us <= row.p50_us <= row.p99_us
    assert row.min_us <= row.mean_us
    assert row.calls >= row.blocks >= 2
    assert row.seconds > 0
    assert row.cpu_us > 0
    assert row.rss_bytes > 1 << 20
    assert row.drift > 0
    assert row.engine_version
    assert (found.seconds, found.threads, found.interrupted) == (SECONDS, (1,), False)
    assert found.machine.cores >= 1
    assert moments[0].doing == "loading onnx-fp32"
    assert moments[-1].done == 1.0
    assert moments[-1].left_s == 0.0


def test_each_number_of_threads_is_a_row(single: Path) -> None:
    found = bench_package(single, seconds=SECONDS, threads=(1, 2, 1))
    assert [(row.variant, row.threads, row.error) for row in found.variants] == [
        ("onnx-fp32", 1, ""),
        ("onnx-fp32", 2, ""),
    ]
    assert found.variants[1].ratio > 0
    assert found.threads == (1, 2)


def test_an_engine_that_is_missing_has_a_row(single: Path, tmp_path: Path) -> None:
    if "openvino" in available_engines():
        pytest.skip("no engine is missing here")
    path = with_variants(single, tmp_path / "p.edgepkg", ("onnx-fp32", "onnx"), ("openvino-int8", "openvino"))
    found = bench_package(path, seconds=SECONDS)
    assert [row.error for row in found.variants] == ["", "the engine openvino is not installed"]
    alone = bench_package(path, seconds=SECONDS, variants=("openvino-int8",))
    assert [row.variant for row in alone.variants] == ["openvino-int8"]
    assert (alone.reference, alone.variants[0].p50_us) == ("", 0.0)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "ended by SIGILL"),
        ("import signal; signal.pause()", "gave no answer in 20 s"),
    ],
)
def test_crashing_and_hanging_variants_harm_no_other(single: Path, tmp_path: Path, script: str, reason: str) -> None:
    path = with_variants(single, tmp_path / "p.edgepkg", ("onnx-fp32", "onnx"), ("bad", "onnx"), ("onnx-int8", "onnx"))

    def command(folder: Path, variant: str, threads: int) -> list[str]:
        return [sys.executable, "-c", script] if variant == "bad" else child_command(folder, variant, threads)

    found = bench_package(path, seconds=SECONDS, command=command, patience_s=20.0)
    errors = {row.variant: row.error for row in found.variants}
    assert reason in errors["bad"]
    assert errors["onnx-fp32"] == errors["onnx-int8"] == ""
    assert found.variants[1].p50_us == 0.0


def test_a_reference_that_crashes_is_followed_by_the_next(single: Path, tmp_path: Path) -> None:
    path = with_variants(single, tmp_path / "p.edgepkg", ("onnx-fp32", "onnx"), ("a", "onnx"), ("b", "onnx"))

    def command(folder: Path, variant: str, threads: int) -> list[str]:
        return ["false"] if variant == "onnx-fp32" else child_command(folder, variant, threads)

    found = bench_package(path, seconds=SECONDS, command=command)
    assert found.reference == "b"
    assert [bool(row.error) for row in found.variants] == [True, False, False]
    assert found.variants[1].ratio > 0


def test_where_memory_is_short_heats_hold_two(single: Path, tmp_path: Path) -> None:
    names = [("onnx-fp32", "onnx"), ("a", "onnx"), ("b", "onnx"), ("c", "onnx")]
    path = with_variants(single, tmp_path / "p.edgepkg", *names)
    (tmp_path / "root" / "proc").mkdir(parents=True)
    (tmp_path / "root" / "proc" / "meminfo").write_text("MemAvailable: 1000 kB\n")
    started: list[str] = []

    def command(folder: Path, variant: str, threads: int) -> list[str]:
        started.append(variant)
        return child_command(folder, variant, threads)

    found = bench_package(path, seconds=SECONDS, root=tmp_path / "root", command=command)
    assert started == ["onnx-fp32", "a", "onnx-fp32", "b", "onnx-fp32", "c"]
    assert [row.error for row in found.variants] == [""] * 4
    assert all(row.ratio > 0 for row in found.variants)
    assert found.variants[0].blocks > found.variants[1].blocks


def test_an_interrupt_keeps_what_was_measured(single: Path, tmp_path: Path) -> None:
    path = with_variants(single, tmp_path / "p.edgepkg", ("onnx-fp32", "onnx"), ("a", "onnx"))

    def interrupt(moment: Moment) -> None:
        if moment.doing == "onnx-fp32":
            raise KeyboardInterrupt

    found = bench_package(path, seconds=60.0, watch=interrupt)
    assert found.interrupted
    assert (found.variants[0].blocks, found.variants[0].error) == (1, "")
    assert found.variants[1].error == "interrupted before it was measured"


def test_wrong_requests(single: Path) -> None:
    for seconds in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="--seconds"):
            bench_package(single, seconds=seconds)
    for threads in ((), (0,), (1, 1000)):
        with pytest.raises(UsageError, match="--threads"):
            bench_package(single, seconds=SECONDS, threads=threads)
    with pytest.raises(UsageError, match="no variant 'x'"):
        bench_package(single, seconds=SECONDS, variants=("x",))


def stateful_folder(folder: Path, *, golden: bytes | None = None) -> Path:
    model = loudness_model(folder / "m.onnx")
    make_package(folder / "p.edgepkg", linear_model(folder / "l.onnx"), name="p", golden=1)
    with PackageFile(folder / "p.edgepkg") as package:
        manifest: Manifest = package.manifest
    variant = msgspec.structs.replace(
        manifest.variants[0],
        file=model.name,
        states=(StateTensor("before", "now"),),
        constants=(Constant("factor", 2.0),),
    )
    changed = msgspec.structs.replace(
        manifest, variants=(variant,), preprocess=TensorPre((4,)), golden=manifest.golden if golden else None
    )
    (folder / MANIFEST).write_bytes(encode_manifest(changed))
    if golden:
        (folder / "golden.npz").write_bytes(golden)
    return folder


def test_states_and_constants_are_fed(tmp_path: Path) -> None:
    raw = io.BytesIO()
    np.savez(raw, input=np.ones((2, 4), np.float32))
    runner = Runner(stateful_folder(tmp_path, golden=raw.getvalue()), "onnx-fp32", threads=1)
    assert runner.ready().inputs == "golden"
    assert runner.block(0.001).calls >= 1
    before, sound, factor = runner._inputs.next()
    assert (sound.tolist(), factor.tolist()) == ([[1.0] * 4], 2)
    assert before[0, 0] > 2.0  # it remembers: 2, 3, 3.5, ...


def test_without_golden_inputs_they_are_random(tmp_path: Path) -> None:
    runner = Runner(stateful_folder(tmp_path), "onnx-fp32", threads=1)
    assert runner.ready().inputs == "random"
    assert runner.block(0.001).calls >= 1


@pytest.mark.parametrize("golden", [b"no archive", b"PK\x05\x06" + bytes(18)])
def test_golden_inputs_that_cannot_be_read(tmp_path: Path, golden: bytes) -> None:
    with pytest.raises(ModelError, match=r"golden\.npz: expected an \.npz with input"):
        Runner(stateful_folder(tmp_path, golden=golden), "onnx-fp32", threads=1)


def test_golden_inputs_of_another_shape(tmp_path: Path) -> None:
    raw = io.BytesIO()
    np.savez(raw, input=np.ones((2, 5), np.float32))
    with pytest.raises(ModelError, match="expected golden inputs of shape"):
        Runner(stateful_folder(tmp_path, golden=raw.getvalue()), "onnx-fp32", threads=1)


def test_a_variant_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no variant 'x'"):
        Runner(stateful_folder(tmp_path), "x", threads=1)


def test_energy_of_a_power_monitor(single: Path, tmp_path: Path) -> None:
    chip = tmp_path / "sys/class/hwmon/hwmon0"
    chip.mkdir(parents=True)
    (chip / "name").write_text("ina226\n")
    (chip / "power1_input").write_text("5000000\n")
    found = bench_package(single, seconds=0.2, root=tmp_path)
    (row,) = found.variants
    assert (found.energy_source, found.energy_detail) == ("power-monitor", "power monitor ina226 power1_input")
    assert row.energy_uj is not None
    assert row.energy_uj >= 4.0 * row.mean_us  # 5 W for at least as long as the calls took


def test_energy_of_a_counter_that_stands_still(single: Path, tmp_path: Path) -> None:
    domain = tmp_path / "sys/class/powercap/intel-rapl:0"
    domain.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("energy_uj", "7"), ("max_energy_range_uj", "99")):
        (domain / name).write_text(f"{text}\n")
    found = bench_package(single, seconds=SECONDS, root=tmp_path)
    assert (found.energy_source, found.variants[0].energy_uj) == ("rapl", 0.0)
    assert bench_package(single, seconds=SECONDS, root=tmp_path / "none").energy_source == "cpu-seconds"
