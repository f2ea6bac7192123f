"""The search on recorded measurements: what it looks at, in which order, and when it stops."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
import pytest

from edgeinfer.quantize.search.entry import Entry, Judged, Offer, Screened, Timing
from edgeinfer.quantize.search.goal import Goal, Objective
from edgeinfer.quantize.search.ladder import Found, climb
from edgeinfer.quantize.search.mixing import LayerCost
from edgeinfer.quantize.search.orders import Answer, Evaluate, Make, Mix, Order, Probe, Screen, Sketch, Time
from edgeinfer.quantize.search.statistics import Difference
from edgeinfer.quantize.search.verdicts import choose
from edgeinfer.runtime.manifest import Name

AnyOrder = TypeVar("AnyOrder", bound=Order)


@dataclass(frozen=True)
class Recorded:
    """What was once measured of a candidate."""

    bytes: int
    ratio: float
    value: float = 0.9
    agreement: float = 1.0
    refused: str = ""
    fails_on_target: str = ""


@dataclass
class RecordedBench:
    """Answers orders from records. `sketched`: it can tell how fast something is before it is made. `mixed` makes the
    record of a mixed candidate from how many layers it has."""

    records: Mapping[str, Recorded]
    layers: Sequence[LayerCost] = ()
    mixed: Mapping[tuple[str, int], Recorded] = field(default_factory=dict)
    seconds_an_order: float = 1.0
    orders: list[Order] = field(default_factory=list)
    timings: int = 0
    interval: float = 0.004
    sketched: bool = False
    sketches: Mapping[str, Timing] = field(default_factory=dict)

    def run(self, goal: Goal, offers: Sequence[Offer], floats: Sequence[str], *, exhaustive: bool = False) -> Found:
        entries = [
            Entry(name, name.split("-")[0], "fp32", quantized=False, bytes=self.records[name].bytes) for name in floats
        ]
        self._known = {entry.id: entry for entry in entries}
        self._offers = {offer.id: offer for offer in offers}
        self._own = dict(self.records)
        search = climb(goal, offers, entries, exhaustive=exhaustive)
        try:
            order = next(search)
            while True:
                self.orders.append(order)
                order = search.send(self._answer(order))
        except StopIteration as stop:
            found: Found = stop.value
            return found

    def asked(self, kind: type[AnyOrder]) -> list[AnyOrder]:
        return [order for order in self.orders if isinstance(order, kind)]

    def _answer(self, order: Order) -> Answer:
        elapsed = self.seconds_an_order * len(self.orders)
        match order:
            case Sketch(ids):
                known = {name: Timing(ratio=self._own[name].ratio) for name in ids if self.sketched} | dict(
                    self.sketches
                )
                return Answer({}, elapsed, sketches=known)
            case Make(ids):
                for name in ids:
                    offer = self._offers[name]
                    self._known[name] = Entry(name, offer.engine, offer.precision, quantized=True)
                    self._set(name, bytes=self._own[name].bytes, refused=self._own[name].refused)
                return Answer({name: self._known[name] for name in ids}, elapsed)
            case Screen(ids):
                for name in ids:
                    self._screen(name)
                return Answer({name: self._known[name] for name in ids}, elapsed)
            case Evaluate(name):
                record = self._own[name]
                lost = self._own[next(iter(self._known))].value - record.value
                judged = Judged(record.value, record.agreement, Difference(lost, lost, lost, 0.5), samples=100)
                self._set(name, judged=judged)
                return Answer({name: self._known[name]}, elapsed)
            case Probe():
                return Answer({}, elapsed, layers=tuple(self.layers))
            case Mix(name, scheme, layers, _):
                self._own[name] = self.mixed[scheme, len(layers)]
                self._known[name] = Entry(name, "litert", "mixed", quantized=True, bytes=self._own[name].bytes)
                self._screen(name)
                return Answer({name: self._known[name]}, elapsed)
            case Time(ids):
                self.timings += 1
                width = self.interval / self.timings
                leads = {
                    (name, other): self._own[name].ratio / self._own[other].ratio
                    for name in ids
                    for other in ids
                    if name != other
                }
                return Answer(
                    {name: self._known[name] for name in ids},
                    elapsed,
                    leads={pair: (ratio - width, ratio + width) for pair, ratio in leads.items()},
                )

    def _screen(self, name: str) -> None:
        record = self._own[name]
        timing = Timing(latency_us=100 * record.ratio, ratio=record.ratio, error=record.fails_on_target)
        self._set(name, screened=Screened(record.agreement, 1.0 - record.agreement, 24), timing=timing)

    def _set(self, name: str, **changed: object) -> None:
        self._known[name] = dataclasses.replace(self._known[name], **changed)  # type: ignore[arg-type]  # by name


def offer(name: str, **more: object) -> Offer:
    return Offer(name, name.split("-", maxsplit=1)[0], "int8", **more)  # type: ignore[arg-type]  # by name


FLOAT = {"onnx-fp32": Recorded(1000, 1.0)}


def chosen(found: Found, goal: Goal, floats: Sequence[str] = ("onnx-fp32",)) -> str:
    best = choose(found.entries, goal, given=floats, leads=found.leads, cut_short=found.cut_short)
    return best.id if best is not None else ""


def test_the_fastest_that_keeps_the_budget() -> None:
    """Measured once on the keyword spotting model of MLPerf Tiny, with VNNI."""
    bench = RecordedBench(
        {
            "onnx-fp32": Recorded(96243, 1.0, 0.9127),
            "litert-fp32": Recorded(100024, 0.934, 0.9127),
            "onnx-u8s8": Recorded(55000, 0.823, 0.9077, 0.99),
            "onnx-int8-dynamic": Recorded(49000, 6.486, 0.9077, 0.995),
            "litert-int8-weights": Recorded(43000, 0.936, 0.9202, 0.9925),
            "litert-int8-dynamic": Recorded(41000, 2.719, 0.9152, 0.9925),
            "litert-int8": Recorded(49000, 0.695, 0.9102, 0.985),
        }
    )
    offers = [offer(name) for name in bench.records if "fp32" not in name]
    floats = ["onnx-fp32", "litert-fp32"]
    assert chosen(bench.run(Goal(1.0), offers, floats), Goal(1.0), floats) == "litert-int8"
    evaluated = [order.id for order in bench.asked(Evaluate)]
    assert "onnx-int8-dynamic" not in evaluated, "six times slower: not worth a look at all samples"
    strict = Goal(1.0, min_agreement=0.99)
    assert chosen(bench.run(strict, offers, floats), strict, floats) == "onnx-u8s8"


def test_looks_at_what_is_slow_where_what_is_fast_breaks_the_budget() -> None:
    bench = RecordedBench(
        FLOAT
        | {"onnx-a": Recorded(500, 0.4, 0.5), "onnx-b": Recorded(500, 0.5, 0.6), "onnx-c": Recorded(500, 0.95, 0.9)}
    )
    found = bench.run(Goal(1.0), [offer("onnx-a"), offer("onnx-b"), offer("onnx-c")], ["onnx-fp32"])
    assert chosen(found, Goal(1.0)) == "onnx-c"


def test_repairs_the_fastest_with_as_few_float_layers_as_needed() -> None:
    layers = [LayerCost(f"layer{i}", "Conv", 10, divergence=0.1 * i, bytes_saved=-30) for i in range(8)]
    mixed = {("litert-int8", n): Recorded(500 + 30 * n, 0.4 + 0.05 * n, 0.9 if n >= 3 else 0.7) for n in range(1, 9)}
    bench = RecordedBench(FLOAT | {"litert-int8": Recorded(500, 0.4, 0.7)}, layers, mixed)
    found = bench.run(Goal(1.0), [offer("litert-int8", mixes=frozenset({"float"}))], ["onnx-fp32"])
    assert chosen(found, Goal(1.0)) == "litert-int8-mixed-3"
    (tried,) = found.tried
    assert tried.taken == ("layer0", "layer1", "layer2")
    assert tried.mixed == "litert-int8-mixed-3"
    left = [name for name in found.entries if "mixed" in name]
    assert left == ["litert-int8-mixed-3"], "the trials on the way are not shown"


def test_a_repair_ends_once_it_is_no_faster_than_what_there_is() -> None:
    layers = [LayerCost(f"layer{i}", "Conv", 10, divergence=0.1 * i, bytes_saved=-30) for i in range(8)]
    mixed = {("litert-int8", n): Recorded(500, 0.8 + 0.15 * n, 0.7) for n in range(1, 9)}
    bench = RecordedBench(FLOAT | {"litert-int8": Recorded(500, 0.8, 0.7)}, layers, mixed)
    found = bench.run(Goal(1.0), [offer("litert-int8", mixes=frozenset({"float"}))], ["onnx-fp32"])
    assert len(bench.asked(Mix)) == 2, "two float layers make it slower than the float model"
    assert found.tried[0].taken == ()
    assert chosen(found, Goal(1.0)) == "", "a candidate was there and lost too much: nothing is chosen"


def test_a_form_that_behaves_better_is_tried_only_where_it_is_needed() -> None:
    offers = [offer("onnx-u8s8"), offer("onnx-u8s8-cle", mends="onnx-u8s8", rung=1)]
    good = RecordedBench(FLOAT | {"onnx-u8s8": Recorded(500, 0.5), "onnx-u8s8-cle": Recorded(500, 0.5)})
    good.run(Goal(1.0), offers, ["onnx-fp32"])
    assert not any("onnx-u8s8-cle" in order.ids for order in good.asked(Make))
    bad = RecordedBench(FLOAT | {"onnx-u8s8": Recorded(500, 0.5, 0.6), "onnx-u8s8-cle": Recorded(500, 0.5)})
    found = bad.run(Goal(1.0), offers, ["onnx-fp32"])
    assert chosen(found, Goal(1.0)) == "onnx-u8s8-cle"


def test_as_many_layers_of_4_bits_as_the_budget_bears() -> None:
    layers = [LayerCost(f"layer{i}", "Conv", 100, divergence=0.01 * i, bytes_saved=40) for i in range(10)]
    mixed = {("litert-int8-weights", n): Recorded(700 - 40 * n, 0.9 + n, 0.9 if n <= 6 else 0.8) for n in range(1, 11)}
    records = FLOAT | {"litert-int8-weights": Recorded(700, 0.9)}
    goal = Goal(1.0, objective="size")
    bench = RecordedBench(records, layers, mixed)
    found = bench.run(goal, [offer("litert-int8-weights", mixes=frozenset({"int4"}))], ["onnx-fp32"])
    assert chosen(found, goal) == "litert-int8-weights-mixed4-6"
    assert "6 of 10 layers" in found.tried[0].outcome


def test_latency_is_timed_until_the_order_is_settled() -> None:
    records = FLOAT | {"onnx-a": Recorded(500, 0.500), "onnx-b": Recorded(400, 0.515), "onnx-c": Recorded(400, 0.58)}
    bench = RecordedBench(records, interval=0.16)
    found = bench.run(Goal(1.0), [offer("onnx-a"), offer("onnx-b"), offer("onnx-c")], ["onnx-fp32"])
    timings = bench.asked(Time)
    assert len(timings) > 2
    assert isinstance(timings[-1], Time)
    assert "onnx-c" not in timings[-1].ids, "surely slower: not timed on and on"
    assert found.timed == ("onnx-fp32", "onnx-a", "onnx-b", "onnx-c")


def test_timing_ends_where_no_number_of_rounds_settles_it() -> None:
    bench = RecordedBench(FLOAT | {"onnx-a": Recorded(500, 0.5), "onnx-b": Recorded(500, 0.505)}, interval=1e9)
    bench.run(Goal(1.0), [offer("onnx-a"), offer("onnx-b")], ["onnx-fp32"])
    assert len(bench.asked(Time)) == 12


def test_a_search_whose_time_is_up_says_so() -> None:
    records = FLOAT | {"onnx-a": Recorded(500, 0.5), "onnx-b": Recorded(500, 0.3)}
    bench = RecordedBench(records, seconds_an_order=10.0)
    found = bench.run(Goal(1.0, time_s=60.0), [offer("onnx-a"), offer("onnx-b", rung=1)], ["onnx-fp32"])
    assert found.cut_short
    assert "onnx-b" not in found.entries
    assert chosen(found, Goal(1.0)) == "onnx-a"


def test_an_exhaustive_search_looks_at_everything() -> None:
    records = FLOAT | {
        "onnx-a": Recorded(500, 0.5),
        "onnx-b": Recorded(500, 7.0),
        "onnx-c": Recorded(500, 0.6),
        "onnx-a-cle": Recorded(500, 0.49),
    }
    bench = RecordedBench(records)
    offers = [offer("onnx-a"), offer("onnx-b"), offer("onnx-c", rung=2), offer("onnx-a-cle", mends="onnx-a", rung=1)]
    found = bench.run(Goal(1.0), offers, ["onnx-fp32"], exhaustive=True)
    assert {name for name, entry in found.entries.items() if entry.judged is not None} == set(records)
    assert set(found.timed) == set(records)


def test_what_the_target_cannot_run_is_refused_with_what_it_said() -> None:
    bench = RecordedBench(FLOAT | {"onnx-a": Recorded(500, 0.5, fails_on_target="no such engine there")})
    found = bench.run(Goal(1.0), [offer("onnx-a")], ["onnx-fp32"])
    assert found.entries["onnx-a"].refused == "no such engine there"
    assert chosen(found, Goal(1.0)) == "onnx-fp32"


def test_what_could_not_be_made_is_not_run() -> None:
    bench = RecordedBench(FLOAT | {"onnx-a": Recorded(500, 0.5, refused="nothing was quantized")})
    found = bench.run(Goal(1.0), [offer("onnx-a")], ["onnx-fp32"])
    assert [order.ids for order in bench.asked(Screen)] == [("onnx-fp32",)]
    assert chosen(found, Goal(1.0)) == "onnx-fp32", "nothing could be made: the float model is shipped"


@pytest.mark.parametrize("limit", [499, 500])
def test_a_limit_of_bytes(limit: int) -> None:
    goal = Goal(1.0, max_bytes=limit)
    bench = RecordedBench(FLOAT | {"onnx-a": Recorded(500, 0.5)})
    assert chosen(bench.run(goal, [offer("onnx-a")], ["onnx-fp32"]), goal) == ("onnx-a" if limit == 500 else "")


def test_the_smallest_of_those_that_are_equally_fast() -> None:
    records = FLOAT | {"onnx-a": Recorded(900, 0.500), "onnx-b": Recorded(500, 0.508), "onnx-c": Recorded(400, 0.54)}
    found = RecordedBench(records).run(Goal(1.0), [offer(f"onnx-{x}") for x in "abc"], ["onnx-fp32"])
    assert chosen(found, Goal(1.0)) == "onnx-b"


def test_energy_is_cpu_time_where_nothing_else_is_readable() -> None:
    entry = Entry("a", "onnx", "int8", quantized=True, timing=Timing(ratio=0.5, cpu_us=80.0))
    goal = Goal(1.0, objective="energy")
    assert goal.cost(entry) == 80.0
    assert goal.cost(dataclasses.replace(entry, timing=Timing(ratio=0.5, cpu_us=80.0, energy_uj=12.0))) == 12.0
    assert goal.cost(dataclasses.replace(entry, timing=None)) == math.inf


class Lucky(RecordedBench):
    """The first look at `onnx-a` finds it faster than it is; side by side it shows."""

    def _screen(self, name: str) -> None:
        super()._screen(name)
        if name == "onnx-a":
            self._set(name, timing=Timing(ratio=0.4))

    def _answer(self, order: Order) -> Answer:
        if isinstance(order, Time):
            for name in order.ids:
                super()._screen(name)
        return super()._answer(order)


def test_one_screened_out_beside_what_turned_out_to_be_slow_is_looked_at_again() -> None:
    """The leader's first look was lucky: settled, it is no faster than what it had put out of the question."""
    bench = Lucky(FLOAT | {"onnx-a": Recorded(500, 0.7), "onnx-b": Recorded(500, 0.6)})
    found = bench.run(Goal(1.0), [offer("onnx-a"), offer("onnx-b")], ["onnx-fp32"])
    assert "onnx-b" in found.timed
    assert chosen(found, Goal(1.0)) == "onnx-b"


