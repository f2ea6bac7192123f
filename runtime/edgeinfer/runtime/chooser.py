"""Makes the choices of variants that are missing, or that were made on another processor or with other engines.

An update is measured before it is tried. What was never updated (a package that the configuration names) is measured
when the daemon has started, beside the running pipelines; a run of recorded data waits for it.
"""

import logging
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from edgeinfer.runtime.activation import Activation
from edgeinfer.runtime.backoff import Backoff
from edgeinfer.runtime.errors import EdgeInferError, RefusedError, UsageError
from edgeinfer.runtime.handoff import RuntimeDb
from edgeinfer.runtime.not_running import NotRunning, demands
from edgeinfer.runtime.package import PackageFile
from edgeinfer.runtime.settings import RuntimeConfig
from edgeinfer.runtime.slots import Slots
from edgeinfer.runtime.store import Store

__all__ = ["Chooser", "choose_before_start"]

logger = logging.getLogger(__name__)

# Another change is under way, which may be a trial without frames for a night. Nothing is lost while this waits.
_FIRST_WAIT_S, _LONGEST_WAIT_S = 5.0, 600.0


class Chooser:
    """A thread that ends when every choice is made. `models` tells which ones run; `activation` does the work."""

    def __init__(self, activation: Activation, *, models: Callable[[], Collection[str]], stop: threading.Event) -> None:
        self._activation = activation
        self._models = models
        self._stop = stop
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Also while it runs: it looks for what is due until there is nothing left."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="chooser", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        hopeless: set[str] = set()
        backoff = Backoff(first_s=_FIRST_WAIT_S, cap_s=_LONGEST_WAIT_S)
        try:
            while waiting := [model for model in self._activation.due(self._models()) if model not in hopeless]:
                hopeless |= {model for model in waiting if not _choose(self._activation, model)}
                if hopeless.issuperset(self._activation.due(self._models())) or self._stop.wait(backoff.next()):
                    break
        except EdgeInferError as error:
            logger.warning("event=choice_put_off error=%s", error)
        except Exception:  # the top of the thread: what runs goes on
            logger.exception("event=chooser_crashed")


def _choose(activation: Activation, model: str) -> bool:
    """False where trying again would help nothing."""
    try:
        activation.choose(model)
    except (RefusedError, UsageError) as error:
        logger.error("event=choice_failed model=%s error=%s", model, error)  # noqa: TRY400 - said in full
        return False
    except EdgeInferError as error:
        logger.info("event=choice_put_off model=%s error=%s", model, error)
    return True


def choose_before_start(config: RuntimeConfig, *, db: RuntimeDb, store: Store, slots: Slots) -> None:
    """Measure what is due before the pipelines start. What cannot be read is said where it is started."""
    for path in dict.fromkeys(Path(pipeline.package) for pipeline in config.pipeline if pipeline.package):
        if _asks(path):
            with suppress(EdgeInferError):
                slots.from_config(path)
    wants = demands(config.pipeline, db)
    activation = Activation(
        slots, store, NotRunning(wants), db=db, state_dir=Path(config.state_dir), gate=lambda: config.gate
    )
    with suppress(EdgeInferError):
        for model in activation.due(wants):
            _choose(activation, model)


def _asks(path: Path) -> bool:
    with suppress(EdgeInferError, OSError), PackageFile(path) as package:
        return package.manifest.choose != "first"
    return False
