"""Turns a float model into a measured package: makes candidates, measures them, keeps the fastest that is exact enough.

    from edgeinfer.quantize.commands import quantize_model

Nothing heavy is imported here: the parts load onnx, the engines and the quantizers when they are called.
"""

from pathlib import Path

__all__ = ["example_files"]


def example_files() -> Path:
    """The folder of the project's own small models, samples and clip, made by the scripts in `examples/`."""
    return Path(__file__).parent / "examples"
