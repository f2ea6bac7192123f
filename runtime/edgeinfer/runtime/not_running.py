"""Stands for the pipelines where none run: for the commands while no daemon does, and before the pipelines start."""

from collections.abc import Iterable

from edgeinfer.runtime.handoff import RuntimeDb
from edgeinfer.runtime.settings import PipelineConfig

__all__ = ["NotRunning", "demands"]


def demands(configs: Iterable[PipelineConfig], db: RuntimeDb) -> dict[str, tuple[str, int]]:
    """What the configured pipelines want of their models: the variant, and the most threads."""
    found: dict[str, tuple[str, int]] = {}
    for config in configs:
        model = config.model or db.configured_model(config.package)
        variant, threads = found.get(model, ("", 1))
        found[model] = (variant or config.variant, max(threads, config.threads))
    return found


class NotRunning:
    """Nothing to swap. `demands` maps a model to the variant and the threads that the configuration asks for."""

    def __init__(self, demands: dict[str, tuple[str, int]]) -> None:
        self._demands = demands

    def runs(self, model: str) -> bool:
        del model
        return False

    def threads(self, model: str) -> int:
        return self._demands.get(model, ("", 1))[1]

    def variant(self, model: str) -> str:
        return self._demands.get(model, ("", 1))[0]

    def swap(self, model: str, digest: str) -> None:
        """Nothing runs."""

    def has_swapped(self, model: str, digest: str) -> bool:
        del model, digest
        return False

    def inferred(self, model: str) -> int:
        del model
        return 0

    def idle(self, model: str) -> bool:
        del model
        return True

    def failures(self, model: str) -> int:
        del model
        return 0

    def swap_ms(self, model: str) -> float:
        del model
        return 0.0
