"""A model file packed, run over a source to its end, and shown, by the commands that a person calls.

run = PackedRun(tmp_path)
found = run.results(run.pack(model, "keypoints"), run.pictures(picture))
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from daemon_process import configuration, results_of, run_until_end
from edgeinfer.runtime.results import Kind, Result

__all__ = ["PackedRun", "edgeinfer", "linear_window_model"]

Array = npt.NDArray[Any]


def edgeinfer(*arguments: str, status: int = 0) -> str:
    """What a command prints; it ends with `status`."""
    command = [sys.executable, "-m", "edgeinfer", *arguments]
    done = subprocess.run(command, capture_output=True, check=False, timeout=240, text=True)
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


class PackedRun(NamedTuple):
    """Packs a model, runs it over a source to its end, and reads what the buffer holds."""

    folder: Path

    def pack(self, model: Path, task: str, *options: str) -> Path:
        package = self.folder / "p.edgepkg"
        named = ("--name", "model", "--version", "1.0.0", "--task", task, "-o", str(package))
        edgeinfer("package", "create", str(model), *named, *options)
        return package

    def results(self, package: Path, source: str) -> list[Result]:
        pipeline = f'name = "p"\npackage = "{package}"\n[pipeline.source]\n{source}'
        done = run_until_end(configuration(self.folder, pipeline), "--json")
        assert done.returncode == 0, done.stderr
        (document,) = json.loads(done.stdout)["pipelines"]
        assert document["captured"] == document["frames"]["inferred"], document
        return [result for result in results_of(self.folder, "p") if result.kind not in {Kind.FRAMES, Kind.SWAP}]

    def shown(self) -> list[str]:
        return edgeinfer("results", "--state-dir", str(self.folder / "state"), "--limit", "1000").splitlines()

    def documents(self) -> list[dict[str, Any]]:
        text = edgeinfer("results", "--state-dir", str(self.folder / "state"), "--limit", "1000", "--json")
        found: list[dict[str, Any]] = json.loads(text)["results"]
        return found

    def pictures(self, *pictures: Path) -> str:
        folder = self.folder / "pictures"
        folder.mkdir()
        for picture in pictures:
            (folder / picture.name).symlink_to(picture)
        return f'kind = "images"\npath = "{folder}"'

    def tensors(self, x: Array) -> str:
        np.savez(self.folder / "x.npz", x=x)
        return f'kind = "tensors"\npath = "{self.folder}/x.npz"'


def linear_window_model(path: Path, weights: Array, bias: Array, *, shape: tuple[int, ...]) -> Path:
    """flatten(x) W + b, of a window (1, rows, channels)."""
    from onnx import TensorProto, helper, numpy_helper, save

    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("Gemm", ["flat", "w", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, weights.shape[1]])],
        [
            numpy_helper.from_array(weights.astype(np.float32), "w"),
            numpy_helper.from_array(bias.astype(np.float32), "b"),
        ],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path
