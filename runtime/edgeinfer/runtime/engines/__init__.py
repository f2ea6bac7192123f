"""Engines: what executes a variant. One narrow contract, one module per engine, imported when used."""

from edgeinfer.runtime.engines.base import Engine, available_engines, dequantize, load_engine, quantize_input

__all__ = ["Engine", "available_engines", "dequantize", "load_engine", "quantize_input"]
