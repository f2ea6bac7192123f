"""Reads and writes model packages (`.edgepkg`): a stored ZIP of a manifest, variants and golden vectors.

    with PackageFile(path) as package:          # checks the archive's structure and the manifest
        package.verify_files()                  # checks each file against its sha256
        package.extract_to(folder)

The identity of a package is its `digest`, the sha256 of the bytes of manifest.json: the manifest names the
sha256 of every other file, and a signature is over those same bytes, so signing changes no digest.
"""

import io
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Self

import msgspec

from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.durable import sync_folder
from edgeinfer.runtime.errors import PackageError, StorageError
from edgeinfer.runtime.hashing import sha256, sha256_stream
from edgeinfer.runtime.manifest import SCHEMA_VERSION, Manifest, Signature
from edgeinfer.runtime.package_layout import MAX_BYTES, Member, is_canonical, write_archive

__all__ = [
    "MANIFEST",
    "SIGNATURES",
    "PackageFile",
    "encode_manifest",
    "named_files",
    "parse_manifest",
    "sha256_file",
    "write_package",
]

MANIFEST = "manifest.json"
SIGNATURES = "signatures.json"
MAX_MANIFEST_BYTES = 4 << 20
MAX_FILES = 64
MAX_TOTAL_BYTES = MAX_BYTES
_BLOCK = 1 << 20


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest's JSON, indented for a reader; these exact bytes are what is hashed and signed."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1)


def parse_manifest(raw: bytes) -> Manifest:
    """Raises PackageError unless `raw` is a manifest of a schema version that this reader knows."""
    try:
        head = msgspec.json.decode(raw)
    except MALFORMED as error:
        raise PackageError(f"{MANIFEST} is not JSON: {error}") from error
    found = head.get("schema_version") if isinstance(head, dict) else None
    if found != SCHEMA_VERSION:
        raise PackageError(
            f"expected a manifest of schema version {SCHEMA_VERSION}, found {found!r}",
            hint="install an edgeinfer that knows this version, or make the package again",
        )
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except MALFORMED as error:
        raise PackageError(f"{MANIFEST} does not follow the schema: {error}") from error
    _check_consistent(manifest)
    return manifest


def _check_consistent(manifest: Manifest) -> None:
    if not manifest.variants:
        raise PackageError(f"package {manifest.name} {manifest.version} has no variant: expected at least one")
    ids = [variant.id for variant in manifest.variants]
    if len(set(ids)) != len(ids):
        raise PackageError(f"package {manifest.name} {manifest.version} names a variant twice: {sorted(ids)}")
    if manifest.golden is not None:
        missing = [i for i in ids if i not in manifest.golden.tolerance]
        if missing:
            raise PackageError(f"golden vectors give no tolerance for variant {missing[0]}")


def named_files(manifest: Manifest) -> dict[str, str]:
    """Name to sha256 of every file that a manifest answers for."""
    named = {variant.file: variant.sha256 for variant in manifest.variants}
    for pair in (manifest.labels, manifest.report, manifest.arrays):
        if pair is not None:
            named[pair[0]] = pair[1]
    if manifest.golden is not None:
        named[manifest.golden.file] = manifest.golden.sha256
    return named