def test_a_first_look_that_scatters_screens_out_by_its_lower_end() -> None:
    class Scattering(RecordedBench):
        def _screen(self, name: str) -> None:
            super()._screen(name)
            if name == "onnx-b":
                self._set(name, timing=Timing(ratio=0.65, ratio_low=0.45, ratio_high=0.9))

    bench = Scattering(FLOAT | {"onnx-a": Recorded(500, 0.5), "onnx-b": Recorded(500, 0.45)})
    bench.run(Goal(1.0), [offer("onnx-a"), offer("onnx-b")], ["onnx-fp32"])
    assert "onnx-b" in [order.id for order in bench.asked(Evaluate)]


def test_that_nothing_keeps_the_budget_is_not_said_of_what_was_not_looked_at() -> None:
    records = FLOAT | {"onnx-a": Recorded(500, 0.5, 0.5), "onnx-b": Recorded(500, 3.0), "onnx-c": Recorded(500, 4.0)}
    bench = RecordedBench(records)
    found = bench.run(Goal(1.0), [offer("onnx-a"), offer("onnx-b"), offer("onnx-c")], ["onnx-fp32"])
    assert chosen(found, Goal(1.0)) == "onnx-fp32", "onnx-b keeps the budget and gains nothing"
    assert "onnx-c" not in [order.id for order in bench.asked(Evaluate)], "one is enough"


