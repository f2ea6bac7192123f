"""The model store on the device: verified packages, unpacked, one folder per digest.

    models/incoming/{sha256}.edgepkg   blobs that the agent has downloaded; nothing here is trusted
    models/packages/{digest}/          packages whose every file has been checked

Only the runtime writes to `packages`, and only after it has checked the hashes itself.
"""

import hashlib
import os
import secrets
import shutil
from collections.abc import Collection
from pathlib import Path

import msgspec

from edgeinfer.runtime.errors import PackageError
from edgeinfer.runtime.manifest import Manifest
from edgeinfer.runtime.package import MANIFEST, PackageFile, named_files, parse_labels, parse_manifest, sha256_file

__all__ = ["InstalledPackage", "Store"]


class InstalledPackage(msgspec.Struct, frozen=True):
    """A package in the store: its folder, identity and manifest."""

    folder: Path
    digest: str
    manifest: Manifest

    def labels(self) -> tuple[str, ...]:
        if self.manifest.labels is None:
            return ()
        return parse_labels((self.folder / self.manifest.labels[0]).read_bytes())


class Store:
    def __init__(self, state_dir: Path) -> None:
        self.incoming = state_dir / "models" / "incoming"
        self._packages = state_dir / "models" / "packages"
        for folder in (self.incoming, self._packages):
            folder.mkdir(parents=True, exist_ok=True)

    def install(self, path: Path) -> InstalledPackage:
        """Check every file of a package and unpack it. Raises PackageError and leaves nothing behind.

        The folder appears under its digest by a rename, whole or not at all. One that is there already and
        was damaged since is replaced.
        """
        with PackageFile(path) as package:
            package.verify_files()
            target = self._packages / package.digest
            if not self.holds(package.digest):
                shutil.rmtree(target, ignore_errors=True)
                temporary = self._packages / f".{package.digest[:16]}.{secrets.token_hex(4)}"
                try:
                    package.extract_to(temporary)
                    temporary.rename(target)
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
                _sync_folder(self._packages)
            return InstalledPackage(target, package.digest, package.manifest)

    def open(self, digest: str) -> InstalledPackage:
        """An installed package, its files hashed afresh. Raises PackageError where one is missing or changed."""
        folder = self._packages / digest
        try:
            raw = (folder / MANIFEST).read_bytes()
        except OSError as error:
            raise PackageError(f"package {digest[:16]} is not installed: {error.strerror}") from error
        found = hashlib.sha256(raw).hexdigest()
        if found != digest:
            raise PackageError(f"{folder}: expected a manifest of digest {digest[:16]}, found {found[:16]}")
        manifest = parse_manifest(raw)
        for name, sha256 in named_files(manifest).items():
            self._check(folder / name, sha256)
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
        for folder in self._packages.iterdir():
            if folder.name not in keep:
                shutil.rmtree(folder, ignore_errors=True)

    @staticmethod
    def _check(path: Path, expected: str) -> None:
        try:
            found = sha256_file(path)
        except OSError as error:
            raise PackageError(f"{path}: cannot be read: {error.strerror}", hint="deploy the package again") from error
        if found != expected:
            raise PackageError(f"{path}: was changed on disk", hint="deploy the package again")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
