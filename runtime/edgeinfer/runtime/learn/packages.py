"""Which package an explanation uses: one from a file, or the one that a pipeline of this device runs."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import PackageError, UsageError
from edgeinfer.runtime.handoff import RuntimeDb
from edgeinfer.runtime.package import MANIFEST, PackageFile, named_files, parse_manifest, sha256_file
from edgeinfer.runtime.store import InstalledPackage

__all__ = ["package_from_file", "package_of_pipeline"]

_AGAIN = "deploy the package again"


@contextmanager
def package_from_file(path: Path) -> Iterator[InstalledPackage]:
    """A package file, checked, and unpacked for as long as it is used. Raises PackageError."""
    with tempfile.TemporaryDirectory(prefix="edgeinfer-explain-") as name, PackageFile(path) as package:
        package.verify_files()
        package.extract_to(Path(name))
        yield InstalledPackage(Path(name), package.digest, package.manifest)


def package_of_pipeline(state_dir: Path, pipeline: str) -> tuple[InstalledPackage, str]:
    """What a pipeline of this device runs, as its daemon last showed it, and the variant. Writes nothing. Raises
    UsageError for a pipeline that is none, PackageError for a package that was changed."""
    shown = _shown(state_dir)
    running = shown.pipelines.get(pipeline)
    if running is None or running.model not in shown.models:
        raise UsageError(
            f"expected a pipeline of the daemon with the folder {state_dir}, found {pipeline!r}",
            hint=f"it has {', '.join(sorted(shown.pipelines)) or 'none'}",
        )
    digest = shown.models[running.model].digest
    return _open(state_dir / "models" / "packages" / digest, digest), running.variant


class _Running(msgspec.Struct, frozen=True):
    digest: str = ""
    model: str = ""
    variant: str = ""


class _Status(msgspec.Struct, frozen=True):
    """The part of the status document that leads from a pipeline to its package."""

    models: dict[str, _Running] = {}
    pipelines: dict[str, _Running] = {}


def _shown(state_dir: Path) -> _Status:
    path = state_dir / "runtime.db"
    if not path.exists():
        raise UsageError(f"{state_dir}: expected the folder of a daemon, found no runtime.db")
    with RuntimeDb(path, read_only=True) as db:
        document = db.status()
    try:
        return msgspec.json.decode(document, type=_Status)
    except MALFORMED as error:
        raise UsageError(f"{path}: expected the status of a daemon that has run, found none") from error


def _open(folder: Path, digest: str) -> InstalledPackage:
    """As the store does, and without its folders being made where there are none."""
    try:
        raw = (folder / MANIFEST).read_bytes()
        if hashlib.sha256(raw).hexdigest() != digest:
            raise PackageError(f"{folder}: its manifest was changed on disk", hint=_AGAIN)
        manifest = parse_manifest(raw)
        for name, sha256 in named_files(manifest).items():
            if sha256_file(folder / name) != sha256:
                raise PackageError(f"{folder / name}: was changed on disk", hint=_AGAIN)
    except OSError as error:
        raise PackageError(f"{folder}: cannot be read: {error.strerror}", hint=_AGAIN) from error
    return InstalledPackage(folder, digest, manifest)
