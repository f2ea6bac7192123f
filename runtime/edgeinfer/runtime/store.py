"""The model store on the device: verified packages, unpacked, one folder per digest.

    models/incoming/{sha256}.edgepkg   blobs that the agent has downloaded; nothing here is trusted
    models/staging/{sha256}.edgepkg    the daemon's own copy of a blob, while it is checked and installed
    models/packages/{digest}/          packages whose every file has been checked
    models/incoming/{sha256}.bench     a blob that is only to be timed here, and its copy in models/bench/

Only the runtime writes to `packages`, and only after it has checked the hashes itself. The agent can change a
blob in `incoming` at any moment, also between a check and what follows it: so a blob is opened once, and what is
checked is what is installed.

A disk that is full or out of order is a StorageError; only what is wrong with a package itself is a PackageError.
"""

import errno
import logging
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import msgspec

from edgeinfer.runtime.bench_order import BENCH_SUFFIX
from edgeinfer.runtime.durable import make_folder, sync_folder
from edgeinfer.runtime.errors import EdgeInferError, PackageError, StorageError
from edgeinfer.runtime.hashing import random_hex, sha256
from edgeinfer.runtime.manifest import Manifest
from edgeinfer.runtime.package import (
    MANIFEST,
    MAX_TOTAL_BYTES,
    PackageFile,
    named_files,
    parse_labels,
    parse_manifest,
    sha256_file,
)

__all__ = ["InstalledPackage", "Store"]

logger = logging.getLogger(__name__)

_BLOCK = 1 << 20
# What says nothing about the file that was to be read, and goes by.
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.ENOSPC, errno.EDQUOT}


class InstalledPackage(msgspec.Struct, frozen=True):
    """A package in the store: its folder, identity and manifest."""

    folder: Path
    digest: str
    manifest: Manifest

    def labels(self) -> tuple[str, ...]:
        if self.manifest.labels is None:
            return ()
        return parse_labels((self.folder / self.manifest.labels[0]).read_bytes())

    @property
    def arrays(self) -> Path | None:
        """The file of what the postprocessing needs beside the outputs, if there is one."""
        return self.folder / self.manifest.arrays[0] if self.manifest.arrays is not None else None


