"""What the repository knows of devices, remembered by the one thread that changes it, and its limits."""

from collections.abc import Collection

from edgeinfer.console.ledger import Ledger
from edgeinfer.console.links import Links
from edgeinfer.console.repository import Repository
from edgeinfer.console.settings import LimitsConfig
from edgeinfer.runtime.errors import MessageError
from edgeinfer.sync.messages import Ack

__all__ = ["Known"]

# What fits a control message many times over; a device fills these first and hears of the next then.
_MAX_GAPS = 100


class Known:
    """`forget()` after a failure: what is remembered may have been rolled back."""

    def __init__(self, repository: Repository, limits: LimitsConfig) -> None:
        self._repository = repository
        self.limits = limits
        self.links = Links(repository)
        self.forget()

    def forget(self) -> None:
        self._devices: set[str] | None = None
        self._ledgers: dict[str, dict[int, Ledger]] = {}
        self._pipelines: dict[str, set[str]] = {}
        self.links.forget()

    def is_device(self, name: str) -> bool:
        return name in self._names()

    def add_device(self, name: str) -> None:
        """Raises MessageError when there are too many already."""
        names = self._names()
        if len(names) >= self.limits.max_devices:
            raise MessageError(f"expected at most {self.limits.max_devices} devices, this would be one more")
        names.add(name)

    def ledger(self, device: str, epoch: int, *, busy: Collection[int] = ()) -> Ledger:
        """Where there are too many epochs, the oldest without a gap that is not `busy` is retired.

        Raises MessageError where there is none.
        """
        ledgers = self._ledgers.get(device)
        if ledgers is None:
            ledgers = self._ledgers[device] = self._repository.ledgers(device)
        if epoch not in ledgers:
            if len(ledgers) >= self.limits.max_epochs:
                self._retire_one(device, ledgers, busy)
            ledgers[epoch] = Ledger(contiguous=self._repository.retired_seq(device, epoch))
        return ledgers[epoch]

    def check_room(self, ledger: Ledger, first_seq: int) -> None:
        """Raises MessageError where a chunk would open a gap too many."""
        if first_seq > ledger.contiguous + 1 and len(ledger.ranges) >= self.limits.max_ranges:
            raise MessageError(f"expected at most {self.limits.max_ranges} gaps, this would be one more")

    def check_pipeline(self, device: str, pipeline: str) -> None:
        """Raises MessageError for a pipeline too many."""
        names = self._pipelines.get(device)
        if names is None:
            names = self._pipelines[device] = {count.pipeline for count in self._repository.pipelines(device)}
        if pipeline not in names and len(names) >= self.limits.max_pipelines:
            raise MessageError(f"expected at most {self.limits.max_pipelines} pipelines of a device, found one more")
        names.add(pipeline)

    def ack(self, device: str, epoch: int, ledger: Ledger, *, conflict: int = 0) -> Ack:
        return Ack(
            epoch,
            ledger.contiguous,
            ledger.gaps(_MAX_GAPS),
            highest=ledger.highest,
            complete=len(ledger.ranges) <= _MAX_GAPS,
            conflict=conflict,
            link=self.links.after(device, epoch, ledger.contiguous, ledger).hex(),
            duplicates=ledger.duplicates,
        )

    def _retire_one(self, device: str, ledgers: dict[int, Ledger], busy: Collection[int]) -> None:
        for epoch, ledger in ledgers.items():  # oldest first
            if not ledger.ranges and epoch not in busy:
                self._repository.retire_epoch(device, epoch)
                self.links.forget_epoch(device, epoch)
                del ledgers[epoch]
                return
        raise MessageError(f"expected at most {self.limits.max_epochs} epochs of a device, found one more")

    def _names(self) -> set[str]:
        if self._devices is None:
            self._devices = {device.name for device in self._repository.devices()}
        return self._devices
