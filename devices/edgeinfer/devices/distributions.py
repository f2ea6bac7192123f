"""Versions of installed distributions by the names of their `.dist-info` folders: `importlib.metadata` takes 3 MB."""

import re
import sys
from functools import cache
from pathlib import Path

__all__ = ["installed_version"]


def installed_version(distribution: str) -> str:
    """The version of `distribution` where it is installed, else an empty string."""
    return _installed().get(_normalized(distribution), "")


@cache
def _installed() -> dict[str, str]:
    """Version by name. The folders' names are normalized as the specification of recorded projects says:
    {name}-{version}.dist-info, with _ for runs of - _ and . in names. What comes first on the path counts."""
    found: dict[str, str] = {}
    for entry in sys.path:
        try:
            names = [path.name for path in Path(entry or ".").glob("*.dist-info")]
        except OSError:
            continue
        for name in names:
            project, _, version = name.removesuffix(".dist-info").partition("-")
            found.setdefault(_normalized(project), version)
    return found


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()
