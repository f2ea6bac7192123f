"""`edgeinfer run --with-sync FILE`: daemon and agent in one process, where memory is scarcer than isolation."""

import argparse
import logging
import threading
from collections.abc import Sequence
from pathlib import Path

from edgeinfer.runtime import daemon
from edgeinfer.runtime.backoff import Backoff
from edgeinfer.runtime.errors import EdgeInferError
from edgeinfer.sync.agent import Agent
from edgeinfer.sync.settings import load_sync_config

__all__ = ["OPTION", "run_together"]

OPTION = "--with-sync"
_FAREWELL_S = 1.5
# Two seconds at first: what ended the agent is seldom gone at once, and the daemon needs the processor.
_FIRST_WAIT_S = 2.0

_log = logging.getLogger(__name__)


def run_together(arguments: Sequence[str]) -> int:
    """Run the daemon with the other arguments, and the agent in a thread beside it. Raises EdgeInferError."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(OPTION, type=Path, required=True)
    known, others = parser.parse_known_args(list(arguments))
    agent = Agent(load_sync_config(known.with_sync))
    stop = threading.Event()
    thread = threading.Thread(target=_keep_running, args=(agent, stop), name="agent", daemon=True)
    thread.start()
    try:
        return daemon.main(others)
    finally:
        stop.set()
        thread.join(_FAREWELL_S)


def _keep_running(agent: Agent, stop: threading.Event) -> None:
    """An agent that fails must not stay away unnoticed while the buffer fills: it is started again."""
    waits = Backoff(first_s=_FIRST_WAIT_S)
    while not stop.is_set():
        try:
            agent.run(stop)
        except EdgeInferError as error:
            _log.error("event=agent_failed reason=%r", str(error))
        except Exception:  # the top of this thread
            _log.exception("event=agent_bug")
        else:
            return
        stop.wait(waits.next())
