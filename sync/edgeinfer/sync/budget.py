"""What may be sent over which network: bytes a day, bytes a second, hours, and whose turn it is. Values and decisions
only; `edgeinfer.sync.metering` has the clocks, the database and the interfaces.

The order of priority comes from three rules. Control is never held back, and events neither by `hours` nor by
`bytes_per_s`. Of the day's bytes results leave `events_reserve`, and everything after them `results_reserve` too. Of
the bytes a second, what comes after results waits until half a second's worth is there, which it never is while results
wait.

What a crash must not forget is made durable before it is spent, a slice at a time: `granted` bytes are on record as
spent before they are. A message that is larger than what is left of a slice may still go, so a crash forgets at most
that message.
"""

import fnmatch
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from edgeinfer.runtime.config import Section
from edgeinfer.sync.allowance import Priority
from edgeinfer.sync.day_count import DAY_S, DayRecord

__all__ = ["ANY", "OVERHEAD_BYTES", "Budget", "Ledger", "NetworkConfig", "NetworkKind", "Sent", "check_networks"]

NetworkKind = Literal["ethernet", "wifi", "cellular", "other"]
Sent = Literal["events", "results", "updates", "blobs", "telemetry"]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]

ANY = "any"
_NO_LIMIT = 1 << 62
# What a bill counts too: the packet's header and topic, TCP/IP and TLS around it, and the confirmations that come back.
OVERHEAD_BYTES = 256
_SLICES_A_DAY = 64
_MIN_SLICE_BYTES = 4 << 10
_MAX_SLICE_BYTES = 16 << 20
_BLOBS = "blobs"
_UNKNOWN = "unknown"


class NetworkConfig(Section, frozen=True, kw_only=True):
    """What may go over one kind of network. Which one it is, is told by the interface that the connection to the broker
    uses; `any` stands for all kinds that have no section of their own. `interfaces` are names (`usb0`, `wg*`) that
    count as this kind whatever they look like: a modem behind USB looks like Ethernet, a tunnel like nothing. A kind
    without a section is not limited.

    `bytes_per_day`: what may be sent and fetched between two midnights of local time (the time zone is TZ's, or the
    device's), with an estimate of what goes around each message; 0: no limit. `events_reserve` of it is left to
    events, and `results_reserve` to events and results. State, the ends of updates and reports of what has changed are
    counted and never held back: they may go beyond it. Telemetry and reports of new counts alone wait when their share
    is spent; `report_interval_s` makes it last: they go out no more often than that on this network (0: as everywhere).

    `bytes_per_s`: the pace of all but events; 0: no limit. `hours`: `from-to` in local time, past midnight too; outside
    of them only events go. While the clock is not set they hold nothing back. `send`: what may use this network at
    all; telemetry includes the log lines that a command asked for, and what Home Assistant is told."""

    kind: Literal["ethernet", "wifi", "cellular", "other", "any"]
    interfaces: tuple[str, ...] = ()
    send: tuple[Sent, ...] = ("events", "results", "updates", "blobs", "telemetry")
    hours: str = ""
    bytes_per_day: Bytes = 0
    events_reserve: Share = 0.25
    results_reserve: Share = 0.25
    bytes_per_s: Bytes = 0
    report_interval_s: Annotated[float, msgspec.Meta(ge=0, le=DAY_S)] = 0.0

    def __post_init__(self) -> None:
        _span(self.hours)
        if self.events_reserve + self.results_reserve >= 1:
            raise ValueError(
                f"network {self.kind!r}: expected events_reserve and results_reserve to be less than 1 together, "
                f"found {self.events_reserve:g} and {self.results_reserve:g}"
            )


class Ledger(msgspec.Struct, frozen=True):
    """What is remembered over restarts. `granted` and `used` are of the present day, by network; `used` by what was
    sent. More may be granted than was used: after a crash the difference counts as used."""

    day: DayRecord = DayRecord()
    granted: dict[str, int] = {}
    used: dict[str, dict[str, int]] = {}


