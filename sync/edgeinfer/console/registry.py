"""The package registry: what may be deployed. Nothing gets in that is damaged or, where keys are set, unsigned."""

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from edgeinfer.console.blobs import BlobStore
from edgeinfer.console.repository import Repository
from edgeinfer.console.repository.base import Package
from edgeinfer.runtime.errors import ConfigError, PackageError, UsageError
from edgeinfer.runtime.manifest import DetectPost
from edgeinfer.runtime.package import PackageFile, sha256_file
from edgeinfer.runtime.trust import parse_public_key, verify

__all__ = ["Registry"]


class Registry:
    """Packages by digest. `release_keys` as in the configuration; empty: any sound package is taken."""

    def __init__(self, repository: Repository, blobs: BlobStore, *, release_keys: Sequence[str]) -> None:
        self._repository = repository
        self._blobs = blobs
        self._adding = threading.Lock()
        self.set_release_keys(release_keys)

    def set_release_keys(self, release_keys: Sequence[str]) -> None:
        """Raises ConfigError for something that is no key."""
        try:
            self._trusted = [parse_public_key(key) for key in release_keys]
        except UsageError as error:
            raise ConfigError(f"[trust] release_keys: {error.message}", hint=error.hint) from error

    def add(self, file: Path) -> tuple[Package, bool]:
        """Take the package in `file`, which is moved away. Returns it, and whether it is new.

        Raises PackageError (damaged, or another content under a version that is taken) and SignatureError.
        """
        with PackageFile(file) as opened:
            opened.verify_files()
            signed_by = verify(opened.manifest_bytes, opened.signatures, self._trusted) if self._trusted else ""
            package = _describe(opened, file, signed_by)
        with self._adding:
            self._refuse_taken_version(package)
            _sync_file(file)
            self._blobs.adopt(file, package.blob_sha256)
            new = self._repository.add_package(package)
        return package, new

    def check(self, file: Path) -> tuple[str, int]:
        """Whether the package in `file` could be released here, which it is not: sha256 and bytes of the file. Raises
        PackageError and SignatureError, as `add`."""
        with PackageFile(file) as opened:
            opened.verify_files()
            if self._trusted:
                verify(opened.manifest_bytes, opened.signatures, self._trusted)
        return sha256_file(file), file.stat().st_size

    def find(self, reference: str) -> Package:
        """By digest (whole, or at least 8 digits of it) or `name:version`. Raises UsageError."""
        packages = self._repository.packages()
        name, _, version = reference.partition(":")
        found = [package for package in packages if (package.name, package.version) == (name, version)]
        if not found and len(reference) >= 8:
            found = [package for package in packages if package.digest.startswith(reference)]
        if len(found) != 1:
            known = ", ".join(f"{package.name}:{package.version}" for package in packages[:10]) or "none"
            raise UsageError(f"no package {reference[:80]!r} in the registry", hint=f"known: {known}")
        return found[0]

    def _refuse_taken_version(self, package: Package) -> None:
        for known in self._repository.packages():
            if (known.name, known.version) == (package.name, package.version) and known.digest != package.digest:
                raise PackageError(
                    f"{package.name} {package.version} is already in the registry with another content "
                    f"({known.digest[:12]}, this is {package.digest[:12]})",
                    hint="a released version never changes: give the new package a higher version",
                )


def _describe(opened: PackageFile, file: Path, signed_by: str) -> Package:
    manifest = opened.manifest
    post = manifest.postprocess
    return Package(
        digest=opened.digest,
        name=manifest.name,
        version=manifest.version,
        task=manifest.task,
        blob_sha256=sha256_file(file),
        blob_bytes=file.stat().st_size,
        added_ns=time.time_ns(),
        labels=opened.labels(),
        label_offset=post.label_offset if isinstance(post, DetectPost) else 0,
        variants=tuple(
            {"id": v.id, "engine": v.engine, "precision": v.precision, "bytes": v.bytes} for v in manifest.variants
        ),
        signed_by=signed_by,
    )


def _sync_file(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
