"""Writes docs/states.md: the state machines, drawn from the tables in the code.

python docs/states.py            # write it
python docs/states.py --check    # status 1 where it differs from the code
"""

import sys
from pathlib import Path

from edgeinfer.runtime.frame import FrameState
from edgeinfer.runtime.update import MAX_ATTEMPTS, state_diagram

_TARGET = Path(__file__).resolve().parent / "states.md"


def document() -> str:
    frames = "\n".join(f"    captured --> {state.value}" for state in FrameState)
    return (
        "# State machines\n\nWritten by `make docs` from the tables in the code.\n\n"
        "## An update on the device (`edgeinfer.runtime.update`)\n\n"
        f"A trial is tried {MAX_ATTEMPTS} times at most. Nothing is called current before COMMITTED.\n\n"
        f"```mermaid\n{state_diagram()}```\n\n"
        "## A frame (`edgeinfer.runtime.frame`)\n\n"
        "Every captured frame ends in exactly one of these, and is counted.\n\n"
        f"```mermaid\nstateDiagram-v2\n    [*] --> captured\n{frames}\n```\n"
    )


def main(arguments: list[str]) -> int:
    text = document()
    if "--check" not in arguments:
        _TARGET.write_text(text, encoding="utf-8")
        return 0
    if _TARGET.exists() and _TARGET.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write("docs/states.md differs from the code: make docs\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
