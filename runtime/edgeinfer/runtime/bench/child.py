"""The process that runs one variant.

    python -m edgeinfer.runtime.bench.child FOLDER VARIANT THREADS LIFELINE

FOLDER is an extracted package, LIFELINE an inherited descriptor whose other end the parent holds. It loads the variant,
says so, and answers each turn on standard input with a block of calls, until there is none.
"""

import gc
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from edgeinfer.runtime.bench.inputs import Inputs
from edgeinfer.runtime.bench.messages import Failed, Message, Ready, Timed, Turn
from edgeinfer.runtime.bench.statistics import bucket
from edgeinfer.runtime.engines.base import load_engine
from edgeinfer.runtime.engines.worker import die_with_parent, leave_signals_to_parent
from edgeinfer.runtime.errors import EdgeInferError, ModelError
from edgeinfer.runtime.memory import resident_bytes
from edgeinfer.runtime.package import MANIFEST, parse_manifest

__all__ = ["Runner", "main"]

# Before each block: the others' calls have emptied the caches, and their threads may still spin for a moment.
_WARM_UP_CALLS = 3
_WARM_UP_SHARE = 0.1
# Engines allocate at their first calls, and some choose kernels then.
_FIRST_CALLS, _FIRST_CALLS_S = 20, 0.5


class Runner:
    """One variant, loaded and called. Raises ModelError, DependencyError."""

    def __init__(self, folder: Path, variant_id: str, *, threads: int) -> None:
        manifest = parse_manifest((folder / MANIFEST).read_bytes())
        variant = next((one for one in manifest.variants if one.id == variant_id), None)
        if variant is None:
            raise ModelError(f"the package has no variant {variant_id!r}")
        self._engine = load_engine(variant.engine, folder / variant.file, threads=threads)
        self._inputs = Inputs(self._engine, variant, manifest, folder)
        self._call_ns = self._first_calls()

    def ready(self) -> Ready:
        return Ready(self._engine.version, self._inputs.kind, self._call_ns, resident_bytes())

    def block(self, seconds: float) -> Timed:
        """Call for `seconds`, at least once, after some calls that fill the caches."""
        warm_up_calls = self._warm_up(seconds)
        times_ns: list[int] = []
        limit_ns = int(seconds * 1e9)
        cpu_ns, begin_ns = time.process_time_ns(), time.perf_counter_ns()
        now_ns = begin_ns
        while now_ns - begin_ns < limit_ns or not times_ns:
            times_ns.append(self._timed_call())
            now_ns = time.perf_counter_ns()
        cpu_ns = time.process_time_ns() - cpu_ns
        counts: dict[int, int] = {}
        for one in times_ns:
            counts[bucket(one)] = counts.get(bucket(one), 0) + 1
        return Timed(
            calls=len(times_ns),
            warm_up_calls=warm_up_calls,
            total_ns=sum(times_ns),
            median_ns=statistics.median(times_ns),
            min_ns=min(times_ns),
            cpu_ns=cpu_ns,
            rss_bytes=resident_bytes(),
            counts=counts,
        )

    def _timed_call(self) -> int:
        inputs = self._inputs.next()
        begin_ns = time.perf_counter_ns()
        outputs = self._engine.run(inputs)
        elapsed_ns = time.perf_counter_ns() - begin_ns
        self._inputs.remember(outputs)
        return elapsed_ns

    def _first_calls(self) -> int:
        """How long the last of some calls took."""
        end_ns = time.perf_counter_ns() + int(_FIRST_CALLS_S * 1e9)
        elapsed_ns = self._timed_call()
        for _ in range(_FIRST_CALLS - 1):
            if time.perf_counter_ns() >= end_ns:
                break
            elapsed_ns = self._timed_call()
        return elapsed_ns

    def _warm_up(self, seconds: float) -> int:
        """How many calls. None for a model that is so slow that the first ones would not show in a block."""
        end_ns = time.perf_counter_ns() + int(_WARM_UP_SHARE * seconds * 1e9)
        calls = 0
        while self._call_ns <= seconds * 1e9 and calls < _WARM_UP_CALLS:
            self._timed_call()
            calls += 1
            if time.perf_counter_ns() >= end_ns:
                break
        return calls


def main(argv: Sequence[str]) -> int:
    """Serve until the parent closes standard input."""
    folder, variant, threads, lifeline = argv
    die_with_parent(int(lifeline))
    leave_signals_to_parent()
    answers = _own_stdout()
    try:
        runner = Runner(Path(folder), variant, threads=int(threads))
        gc.collect()
        gc.disable()  # a collection in the middle of a block would be counted as the engine's
        _send(answers, runner.ready())
        for line in sys.stdin.buffer:
            _send(answers, runner.block(msgspec.json.decode(line, type=Turn).seconds))
    except EdgeInferError as error:
        _send(answers, Failed(str(error)))
        return error.exit_code
    return 0


def _own_stdout() -> BinaryIO:
    """Standard output for this module alone: what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return answers


def _send(answers: BinaryIO, message: Message) -> None:
    line = msgspec.json.encode(message) + b"\n"
    while line:
        line = line[answers.write(line) :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
