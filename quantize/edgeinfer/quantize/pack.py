"""Puts variants, golden vectors and provenance together into a package file."""

import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import msgspec

from edgeinfer.quantize.arrays import encode_arrays
from edgeinfer.quantize.candidate import Candidate, open_candidate
from edgeinfer.quantize.feeding import OneInput
from edgeinfer.quantize.fit import check_fit
from edgeinfer.quantize.golden import golden_vectors, names_classes, pick_inputs
from edgeinfer.quantize.reference import Typical, make_reference
from edgeinfer.quantize.rows import Rows
from edgeinfer.quantize.signing import load_key
from edgeinfer.runtime.engines import Engine
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import StorageError, UsageError
from edgeinfer.runtime.manifest import (
    SCHEMA_VERSION,
    Golden,
    Manifest,
    Name,
    Postprocess,
    Preprocess,
    Provenance,
    Reference,
    SemVer,
    Task,
    Tolerance,
    Variant,
)
from edgeinfer.runtime.package import encode_manifest, parse_labels, sha256_file, write_package
from edgeinfer.runtime.trust import SigningKey

__all__ = ["Contents", "Identity", "check_identity", "read_labels", "write_variants"]

_GOLDEN, _LABELS, _REPORT, _ARRAYS = "golden.npz", "labels.txt", "report.json", "arrays.npz"
_TOOLS = ("edgeinfer", "numpy", "onnx", "onnxruntime", "ai-edge-litert", "ai-edge-quantizer", "openvino", "nncf")
_ENGINES: dict[str, Literal["onnx", "litert", "openvino"]] = {
    "onnx": "onnx",
    "litert": "litert",
    "openvino": "openvino",
}
_MAX_LABELS_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Identity:
    """What a package is called, and where it is written. `sign_key` is a private key file or None."""

    name: str
    version: str
    task: Task
    output: Path
    sign_key: Path | None = None


@dataclass(frozen=True, slots=True)
class Contents:
    """What goes into a package. `variants` in order of preference; `x` rows to pick golden inputs
    from; `metrics` by variant id; `sources` are the files whose sha256 the provenance names; of the `typical` ones the
    reference is made; `arrays` are those that the postprocessing needs."""

    variants: Sequence[Candidate]
    preprocess: Preprocess
    postprocess: Postprocess
    x: Rows
    sources: Sequence[Path]
    labels: bytes | None = None
    report: Mapping[str, Any] | None = None
    metrics: Mapping[str, dict[str, float]] = field(default_factory=dict)
    calibration_sha256: str = ""
    evaluation_sha256: str = ""
    typical: Typical | None = None
    arrays: Mapping[str, Array] = field(default_factory=dict)
    choose: Literal["first", "measured"] = "first"


def check_identity(identity: Identity) -> SigningKey | None:
    """Refuse early what would be refused after minutes of work. Raises UsageError."""
    for what, value, type_, hint in (
        ("name", identity.name, Name, "lower case letters, digits, dots, dashes; for instance door-camera"),
        ("version", identity.version, SemVer, "MAJOR.MINOR.PATCH, for instance 1.0.0"),
    ):
        try:
            msgspec.convert(value, type_)
        except msgspec.ValidationError as error:
            raise UsageError(f"expected a valid package {what}, found {value!r}", hint=hint) from error
    if not identity.output.parent.is_dir():
        raise UsageError(f"{identity.output}: expected an existing folder to write to")
    if identity.output.is_dir():
        raise UsageError(f"{identity.output}: expected a file to write, found a folder")
    return load_key(identity.sign_key) if identity.sign_key is not None else None


def read_labels(path: Path | None) -> bytes | None:
    """The labels file, one label a line. Raises UsageError where it cannot be read."""
    if path is None:
        return None
    try:
        raw = path.read_bytes()
        raw.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: expected a text file with one label a line: {error}") from error
    if len(raw) > _MAX_LABELS_BYTES or not parse_labels(raw):
        raise UsageError(f"{path}: expected at least one label and at most {_MAX_LABELS_BYTES} bytes")
    return raw