def test_a_mix_that_cannot_be_made_does_not_end_the_search_for_another() -> None:
    layers = [LayerCost(f"layer{i}", "Conv", 10, divergence=0.1 * i, bytes_saved=-30) for i in range(8)]
    mixed = {("litert-int8", n): Recorded(500, 0.4 + 0.05 * n, 0.9 if n >= 3 else 0.7) for n in range(1, 9)}
    mixed["litert-int8", 1] = Recorded(0, 0.0, refused="cannot be float")

    class Refusing(RecordedBench):
        def _answer(self, order: Order) -> Answer:
            answer = super()._answer(order)
            if isinstance(order, Mix) and (refused := self._own[order.id].refused):
                self._set(order.id, refused=refused, timing=None)
                return dataclasses.replace(answer, entries={order.id: self._known[order.id]})
            return answer

    bench = Refusing(FLOAT | {"litert-int8": Recorded(500, 0.4, 0.7)}, layers, mixed)
    found = bench.run(Goal(1.0), [offer("litert-int8", mixes=frozenset({"float"}))], ["onnx-fp32"])
    assert chosen(found, Goal(1.0)) == "litert-int8-mixed-3"


def test_the_first_layers_of_a_network_are_tried_as_another_order() -> None:
    """Measured on keyword spotting: single late layers in float cost speed, the first ones together hardly any."""
    divergences = [0.5, 0.4, 0.1, 0.2]
    layers = [LayerCost(f"layer{i}", "Conv", 10, one, bytes_saved=-30) for i, one in enumerate(divergences)]
    mixed = {("litert-int8", n): Recorded(500, 0.4, 0.9) for n in range(1, 5)}

    class InOrder(RecordedBench):
        def _answer(self, order: Order) -> Answer:
            if isinstance(order, Mix):
                first = order.layers == tuple(f"layer{i}" for i in range(len(order.layers)))
                ratio = 0.4 + (0.02 if first else 0.1) * len(order.layers)
                self.mixed = {("litert-int8", n): Recorded(500, ratio, 0.9 if n >= 2 else 0.7) for n in range(1, 5)}
            return super()._answer(order)

    bench = InOrder(FLOAT | {"litert-int8": Recorded(500, 0.4, 0.7)}, layers, mixed)
    found = bench.run(Goal(1.0), [offer("litert-int8", mixes=frozenset({"float"}))], ["onnx-fp32"])
    assert chosen(found, Goal(1.0)) == "litert-int8-first-2"
    assert found.tried[0].taken == ("layer0", "layer1")
    assert [name for name in found.entries if "-mixed-" in name] == []


