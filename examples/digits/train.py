"""Trains the digits model in two versions and writes them with their labelled samples.

    pip install torch scikit-learn onnx opencv-python-headless
    python examples/digits/train.py --output quantize/edgeinfer/quantize/examples

Version 1.0 has seen 700 digits, version 2.0 all 1437: the demo deploys the second
over the first. The input is a grey picture, float32 (1, 1, 32, 32) of 0..255: the division by 255 is part of
the first layer's weights. The output are logits (1, 10).
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from pictures import SIZE, load_digits, pictures

CHANNELS = (12, 24, 40, 56)
CLASSES = 10
BATCH = 64
SAMPLES_PER_DIGIT = 2
SEED = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path())
    output = parser.parse_args().output
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    digits, labels = load_digits(held_out=False)
    x, y = samples()
    np.savez_compressed(output / "digits-samples.npz", x=x, y=y)
    (output / "digits-labels.txt").write_text("\n".join("0123456789") + "\n")
    for version, count, epochs in (("1.0", 700, 60), ("2.0", len(digits), 60)):
        model = train(digits[:count], labels[:count], epochs=epochs)
        path = output / f"digits-{version}.onnx"
        onnx.save(export(model), path)
        print(
            f"digits-{version}: accuracy {accuracy(model, x, y):.4f} on {len(y)} samples, {path.stat().st_size} bytes"
        )


def samples() -> tuple[np.ndarray, np.ndarray]:
    """Pictures of the held-out digits, uint8 (N, 1, 32, 32), and their labels."""
    digits, labels = load_digits(held_out=True)
    random = np.random.default_rng(SEED)
    return (
        np.concatenate([pictures(digits, random) for _ in range(SAMPLES_PER_DIGIT)]),
        np.tile(labels, SAMPLES_PER_DIGIT),
    )


def network() -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    for before, after in zip((1, *CHANNELS), CHANNELS, strict=False):
        layers += [torch.nn.Conv2d(before, after, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    layers[-1] = torch.nn.AdaptiveAvgPool2d(1)
    return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(CHANNELS[-1], CLASSES))


def train(digits: np.ndarray, labels: np.ndarray, *, epochs: int) -> torch.nn.Sequential:
    """Each epoch draws every digit anew, so that place, size, brightness and noise are never the same twice."""
    torch.manual_seed(SEED)
    random = np.random.default_rng(SEED)
    model = network()
    steps = epochs * (len(digits) // BATCH + 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=steps)
    for _ in range(epochs):
        x = torch.from_numpy(pictures(digits, random).astype(np.float32) / 255.0)
        y = torch.from_numpy(labels)
        for index in torch.from_numpy(random.permutation(len(digits))).split(BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[index]), y[index]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def accuracy(model: torch.nn.Sequential, x: np.ndarray, y: np.ndarray) -> float:
    with torch.no_grad():
        found = model(torch.from_numpy(x.astype(np.float32) / 255.0)).argmax(1).numpy()
    return float((found == y).mean())


def export(model: torch.nn.Sequential) -> onnx.ModelProto:
    """The network as ONNX, written node by node: no tracing, no names that change with a library's version."""
    nodes, weights, last = [], [], "image"
    for number, layer in enumerate(model):
        name = f"{type(layer).__name__.lower()}_{number}"
        match layer:
            case torch.nn.Conv2d():
                scale = 1.0 / 255.0 if number == 0 else 1.0
                weights += parameters(name, layer, scale)
                inputs = [last, f"{name}.weight", f"{name}.bias"]
                nodes.append(helper.make_node("Conv", inputs, [name], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
            case torch.nn.ReLU():
                nodes.append(helper.make_node("Relu", [last], [name]))
            case torch.nn.MaxPool2d():
                nodes.append(helper.make_node("MaxPool", [last], [name], kernel_shape=[2, 2], strides=[2, 2]))
            case torch.nn.AdaptiveAvgPool2d():
                nodes.append(helper.make_node("GlobalAveragePool", [last], [name]))
            case torch.nn.Flatten():
                nodes.append(helper.make_node("Flatten", [last], [name], axis=1))
            case torch.nn.Linear():
                weights += parameters(name, layer, 1.0)
                nodes.append(helper.make_node("Gemm", [last, f"{name}.weight", f"{name}.bias"], ["logits"], transB=1))
        last = name
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])],
        weights,
    )
    proto = helper.make_model(graph, producer_name="edgeinfer-examples", opset_imports=[helper.make_opsetid("", 13)])
    proto.ir_version = 8
    onnx.checker.check_model(proto, full_check=True)
    return proto


def parameters(name: str, layer: torch.nn.Conv2d | torch.nn.Linear, scale: float) -> list[TensorProto]:
    weight = layer.weight.detach().numpy() * np.float32(scale)
    bias = layer.bias.detach().numpy()
    return [numpy_helper.from_array(weight, f"{name}.weight"), numpy_helper.from_array(bias, f"{name}.bias")]


if __name__ == "__main__":
    main()
