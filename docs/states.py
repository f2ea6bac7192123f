"""Writes docs/states.md: the state machines, drawn from the tables in the code.

python docs/states.py            # write it
python docs/states.py --check    # status 1 where it differs from the code
"""

import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TypeVar

from generated import write_or_check  # beside this script

from edgeinfer.runtime.frame import FrameState
from edgeinfer.runtime.update import MAX_ATTEMPTS, state_diagram
from edgeinfer.sync import blob_upload
from edgeinfer.sync.session import TRANSITIONS

E = TypeVar("E", bound=Enum)
V = TypeVar("V", bound=Enum)

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
        f"```mermaid\nstateDiagram-v2\n    [*] --> captured\n{frames}\n```\n\n"
        "## The upload of results (`edgeinfer.sync.session`)\n\n"
        "offline: nothing is in flight. streaming: up to a window of chunks is. probing: the broker is there, but "
        "nobody acknowledges. held: the broker refuses what is sent.\n\n"
        f"```mermaid\nstateDiagram-v2\n    [*] --> offline\n{_transitions(TRANSITIONS)}\n```\n\n"
        "## The upload of a file (`edgeinfer.sync.blob_upload`)\n\n"
        "asking: it is not known how far the console is. sending: parts are on their way. ended: the console has the "
        "file, or will never take it.\n\n"
        f"```mermaid\nstateDiagram-v2\n    [*] --> asking\n{_transitions(blob_upload.TRANSITIONS)}\n```\n"
    )


def _transitions(table: Mapping[E, Mapping[V, E]]) -> str:
    return "\n".join(
        f"    {state.value} --> {target.value}: {event.value}"
        for state, row in table.items()
        for event, target in row.items()
        if state is not target
    )


if __name__ == "__main__":
    sys.exit(write_or_check(_TARGET, document(), sys.argv[1:]))
