"""ONNX to TFLite by the command `onnx2tf` 2.x, so that an ONNX file also competes as what LiteRT runs.

onnx2tf needs Python 3.12 or newer and pins an onnxruntime of its own: it is a command in an environment apart, and
optional. It turns inputs of channels first into channels last; a graph that had them last before it became ONNX gets
transposes by that, which the second conversion, with every input kept as it is, goes without. Which is faster is to
be measured.
"""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgeinfer.runtime.errors import ModelError, UsageError

__all__ = ["Conversion", "convert_onnx"]

_COMMAND = "onnx2tf"
_MAJOR = 2
_VERSION_TIMEOUT_S = 60.0
_CONVERT_TIMEOUT_S = 300.0
# Of what the command printed, so much is read and so many lines are shown: it is verbose.
_MOST_PRINTED = 64 << 10
_LINES_SHOWN = 4
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# The caller's Python environment is not the command's.
_FOREIGN = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONSTARTUP"}


@dataclass(frozen=True, slots=True)
class Conversion:
    """A float32 TFLite file. `kept_layout` tells that its inputs have the ONNX model's own order of dimensions;
    otherwise those of three and more may have become channels last."""

    path: Path
    kept_layout: bool
    version: str


def convert_onnx(
    path: Path, folder: Path, *, converter: Path | None = None, timeout_s: float = _CONVERT_TIMEOUT_S
) -> tuple[Conversion, ...] | None:
    """The TFLite conversions of an ONNX file, written into `folder`; one alone where both are the same file.

    `converter` is the onnx2tf to use; without it, it is looked for on the PATH, and None says that there is none.
    `timeout_s` is for each conversion. Raises UsageError for a `converter` that is no program; ModelError where its
    version is not 2.x, and where no conversion succeeds, with what it printed last.
    """
    command = _found(converter)
    if command is None:
        return None
    version = _version(command)
    names = _input_names(path)
    made: dict[bytes, Conversion] = {}
    failures: list[ModelError] = []
    for kept in (False, True):
        target = folder / f"{path.stem}-{'kept' if kept else 'converted'}.tflite"
        try:
            _convert(command, path, target, options=["-kat", *names] if kept else [], timeout_s=timeout_s)
        except ModelError as error:
            failures.append(error)
            continue
        digest = hashlib.sha256(target.read_bytes()).digest()
        if digest in made:  # there was no layout to change
            target.unlink()
        made[digest] = Conversion(made[digest].path if digest in made else target, kept, version)
    if not made:
        raise failures[0]
    return tuple(made.values())


def _found(converter: Path | None) -> Path | None:
    if converter is None:
        found = shutil.which(_COMMAND)
        return Path(found) if found else None
    if not converter.is_file() or not os.access(converter, os.X_OK):
        raise UsageError(f"{converter}: expected the program {_COMMAND}, found no such executable file")
    return converter.absolute()


def _version(command: Path) -> str:
    printed = _run([str(command), "--version"], timeout_s=_VERSION_TIMEOUT_S)
    found = re.search(r"\b(\d+)\.\d+(\.\w+)*\b", printed)
    if found is None or int(found[1]) != _MAJOR:
        raise ModelError(
            f"{command}: expected {_COMMAND} {_MAJOR}.x, found {found[0] if found else 'no version'}",
            hint=f"in an environment of its own, of Python 3.12 or newer: pip install '{_COMMAND}>={_MAJOR}'",
        )
    return found[0]


def _input_names(path: Path) -> list[str]:
    import onnx

    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as error:  # protobuf's errors have no common base
        raise ModelError(f"{path}: is no ONNX model") from error
    constants = {initializer.name for initializer in graph.initializer}
    return [value.name for value in graph.input if value.name not in constants]


def _convert(command: Path, path: Path, target: Path, *, options: Sequence[str], timeout_s: float) -> None:
    import onnx

    with tempfile.TemporaryDirectory(prefix="convert-", dir=target.parent) as work:
        copy = Path(work) / path.name
        # onnx2tf simplifies the file that it is given in place: it gets one of its own, with what lies beside it.
        onnx.save(onnx.load(str(path)), str(copy))
        arguments = [str(command), "-i", str(copy), "-o", work, *options]
        printed = _run(arguments, timeout_s=timeout_s, work=Path(work))
        written = sorted(Path(work).glob("*_float32.tflite"))
        if len(written) != 1 or written[0].stat().st_size == 0:
            raise ModelError(f"{path}: {_COMMAND} wrote no float32 TFLite file: {printed}")
        shutil.move(written[0], target)


def _run(arguments: Sequence[str], *, timeout_s: float, work: Path | None = None) -> str:
    """The last lines that a command printed. Raises ModelError where it fails or does not end in time."""
    environment = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    with tempfile.TemporaryFile() as output:
        try:
            # A session of its own: what the command starts ends with it.
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=work,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise ModelError(f"{arguments[0]}: cannot be started: {error.strerror}") from error
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise ModelError(f"{_COMMAND} did not end within {timeout_s:g} s") from error
        finally:
            _end(process)
        output.seek(max(output.seek(0, os.SEEK_END) - _MOST_PRINTED, 0))
        printed = _last_lines(output.read())
    if status != 0:
        raise ModelError(f"{_COMMAND} failed with status {status}: {printed}")
    return printed


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_lines(printed: bytes) -> str:
    text = _COLOUR.sub("", printed.decode(errors="replace")).replace("\r", "\n")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(line[:300] for line in lines[-_LINES_SHOWN:]) or "it printed nothing"