def sha256_file(path: Path) -> str:
    """The sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return sha256_stream(file)


class PackageFile:
    """A package opened for reading. Opening checks the archive's shape and the manifest, nothing more.

    Raises PackageError for a file that is no package, is cut short, names paths outside of itself, or is
    beyond what a package may be. Attributes: `manifest`, `manifest_bytes`, `digest`, `signatures`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = _open_archive(path)
        try:
            self._check_members()
            self.manifest_bytes = self._read_member(MANIFEST, MAX_MANIFEST_BYTES)
            self.manifest = parse_manifest(self.manifest_bytes)
            self.digest = sha256(self.manifest_bytes).hexdigest()
            self.signatures = self._read_signatures()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._zip.close()

    def files(self) -> dict[str, str]:
        """Name to sha256 of every file that the manifest answers for."""
        return named_files(self.manifest)

    def verify_files(self) -> None:
        """Hash every file. Raises PackageError for one that is missing, changed or not in the manifest, and for an
        archive that is not laid out as every package is."""
        named = self.files()
        present = {info.filename for info in self._zip.infolist()} - {MANIFEST, SIGNATURES}
        extra = sorted(present - named.keys())
        if extra:
            raise PackageError(f"{self.path}: holds {extra[0]}, which the manifest does not name")
        for name, expected in named.items():
            found = self._hash_member(name)
            if found != expected:
                raise PackageError(
                    f"{self.path}: {name} was changed: expected sha256 {expected[:16]}..., found {found[:16]}...",
                    hint="get the package again from where it was made",
                )
        self._check_layout()

    def read(self, name: str, *, at_most: int = MAX_TOTAL_BYTES) -> bytes:
        """The content of one file. Raises PackageError where it is missing, damaged or larger than `at_most` bytes."""
        return self._read_member(name, at_most)

    def labels(self) -> tuple[str, ...]:
        """The label of each class, in order of the class index; empty where the package has none."""
        if self.manifest.labels is None:
            return ()
        return parse_labels(self.read(self.manifest.labels[0]))

    def extract_to(self, folder: Path) -> None:
        """Write every file into `folder`, each synced to disk. Paths cannot leave it: names are checked.

        Raises PackageError where the package cannot be read, StorageError where the folder cannot be written:
        a full disk says nothing about the package.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in (MANIFEST, *self.files()):
                with (folder / name).open("wb") as target:
                    target.writelines(self._blocks(name))
                    target.flush()
                    os.fsync(target.fileno())
            sync_folder(folder)
        except OSError as error:  # what goes wrong in reading is a PackageError by now
            raise StorageError(f"{folder}: cannot be written: {error.strerror or error}") from error

    def _check_members(self) -> None:
        infos = self._zip.infolist()
        names = [info.filename for info in infos]
        if len(infos) > MAX_FILES or sum(info.file_size for info in infos) > MAX_TOTAL_BYTES:
            raise PackageError(
                f"{self.path}: expected at most {MAX_FILES} files and {MAX_TOTAL_BYTES >> 30} GiB, found {len(infos)} "
                f"files of {sum(info.file_size for info in infos)} bytes"
            )
        if len(set(names)) != len(names):
            raise PackageError(f"{self.path}: holds a file twice")
        for info in infos:
            if "/" in info.filename or "\\" in info.filename or info.filename.startswith("."):
                raise PackageError(f"{self.path}: expected plain file names, found {info.filename!r}")
            if info.compress_type != zipfile.ZIP_STORED:
                raise PackageError(f"{self.path}: expected stored files, found {info.filename!r} compressed")
        if MANIFEST not in names:
            raise PackageError(f"{self.path}: has no {MANIFEST}", hint="this is no edgeinfer package")

    def _check_layout(self) -> None:
        members = [Member(info.filename, info.CRC, info.file_size) for info in self._zip.infolist()]
        with self.path.open("rb") as file:
            if not is_canonical(file, members):
                raise PackageError(
                    f"{self.path}: was changed: its archive is not laid out as it was written",
                    hint="get the package again from where it was made",
                )

    def _read_signatures(self) -> tuple[Signature, ...]:
        if SIGNATURES not in self._zip.namelist():
            return ()
        raw = self._read_member(SIGNATURES, 1 << 16)
        try:
            return tuple(msgspec.json.decode(raw, type=list[Signature]))
        except MALFORMED as error:
            raise PackageError(f"{self.path}: {SIGNATURES} cannot be read: {error}") from error

    def _read_member(self, name: str, limit: int) -> bytes:
        with self._open_member(name) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise PackageError(f"{self.path}: {name} is larger than {limit} bytes")
        return data

    def _hash_member(self, name: str) -> str:
        digest = sha256()
        for block in self._blocks(name):
            digest.update(block)
        return digest.hexdigest()

    def _blocks(self, name: str) -> Iterator[bytes]:
        with self._open_member(name) as file:
            while block := file.read(_BLOCK):
                yield block

    @contextmanager
    def _open_member(self, name: str) -> Iterator[IO[bytes]]:
        try:
            with self._zip.open(name) as file:
                yield file
        except KeyError as error:
            raise PackageError(f"{self.path}: {name} is missing") from error
        except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
            raise PackageError(
                f"{self.path}: {name} is damaged: {error}", hint="get the package again from where it was made"
            ) from error


def _open_archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise PackageError(f"{path}: no such file") from error
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise PackageError(
            f"{path}: expected an edgeinfer package (a ZIP archive), found something else or a part of one: {error}",
            hint="get the package again from where it was made",
        ) from error


def parse_labels(raw: bytes) -> tuple[str, ...]:
    """One label a line, UTF-8; the line number is the class index."""
    return tuple(raw.decode("utf-8", errors="replace").splitlines())


def write_package(
    path: Path,
    manifest_bytes: bytes,
    files: Mapping[str, bytes | Path],
    signatures: Sequence[Signature] = (),
) -> None:
    """Write a package whole or not at all: to a temporary file, synced, then renamed to `path`."""
    parse_manifest(manifest_bytes)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as target:
            members: dict[str, bytes | Path] = {MANIFEST: manifest_bytes}
            if signatures:
                members[SIGNATURES] = msgspec.json.encode(list(signatures))
            write_archive(target, _contents({**members, **files}))
            target.flush()
            os.fsync(target.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _contents(members: Mapping[str, bytes | Path]) -> Iterator[tuple[str, IO[bytes]]]:
    for name, content in members.items():
        with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as source:
            yield name, source
