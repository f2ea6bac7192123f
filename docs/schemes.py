"""Writes docs/schemes.md: every scheme and every profile there is, read from the code, with what was measured.

    python docs/schemes.py            # write it
    python docs/schemes.py --check    # status 1 where it differs from the code

The prose is in scheme_families.py, the measurements in schemes.json (`python tests/bench/measure_schemes.py` makes it).
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from generated import write_or_check  # beside this script
from scheme_families import FAMILIES, INTRODUCTION, PROFILES, Family

from edgeinfer.devices.kernels import machine_class
from edgeinfer.devices.profile import load_kinds
from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.offers import gather, offers_of
from edgeinfer.quantize.search.entry import Offer

_HERE = Path(__file__).resolve().parent
_TARGET, _MEASURED = _HERE / "schemes.md", _HERE / "schemes.json"
_KIB = 1024


def document() -> str:
    measured = json.loads(_MEASURED.read_text(encoding="utf-8"))
    offers = _offers()
    parts = [INTRODUCTION, _when(measured)]
    for family in FAMILIES:
        parts += _section(family, offers, measured["tasks"])
    parts += [_picks(measured["tasks"]), PROFILES, _profiles()]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _when(measured: Mapping[str, Any]) -> str:
    engines = ", ".join(measured["engines"].values())
    samples = ", ".join(
        f"{name} {task['metric']} on {task['samples']} examples" for name, task in measured["tasks"].items()
    )
    return (
        f"Measured on {measured['date']}: {measured['cpu']}, {measured['cores']} cores, "
        f"{', '.join(measured['features'])}; {engines}; one thread. The tasks: {samples}."
    )


def _offers() -> dict[str, dict[str, Offer]]:
    """By id: what it is for a net of convolutions, and for one of matrices."""
    kinds: dict[str, dict[str, Offer]] = {}
    with tempfile.TemporaryDirectory() as name:
        for kind, path in _models(Path(name)):
            candidate = Candidate("float", path.suffix[1:].replace("tflite", "litert"), "fp32", path, quantized=False)
            material = gather(candidate, (), few=())
            for offer in offers_of([material], engines=["onnx", "litert"]):
                kinds.setdefault(offer.id, {})[kind] = offer
    return kinds


def _models(folder: Path) -> Iterator[tuple[str, Path]]:
    """The smallest models that have an operation of each kind that a scheme asks for."""
    import onnx
    from ai_edge_litert import schema_py_generated as schema

    from edgeinfer.quantize.schemes.litert.flatbuffer import serialized

    for kind, matrix in (("convolutions", 4), ("matrices", 64)):
        path = folder / f"{kind}.onnx"
        onnx.save(_graph(matrix), path)
        yield kind, path
    model, graph = schema.ModelT(), schema.SubGraphT()
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [], []
    model.version, model.subgraphs, model.operatorCodes, model.buffers = 3, [graph], [], [schema.BufferT()]
    path = folder / "any.tflite"
    path.write_bytes(serialized(model))
    yield "any", path


def _graph(columns: int) -> Any:
    """Convolution, depthwise convolution, matrix."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    shapes = {"dense": (8, 3, 3, 3), "depthwise": (8, 1, 3, 3), "matrix": (8, columns)}
    nodes = [
        helper.make_node("Conv", ["x", "dense"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "depthwise"], ["b"], group=8, pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "matrix"], ["y"]),
    ]
    weights = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in shapes.items()]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 3, 8, 8]), ("y", [1, columns]))
    ]
    graph = helper.make_graph(nodes, "kinds", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _section(family: Family, offers: Mapping[str, Mapping[str, Offer]], tasks: Mapping[str, Any]) -> Iterator[str]:
    mine = [name for name in offers if family.holds(name)]
    measured = dict.fromkeys(name for task in tasks.values() for name in task["rows"] if family.holds(name))
    yield f"## {family.title}"
    yield family.text
    if mine and family.listed:
        rows = [f"| `{name}` | {_rung(offers[name])} | {_first(offers[name]).about} |" for name in mine]
        yield "\n".join(["| Scheme | Rung | What it is |", "|---|---|---|", *rows])
    rows = [_row(name, tasks) for name in dict.fromkeys([*mine, *measured]) if any(_told(name, tasks))]
    if rows:
        header = f"| Measured | {' | '.join(tasks)} |"
        yield "\n".join([header, "|---" * (len(tasks) + 1) + "|", *rows])


def _first(kinds: Mapping[str, Offer]) -> Offer:
    return next(iter(kinds.values()))


def _rung(kinds: Mapping[str, Offer]) -> str:
    """Of both kinds of net, where they differ."""
    rungs = list(dict.fromkeys(str(offer.rung) for offer in kinds.values()))
    return rungs[0] if len(rungs) == 1 else f"{rungs[0]}, for matrices {rungs[1]}"


def _told(name: str, tasks: Mapping[str, Any]) -> Iterator[str]:
    for task in tasks.values():
        yield _cell(task["rows"].get(name), chosen=task["chosen"] == name)


def _row(name: str, tasks: Mapping[str, Any]) -> str:
    return f"| `{name}` | {' | '.join(cell or '-' for cell in _told(name, tasks))} |"


def _cell(row: Mapping[str, Any] | None, *, chosen: bool) -> str:
    """`ratio / metric / agreement / KiB`; empty where there is no such candidate."""
    if row is None or row["metric_value"] is None or row["latency_ratio"] is None:
        return ""
    refused = row["verdict"] == "refused"
    mark = " †" if refused else ""
    ratio = f"**{row['latency_ratio']:.2f}**" if chosen else f"{'~' if refused else ''}{row['latency_ratio']:.2f}"
    return f"{ratio} / {row['metric_value']:.3f} / {row['agreement']:.3f} / {row['bytes'] / _KIB:.0f}{mark}"


def _picks(tasks: Mapping[str, Any]) -> str:
    rows = [
        f"| {name} | {_budget(task)} | `{task['chosen']}` | {task['answer']} | {task['seconds']} s |"
        for name, task in tasks.items()
    ]
    return "\n".join(
        ["## What the search picks", "", "| | Budget | Pick | Answer | Everything tried in |", "|---" * 5 + "|", *rows]
    )


def _budget(task: Mapping[str, Any]) -> str:
    agreement = f", {task['min_agreement']:.0%} agreement" if task["min_agreement"] else ""
    return f"{task['max_drop']:g} point{'' if task['max_drop'] == 1 else 's'}{agreement}"


def _profiles() -> str:
    rows = [
        f"| `{kind.name}` | {kind.title} | {kind.cpu or kind.arch}; {machine_class(kind.arch, kind.features)} | "
        f"{', '.join(kind.engines.values())} | {f'{kind.memory_mb} MB' if kind.memory_mb else ''} | "
        f"{f'{kind.throttle_c:g} °C' if kind.throttle_c else ''} |"
        for kind in sorted(load_kinds(), key=lambda kind: kind.name)
    ]
    header = "| `--target` | Device | Processor | Engines | Memory, at least | Slows down from |"
    return "\n".join([header, "|---" * 6 + "|", *rows])


if __name__ == "__main__":
    sys.exit(write_or_check(_TARGET, document(), sys.argv[1:]))
