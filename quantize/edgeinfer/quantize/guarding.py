"""Has the guards look at a candidate that was judged: what only seems to be good is refused, what may not be good on
another machine is warned of."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgeinfer.quantize.candidate import Candidate
from edgeinfer.quantize.guards.census import census, nothing_changed
from edgeinfer.quantize.guards.finding import Finding
from edgeinfer.quantize.guards.numerical import check_outputs, check_weights
from edgeinfer.quantize.guards.pairs import saturation_findings
from edgeinfer.quantize.guards.saturation import compare_runs
from edgeinfer.quantize.schemes.base import Calibration
from edgeinfer.runtime.engines.base import Array

__all__ = ["Guards"]


@dataclass(frozen=True, slots=True)
class Guards:
    """`cuts_pairs`: the package is for a CPU that is known to do so: what would saturate there is refused, not only
    warned of."""

    cuts_pairs: bool = False

    def check(
        self,
        candidate: Candidate,
        float_model: Candidate,
        *,
        outputs: Sequence[Array],
        reference: Sequence[Array],
        calibration: Calibration,
    ) -> tuple[str, tuple[str, ...]]:
        """Why `candidate` is refused, "" where it is not, and what is to be warned of. `outputs` and `reference` are
        what it and the float model said of some samples, (N, ...) each. Raises ModelError."""
        if candidate.quantized and (nothing := nothing_changed(census(float_model.path), census(candidate.path))):
            return nothing, ()
        findings = [*check_outputs(outputs, reference)]
        if candidate.quantized:
            findings += check_weights(candidate.path)
        if candidate.quantized and candidate.engine == "onnx":
            findings += self._saturation(candidate, calibration)
        refused = next((finding.text for finding in findings if finding.severity == "refuse"), "")
        return refused, tuple(finding.text for finding in findings if finding.severity == "warn")

    def _saturation(self, candidate: Candidate, calibration: Calibration) -> list[Finding]:
        """What this CPU does, and by arithmetic what others would do."""
        _, here = compare_runs(candidate.path, calibration)
        if here is not None:
            return [here]
        there = saturation_findings(candidate.path, calibration)
        if self.cuts_pairs:
            return list(there)
        return [Finding(finding.kind, "warn", finding.text) for finding in there]