def test_weights_of_4_bits_that_lose_too_much_get_some_of_8() -> None:
    layers = [LayerCost(f"layer{i}", "Conv", 100, divergence=0.1 * i, bytes_saved=-40) for i in range(6)]
    mixed = {("litert-int4-weights", n): Recorded(300 + 40 * n, 0.9, 0.9 if n >= 2 else 0.7) for n in range(1, 7)}
    records = FLOAT | {"litert-int4-weights": Recorded(300, 0.9, 0.5), "litert-int8-weights": Recorded(600, 0.9)}
    goal = Goal(1.0, objective="size")
    offers = [offer("litert-int4-weights", mixes=frozenset({"float", "int8"})), offer("litert-int8-weights")]
    bench = RecordedBench(records, layers, mixed)
    found = bench.run(goal, offers, ["onnx-fp32"])
    assert [order.precision for order in bench.asked(Probe)] == ["int8"]
    assert chosen(found, goal) == "litert-int4-weights-mixed-2"
    assert "2 of 6 layers have weights of 8 bits" in found.tried[0].outcome


@pytest.mark.parametrize("objective", ["latency", "size"])
def test_a_model_whose_layers_cannot_be_probed(objective: Objective) -> None:
    mixes = frozenset({"float", "int4"})
    records = FLOAT | {"litert-a": Recorded(500, 0.4, 0.7), "litert-b": Recorded(600, 0.5)}
    bench = RecordedBench(records)
    goal = Goal(1.0, objective=objective)
    found = bench.run(goal, [offer("litert-a", mixes=mixes), offer("litert-b", mixes=mixes)], ["onnx-fp32"])
    assert not bench.asked(Mix)
    assert chosen(found, goal) == "litert-b"
    assert all(tried.taken == () for tried in found.tried)