def write_variants(identity: Identity, contents: Contents, *, key: SigningKey | None, threads: int = 1) -> str:
    """Write the package and return its digest. Raises ConfigError where the declarations do not fit a variant,
    UsageError where the labels do not, ModelError, PackageError, StorageError."""
    files: dict[str, bytes | Path] = {}
    with ExitStack() as stack:
        engines: dict[str, Engine] = {}
        for candidate in contents.variants:
            engine = open_candidate(candidate, threads=threads)
            stack.callback(engine.close)
            check_fit(
                candidate.path,
                engine,
                contents.preprocess,
                contents.postprocess,
                labels=contents.labels,
                arrays=contents.arrays,
            )
            engines[candidate.id] = engine
            files[_file_name(candidate)] = candidate.path
        variants = tuple(_variant(c, engines[c.id], contents.metrics.get(c.id)) for c in contents.variants)
        inputs = pick_inputs(contents.x)
        integer = {c.id: c.precision != "fp32" for c in contents.variants}
        golden, tolerance = golden_vectors(
            engines, inputs, integer=integer, categorical=names_classes(contents.postprocess)
        )
        reference = _reference(engines[contents.variants[0].id], contents)
    files[_GOLDEN] = golden
    labels = _optional(files, _LABELS, contents.labels)
    arrays = _optional(files, _ARRAYS, encode_arrays(contents.arrays) if contents.arrays else None)
    report = _optional(files, _REPORT, _report_bytes(contents.report))
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=identity.name,
        version=identity.version,
        task=identity.task,
        preprocess=contents.preprocess,
        postprocess=contents.postprocess,
        variants=variants,
        labels=labels,
        golden=_golden_entry(golden, len(inputs), tolerance),
        report=report,
        provenance=_provenance(contents),
        reference=reference,
        arrays=arrays,
        choose=contents.choose,
    )
    raw = encode_manifest(manifest)
    try:
        write_package(identity.output, raw, files, (key.sign(raw),) if key is not None else ())
    except OSError as error:
        raise StorageError(f"{identity.output}: cannot be written: {error.strerror or error}") from error
    return hashlib.sha256(raw).hexdigest()


def _variant(candidate: Candidate, engine: Engine, metrics: dict[str, float] | None) -> Variant:
    return Variant(
        id=candidate.id,
        engine=_ENGINES[candidate.engine],
        file=_file_name(candidate),
        sha256=sha256_file(candidate.path),
        bytes=candidate.path.stat().st_size,
        precision=candidate.precision,
        inputs=engine.engine.inputs if isinstance(engine, OneInput) else engine.inputs,
        outputs=engine.outputs,
        metrics={"local": metrics} if metrics else {},
        states=candidate.feeding.states,
        constants=candidate.feeding.constants,
    )


def _file_name(candidate: Candidate) -> str:
    return f"{candidate.id}{candidate.path.suffix.lower()}"


def _optional(files: dict[str, bytes | Path], name: str, content: bytes | None) -> tuple[str, str] | None:
    if content is None:
        return None
    files[name] = content
    return name, hashlib.sha256(content).hexdigest()


def _report_bytes(report: Mapping[str, Any] | None) -> bytes | None:
    return None if report is None else msgspec.json.format(msgspec.json.encode(report), indent=1)


def _golden_entry(content: bytes, count: int, tolerance: dict[str, Tolerance]) -> Golden:
    return Golden(file=_GOLDEN, sha256=hashlib.sha256(content).hexdigest(), count=count, tolerance=tolerance)


def _reference(engine: Engine, contents: Contents) -> Reference | None:
    if contents.typical is None:
        return None
    made = make_reference(
        engine,
        contents.typical,
        preprocess=contents.preprocess,
        postprocess=contents.postprocess,
        arrays=contents.arrays,
    )
    return made if made.scores or made.inputs else None


def _provenance(contents: Contents) -> Provenance:
    report = contents.report or {}
    return Provenance(
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        tools=_tool_versions(),
        source_sha256={path.name: sha256_file(path) for path in contents.sources},
        calibration_sha256=contents.calibration_sha256,
        evaluation_sha256=contents.evaluation_sha256,
        search=[msgspec.to_builtins(entry) for entry in report.get("candidates", ())],
    )


def _tool_versions() -> dict[str, str]:
    versions: dict[str, str] = {}
    for tool in _TOOLS:
        try:
            versions[tool] = metadata.version(tool)
        except metadata.PackageNotFoundError:
            continue
    return versions
