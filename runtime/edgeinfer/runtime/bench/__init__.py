"""Measures the variants of a package on this device, side by side and for as long as asked.

    found = bench_package(Path("kws-1.0.0.edgepkg"), seconds=30.0, threads=(1, 2))
    found.variants[0].p50_us

Each variant has a process of its own, so that the memory of one engine is not counted for the next, and an engine that
crashes or hangs on this processor harms nothing. The processes take turns, one block of calls each, so that what slows
the machine slows all of them.
"""

from edgeinfer.runtime.bench.document import Bench, Conditions, Figures, Machine, Span
from edgeinfer.runtime.bench.session import bench_package

__all__ = ["Bench", "Conditions", "Figures", "Machine", "Span", "bench_package"]