def test_hardly_any_time_gives_what_the_first_scheme_gives() -> None:
    records = FLOAT | {"onnx-a": Recorded(500, 0.5), "onnx-b": Recorded(500, 0.3), "onnx-c": Recorded(500, 0.2)}
    bench = RecordedBench(records)
    goal = Goal(1.0, time_s=0.001)
    found = bench.run(goal, [offer("onnx-a"), offer("onnx-b"), offer("onnx-c", rung=1)], ["onnx-fp32"])
    assert [order.ids for order in bench.asked(Make)] == [("onnx-a",)]
    assert found.cut_short
    assert chosen(found, goal) == "onnx-a"


@pytest.mark.parametrize(("objective", "first"), [("latency", "onnx-b"), ("size", "onnx-a")])
def test_what_is_known_to_be_no_faster_comes_last_where_there_is_hardly_any_time(
    objective: Objective, first: str
) -> None:
    bench = RecordedBench(FLOAT | {"onnx-a": Recorded(400, 1.0), "onnx-b": Recorded(500, 0.5)})
    goal = Goal(1.0, objective=objective, time_s=0.001)
    found = bench.run(goal, [offer("onnx-a", like="onnx-fp32"), offer("onnx-b")], ["onnx-fp32"])
    assert [order.ids for order in bench.asked(Make)] == [(first,)]
    assert chosen(found, goal) == first


def test_a_search_that_had_nothing_left_to_do_was_not_cut_short() -> None:
    bench = RecordedBench(FLOAT | {"onnx-a": Recorded(500, 0.5)}, seconds_an_order=20.0)
    assert not bench.run(Goal(1.0, time_s=130.0), [offer("onnx-a")], ["onnx-fp32"]).cut_short


def test_what_is_no_number_never_wins() -> None:
    records = FLOAT | {
        "onnx-a": Recorded(500, math.nan),
        "onnx-b": Recorded(500, 0.4, math.nan),
        "onnx-c": Recorded(500, 0.5, agreement=math.nan),
        "onnx-d": Recorded(500, 0.6),
    }
    goal = Goal(1.0, min_agreement=0.5)
    found = RecordedBench(records).run(goal, [offer(f"onnx-{x}") for x in "abcd"], ["onnx-fp32"])
    assert chosen(found, goal) == "onnx-d"


def test_an_agreement_out_of_reach_ends_with_nothing_and_not_with_a_loop() -> None:
    layers = [LayerCost(f"layer{i}", "Conv", 10, divergence=0.1 * i, bytes_saved=-30) for i in range(5)]
    mixed = {("litert-a", n): Recorded(500, 0.3, agreement=0.9) for n in range(1, 6)}
    records = FLOAT | {"litert-a": Recorded(500, 0.3, agreement=0.9), "litert-b": Recorded(500, 0.4, agreement=0.8)}
    bench = RecordedBench(records, layers, mixed | {("litert-b", n): one for (_, n), one in mixed.items()})
    goal = Goal(1.0, min_agreement=0.999)
    offers = [offer(name, mixes=frozenset({"float"})) for name in ("litert-a", "litert-b")]
    found = bench.run(goal, offers, ["onnx-fp32"])
    assert [tried.scheme for tried in found.tried] == ["litert-a", "litert-b"], "each is mended once"
    assert chosen(found, goal) == ""


def test_a_reference_that_the_target_cannot_run() -> None:
    records = {
        "onnx-fp32": Recorded(1000, 1.0, fails_on_target="has no onnxruntime"),
        "litert-fp32": Recorded(1000, 0.9),
        "litert-a": Recorded(500, 0.5),
    }
    found = RecordedBench(records).run(Goal(1.0), [offer("litert-a")], ["onnx-fp32", "litert-fp32"])
    assert chosen(found, Goal(1.0), ["onnx-fp32", "litert-fp32"]) == "litert-a"


@pytest.mark.parametrize(
    "name", ["litert-int8-weights", "litert-int8-mse-pruned", "onnx-u8s8-percentile-equalized-corrected"]
)
def test_ids_of_mixed_candidates_are_names_of_variants(name: str) -> None:
    layers = [LayerCost(f"a/b:{i}", "Conv", 10, divergence=9.0 - i, bytes_saved=-30) for i in range(80)]
    mixed = {(name, n): Recorded(500, 0.3, 0.9 if n == 80 else 0.5) for n in range(1, 81)}
    bench = RecordedBench(FLOAT | {name: Recorded(500, 0.3, 0.5)}, layers, mixed)
    bench.run(Goal(1.0), [offer(name, mixes=frozenset({"float"}))], ["onnx-fp32"])
    ids = [order.id for order in bench.asked(Mix)]
    assert {len(order.layers) for order in bench.asked(Mix)} == {1, 2, 4, 8, 16, 32, 64, 80, 72, 76, 78, 79}
    for one in ids:
        msgspec.convert(one, Name)


def test_what_computes_like_something_too_slow_is_not_made() -> None:
    records = FLOAT | {"onnx-a": Recorded(500, 0.5), "onnx-b": Recorded(500, 0.9), "onnx-b-mse": Recorded(500, 0.9)}
    offers = [offer("onnx-a"), offer("onnx-b"), offer("onnx-b-mse", rung=1, like="onnx-b")]
    bench = RecordedBench(records)
    found = bench.run(Goal(1.0), offers, ["onnx-fp32"])
    assert ("onnx-b-mse",) not in [order.ids for order in bench.asked(Make)]
    assert found.entries["onnx-b-mse"].refused == "not made: no faster than onnx-b, which is too slow"
    every = RecordedBench(records).run(Goal(1.0), offers, ["onnx-fp32"], exhaustive=True)
    assert every.entries["onnx-b-mse"].judged is not None
    small = RecordedBench(records).run(Goal(1.0, objective="size"), offers, ["onnx-fp32"])
    assert small.entries["onnx-b-mse"].bytes == 500, "how fast it is says nothing of its size"


