"""What a person at the device meets while the daemon runs: the control socket and, where configured, the page."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeinfer.runtime.control import Answer, ControlServer, Request
from edgeinfer.runtime.handoff import RuntimeDb
from edgeinfer.runtime.local.live import LiveBoard
from edgeinfer.runtime.pipelines import PipelineSet
from edgeinfer.runtime.settings import RuntimeConfig
from edgeinfer.runtime.slots import Slots
from edgeinfer.runtime.store import Store

if TYPE_CHECKING:
    from edgeinfer.runtime.activation import Activation
    from edgeinfer.runtime.local.server import LocalServer

__all__ = ["Desk"]


class Desk:
    """`config` and `status` are asked anew each time: a reload changes the one, every frame the other. Neither
    `start` nor `stop` raises or waits."""

    def __init__(
        self,
        config: Callable[[], RuntimeConfig],
        *,
        store: Store,
        slots: Slots,
        db: RuntimeDb,
        pipelines: PipelineSet,
        board: LiveBoard | None,
        status: Callable[[], dict[str, Any]],
        stop: threading.Event,
    ) -> None:
        self._config = config
        self._board = board
        self._status = status
        self._parts = (slots, store, pipelines, db, stop)
        self._control = ControlServer(
            Path(config().state_dir),
            quick={"status": lambda _request, _file: {"status": status()}, "models": self._obey},
            slow=dict.fromkeys(("activate", "rollback", "pin", "unpin", "choose"), self._obey),
        )
        self._local: LocalServer | None = None

    def start(self) -> None:
        self._control.start()
        local = self._config().local
        if local is not None:
            from edgeinfer.runtime.local.server import LocalServer

            self._local = LocalServer(local, self._board or LiveBoard(), self._status)
            self._local.start()

    def activation(self) -> "Activation":
        """Loaded when somebody first asks for it: on most devices nobody ever does."""
        from edgeinfer.runtime.activation import Activation

        slots, store, pipelines, db, stop = self._parts
        return Activation(
            slots,
            store,
            pipelines,
            db=db,
            state_dir=Path(self._config().state_dir),
            gate=lambda: self._config().gate,
            trial_s=lambda: self._config().trial_s,
            stop=stop,
        )

    def _obey(self, request: Request, file: int) -> Answer:
        from edgeinfer.runtime.orders import handlers

        return handlers(self.activation())[str(request.get("do"))](request, file)

    def stop(self) -> None:
        self._control.stop()
        if self._local is not None:
            self._local.stop()