class Store:
    def __init__(self, state_dir: Path) -> None:
        self.incoming = state_dir / "models" / "incoming"
        self._packages = state_dir / "models" / "packages"
        self._staging = state_dir / "models" / "staging"
        self.bench_folder = state_dir / "models" / "bench"
        with _storing(self._packages.parent):
            for folder in (self.incoming, self._packages):
                make_folder(folder)

    @contextmanager
    def staged(self, sha256: str, size: int) -> Iterator[Path]:
        """The blob of `incoming`, copied to where only this user may write, and gone again afterwards.

        Raises PackageError for what is no plain file of `size` bytes with this hash, StorageError where it
        cannot be copied now.
        """
        blob = self.blob(sha256)
        copy = self._staging / blob.name
        try:
            _take(blob, copy, sha256=sha256, size=size)
            yield copy
        finally:
            with suppress(OSError):
                copy.unlink(missing_ok=True)

    @contextmanager
    def bench_room(self, sha256: str, size: int) -> Iterator[Path]:
        """A blob that is only to be timed, copied as `staged` does, in a folder of its own, which is gone with all that
        was added to it afterwards. For one at a time. Raises as `staged` does."""
        copy = self.bench_folder / f"{sha256}.edgepkg"
        try:
            _take(self.incoming / f"{sha256}{BENCH_SUFFIX}", copy, sha256=sha256, size=size)
            yield copy
        finally:
            shutil.rmtree(self.bench_folder, ignore_errors=True)

    @contextmanager
    def staged_file(self, source: IO[bytes]) -> Iterator[Path]:
        """An open file of anybody's, copied to where only this user may write, and gone again afterwards.

        Raises PackageError for what is too large for a package, StorageError where it cannot be copied now.
        """
        copy = self._staging / f"{random_hex(16)}.edgepkg"
        try:
            with _storing(self._staging):
                self._staging.mkdir(mode=0o700, exist_ok=True)
                self._staging.chmod(0o700)
                with copy.open("xb") as target:
                    _copy(source, target, MAX_TOTAL_BYTES)
                    if source.read(1):
                        raise PackageError(
                            f"expected a package of at most {MAX_TOTAL_BYTES} bytes, found a larger file"
                        )
            yield copy
        finally:
            with suppress(OSError):
                copy.unlink(missing_ok=True)

    def manifest(self, digest: str) -> Manifest:
        """What an installed package says of itself; its files are not looked at. Raises PackageError, StorageError."""
        try:
            return parse_manifest((self._packages / digest / MANIFEST).read_bytes())
        except OSError as error:
            raise _unreadable(f"package {digest[:16]} is not installed", error) from error

    def blob(self, sha256: str) -> Path:
        """Where the agent puts a blob that it has downloaded."""
        return self.incoming / f"{sha256}.edgepkg"

    def forget_blobs(self, *, keep: Collection[str] = ()) -> None:
        """Remove the downloaded blobs, and what was staged, save those of the hashes in `keep`."""
        try:
            for path in (*self.incoming.glob("*.edgepkg"), *self._staging.glob("*.edgepkg")):
                if path.stem not in keep and not path.is_dir():
                    path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("event=blobs_not_removed error=%s", error)

    def install(self, path: Path, *, digest: str = "") -> InstalledPackage:
        """Check every file of a package and unpack it. Raises PackageError, StorageError, and leaves nothing
        behind. With `digest` any other package is refused before a byte of it is unpacked.

        The folder appears under its digest by a rename, whole or not at all. One that is there already and
        was damaged since is replaced.
        """
        with PackageFile(path) as package, _storing(self._packages):
            if digest and package.digest != digest:
                raise PackageError(f"{path}: expected package {digest[:16]}, found {package.digest[:16]}")
            package.verify_files()
            target = self._packages / package.digest
            if not self.holds(package.digest):
                shutil.rmtree(target, ignore_errors=True)
                temporary = self._packages / f".{package.digest[:16]}.{random_hex(4)}"
                try:
                    package.extract_to(temporary)
                    temporary.rename(target)
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
                sync_folder(self._packages)
            return InstalledPackage(target, package.digest, package.manifest)

    def open(self, digest: str) -> InstalledPackage:
        """An installed package, its files hashed afresh. Raises PackageError where one is missing or changed."""
        folder = self._packages / digest
        try:
            raw = (folder / MANIFEST).read_bytes()
        except OSError as error:
            raise _unreadable(f"package {digest[:16]} is not installed", error) from error
        found = sha256(raw).hexdigest()
        if found != digest:
            raise PackageError(f"{folder}: expected a manifest of digest {digest[:16]}, found {found[:16]}")
        manifest = parse_manifest(raw)
        for name, expected in named_files(manifest).items():
            self._check(folder / name, expected)
        return InstalledPackage(folder, digest, manifest)

    def holds(self, digest: str) -> bool:
        """Whether the package is installed with every file intact."""
        try:
            self.open(digest)
        except PackageError:
            return False
        return True

    def prune(self, keep: Collection[str]) -> None:
        """Remove every package that is in no slot."""
        try:
            for folder in self._packages.iterdir():
                if folder.name not in keep:
                    shutil.rmtree(folder, ignore_errors=True)
        except OSError as error:
            logger.warning("event=packages_not_pruned error=%s", error)

    @staticmethod
    def _check(path: Path, expected: str) -> None:
        try:
            found = sha256_file(path)
        except OSError as error:
            raise _unreadable(f"{path}: cannot be read", error) from error
        if found != expected:
            raise PackageError(f"{path}: was changed on disk", hint="deploy the package again")


@contextmanager
def _storing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _unreadable(what: str, error: OSError) -> EdgeInferError:
    reason = f"{what}: {error.strerror or error}"
    if error.errno in _PASSING:
        return StorageError(reason)
    return PackageError(reason, hint="deploy the package again")


def _take(blob: Path, copy: Path, *, sha256: str, size: int) -> None:
    """Copy a blob of `incoming` to where only this user may write. Raises PackageError, StorageError."""
    with _storing(copy.parent):
        copy.parent.mkdir(mode=0o700, exist_ok=True)
        copy.parent.chmod(0o700)
        with _open_plain(blob, size) as source, copy.open("wb") as target:
            found = _copy(source, target, size)
    if found != sha256:
        raise PackageError(f"{blob}: expected sha256 {sha256[:16]}..., found {found[:16]}...")


def _open_plain(path: Path, size: int) -> IO[bytes]:
    """Open a file that somebody else may put anything in the place of. Raises PackageError unless it is a plain
    file of `size` bytes, StorageError where that cannot be told now."""
    try:
        # Not blocking: the open of a FIFO would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOENT, errno.ENXIO}:
            raise PackageError(f"{path}: expected a plain file: {error.strerror}") from error
        raise StorageError(f"{path}: cannot be opened: {error.strerror}") from error
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_size == size:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise PackageError(f"{path}: expected a plain file, found something else")
    raise PackageError(f"{path}: expected {size} bytes, found {found.st_size}")


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> str:
    """Copy `size` bytes at most; the sha256 of what was copied."""
    digest = sha256()
    while size > 0 and (block := source.read(min(_BLOCK, size))):
        digest.update(block)
        target.write(block)
        size -= len(block)
    return digest.hexdigest()