def test_what_computes_like_something_that_could_not_be_made_is_tried() -> None:
    records = FLOAT | {
        "onnx-a": Recorded(500, 0.5),
        "onnx-b": Recorded(0, 0.0, refused="the tool failed"),
        "onnx-b-mse": Recorded(500, 0.4),
    }
    offers = [offer("onnx-a"), offer("onnx-b"), offer("onnx-b-mse", rung=1, like="onnx-b")]
    assert chosen(RecordedBench(records).run(Goal(1.0), offers, ["onnx-fp32"]), Goal(1.0)) == "onnx-b-mse"


def test_what_would_be_too_slow_is_not_made() -> None:
    records = FLOAT | {"onnx-a": Recorded(500, 0.4), "onnx-b": Recorded(500, 0.7), "onnx-c": Recorded(500, 0.41)}
    offers = [offer("onnx-a", rung=1), offer("onnx-b"), offer("onnx-c", rung=1)]
    bench = RecordedBench(records, sketched=True)
    found = bench.run(Goal(1.0), offers, ["onnx-fp32"])
    assert [order.ids for order in bench.asked(Sketch)] == [("onnx-b", "onnx-a", "onnx-c")]
    assert [order.ids for order in bench.asked(Make)] == [("onnx-b",), ("onnx-a",), ("onnx-c",)]
    assert chosen(found, Goal(1.0)) == "onnx-a"
    swift = RecordedBench(records, sketched=True)
    found = swift.run(Goal(1.0), [offer(f"onnx-{x}") for x in "abc"], ["onnx-fp32"])
    assert [order.ids for order in swift.asked(Make)] == [("onnx-a",), ("onnx-c",)]
    assert found.entries["onnx-b"].refused == "not made: 1.75 times slower than onnx-a, which keeps the budget"


def test_what_is_slower_is_made_where_what_is_fast_breaks_the_budget() -> None:
    records = FLOAT | {"onnx-a": Recorded(500, 0.4, 0.5), "onnx-b": Recorded(500, 0.7), "onnx-c": Recorded(500, 0.98)}
    bench = RecordedBench(records, sketched=True)
    found = bench.run(Goal(1.0), [offer(f"onnx-{x}") for x in "abc"], ["onnx-fp32"])
    assert [order.ids for order in bench.asked(Make)] == [("onnx-a",), ("onnx-b",)]
    assert chosen(found, Goal(1.0)) == "onnx-b"


def test_that_nothing_keeps_the_budget_is_not_said_of_what_was_not_made() -> None:
    records = FLOAT | {"onnx-a": Recorded(500, 0.5, 0.5), "onnx-b": Recorded(500, 3.0), "onnx-c": Recorded(500, 4.0)}
    bench = RecordedBench(records, sketched=True)
    found = bench.run(Goal(1.0), [offer(f"onnx-{x}") for x in "abc"], ["onnx-fp32"])
    assert found.entries["onnx-b"].judged is not None
    assert found.entries["onnx-c"].refused.startswith("not made: 4.00 times slower than onnx-fp32")
    assert chosen(found, Goal(1.0)) == "onnx-fp32"


def test_what_was_not_made_beside_what_turned_out_to_be_slow_is_made_after_all() -> None:
    """The leader's sketch and first look were lucky."""
    bench = Lucky(FLOAT | {"onnx-a": Recorded(500, 0.7), "onnx-b": Recorded(500, 0.6)})
    bench.sketches = {"onnx-a": Timing(ratio=0.4), "onnx-b": Timing(ratio=0.6)}
    found = bench.run(Goal(1.0), [offer("onnx-a"), offer("onnx-b")], ["onnx-fp32"])
    assert [order.ids for order in bench.asked(Make)] == [("onnx-a",), ("onnx-b",)]
    assert chosen(found, Goal(1.0)) == "onnx-b"


@pytest.mark.parametrize(("pruned", "made"), [(0.6, ["onnx-a-pruned"]), (0.49, ["onnx-a"])])
def test_channels_are_removed_where_that_gains_something(pruned: float, made: list[str]) -> None:
    ratio = 0.5 if pruned < 0.5 else 0.8
    records = FLOAT | {
        "onnx-a": Recorded(500, ratio),
        "onnx-fp32-pruned": Recorded(900, 0.99),
        "onnx-a-pruned": Recorded(400, pruned),
    }
    offers = [
        offer("onnx-a"),
        offer("onnx-fp32-pruned", quantizes=False),
        offer("onnx-a-pruned", after="onnx-fp32-pruned", prunes="onnx-a"),
    ]
    bench = RecordedBench(records, sketched=True)
    found = bench.run(Goal(1.0), offers, ["onnx-fp32"])
    assert [order.ids for order in bench.asked(Make)] == [("onnx-fp32-pruned",), *[(name,) for name in made]]
    assert chosen(found, Goal(1.0)) == made[0]


