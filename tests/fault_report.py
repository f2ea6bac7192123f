"""What the fault suite counted: a table at the end of the run, and `build/faults.json`."""

import datetime as dt
import os
import platform
import subprocess
from pathlib import Path

import msgspec

__all__ = ["FaultReport"]

_COLUMNS = ("times", "made", "durable", "stored", "evicted", "refused", "lost", "doubled")

Number = int | float | str


class FaultReport:
    """Counts of faults, in the order in which they were tried.

    `full` is whether the suite runs at full size (EDGEINFER_FAULTS=full, which is what `make fault` sets); `seed` is
    what chance begins with (EDGEINFER_FAULT_SEED, or a new one each time).
    """

    def __init__(self) -> None:
        self.full = os.environ.get("EDGEINFER_FAULTS") == "full"
        self.seed = int(os.environ.get("EDGEINFER_FAULT_SEED") or int.from_bytes(os.urandom(4), "big"))
        self.rows: list[tuple[str, dict[str, Number]]] = []
        self.untried: list[str] = []

    def size(self, *, ci: int, full: int) -> int:
        """How often to try, at the size of this run."""
        return full if self.full else ci

    def add(self, fault: str, **counts: Number) -> None:
        """`times` it was tried, and what came of it: made, durable, stored, evicted, refused, lost, doubled; other
        names are printed behind these."""
        self.rows.append((fault, counts))

    def left_out(self, test: str, why: str) -> None:
        """A test that this machine cannot make: a table without its line must not look whole."""
        self.untried.append(f"{test}: {why.removeprefix('Skipped: ')}")

    def table(self) -> list[str]:
        """One line a fault, under a line of names."""
        width = max((len(fault) for fault, _ in self.rows), default=0)
        lines = [" ".join([f"{'fault':<{width}}", *(f"{name:>9}" for name in _COLUMNS)])]
        for fault, counts in self.rows:
            known = [f"{counts.get(name, ''):>9}" for name in _COLUMNS]
            more = [f"{name}={value}" for name, value in counts.items() if name not in _COLUMNS]
            lines.append(" ".join([f"{fault:<{width}}", *known, *more]).rstrip())
        size = "full size" if self.full else "small size: `make fault` runs the full one"
        return [*lines, f"seed {self.seed}, {size}", *(f"NOT TRIED {untried}" for untried in self.untried)]

    def write(self, path: Path) -> None:
        document = {
            "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "commit": _commit(path.parent),
            "full": self.full,
            "seed": self.seed,
            "untried": self.untried,
            "faults": [{"fault": fault, **counts} for fault, counts in self.rows],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")


def _commit(folder: Path) -> str:
    where = next((parent for parent in folder.parents if (parent / ".git").exists()), folder.parent)
    done = subprocess.run(
        ["git", "-C", str(where), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
