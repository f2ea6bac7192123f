"""Data budgets as values: reserves, order of priority, pace, hours, and what a crash may forget."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.sync.allowance import Priority
from edgeinfer.sync.budget import OVERHEAD_BYTES, Budget, Ledger, NetworkConfig, check_networks
from edgeinfer.sync.day_count import DayRecord

ALL = tuple(Priority)
DAY = DayRecord()


def budget_on(network: NetworkConfig, *, ledger: Ledger = Ledger(), blobs_per_day: int = 0) -> Budget:  # noqa: B008 - frozen
    budget = Budget([network], ledger, blobs_per_day=blobs_per_day)
    budget.use(network.kind, 0.0)
    return budget


def granted(budget: Budget) -> Budget:
    budget.grant()
    return budget


def spend(budget: Budget, priority: Priority, size: int, now_s: float = 0.0) -> None:
    """As the meter does it."""
    budget.spent(priority, size - OVERHEAD_BYTES, now_s)
    if budget.wants_grant:
        budget.grant()


def drain(budget: Budget, priority: Priority, *, message: int = 1000) -> int:
    """Send until there is no room; how many bytes it was."""
    sent = 0
    while budget.room(priority, 0.0) > 0:
        spend(budget, priority, message)
        sent += message
    return sent


def test_without_a_section_nothing_is_limited() -> None:
    budget = Budget([NetworkConfig(kind="cellular", bytes_per_day=1)], Ledger())
    budget.use("ethernet", 0.0)
    assert all(budget.room(priority, 0.0) > 1 << 60 for priority in ALL)
    assert budget.kind == "ethernet"


def test_any_stands_for_every_kind_without_a_section() -> None:
    budget = Budget([NetworkConfig(kind="any", send=()), NetworkConfig(kind="wifi")], Ledger())
    budget.use("cellular", 0.0)
    assert budget.kind == "any"
    assert budget.room(Priority.EVENTS, 0.0) == 0
    budget.use("wifi", 1.0)
    assert budget.room(Priority.EVENTS, 1.0) > 0


def test_each_priority_leaves_something_to_those_before_it() -> None:
    budget = granted(budget_on(NetworkConfig(kind="cellular", bytes_per_day=1_000_000)))
    assert drain(budget, Priority.BLOBS) == 500_000
    assert budget.room(Priority.UPDATES, 0.0) == 0
    assert drain(budget, Priority.RESULTS) == 250_000
    assert drain(budget, Priority.EVENTS) == 250_000
    assert budget.room(Priority.EVENTS, 0.0) == 0
    assert budget.closed(Priority.EVENTS)
    assert budget.room(Priority.CONTROL, 0.0) > 0
    spend(budget, Priority.CONTROL, 1000)
    assert budget.usage() == {"cellular": {"blobs": 500_000, "results": 250_000, "events": 250_000, "control": 1000}}
    budget.begin_day()
    assert budget.usage() == {}
    assert granted(budget).room(Priority.BLOBS, 0.0) > 0


def test_nothing_is_spent_that_is_not_on_record() -> None:
    budget = budget_on(NetworkConfig(kind="cellular", bytes_per_day=6_400_000))
    assert budget.wants_grant
    assert budget.room(Priority.EVENTS, 0.0) == 0  # nothing is granted yet
    budget.grant()
    assert 0 < budget.room(Priority.EVENTS, 0.0) <= 100_000


@pytest.mark.parametrize("clean", [True, False])
def test_a_restart_refills_nothing_and_a_crash_costs_a_slice(clean: bool) -> None:
    network = NetworkConfig(kind="cellular", bytes_per_day=6_400_000, events_reserve=0, results_reserve=0)
    budget = granted(budget_on(network))
    spend(budget, Priority.RESULTS, 30_000)
    ledger = budget.ledger(DAY, closing=clean)
    again = budget_on(network, ledger=msgspec.msgpack.decode(msgspec.msgpack.encode(ledger), type=Ledger))
    used = sum(again.usage()["cellular"].values())
    assert used == (30_000 if clean else 130_000)
    assert again.usage()["cellular"]["results"] == 30_000


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ALL), st.integers(0, 40_000), st.booleans()), max_size=80))
def test_the_record_is_never_behind_by_more_than_a_message(steps: list[tuple[Priority, int, bool]]) -> None:
    """And with it on record, what was spent is never above the day's budget by more than control and a message."""
    network = NetworkConfig(kind="cellular", bytes_per_day=300_000)
    budget, record, truly, control = budget_on(network), Ledger(), 0, 0
    for priority, size, crash in steps:
        if budget.wants_grant:
            record = budget.ledger(DAY)
            budget.grant()
        if budget.room(priority, 0.0) <= 0:
            continue
        budget.spent(priority, size, 0.0)
        truly += size + OVERHEAD_BYTES
        control += size + OVERHEAD_BYTES if priority is Priority.CONTROL else 0
        if budget.wants_grant:
            record = budget.ledger(DAY)
            budget.grant()
        if crash:
            assert record.granted.get("cellular", 0) >= truly
            budget = budget_on(network, ledger=record)
    assert truly - control <= 300_000 + 40_000 + OVERHEAD_BYTES


