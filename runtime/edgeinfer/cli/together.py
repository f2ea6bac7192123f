"""`edgeinfer run --with-sync FILE`: daemon and agent in one process, where memory is scarcer than isolation."""

import argparse
import threading
from collections.abc import Sequence
from pathlib import Path

from edgeinfer.runtime import daemon
from edgeinfer.sync.agent import Agent
from edgeinfer.sync.settings import load_sync_config

__all__ = ["OPTION", "run_together"]

OPTION = "--with-sync"
_FAREWELL_S = 1.5


def run_together(arguments: Sequence[str]) -> int:
    """Run the daemon with the other arguments, and the agent in a thread beside it. Raises EdgeInferError."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(OPTION, type=Path, required=True)
    known, others = parser.parse_known_args(list(arguments))
    agent = Agent(load_sync_config(known.with_sync))
    stop = threading.Event()
    thread = threading.Thread(target=agent.run, args=(stop,), name="agent", daemon=True)
    thread.start()
    try:
        return daemon.main(others)
    finally:
        stop.set()
        thread.join(_FAREWELL_S)
