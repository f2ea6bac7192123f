"""What the scripts beside this one share: a document is written, or compared with what the code says."""

import sys
from pathlib import Path

__all__ = ["write_or_check"]


def write_or_check(target: Path, text: str, arguments: list[str]) -> int:
    """Write `text` to `target`; with `--check` compare only: status 1 where they differ."""
    if "--check" not in arguments:
        target.write_text(text, encoding="utf-8")
        return 0
    if target.exists() and target.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"docs/{target.name} differs from the code: make docs\n")
    return 1
