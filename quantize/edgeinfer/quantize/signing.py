"""Keys and signatures of packages, for the command line."""

from pathlib import Path

from edgeinfer.runtime.errors import UsageError
from edgeinfer.runtime.package import PackageFile, write_package
from edgeinfer.runtime.trust import SigningKey, key_id

__all__ = ["load_key", "make_key", "sign_package"]


def make_key(output: Path) -> tuple[Path, Path]:
    """Make a signing key: the private key at `output`, the public one beside it as `.pub`. Never overwrites."""
    public = output.with_suffix(".pub")
    if output.suffix == ".pub":
        raise UsageError(f"{output}: expected a name for the private key, for instance {output.with_suffix('.key')}")
    for path in (output, public):
        if path.exists():
            raise UsageError(f"{path}: exists already, and a key is never overwritten")
    try:
        SigningKey.generate().save(output)
    except OSError as error:
        raise UsageError(f"{output}: cannot be written: {error.strerror}") from error
    return output, public


def load_key(path: Path) -> SigningKey:
    """The private key in `path`. Raises UsageError where there is no such file, or none in it."""
    if not path.is_file():
        raise UsageError(f"{path}: no such key file", hint="make a key: edgeinfer package keygen PATH")
    return SigningKey.load(path)


def sign_package(path: Path, key_file: Path) -> str:
    """Add a signature by the key in `key_file`, in place; returns the key's id. The digest stays the same.

    Every file is checked first: a damaged package is never signed. Raises UsageError, PackageError.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such package")
    key = load_key(key_file)
    identity = key_id(key.public)
    with PackageFile(path) as package:
        package.verify_files()
        others = [signature for signature in package.signatures if signature.keyid != identity]
        files: dict[str, bytes | Path] = {name: package.read(name) for name in package.files()}
        manifest = package.manifest_bytes
    write_package(path, manifest, files, [*others, key.sign(manifest)])
    return identity
