"""Makes the files of candidates, and looks at once whether a tool did anything at all."""

import errno
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.offers import Material
from edgeinfer.quantize.schemes.base import Calibration, Make, Plan, Scheme
from edgeinfer.runtime.errors import EdgeInferError, StorageError

__all__ = ["Maker"]

# A file that shrank by less than this share was not quantized, whatever its tool says.
MIN_SHRINK = 0.02
# Below this size the file's own structure outweighs its weights and says nothing about them.
_TINY_BYTES = 16 << 10
_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(slots=True)
class Maker:
    """`materials` by engine; files are made in `folder`. What was made before is known by its content."""

    materials: Mapping[str, Material]
    folder: Path
    _contents: dict[bytes, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for material in self.materials.values():
            candidate = material.float_model
            self._contents.setdefault(_digest(candidate.engine, candidate.path), candidate.id)

    def make(self, name: str, scheme: Scheme, plan: Plan) -> Candidate:
        """A candidate, or one that says why it is none. Raises StorageError where there is no room for it."""
        float_model = self.materials[scheme.engine].float_model
        target = self.folder / f"{name}{float_model.path.suffix.lower()}"
        refused = self.write(scheme, target, plan)
        if not refused:
            first = self._contents.setdefault(_digest(scheme.engine, target), name)
            refused = f"is the same file as {first}" if first != name else ""
        return Candidate(
            name,
            scheme.engine,
            "mixed" if plan else scheme.precision,
            target,
            quantized=scheme.quantizes,
            refused=refused,
            feeding=float_model.feeding,
        )

    def sketch(self, name: str, scheme: Scheme) -> Candidate | None:
        """Something as fast as what the scheme makes, to be removed once it is timed; None where that is not to be had.
        Raises StorageError as above."""
        material = self.materials[scheme.engine]
        suffix = material.float_model.path.suffix.lower()
        source = self.folder / f"{scheme.begins}{suffix}" if scheme.begins else material.float_model.path
        target = self.folder / f"{name}.sketch{suffix}"
        make = scheme.sketch or scheme.make
        if self._run(make, source, target, material.few, {}):
            target.unlink(missing_ok=True)
            return None
        return Candidate(
            f"sketch of {name}",
            scheme.engine,  # of OpenVINO's the float model is ONNX Runtime's
            scheme.precision,
            target,
            quantized=False,
            feeding=material.float_model.feeding,
        )

    def write(self, scheme: Scheme, target: Path, plan: Plan) -> str:
        """Write `target`; why what was written is of no use, "" where it is. Raises StorageError as above."""
        material = self.materials[scheme.engine]
        source = material.float_model.path
        refused = self._run(scheme.make, source, target, material.calibration, plan)
        if refused or not scheme.quantizes:
            return refused
        before, after = source.stat().st_size, target.stat().st_size
        if before > _TINY_BYTES and after > before * (1.0 - MIN_SHRINK):
            return f"nothing was quantized: the file has {after} bytes, the float one {before}"
        return ""

    def _run(self, make: Make, source: Path, target: Path, calibration: Calibration, plan: Plan) -> str:
        """Why it could not be made; "" where it was."""
        try:
            return make(source, target, calibration, plan)
        except (EdgeInferError, OSError) as error:
            if _is_full(error):
                target.unlink(missing_ok=True)
                raise StorageError(
                    f"{self.folder}: no room to write {target.name}",
                    hint="free some, or have the environment variable TMPDIR name a folder with more",
                ) from error
            if not isinstance(error, EdgeInferError):
                raise
            return error.message


def _digest(engine: str, path: Path) -> bytes:
    """The same file is another candidate where another engine runs it."""
    return hashlib.sha256(engine.encode() + path.read_bytes()).digest()


def _is_full(error: BaseException | None) -> bool:
    """Whether a full disk is behind it: tools' errors are wrapped."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False
