"""Trains the vitals model, an autoencoder, and writes it with labelled samples and its preprocessing.

    pip install torch onnx numpy
    python examples/vitals/train.py --output quantize/edgeinfer/quantize/examples

Input and output are a scaled window, float32 (1, 80): what it cannot reconstruct, it has not seen. The first
operation clips to what training covered, so that an absurd reading gives a large error and no nonsense.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from windows import CHANNELS, LENGTH, MEAN, STD, anomalous, normal, scaled

SIZES = (LENGTH * len(CHANNELS), 64, 16, 64, LENGTH * len(CHANNELS))
CLIP = 12.0
TRAINING_WINDOWS = 60000
EPOCHS = 40
BATCH = 256
SAMPLES, ANOMALIES = 500, 100
SEED = 11


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path())
    output = parser.parse_args().output
    torch.set_num_threads(1)
    model = train()
    path = output / "vitals-1.0.onnx"
    onnx.save(export(model), path)
    x, y = samples()
    np.savez_compressed(output / "vitals-samples.npz", x=x, y=y)
    (output / "vitals-preprocess.toml").write_text(declaration())
    error = errors(model, scaled(x).reshape(len(x), -1))
    limit = float(np.percentile(error[y == 0], 99))
    caught = float(np.mean(error[y == 1] > limit))
    print(f"vitals-1.0: {path.stat().st_size} bytes, threshold {limit:.4f}, {caught:.3f} of the anomalies above it")


def samples() -> tuple[np.ndarray, np.ndarray]:
    """Windows in their own units, float32 (N, 16, 5), and 1 for those with an anomaly."""
    random = np.random.default_rng(SEED + 1)
    windows = [normal(random) for _ in range(SAMPLES - ANOMALIES)] + [anomalous(random) for _ in range(ANOMALIES)]
    labels = np.repeat([0, 1], [SAMPLES - ANOMALIES, ANOMALIES])
    order = random.permutation(SAMPLES)
    return np.stack(windows)[order], labels[order]


def declaration() -> str:
    """The preprocessing for `edgeinfer quantize --preprocess`: the samples are raw readings."""
    channels = ", ".join(f'"{name}"' for name in CHANNELS)
    mean, std = (", ".join(map(str, values)) for values in (MEAN, STD))
    return f'kind = "window"\nlength = {LENGTH}\nchannels = [{channels}]\nmean = [{mean}]\nstd = [{std}]\nraw = true\n'


def network() -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    for before, after in pairwise(SIZES):
        layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
    # The bottleneck and the output are linear: levels of either sign pass through them.
    return torch.nn.Sequential(*layers[:3], *layers[4:-1])


def train() -> torch.nn.Sequential:
    torch.manual_seed(SEED)
    random = np.random.default_rng(SEED)
    windows = scaled(np.stack([normal(random) for _ in range(TRAINING_WINDOWS)])).reshape(TRAINING_WINDOWS, -1)
    x = torch.from_numpy(windows).clamp(-CLIP, CLIP)
    model = network()
    steps = EPOCHS * (len(x) // BATCH + 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for index in torch.from_numpy(random.permutation(len(x))).split(BATCH):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(x[index]), x[index]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def errors(model: torch.nn.Sequential, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        rebuilt = model(torch.from_numpy(x).clamp(-CLIP, CLIP)).numpy()
    return np.mean((x - rebuilt) ** 2, axis=1)


def export(model: torch.nn.Sequential) -> onnx.ModelProto:
    weights = [numpy_helper.from_array(np.float32(limit), name) for limit, name in ((-CLIP, "low"), (CLIP, "high"))]
    nodes = [helper.make_node("Clip", ["window", "low", "high"], ["clipped"])]
    last = "clipped"
    for number, layer in enumerate(model):
        name = "rebuilt" if number == len(model) - 1 else f"{type(layer).__name__.lower()}_{number}"
        if isinstance(layer, torch.nn.Linear):
            for part in ("weight", "bias"):
                values = getattr(layer, part).detach().numpy()
                weights.append(numpy_helper.from_array(values, f"{name}.{part}"))
            nodes.append(helper.make_node("Gemm", [last, f"{name}.weight", f"{name}.bias"], [name], transB=1))
        else:
            nodes.append(helper.make_node("Relu", [last], [name]))
        last = name
    shape = [1, SIZES[0]]
    graph = helper.make_graph(
        nodes,
        "vitals",
        [helper.make_tensor_value_info("window", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("rebuilt", TensorProto.FLOAT, shape)],
        weights,
    )
    proto = helper.make_model(graph, producer_name="edgeinfer-examples", opset_imports=[helper.make_opsetid("", 13)])
    proto.ir_version = 8
    onnx.checker.check_model(proto, full_check=True)
    return proto


if __name__ == "__main__":
    main()
