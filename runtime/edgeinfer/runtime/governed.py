"""A pipeline as the governor sees it: what it may ask of one, and what it may read."""

from collections.abc import Callable

from edgeinfer.runtime.pipeline import Pipeline

__all__ = ["GovernedPipeline"]


class GovernedPipeline:
    """`use_smaller(pipeline, on)` changes the variant; False where the package has no other that runs here."""

    def __init__(self, pipeline: Pipeline, use_smaller: Callable[[Pipeline, bool], bool]) -> None:
        self._pipeline = pipeline
        self._use_smaller = use_smaller
        self.name = pipeline.config.name
        self.priority = pipeline.config.priority
        self.latency_budget_ms = pipeline.config.latency_budget_ms

    def frame_rate(self) -> float:
        """Frames captured a second, recently."""
        return self._pipeline.status.frame_rate(self._pipeline.counts.captured)

    def age_p99_us(self) -> int:
        """Capture to result, of the recent frames."""
        return self._pipeline.status.age_us()["p99"]

    def limit_fps(self, fps: float) -> None:
        self._pipeline.pace.limit(fps)

    def pause(self, paused: bool) -> None:
        self._pipeline.pace.paused = paused

    def skip_motionless(self, on: bool) -> bool:
        """False where the pipeline has no motion gate. One that the configuration asks for is never switched off."""
        from edgeinfer.runtime.motion import MotionGate

        gates = [gate for gate in self._pipeline.gates if isinstance(gate, MotionGate)]
        for gate in gates:
            gate.enabled = on or self._pipeline.config.motion is not None
        return bool(gates)

    def use_smaller(self, on: bool) -> bool:
        return self._use_smaller(self._pipeline, on)