def check_networks(networks: Sequence[NetworkConfig]) -> None:
    """Raises ValueError where one kind has two sections."""
    kinds = [network.kind for network in networks]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise ValueError(f"network {kind!r} is configured twice: one section a kind of network")


class Budget:
    """The books of one device. `now_s` is of a monotonic clock; `local_s` of local time since 1970, None while the
    clock is not set."""

    def __init__(self, networks: Sequence[NetworkConfig], ledger: Ledger, *, blobs_per_day: int = 0) -> None:
        self._networks: dict[str, NetworkConfig] = {network.kind: network for network in networks}
        self._blobs_per_day = blobs_per_day
        self._used = {network: dict(used) for network, used in ledger.used.items()}
        self._granted = dict(ledger.granted)
        self._close_gap()
        self._kind = ANY
        self._rule: NetworkConfig | None = self._networks.get(ANY)
        self._hours = _span(self._rule.hours) if self._rule is not None else None
        self._local_s: int | None = None
        self._level = 0.0
        self._filled_s: float | None = None

    @property
    def kind(self) -> str:
        """The network that is used now, as the books call it."""
        return self._kind

    @property
    def report_interval_s(self) -> float:
        """Telemetry and counts go out no more often than this; 0: no word on it."""
        return 0.0 if self._rule is None else self._rule.report_interval_s

    def usage(self) -> dict[str, dict[str, int]]:
        """Bytes of the present day by network, and by what was sent."""
        return {network: dict(used) for network, used in self._used.items() if used}

    def kind_of(self, interface: str, looks_like: NetworkKind) -> NetworkKind | str:
        """What an interface counts as: what a section names it as comes before what it looks like."""
        for network in self._networks.values():
            if any(fnmatch.fnmatchcase(interface, pattern) for pattern in network.interfaces):
                return network.kind
        return looks_like

    def use(self, kind: str, now_s: float) -> None:
        """The connection goes over a network of this kind now."""
        self._rule = self._networks.get(kind, self._networks.get(ANY))
        self._hours = _span(self._rule.hours) if self._rule is not None else None
        known = self._rule.kind if self._rule is not None else kind
        if known != self._kind:
            self._kind = known
            self._level, self._filled_s = float(self._capacity), now_s

    def look_at_clock(self, local_s: int | None) -> None:
        self._local_s = local_s

    def begin_day(self) -> None:
        """A new day has begun: nothing of it is used."""
        self._used.clear()
        self._granted.clear()

    def room(self, priority: Priority, now_s: float) -> int:
        """As `Allowance.room`; 0 also where more has to be granted first."""
        room = self._left(priority)
        is_paced = self._rule is not None and self._rule.bytes_per_s and priority > Priority.EVENTS
        return min(room, self._paced(priority, now_s)) if is_paced and room else room

    def spare(self, priority: Priority, now_s: float) -> int:
        """As `Allowance.spare`."""
        room = self.room(priority, now_s)
        is_paced = self._rule is not None and self._rule.bytes_per_s and priority > Priority.EVENTS
        return min(room, int(self._level)) if is_paced else room

    def closed(self, priority: Priority) -> bool:
        """Whether it is not the pace that leaves no room: the day's bytes are spent, it is not the hour, or this kind
        may not use this network."""
        return self._left(priority) <= 0

    def spent(self, priority: Priority, size: int, now_s: float) -> None:
        """As `Allowance.spent`."""
        cost = size + OVERHEAD_BYTES
        used = self._used.setdefault(self._kind, {})
        name = _name(priority)
        used[name] = used.get(name, 0) + cost
        if self._rule is not None and self._rule.bytes_per_s:
            self._fill(now_s)
            self._level -= cost

    @property
    def wants_grant(self) -> bool:
        """Whether less than half a slice is left: make `ledger(...)` durable, then call `grant`."""
        total = self._total()
        left = self._granted.get(self._kind, 0) - total
        if self._rule is not None and self._rule.bytes_per_day and total >= self._rule.bytes_per_day:
            return left < 0  # nothing but control will go; what it takes is still counted
        return left < self._slice // 2

    def ledger(self, day: DayRecord, *, closing: bool = False) -> Ledger:
        """What to make durable: with the next slice, or with none where this is the end."""
        used = self.usage()
        if closing:
            return Ledger(day, {network: sum(spent.values()) for network, spent in used.items()}, used)
        return Ledger(day, self._granted | {self._kind: self._total() + self._slice}, used)

    def grant(self) -> None:
        """What `ledger` gave last is durable."""
        self._granted[self._kind] = self._total() + self._slice

    @property
    def _slice(self) -> int:
        limit = self._rule.bytes_per_day if self._rule is not None else 0
        return max(_MIN_SLICE_BYTES, min(_MAX_SLICE_BYTES, limit // _SLICES_A_DAY if limit else _MAX_SLICE_BYTES))

    @property
    def _capacity(self) -> int:
        """A second's worth."""
        return 0 if self._rule is None else self._rule.bytes_per_s

    def _total(self) -> int:
        return sum(self._used.get(self._kind, {}).values())

    def _left(self, priority: Priority) -> int:
        """Bytes that may be sent whatever the pace."""
        if priority is Priority.CONTROL:
            return _NO_LIMIT
        rule = self._rule
        room = self._blobs_left() if priority is Priority.BLOBS else _NO_LIMIT
        if rule is None:
            return max(0, room)
        if _name(priority) not in rule.send or not self._is_time(priority):
            return 0
        if rule.bytes_per_day:
            room = min(room, self._day_left(rule, priority), self._granted.get(self._kind, 0) - self._total())
        return max(0, room)

    def _close_gap(self) -> None:
        """After a crash nobody knows what became of the last slice: where there is a limit, it is gone."""
        for network, granted in self._granted.items():
            rule = self._networks.get(network)
            used = self._used.setdefault(network, {})
            lost = granted - sum(used.values())
            if lost > 0 and rule is not None and rule.bytes_per_day:
                used[_UNKNOWN] = used.get(_UNKNOWN, 0) + lost

    def _blobs_left(self) -> int:
        if not self._blobs_per_day:
            return _NO_LIMIT
        return self._blobs_per_day - sum(used.get(_BLOBS, 0) for used in self._used.values())

    def _day_left(self, rule: NetworkConfig, priority: Priority) -> int:
        reserve = 0.0 if priority is Priority.EVENTS else rule.events_reserve
        if priority > Priority.RESULTS:
            reserve += rule.results_reserve
        return int(rule.bytes_per_day * (1 - reserve)) - self._total()

    def _is_time(self, priority: Priority) -> bool:
        if self._hours is None or priority is Priority.EVENTS or self._local_s is None:
            return True
        start, end = self._hours
        second = self._local_s % DAY_S
        return start <= second < end if start < end else (second >= start or second < end)

    def _paced(self, priority: Priority, now_s: float) -> int:
        self._fill(now_s)
        if priority is Priority.RESULTS:
            return _NO_LIMIT if self._level > 0 else 0
        return int(self._level) if self._level >= max(1.0, self._capacity / 2) else 0

    def _fill(self, now_s: float) -> None:
        capacity = self._capacity
        passed_s = 0.0 if self._filled_s is None else max(0.0, now_s - self._filled_s)
        self._filled_s = now_s
        self._level = min(float(capacity), self._level + passed_s * capacity)


def _name(priority: Priority) -> str:
    return priority.name.lower()


def _span(hours: str) -> tuple[int, int] | None:
    """Seconds of the day, from and to; None where nothing is said. Raises ValueError."""
    if not hours:
        return None
    start, dash, end = hours.partition("-")
    if not dash:
        raise ValueError(f"hours: expected a span like '01:00-05:00', found {hours!r}")
    return _seconds(start.strip(), hours), _seconds(end.strip(), hours)


def _seconds(clock_time: str, hours: str) -> int:
    hour, _, minute = clock_time.partition(":")
    if not (len(clock_time) == 5 and hour.isdecimal() and minute.isdecimal() and int(hour) < 24 and int(minute) < 60):
        raise ValueError(f"hours: expected a span like '01:00-05:00', found {hours!r}")
    return int(hour) * 3600 + int(minute) * 60
