"""`edgeinfer bench` as a person and a program call it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgeinfer.quantize.commands import create_package
from edgeinfer.runtime.package import PackageFile, encode_manifest, sha256_file, write_package
from edgeinfer.runtime.scratch import scratch_folder
from packages import linear_model, make_package
from waiting import wait_until

BENCH = [sys.executable, "-m", "edgeinfer", "bench"]
# The keys that programs rely on.
CONTRACT = {"variant", "p50_us", "p99_us", "cpu_us", "rss_bytes", "ratio"}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    make_package(folder / "m.edgepkg", linear_model(folder / "m.onnx"), name="m", golden=2)
    return folder / "m.edgepkg"


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*BENCH, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=240)


def test_the_document(package: Path) -> None:
    done = run(package, "--seconds", 0.1, "--json", "--threads", "1,2")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.stderr == ""
    assert {"machine", "conditions", "seconds", "threads", "reference", "interval", "energy_source"} <= found.keys()
    assert {"cpu", "features", "kind"} <= found["machine"].keys()
    assert (found["threads"], found["seconds"], found["interrupted"]) == ([1, 2], 0.1, False)
    assert [row["threads"] for row in found["variants"]] == [1, 2]
    assert all(row.keys() >= CONTRACT and not row["error"] for row in found["variants"])


def test_the_table(package: Path) -> None:
    done = run(package, "--seconds", 0.1, "--threads", "sweep")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines[1:])
    assert lines[2].split()[:5] == ["variant", "p50", "us", "p99", "cpu"]
    assert lines[3].startswith("onnx-fp32 ")
    assert any(line.startswith("ratio: to onnx-fp32") for line in lines)
    assert done.stderr == ""


@pytest.mark.parametrize(
    "arguments", [("--threads", "0"), ("--threads", "x"), ("--seconds", "0"), ("--variant", "no-such")]
)
def test_wrong_usage(package: Path, arguments: tuple[str, str]) -> None:
    done = run(package, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "edgeinfer: error: " in done.stderr


def endless_model(path: Path) -> Path:
    """Its first call never ends."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["v", "v"], ["w"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, ["n", 8]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, ["n", 8]),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["count", "always", "x"], ["y"], body=body)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [
            numpy_helper.from_array(np.array(2**62, np.int64), "count"),
            numpy_helper.from_array(np.array(True), "always"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def is_busy(pid: int) -> bool:
    """Whether a child of it has used more CPU time than loading takes: it is in its model."""
    return any(int(stat(child)[11]) / os.sysconf("SC_CLK_TCK") > 3.0 for child in children(pid))  # utime of proc(5)


def stat(pid: int) -> list[str]:
    """What proc(5) says of a process after its name; nothing where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def has_ended(pid: int) -> bool:
    """Also where nobody has asked yet how."""
    return stat(pid)[:1] in ([], ["Z"])


def start(*arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*BENCH, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("endless")
    make_package(folder / "m.edgepkg", linear_model(folder / "good.onnx"), name="m")
    return with_model(folder / "m.edgepkg", folder / "endless.edgepkg", endless_model(folder / "endless.onnx"))


def with_model(source: Path, target: Path, model: Path) -> Path:
    """The package with one more variant, which is not run for that."""
    with PackageFile(source) as package:
        manifest = package.manifest
        (first,) = manifest.variants
        second = msgspec.structs.replace(
            first,
            id="endless",
            file=model.name,
            sha256=sha256_file(model),
            bytes=model.stat().st_size,
            precision="int8",
        )
        files: dict[str, bytes | Path] = {first.file: package.read(first.file), model.name: model}
    write_package(target, encode_manifest(msgspec.structs.replace(manifest, variants=(first, second))), files)
    return target


def test_a_variant_that_crashes_in_its_model(endless: Path) -> None:
    process = start(endless, "--seconds", 0.1, "--json")
    wait_until(lambda: is_busy(process.pid), what="the endless model")
    os.kill(children(process.pid)[-1], signal.SIGSEGV)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    first, second = json.loads(output)["variants"]
    assert (first["error"], first["p50_us"] > 0) == ("", True)
    assert "crashed: its process ended by SIGSEGV" in second["error"]


def test_ctrl_c_while_a_model_hangs(endless: Path) -> None:
    process = start(endless, "--seconds", 0.1)
    wait_until(lambda: is_busy(process.pid), what="the endless model")
    stuck = children(process.pid)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 130, errors
    assert "interrupted before it was measured" in output
    assert "Traceback" not in errors
    wait_until(lambda: all(has_ended(pid) for pid in stuck), what="the end of the children")


def test_children_die_with_a_parent_that_is_killed(
    endless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # what it could not tidy up
    process = start(endless, "--seconds", 0.1)
    wait_until(lambda: is_busy(process.pid), what="the endless model")
    stuck = children(process.pid)
    process.kill()
    process.communicate(timeout=240)
    wait_until(lambda: all(has_ended(pid) for pid in stuck), what="the end of the children")
    (left,) = tmp_path.glob("edgeinfer-bench-*")
    with scratch_folder("edgeinfer-quantize-", within=tmp_path):
        assert not left.exists()


def test_ctrl_c_prints_what_was_measured(package: Path) -> None:
    process = start(package, "--seconds", 600, "--json")
    wait_until(lambda: is_busy(process.pid), what="some blocks")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 130, errors
    found = json.loads(output)
    assert found["interrupted"] is True
    assert found["variants"][0]["p50_us"] > 0


@pytest.mark.data
def test_two_engines_side_by_side(data_dir: Path, tmp_path: Path) -> None:
    models = [data_dir / "tiny/kws.onnx", data_dir / "tiny/kws_float.tflite", data_dir / "tiny/kws_int8.tflite"]
    path = tmp_path / "kws.edgepkg"
    create_package(models, task="classification", name="kws", version="1.0.0", output=path)
    done = run(path, "--seconds", 0.3, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["reference"] == "onnx-fp32"
    rows = found["variants"]
    assert [(row["variant"], row["inputs"], row["error"]) for row in rows] == [
        ("onnx-fp32", "golden", ""),
        ("litert-fp32", "golden", ""),
        ("litert-int8", "golden", ""),
    ]
    assert all(0 < row["ratio_low"] <= row["ratio"] <= row["ratio_high"] for row in rows)
    assert all(row["rss_bytes"] > 10 << 20 for row in rows)
