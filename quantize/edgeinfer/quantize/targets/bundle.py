"""A package that is only there to be timed: candidates, and the sample that they are timed on."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from edgeinfer.quantize.arrays import encode_arrays
from edgeinfer.quantize.candidate import Candidate
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import UsageError
from edgeinfer.runtime.hashing import sha256
from edgeinfer.runtime.manifest import (
    SCHEMA_VERSION,
    Golden,
    Manifest,
    RawPost,
    TensorPre,
    Tolerance,
    Variant,
)
from edgeinfer.runtime.package import encode_manifest, sha256_file, write_package
from edgeinfer.runtime.trust import SigningKey

__all__ = ["write_bundle"]

_GOLDEN = "golden.npz"
# It is never installed, so nothing is ever held against it.
_ANY = Tolerance(0.0, 0.0)


def write_bundle(path: Path, candidates: Sequence[Candidate], sample: Array, *, key: SigningKey | None = None) -> None:
    """`sample` is float32 (1, *input shape). No candidate is loaded: only the device needs their engines. A `key`
    signs it as a release would be. Raises UsageError for a candidate that no package can hold."""
    files: dict[str, bytes | Path] = {_file_name(candidate): candidate.path for candidate in candidates}
    files[_GOLDEN] = golden = encode_arrays({"input": sample})
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name="candidates",
        version="0.0.0",
        task="raw",
        preprocess=TensorPre(tuple(sample.shape[1:])),
        postprocess=RawPost(),
        variants=tuple(_variant(candidate) for candidate in candidates),
        golden=Golden(_GOLDEN, sha256(golden).hexdigest(), len(sample), {one.id: _ANY for one in candidates}),
    )
    raw = encode_manifest(manifest)
    write_package(path, raw, files, (key.sign(raw),) if key is not None else ())


def _variant(candidate: Candidate) -> Variant:
    described = {
        "id": candidate.id,
        "engine": candidate.engine,
        "file": _file_name(candidate),
        "sha256": sha256_file(candidate.path),
        "bytes": candidate.path.stat().st_size,
        "precision": candidate.precision,
        "inputs": (),
        "outputs": (),
        "states": candidate.feeding.states,
        "constants": candidate.feeding.constants,
    }
    try:
        return msgspec.convert(described, Variant)
    except msgspec.ValidationError as error:
        raise UsageError(f"the candidate {candidate.id!r} cannot be packed to be timed elsewhere: {error}") from error


def _file_name(candidate: Candidate) -> str:
    return f"{candidate.id}{candidate.path.suffix.lower()}"
