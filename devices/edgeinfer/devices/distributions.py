"""Versions of installed distributions by the names of their `.dist-info` folders: `importlib.metadata` takes 3 MB."""

import re
import sys
from functools import cache
from pathlib import Path

__all__ = ["installed_version"]


@cache
def installed_version(distribution: str) -> str:
    """The version of `distribution` where it is installed, else an empty string. The folders' names are normalized as
    the specification of recorded projects says: {name}-{version}.dist-info, with _ for runs of - _ and . in names."""
    wanted = _normalized(distribution)
    for entry in sys.path:
        try:
            names = [path.name for path in Path(entry or ".").glob("*.dist-info")]
        except OSError:
            continue
        for name in names:
            found, _, version = name.removesuffix(".dist-info").partition("-")
            if _normalized(found) == wanted:
                return version
    return ""


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()
