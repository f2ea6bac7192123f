"""A device of the fleet as a target: `edgeinfer bench` runs there, on a command of the console that it belongs to.

    target = DeviceTarget("device:press-4", fleet, key=key)
    target.time(candidates, sample=sample, reference="onnx-fp32")

The candidates travel in one temporary package, signed with a key that releases are signed with: the device times
nothing else. What it runs goes on meanwhile, and the figures are those beside it.
"""

import math
from collections.abc import Sequence

import msgspec

from edgeinfer.devices.kernels import cuts_pairs
from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.search.entry import Timing
from edgeinfer.quantize.targets.base import Fleet
from edgeinfer.quantize.targets.bundle import write_bundle
from edgeinfer.quantize.targets.figures import ROUGH_SECONDS, SECONDS, deadline_of, timings
from edgeinfer.runtime.bench import Bench
from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.engines.base import Array
from edgeinfer.runtime.errors import RemoteError, UsageError
from edgeinfer.runtime.scratch import scratch_folder
from edgeinfer.runtime.trust import SigningKey

__all__ = ["PREFIX", "DeviceTarget"]

PREFIX = "device:"
# The console lets nothing run for longer.
_LONGEST_S = 3600.0


class DeviceTarget:
    """The device is asked at once what it is. `seconds` are those of each candidate. Raises UsageError for a `spec`
    without a name, and what `fleet` raises."""

    measured = True
    repeats = False

    def __init__(self, spec: str, fleet: Fleet, *, key: SigningKey, threads: int = 1, seconds: float = SECONDS) -> None:
        self.name = spec
        self._device = spec.removeprefix(PREFIX)
        if not self._device:
            raise UsageError(f"expected a target as {PREFIX}ID, found {spec!r}", hint="edgeinfer fleet devices")
        self._fleet, self._key = fleet, key
        self._threads, self._seconds = threads, seconds
        profile, engines = fleet.describe(self._device)
        described = ", ".join(str(profile[part]) for part in ("board", "cpu") if profile.get(part))
        self.machine = described or str(profile.get("arch") or self._device)
        self.engines: tuple[str, ...] = engines
        features = profile.get("features")
        self.cuts_pairs = cuts_pairs(str(profile.get("arch")), features if isinstance(features, list | tuple) else ())

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
            write_bundle(package, candidates, sample, key=self._key)
            timeout_s = min(_LONGEST_S, deadline_of(package.stat().st_size, seconds=seconds, count=len(candidates)))
            raw = self._fleet.bench(self._device, package, seconds=seconds, threads=self._threads, timeout_s=timeout_s)
        return timings(self._decode(raw), candidates, reference=reference, where=self._device)

    def close(self) -> None:
        """Holds nothing."""

    def _decode(self, raw: bytes) -> Bench:
        try:
            return msgspec.json.decode(raw, type=Bench)
        except MALFORMED as error:
            raise RemoteError(
                f"{self._device}: expected the JSON of `edgeinfer bench`, found: {error}",
                hint="the device needs this version of edgeinfer, or a newer one",
            ) from error
