"""The machine that was measured, in short, and how many processes fit into its memory."""

import re
from pathlib import Path

from edgeinfer.devices.probe import probe
from edgeinfer.runtime.bench.document import Machine

__all__ = ["available_bytes", "this_machine"]


def this_machine(root: Path = Path("/")) -> Machine:
    found = probe(root)
    return Machine(
        arch=found.arch,
        cpu=found.cpu,
        features=found.features,
        kind=found.kind,
        board=found.board,
        cores=found.cores,
        memory_bytes=found.memory_bytes,
        os=found.os,
        kernel=found.kernel,
        engines=found.engines,
    )


def available_bytes(root: Path = Path("/")) -> int | None:
    """What processes may still take before the machine swaps: MemAvailable of proc(5)."""
    try:
        text = (root / "proc/meminfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    match = re.search(r"^MemAvailable:\s+(\d{1,15}) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else None