@pytest.mark.parametrize(
    ("settled", "best"),
    [(0.47, "onnx-a-pruned"), (0.5, "onnx-a")],
)
def test_a_gain_that_few_rounds_cannot_tell_is_told_by_those_that_settle_the_order(settled: float, best: str) -> None:
    """One of three rounds found a gain worth it, their median did not."""

    class Unsettled(RecordedBench):
        def _answer(self, order: Order) -> Answer:
            if isinstance(order, Time):
                self._own["onnx-a-pruned"] = Recorded(490, settled)
                answer = super()._answer(order)
                timed = {name: Timing(100.0, self._own[name].ratio) for name in order.ids}
                return dataclasses.replace(
                    answer,
                    entries={
                        name: dataclasses.replace(one, timing=timed[name]) for name, one in answer.entries.items()
                    },
                )
            return super()._answer(order)

    records = FLOAT | {"onnx-a": Recorded(500, 0.5), "onnx-fp32-pruned": Recorded(990, 0.99)}
    records |= {"onnx-a-pruned": Recorded(490, 0.49)}
    offers = [
        offer("onnx-a"),
        offer("onnx-fp32-pruned", quantizes=False),
        offer("onnx-a-pruned", after="onnx-fp32-pruned", prunes="onnx-a"),
    ]
    sketches = {"onnx-a": Timing(ratio=0.5), "onnx-a-pruned": Timing(ratio=0.49, ratio_low=0.46, ratio_high=0.52)}
    bench = Unsettled(records, sketches=sketches)
    found = bench.run(Goal(1.0), offers, ["onnx-fp32"])
    assert {"onnx-a", "onnx-a-pruned"} <= set(bench.asked(Time)[-1].ids)
    assert chosen(found, Goal(1.0)) == best


def test_a_gain_that_few_rounds_rule_out_is_not_made() -> None:
    records = FLOAT | {"onnx-a": Recorded(500, 0.5), "onnx-fp32-pruned": Recorded(990, 0.99)}
    offers = [
        offer("onnx-a"),
        offer("onnx-fp32-pruned", quantizes=False),
        offer("onnx-a-pruned", after="onnx-fp32-pruned", prunes="onnx-a"),
    ]
    sketches = {"onnx-a": Timing(ratio=0.5), "onnx-a-pruned": Timing(ratio=0.5, ratio_low=0.49, ratio_high=0.51)}
    found = RecordedBench(records, sketches=sketches).run(Goal(1.0), offers, ["onnx-fp32"])
    assert found.entries["onnx-a-pruned"].refused.startswith("not made: hardly faster than onnx-a")


@pytest.mark.parametrize("objective", ["size", "energy"])
def test_speed_alone_is_asked_for_only_where_it_decides(objective: Objective) -> None:
    records = FLOAT | {"onnx-a": Recorded(500, 0.5), "onnx-b": Recorded(400, 2.0)}
    bench = RecordedBench(records, sketched=True)
    goal = Goal(1.0, objective=objective)
    bench.run(goal, [offer("onnx-a"), offer("onnx-b")], ["onnx-fp32"])
    every = RecordedBench(records, sketched=True)
    every.run(Goal(1.0), [offer("onnx-a"), offer("onnx-b")], ["onnx-fp32"], exhaustive=True)
    assert not bench.asked(Sketch)
    assert not every.asked(Sketch)


def test_an_exhaustive_search_mends_all_that_could_win() -> None:
    layers = [LayerCost("layer", "Conv", 10, divergence=0.1, bytes_saved=-30)]
    names = [f"litert-{x}" for x in "abcd"]
    bench = RecordedBench(
        FLOAT | {name: Recorded(500, 0.3, 0.5) for name in names},
        layers,
        {(name, 1): FLOAT["onnx-fp32"] for name in names},
    )
    offers = [offer(name, mixes=frozenset({"float"})) for name in names]
    found = bench.run(Goal(1.0), offers, ["onnx-fp32"], exhaustive=True)
    assert {tried.scheme for tried in found.tried} == set(names)


def test_the_file_of_a_float_model_that_is_too_large_is_still_good_to_begin_with() -> None:
    records = FLOAT | {"onnx-fp32-pruned": Recorded(800, 0.9), "onnx-a": Recorded(300, 0.5)}
    records |= {"onnx-a-pruned": Recorded(200, 0.45)}
    offers = [
        offer("onnx-fp32-pruned", quantizes=False),
        offer("onnx-a"),
        offer("onnx-a-pruned", after="onnx-fp32-pruned", prunes="onnx-a"),
    ]
    goal = Goal(1.0, max_bytes=250, objective="size")
    assert chosen(RecordedBench(records).run(goal, offers, ["onnx-fp32"]), goal) == "onnx-a-pruned"


def test_one_that_gains_no_speed_is_made_where_nothing_else_is_small_enough() -> None:
    records = FLOAT | {"onnx-fp32-pruned": Recorded(800, 0.9), "onnx-a": Recorded(300, 0.5)}
    records |= {"onnx-a-pruned": Recorded(200, 0.495)}
    offers = [
        offer("onnx-fp32-pruned", quantizes=False),
        offer("onnx-a"),
        offer("onnx-a-pruned", after="onnx-fp32-pruned", prunes="onnx-a"),
    ]
    goal = Goal(1.0, max_bytes=250)
    assert chosen(RecordedBench(records, sketched=True).run(goal, offers, ["onnx-fp32"]), goal) == "onnx-a-pruned"
    roomy = RecordedBench(records, sketched=True).run(Goal(1.0), offers, ["onnx-fp32"])
    assert roomy.entries["onnx-a-pruned"].refused == "not made: hardly faster than onnx-a, which has all channels"


