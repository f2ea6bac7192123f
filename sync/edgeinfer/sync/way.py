"""The way up: the seam between the agent and what carries a device's results to where they are kept.

There are two kinds. `Uploader` goes by the broker and is told of acknowledgements as messages; a sink (an HTTP server,
a Kafka topic) answers for itself, in a thread of its own that calls `wake` when there is something new. Both read the
same buffer, ask the same allowance before they send, and write to `sync.db` what the other end has stored: only that
lets the daemon forget it.

    way = Uploader(config, db, link, allowance)             # or, where the configuration has a [sink]:
    way = sinks.open_way(config, db, allowance, wake=link.wake)
    while running:
        way.step(now_s)                      # sends what it may; never blocks on the network
    way.close(now_s)                         # progress is durable
"""

from typing import Protocol

__all__ = ["Way"]


class Way(Protocol):
    """All methods are called by the agent's thread. Times are seconds of a monotonic clock.

    `sent_results`, `acknowledged_results` and `sent_bytes` count since the object was made; what is sent again counts
    in bytes only. `setbacks` grows when the other side knows less than it acknowledged before, so that it has to be
    told anew what can still come.
    """

    setbacks: int
    sent_results: int
    acknowledged_results: int
    sent_bytes: int

    @property
    def acked_seq(self) -> int:
        """Up to here the other end has everything of the present epoch; 0 for nothing."""

    @property
    def conflict(self) -> int:
        """A sequence number under which the other end holds something else than this buffer; 0 for none."""

    @property
    def busy(self) -> bool:
        """Whether something is on its way and not acknowledged: `step` is called again within a fraction of a second,
        and not only when the buffer changes."""

    @property
    def trouble(self) -> str:
        """Why nothing can be delivered now, for a person to read; empty while it can, or nothing was tried yet. What
        the broker's link says of itself is not repeated here."""

    @property
    def local_address(self) -> str:
        """This device's address on the connection that the way has of its own; empty: it has none. It tells which
        network is paid for."""

    def connected(self, now_s: float) -> None:
        """The link to the broker is up, anew: what was in flight on it is lost. Nothing to a sink."""

    def lost(self) -> None:
        """The link to the broker is gone. Nothing to a sink."""

    def acknowledge(self, raw: bytes, now_s: float) -> None:
        """The payload of `down/ack`. A sink ignores it. Raises MessageError."""

    def stored(self, epoch: int, seq: int, now_s: float) -> None:
        """Somebody has carried everything up to `seq` of `epoch` to the console, and has brought its receipt: durable
        in `sync.db` when this returns. Raises BufferStorageError."""

    def step(self, now_s: float) -> None:
        """Send what there is room for, take what was acknowledged, keep progress durable every few seconds. Called at
        each turn. A buffer that is absent or unreadable is waited out. Raises BufferStorageError: `sync.db` cannot be
        written."""

    def close(self, now_s: float) -> None:
        """End what runs in the background within half a second, make progress durable. Raises BufferStorageError."""

    def floor(self) -> dict[str, int]:
        """The present epoch (as text), and the lowest sequence number that can still come of it; empty: no buffer."""

    def audit(self) -> dict[str, int]:
        """epoch, made, durable, evicted, sent, acknowledged, bytes, backlog; empty while there is no buffer."""

    def durable_seq(self) -> int | None:
        """The highest sequence number in the buffer; None while there is none."""
