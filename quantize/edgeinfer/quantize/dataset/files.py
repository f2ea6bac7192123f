"""Files of samples: found in a folder in a stable order, read whole, and hashed."""

import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np

from edgeinfer.quantize.dataset.samples import Pictures
from edgeinfer.runtime.errors import SamplesError
from edgeinfer.runtime.sources.pictures import ENDINGS, MAX_PIXELS, NO_PICTURE, decode_picture

__all__ = ["CALIBRATION", "find_files", "find_pictures", "folder_sha256", "read_pictures", "read_text"]

CALIBRATION = "calibration"
"""The sub-folder whose files calibrate."""
_MAX_FILES = 1_000_000
_MAX_TEXT_BYTES = 1 << 30


def find_files(folder: Path, endings: Collection[str]) -> list[Path]:
    """The files of these endings in `folder` and its sub-folders, by name. Hidden ones and those to calibrate with are
    left out. Raises SamplesError where the folder cannot be read."""
    try:
        found = sorted(folder.rglob("*"))
    except OSError as error:
        raise SamplesError(f"{folder}: expected a folder of samples that can be read: {error}") from error
    if len(found) > _MAX_FILES:
        raise SamplesError(f"{folder}: expected at most {_MAX_FILES} files, found {len(found)}")
    return [path for path in found if path.suffix.lower() in endings and _is_sample(path.relative_to(folder), path)]


def _is_sample(inside: Path, path: Path) -> bool:
    hidden = any(part.startswith(".") for part in inside.parts)
    return not hidden and inside.parts[0] != CALIBRATION and path.is_file()


def find_pictures(folder: Path) -> list[Path]:
    """The pictures in `folder`. Raises SamplesError where there are none."""
    found = find_files(folder, ENDINGS)
    if not found:
        raise SamplesError(
            f"{folder}: expected pictures, found none", hint=f"files that end in {', '.join(sorted(ENDINGS))}"
        )
    return found


def read_pictures(files: Iterable[Path]) -> Pictures:
    """Looks at every file once. Raises SamplesError for the first that holds no picture, DependencyError."""
    paths, sizes, digests = [], [], []
    for path in files:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise SamplesError(f"{path}: expected a picture, found a file that cannot be read: {error}") from error
        picture = decode_picture(np.frombuffer(content, np.uint8))
        if picture is NO_PICTURE:
            raise SamplesError(
                f"{path}: expected a picture, found {len(content)} bytes that are none or a part of one",
                hint="mend the file, or take it out of the samples; or is the picture too large? "
                f"{MAX_PIXELS:,} pixels are the most",
            )
        paths.append(path)
        sizes.append((picture.shape[0], picture.shape[1]))
        digests.append(hashlib.sha256(content).digest())
    return Pictures(tuple(paths), tuple(sizes), tuple(digests))


def read_text(path: Path) -> str:
    """Raises SamplesError for a file that is missing, too large or not UTF-8. A byte order mark is left out."""
    try:
        if path.stat().st_size > _MAX_TEXT_BYTES:
            raise SamplesError(f"{path}: expected at most {_MAX_TEXT_BYTES} bytes, found {path.stat().st_size}")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SamplesError(f"{path}: expected a file that can be read: {error}") from error
    except UnicodeDecodeError as error:
        raise SamplesError(f"{path}: expected UTF-8 text, found other bytes: {error}") from error


def folder_sha256(folder: Path, files: Iterable[Path], digests: Iterable[bytes]) -> str:
    """Of the names and contents of `files`."""
    whole = hashlib.sha256()
    for path, digest in zip(files, digests, strict=True):
        whole.update(str(path.relative_to(folder)).encode(errors="surrogateescape") + b"\0" + digest)
    return whole.hexdigest()