def test_of_what_was_not_made_the_fastest_is_looked_at_first() -> None:
    records = FLOAT | {"onnx-a": Recorded(500, 0.5, 0.5), "onnx-b": Recorded(500, 4.0), "onnx-c": Recorded(500, 3.0)}
    bench = RecordedBench(records, sketched=True)
    found = bench.run(Goal(1.0), [offer(f"onnx-{x}") for x in "abc"], ["onnx-fp32"])
    assert [order.ids for order in bench.asked(Make)] == [("onnx-a",), ("onnx-c",)]
    assert found.entries["onnx-c"].judged is not None


def test_what_is_made_after_all_has_to_run_on_the_target() -> None:
    records = FLOAT | {
        "onnx-a": Recorded(500, 0.5, 0.5),
        "onnx-b": Recorded(500, 3.0, fails_on_target="no such operation there"),
    }
    sketches = {"onnx-a": Timing(ratio=0.5), "onnx-b": Timing(ratio=3.0)}
    bench = RecordedBench(records, sketches=sketches)
    found = bench.run(Goal(1.0), [offer("onnx-a"), offer("onnx-b")], ["onnx-fp32"])
    assert found.entries["onnx-b"].refused == "no such operation there"
    assert chosen(found, Goal(1.0)) == "", "all that runs loses too much"


def test_time_that_is_up_when_only_what_is_too_slow_is_left_cuts_nothing_short() -> None:
    records = FLOAT | {"onnx-a": Recorded(500, 0.4), "onnx-b": Recorded(500, 0.9)}
    bench = RecordedBench(records, sketched=True, seconds_an_order=5.0)
    found = bench.run(Goal(1.0, time_s=59.0), [offer("onnx-a"), offer("onnx-b")], ["onnx-fp32"])
    assert found.entries["onnx-b"].refused.startswith("not made: ")
    assert not found.cut_short


def test_what_was_made_to_begin_others_with_is_judged_though_the_time_is_up() -> None:
    records = FLOAT | {"onnx-fp32-pruned": Recorded(800, 0.6), "onnx-a": Recorded(500, 0.9, 0.5)}
    records |= {"onnx-a-pruned": Recorded(400, 0.5)}
    offers = [
        offer("onnx-a"),
        offer("onnx-fp32-pruned", quantizes=False),
        offer("onnx-a-pruned", after="onnx-fp32-pruned", prunes="onnx-a"),
    ]
    bench = RecordedBench(records, seconds_an_order=2.0)
    found = bench.run(Goal(1.0, time_s=11.0), offers, ["onnx-fp32"])
    assert [order.ids for order in bench.asked(Make)] == [("onnx-fp32-pruned",), ("onnx-a",)]
    assert chosen(found, Goal(1.0)) == "onnx-fp32-pruned"


def test_a_float_model_is_shipped_where_what_there_was_time_for_breaks_the_budget() -> None:
    records = FLOAT | {"onnx-a": Recorded(500, 0.5, 0.5), "onnx-b": Recorded(500, 0.6)}
    bench = RecordedBench(records, seconds_an_order=2.0)
    found = bench.run(Goal(1.0, time_s=2.0), [offer("onnx-a"), offer("onnx-b")], ["onnx-fp32"])
    assert found.entries["onnx-a"].judged is not None
    assert chosen(found, Goal(1.0)) == "onnx-fp32"


@pytest.mark.parametrize("seconds_an_order", [0.5, 1.0, 2.0, 5.0])
def test_the_overrun_is_bounded(seconds_an_order: float) -> None:
    """Half the time over, and one candidate: made, screened, judged, and timed beside the float model."""
    layers = [LayerCost(f"layer{i}", "Conv", 10, divergence=9.0 - i, bytes_saved=-30) for i in range(40)]
    names = [f"litert-{letter}" for letter in "abcdefgh"]
    mixed = {(name, n): Recorded(500, 0.3, 0.9 if n == 40 else 0.5) for name in names for n in range(1, 41)}
    records = FLOAT | {name: Recorded(500, 0.3, 0.5) for name in names}
    bench = RecordedBench(records, layers, mixed, seconds_an_order=seconds_an_order)
    offers = [offer(name, mixes=frozenset({"float"}), rung=place % 2) for place, name in enumerate(names)]
    found = bench.run(Goal(1.0, time_s=20.0), offers, ["onnx-fp32"])
    assert found.cut_short
    assert seconds_an_order * len(bench.orders) <= 1.5 * 20.0 + 4 * seconds_an_order
    assert all(order.until_s <= 20.0 for order in bench.asked(Screen))
    assert all(order.until_s <= 20.0 for order in bench.asked(Time))
    assert all(order.timed_s <= 20.0 for order in bench.asked(Sketch))


def test_what_is_made_is_judged_only_while_there_is_time() -> None:
    class Thorough(RecordedBench):
        def _answer(self, order: Order) -> Answer:
            elapsed = sum(4.0 if isinstance(one, Evaluate) else 1.0 for one in self.orders)
            return dataclasses.replace(super()._answer(order), elapsed_s=elapsed)

    names = [f"onnx-{letter}" for letter in "abcdefgh"]
    bench = Thorough(FLOAT | {name: Recorded(500, 0.5) for name in names})
    found = bench.run(Goal(1.0, time_s=24.0), [offer(name) for name in names], ["onnx-fp32"])
    made, judged = len(bench.asked(Make)), [order.id for order in bench.asked(Evaluate)][1:]
    assert 1 <= len(judged) < made
    assert found.cut_short
    assert chosen(found, Goal(1.0)) in judged
