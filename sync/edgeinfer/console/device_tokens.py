"""The devices' own secrets, where they hand in results over HTTP: `DATA_DIR/devices/NAME.token`, a line each.

Once the folder is there, each device needs its own (or the console's token). A token speaks for its device only.
"""

import hmac
from pathlib import Path

from edgeinfer.sync.messages import is_name

__all__ = ["DeviceTokens"]

_MIN_CHARACTERS = 16
_MAX_BYTES = 4096


class DeviceTokens:
    """Read at each request: a token is given, changed and taken back by writing and removing a file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def required(self) -> bool:
        return self._folder.is_dir()

    def admits(self, device: str, given: str) -> bool:
        """Whether `given` is the token of `device`. A file with a shorter one than 16 characters admits nobody."""
        if not is_name(device):
            return False
        try:
            with (self._folder / f"{device}.token").open("rb") as file:
                token = file.read(_MAX_BYTES).strip()
        except OSError:
            return False
        return len(token) >= _MIN_CHARACTERS and hmac.compare_digest(given.encode(errors="replace"), token)