def test_blobs_have_a_budget_of_their_own_over_all_networks() -> None:
    budget = Budget([], Ledger(), blobs_per_day=10_000)
    budget.use("wifi", 0.0)
    spend(budget, Priority.BLOBS, 6000)
    budget.use("ethernet", 0.0)
    spend(budget, Priority.BLOBS, 6000)
    assert budget.room(Priority.BLOBS, 0.0) == 0
    assert budget.room(Priority.RESULTS, 0.0) > 0


def test_the_pace_holds_back_all_but_events_and_what_is_large_waits_the_longer() -> None:
    budget = budget_on(NetworkConfig(kind="cellular", bytes_per_s=1000))
    assert budget.room(Priority.RESULTS, 0.0) > 0
    spend(budget, Priority.RESULTS, 5000)
    assert not budget.closed(Priority.RESULTS)
    for now_s in (0.0, 2.0, 4.0):
        assert budget.room(Priority.RESULTS, now_s) == 0
        assert budget.room(Priority.EVENTS, now_s) > 0
        assert budget.room(Priority.CONTROL, now_s) > 0
    assert budget.room(Priority.RESULTS, 4.1) > 0


def test_no_more_is_put_together_than_makes_nobody_wait() -> None:
    budget = budget_on(NetworkConfig(kind="cellular", bytes_per_s=1000))
    assert budget.spare(Priority.RESULTS, 0.0) == 1000
    spend(budget, Priority.RESULTS, 400)
    assert budget.spare(Priority.RESULTS, 0.0) == 600
    assert budget.spare(Priority.EVENTS, 0.0) > 1000
    spend(budget, Priority.RESULTS, 5000)
    assert budget.spare(Priority.RESULTS, 0.0) <= 0
    unpaced = budget_on(NetworkConfig(kind="cellular"))
    assert unpaced.spare(Priority.RESULTS, 0.0) == unpaced.room(Priority.RESULTS, 0.0)


def test_what_comes_after_results_never_goes_while_results_wait() -> None:
    budget, now_s, results, blobs = budget_on(NetworkConfig(kind="wifi", bytes_per_s=1000)), 0.0, 0, 0
    for _ in range(2000):
        now_s += 0.01
        while budget.room(Priority.RESULTS, now_s) > 0:
            spend(budget, Priority.RESULTS, 300, now_s)
            results += 300
        if budget.room(Priority.BLOBS, now_s) > 0:
            blobs += 1
    assert blobs == 0
    assert 19_000 <= results <= 22_000


@pytest.mark.parametrize(
    ("hours", "second", "is_open"),
    [
        ("01:00-05:00", 3600, True),
        ("01:00-05:00", 5 * 3600, False),
        ("22:00-06:00", 23 * 3600, True),
        ("22:00-06:00", 3 * 3600, True),
        ("22:00-06:00", 12 * 3600, False),
        ("06:00-06:00", 12 * 3600, True),
        ("01:00-05:00", None, True),  # the clock is not set: nothing is held back for ever
    ],
)
def test_hours_hold_back_all_but_events(hours: str, second: int | None, is_open: bool) -> None:
    budget = budget_on(NetworkConfig(kind="wifi", hours=hours))
    budget.look_at_clock(None if second is None else 20_000 * 86_400 + second)
    assert (budget.room(Priority.RESULTS, 0.0) > 0) is is_open
    assert budget.room(Priority.EVENTS, 0.0) > 0
    assert budget.room(Priority.CONTROL, 0.0) > 0


def test_what_may_not_use_a_network_does_not() -> None:
    budget = budget_on(NetworkConfig(kind="cellular", send=("events", "updates")))
    assert [priority for priority in ALL if budget.room(priority, 0.0) > 0] == [
        Priority.CONTROL,
        Priority.EVENTS,
        Priority.UPDATES,
    ]


def test_interfaces_are_named_before_they_are_guessed() -> None:
    budget = Budget([NetworkConfig(kind="cellular", interfaces=("usb*",))], Ledger())
    assert budget.kind_of("usb0", "ethernet") == "cellular"
    assert budget.kind_of("eth0", "ethernet") == "ethernet"


@pytest.mark.parametrize("hours", ["1:00-05:00", "01:00", "01:00-25:00", "01:60-02:00", "-", "aa:bb-cc:dd"])
def test_wrong_hours_are_refused(hours: str) -> None:
    with pytest.raises(ValueError, match="hours: expected a span like"):
        NetworkConfig(kind="wifi", hours=hours)


def test_wrong_sections_are_refused() -> None:
    with pytest.raises(ValueError, match="less than 1 together"):
        NetworkConfig(kind="wifi", events_reserve=0.5, results_reserve=0.5)
    with pytest.raises(ValueError, match="'wifi' is configured twice"):
        check_networks([NetworkConfig(kind="wifi"), NetworkConfig(kind="wifi")])


def test_an_end_leaves_no_slice_open_on_any_network() -> None:
    networks = [NetworkConfig(kind="cellular", bytes_per_day=6_400_000), NetworkConfig(kind="wifi")]
    budget = Budget(networks, Ledger())
    budget.use("cellular", 0.0)
    spend(granted(budget), Priority.RESULTS, 30_000)
    budget.use("wifi", 1.0)
    spend(granted(budget), Priority.RESULTS, 5_000)
    ledger = budget.ledger(DAY, closing=True)
    assert Budget(networks, ledger).usage() == {"cellular": {"results": 30_000}, "wifi": {"results": 5_000}}
