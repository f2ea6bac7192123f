"""A device that ssh reaches as a target: `edgeinfer bench` runs there, and its figures come back.

    target = SshTarget("ssh://pi@kitchen")
    target.time(candidates, sample=sample, reference="onnx-fp32")

The candidates travel in one temporary package over ssh's standard input. Nothing stays on the device, and nothing goes
on there when ssh is ended here.
"""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from edgeinfer.devices.kernels import cuts_pairs
from edgeinfer.devices.profile import Profile
from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.search.entry import Timing
from edgeinfer.quantize.targets.address import parse_address
from edgeinfer.quantize.targets.bundle import write_bundle
from edgeinfer.quantize.targets.figures import ROUGH_SECONDS, SECONDS, deadline_of, timings
from edgeinfer.quantize.targets.shell import Done, run_limited
from edgeinfer.runtime.bench import Bench
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import DependencyError, RemoteError
from edgeinfer.runtime.scratch import scratch_folder

__all__ = ["SshTarget"]

_ASK_DEADLINE_S = 60.0
_MAX_ANSWER_BYTES = 8 << 20
# Login shells may print a greeting: what counts comes after this line.
_MARK = b"----edgeinfer----\n"
_Document = TypeVar("_Document", Profile, Bench)
# sshd tells a command without a terminal in no other way that nobody listens any more: what it writes is refused.
_LIFELINE = "(trap '' PIPE; while sleep 1 > /dev/null 2>&1; do echo >&2 || kill \"$b\"; done) & w=$!;"
_NOT_EXECUTABLE, _NOT_FOUND, _SSH_FAILED = 126, 127, 255


class SshTarget:
    """What can be reached is asked at once what it is. `seconds` are those of each candidate. Raises UsageError for a
    `spec` that is no address, DependencyError where there is no ssh here or no edgeinfer there, RemoteError where the
    device cannot be reached or does not answer as it should."""

    measured = True
    repeats = False

    def __init__(self, spec: str, *, threads: int = 1, seconds: float = SECONDS) -> None:
        self.name = spec
        self._address = parse_address(spec)
        self._threads, self._seconds = threads, seconds
        self.profile = self._probe()
        self.machine = ", ".join(part for part in (self.profile.board, self.profile.cpu) if part) or self.profile.arch
        self.engines: tuple[str, ...] = tuple(self.profile.engines)
        self.cuts_pairs = cuts_pairs(self.profile.arch, self.profile.features)

    def time(
        self,
        candidates: Sequence[Candidate],
        *,
        sample: Array,
        reference: str,
        rough: bool = False,
        time_s: float = math.inf,
    ) -> dict[str, Timing]:
        """As Target says. Raises also ModelError where the reference cannot be run there: nothing has a ratio then."""
        del time_s  # the device says how long it takes, and is asked once
        seconds = min(self._seconds, ROUGH_SECONDS) if rough else self._seconds
        with scratch_folder("edgeinfer-target-") as folder:
            package = folder / "candidates.edgepkg"
            write_bundle(package, candidates, sample)
            found = self._bench(package, seconds=seconds, count=len(candidates))
        return timings(found, candidates, reference=reference, where=str(self._address))

    def close(self) -> None:
        """Every call connects anew."""

    def _probe(self) -> Profile:
        done = self._run(f"{self._program} probe --json", deadline_s=_ASK_DEADLINE_S)
        return self._decode(done, Profile, what="probe")

    def _bench(self, package: Path, *, seconds: float, count: int) -> Bench:
        deadline_s = deadline_of(package.stat().st_size, seconds=seconds, count=count)
        script = (
            "umask 077; d=$(mktemp -d) || exit 1; b=; trap 'rm -rf \"$d\"' EXIT; "
            'trap \'test -z "$b" || kill "$b"; exit 1\' HUP INT TERM; '
            'cat > "$d/candidates.edgepkg" || exit 1; '
            f'{self._program} bench "$d/candidates.edgepkg" --json --seconds {seconds:g} --threads {self._threads} & '
            f'b=$!; {_LIFELINE} wait "$b"; s=$?; kill "$w" 2> /dev/null; exit "$s"'
        )
        done = self._run(script, stdin=package, deadline_s=deadline_s)
        return self._decode(done, Bench, what="bench")

    @property
    def _program(self) -> str:
        return shlex.quote(self._address.program)

    def _run(self, script: str, *, deadline_s: float, stdin: Path | None = None) -> Done:
        command = self._address.command(f"echo {_MARK.decode().strip()}; {script}")
        try:
            done = run_limited(command, stdin=stdin, deadline_s=deadline_s, max_bytes=_MAX_ANSWER_BYTES)
        except RemoteError as error:
            raise RemoteError(f"{self._address}: {error.message}", hint=error.hint) from error
        if done.status == _SSH_FAILED:
            raise RemoteError(
                f"{self._address}: cannot be reached over ssh: {done.last_error or 'it gave no reason'}",
                hint=f"this has to work without a question: {shlex.join(self._address.command('true'))}",
            )
        if done.status in {_NOT_FOUND, _NOT_EXECUTABLE}:
            raise DependencyError(
                f"{self._address}: there is no {self._address.program} to run: {done.last_error}",
                hint="install edgeinfer there, or name its place: ssh://host/path/to/edgeinfer",
            )
        return done

    def _decode(self, done: Done, type_: type[_Document], *, what: str) -> _Document:
        _, mark, answer = done.output.partition(_MARK)
        try:
            return msgspec.json.decode(answer if mark else done.output, type=type_)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            said = done.last_error or f"status {done.status}, {len(answer)} bytes: {error}"
            raise RemoteError(
                f"{self._address}: expected the JSON of `{self._address.program} {what}`, found: {said}",
                hint="the device needs this version of edgeinfer, or a newer one; see `edgeinfer --version` there",
            ) from error
