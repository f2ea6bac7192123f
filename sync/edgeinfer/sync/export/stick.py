"""What one device has left on a stick before: files to go on from, and files that nobody needs any more."""

import logging
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from edgeinfer.runtime.errors import MessageError
from edgeinfer.sync.export.layout import ExportedFile, stem
from edgeinfer.sync.export.reading import Checked, check_file, found_files
from edgeinfer.sync.export.writing import PART

__all__ = ["Stick"]

_log = logging.getLogger(__name__)


class Stick:
    """The files of one epoch of `device` in `folder`. All methods raise OSError."""

    def __init__(self, folder: Path, *, device: str, tenant: str, epoch: int) -> None:
        self._folder = folder
        self._device, self._tenant, self._epoch = device, tenant, epoch
        self._damaged: list[Path] = []
        self._whole: list[Checked] = []

    def remove_unfinished(self) -> None:
        """What a stick that was pulled out has left behind."""
        for path in self._folder.iterdir():
            if path.name.startswith(f"{stem(self._device, self._epoch)}-") and path.name.endswith(PART):
                path.unlink()

    def run_after(self, acked: int) -> tuple[ExportedFile, ...]:
        """The files that hold `acked` + 1 and what follows it without a hole. Each is read whole: a receipt can only
        come for what can be read."""
        self._look()
        run: list[ExportedFile] = []
        expected = acked + 1
        for checked in self._whole:
            file = checked.file
            if file.last_seq < expected or (run and file.first_seq != expected) or file.first_seq > expected:
                continue
            if run and run[-1].link_after != file.link_before:
                break
            run.append(file)
            expected = file.last_seq + 1
        return tuple(run)

    def remove_superseded(self, acked: int, *, complete: bool, present: Collection[str]) -> None:
        """Files that the console has acknowledged; and damaged ones, once all of it lies here anew in the files that
        are `present` (one of them may have taken the name of a damaged one)."""
        for checked in self._whole:
            if checked.file.last_seq <= acked and checked.path.name not in present:
                with suppress(OSError):
                    checked.path.unlink()
        for path in self._damaged if complete else ():
            if path.name not in present:
                with suppress(OSError):
                    path.unlink()

    def _look(self) -> None:
        for path in found_files(self._folder):
            if not path.name.startswith(f"{stem(self._device, self._epoch)}-"):
                continue
            try:
                checked = check_file(path)
            except MessageError as error:
                _log.warning("event=exported_file_damaged path=%s reason=%r", path, error.message)
                self._damaged.append(path)
                continue
            if (checked.header.device, checked.header.tenant, checked.header.epoch) == (
                self._device, self._tenant, self._epoch,
            ):  # fmt: skip
                self._whole.append(checked)
        self._whole.sort(key=lambda checked: (checked.file.first_seq, -checked.file.last_seq))
