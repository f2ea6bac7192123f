"""A measurement from the package to the document: its steps are calls in order."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from edgeinfer.runtime.bench.contestant import Command, child_command
from edgeinfer.runtime.bench.document import INTERVAL, Bench
from edgeinfer.runtime.bench.energy import CPU_SECONDS
from edgeinfer.runtime.bench.entry import Entry, reference_of
from edgeinfer.runtime.bench.machine import this_machine
from edgeinfer.runtime.bench.race import Moment, Race
from edgeinfer.runtime.engines.base import available_engines
from edgeinfer.runtime.errors import UsageError
from edgeinfer.runtime.manifest import Manifest
from edgeinfer.runtime.package import PackageFile
from edgeinfer.runtime.scratch import scratch_folder

__all__ = ["MAX_THREADS", "bench_package"]

MAX_THREADS = 256
# Also the slowest board has loaded a model by then.
_PATIENCE_S = 120.0
_WINDOW_S = 60.0


def bench_package(
    path: Path,
    *,
    seconds: float,
    threads: Sequence[int] = (1,),
    variants: Sequence[str] = (),
    watch: Callable[[Moment], None] = lambda _: None,
    root: Path = Path("/"),
    patience_s: float = _PATIENCE_S,
    command: Command = child_command,
    scratch: Path | None = None,
) -> Bench:
    """Measure each variant, or only those named, for `seconds` with each number of threads.

    A Ctrl-C ends it early with what was measured so far. A variant that cannot be run, crashes or gives no answer in
    `patience_s` has that in its row. The sensors are those of the file system at `root`. The package is unpacked to a
    temporary folder, in `scratch` where it is named. Raises PackageError, UsageError.
    """
    _check(seconds, threads)
    with scratch_folder("edgeinfer-bench-", within=scratch) as folder:
        with PackageFile(path) as package:
            package.verify_files()
            entries = _entries(package.manifest, variants, threads)
            package.extract_to(folder)
            digest = package.digest
        race = Race(folder, seconds=seconds, root=root, watch=watch, patience_s=patience_s, command=command)
        interrupted = _run(race, entries)
    reference = reference_of(entries)
    window_s = min(_WINDOW_S, race.elapsed_s / 3)
    return Bench(
        package=str(path),
        digest=digest,
        seconds=seconds,
        threads=tuple(dict.fromkeys(threads)),
        machine=this_machine(root),
        conditions=race.watcher.conditions(),
        reference=reference.variant.id if reference is not None else "",
        interval=INTERVAL,
        window_s=round(window_s, 2),
        energy_source=race.meter.source if race.meter is not None else CPU_SECONDS,
        energy_detail=race.energy_detail,
        interrupted=interrupted,
        variants=tuple(entry.figures(reference, window_s=window_s) for entry in entries),
    )


def _check(seconds: float, threads: Sequence[int]) -> None:
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"expected --seconds above 0, found {seconds}")
    if not threads or any(not 1 <= count <= MAX_THREADS for count in threads):
        raise UsageError(f"expected --threads from 1 to {MAX_THREADS}, found {','.join(map(str, threads)) or 'none'}")


def _entries(manifest: Manifest, wanted: Sequence[str], threads: Sequence[int]) -> list[Entry]:
    """In the package's order, one number of threads after the other."""
    known = [variant.id for variant in manifest.variants]
    for name in wanted:
        if name not in known:
            raise UsageError(f"the package has no variant {name!r}", hint=f"it has {', '.join(known)}")
    chosen = [variant for variant in manifest.variants if not wanted or variant.id in wanted]
    return [Entry(variant, count) for count in dict.fromkeys(threads) for variant in chosen]


def _run(race: Race, entries: Sequence[Entry]) -> bool:
    """True where a person ended it early."""
    installed = available_engines()
    for entry in entries:
        if entry.variant.engine not in installed:
            entry.error = f"the engine {entry.variant.engine} is not installed"
    try:
        race.run(entries)
    except KeyboardInterrupt:
        for entry in entries:
            if not entry.blocks and not entry.error:
                entry.error = "interrupted before it was measured"
        return True
    return False
