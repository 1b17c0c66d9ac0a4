"""First, last, affinities and ratios: right to the millisecond, whatever the order of arrival."""

from __future__ import annotations

import math
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.affinity import DecayedAffinity
from operators.kinds import Value
from operators.signals import CompiledSignal
from schemas.time import DAY, HOUR, MINUTE, SECOND
from tests.operators.builders import T0, arrived, content
from tests.operators.signal_builders import (
    encoded,
    first_difference,
    fold,
    number,
    ratio,
    signal,
    view,
)

# First and last.


@given(st.lists(st.integers(0, DAY), min_size=1), st.integers(0, DAY))
@pytest.mark.parametrize(("kind", "pick"), [("last", max), ("first", min)])
def test_time_since_is_from_the_newest_or_the_oldest_whatever_the_order(
    kind: str, pick: Any, times: list[int], later: int
) -> None:
    made = signal(kind)
    held = fold(made, [view(T0 + at) for at in times], stored=True)
    now = T0 + max(times) + later
    assert made.value(held, now) == now - T0 - pick(times)


@pytest.mark.parametrize("kind", ["first", "last"])
def test_what_never_happened_has_no_value(kind: str) -> None:
    made = signal(kind)
    assert made.value({}, T0) is None
    assert made.empty({}, T0)
    assert made.outlook({}, T0, lambda age: age is None) == (True, None)
    ahead = fold(made, [view(T0 + 5)])
    assert made.value(ahead, T0 + 4) is None
    assert made.outlook(ahead, T0, lambda age: age is None) == (True, T0 + 5)


@given(
    st.integers(0, 3 * DAY),
    st.lists(st.integers(0, 2 * DAY), min_size=1, max_size=2),
    st.sampled_from(["at_least", "at_most", "above", "below", "equals"]),
)
def test_an_age_crosses_its_bounds_to_the_millisecond(
    age: int, bounds: list[int], bound: str
) -> None:
    made = signal("last")
    held = fold(made, [view(T0 - age)])

    def one(seen: float, limit: int) -> bool:
        return {
            "at_least": seen >= limit,
            "at_most": seen <= limit,
            "above": seen > limit,
            "below": seen < limit,
            "equals": seen == limit,
        }[bound]

    def holds(value: Value) -> bool:
        # True between two bounds where there are two.
        return sum(one(number(value), limit) for limit in bounds) == 1

    turns = [T0 - age + limit + step for limit in bounds for step in (-1, 0, 1)]
    expected = first_difference(lambda at: holds(made.value(held, at)), T0, turns)
    assert made.outlook(held, T0, holds, bounds=bounds) == (holds(float(age)), expected)
    if len(bounds) == 1 and bound != "equals":
        # A truth that comes or goes once is found without being told where.
        assert made.outlook(held, T0, holds) == (holds(float(age)), expected)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["a", "b", 3, 3.5, True])), max_size=12),
    st.randoms(use_true_random=False),
)
@pytest.mark.parametrize("kind", ["first", "last"])
def test_a_fields_value_then_does_not_depend_on_the_order_even_within_a_millisecond(
    kind: str, events: list[tuple[int, Any]], shuffle: Any
) -> None:
    made = signal(kind, of="properties.brand")
    sent = [view(T0 + at, properties={"brand": brand}) for at, brand in events]
    held = fold(made, sent)
    shuffle.shuffle(sent)
    assert encoded(fold(made, sent)) == encoded(held)
    if events:
        edge = (min if kind == "first" else max)(at for at, _ in events)
        texts = {True: "true", 3: "3.0", 3.5: "3.5"}
        expected = max(texts.get(brand, str(brand)) for at, brand in events if at == edge)
        assert str(made.value(held, T0 + 10)) == expected


def test_a_fields_value_is_a_text_or_a_number_and_what_has_none_is_passed_over() -> None:
    made = signal("last", of="content.attributes.brand")
    shoes = content(attributes={"brand": "nike"})
    held = fold(made, [view(T0)], content=shoes)
    fold(made, [view(T0 + 1)], held, content=content())
    fold(made, [view(T0 + 2)], held)
    assert made.value(held, T0 + 3) == "nike"
    price = signal("first", of="value")
    assert price.value(fold(price, [view(T0, value=9.5), view(T0 + 1, value=2.0)]), T0 + 2) == 9.5
    tags = signal("last", of="content.tags", sensitive_tags=["health"])
    secret = fold(tags, [view(T0)], content=content(tags=["health", "red"]))
    assert tags.value(secret, T0) == "red"
    assert b"health" not in encoded(secret)


# Affinity.


def affinity(**fields: Any) -> tuple[CompiledSignal, DecayedAffinity]:
    made = signal("affinity", **{"of": "properties.tag", **fields})
    assert isinstance(made.kind, DecayedAffinity)
    return made, made.kind


def tagged(at: int, tag: str) -> Any:
    return view(at, properties={"tag": tag})


_TAGGED: Final = st.lists(
    st.tuples(st.integers(0, 40 * HOUR), st.sampled_from("abc")), min_size=1, max_size=30
)


@given(_TAGGED, st.integers(0, 40 * HOUR), st.sampled_from(["1m", "1h", "7d"]))
def test_affinity_equals_the_closed_formula(
    events: list[tuple[int, str]], later: int, half_life: str
) -> None:
    made, kind = affinity(half_life=half_life)
    held = fold(made, [tagged(T0 + at, tag) for at, tag in events], stored=True)
    now = max(at for at, _ in events) + later
    for tag in "abc":
        expected = math.fsum(
            2.0 ** (-(now - at) / kind.half_life) for at, own in events if own == tag
        )
        assert made.value(held, T0 + now, tag) == pytest.approx(expected, abs=1.01e-9)


@given(_TAGGED, st.randoms(use_true_random=False))
def test_arrival_order_never_changes_an_affinity(
    events: list[tuple[int, str]], shuffle: Any
) -> None:
    """To nine decimals: floating-point addition is not associative."""
    made, kind = affinity(half_life="1h")
    now = T0 + max(at for at, _ in events)
    ordered = fold(made, [tagged(T0 + at, tag) for at, tag in sorted(events)])
    shuffle.shuffle(events)
    shuffled = fold(made, [tagged(T0 + at, tag) for at, tag in events])
    for tag in "abc":
        values = [made.value(held, now, tag) for held in (ordered, shuffled)]
        assert values[0] == pytest.approx(values[1], abs=1.01e-9)
    strongest = [dict(kind.top(held[made.slot], now, 9)) for held in (ordered, shuffled)]
    assert strongest[0] == pytest.approx(strongest[1], rel=1e-9)


def test_affinity_halves_with_every_half_life() -> None:
    made, _ = affinity(half_life="7d", weights={"view": 3})
    held = fold(made, [tagged(T0, "red")])
    values = [made.value(held, T0 + n * 7 * DAY, "red") for n in range(4)]
    assert values == [3.0, 1.5, 0.75, 0.375]
    assert made.value(held, T0, "blue") == made.value(held, T0) == 0.0


def test_affinity_outlasts_a_century_of_half_lives() -> None:
    made, _ = affinity(half_life="1s")
    held = fold(made, [tagged(T0 + at, "red") for at in (0, 90 * DAY)])
    assert made.value(held, T0 + 90 * DAY, "red") == 1.0
    fold(made, [tagged(T0 - 400 * DAY, "blue")], held)
    assert made.value(held, T0 + 90 * DAY, "blue") == 0.0


def test_the_weakest_liking_gives_way() -> None:
    made, kind = affinity(keep=2)
    held = fold(made, [tagged(T0, t) for t in ["red", "red", "red", "blue", "blue", "green"]])
    assert [tag for tag, _ in kind.top(held[made.slot], T0, 5)] == ["red", "blue"]


def test_of_equally_weak_likings_the_first_by_name_gives_way() -> None:
    made, kind = affinity(keep=2)
    held = fold(made, [tagged(T0, tag) for tag in ["green", "red", "blue"]])
    assert [tag for tag, _ in kind.top(held[made.slot], T0, 5)] == ["green", "red"]
    disliked, _ = affinity(keep=2, weights={"view": 1, "hide": -1})
    felt = [tagged(T0, "b"), tagged(T0, "b"), arrived("hide", properties={"tag": "a"})]
    held = fold(disliked, [*felt, tagged(T0, "c")])
    assert [disliked.value(held, T0, tag) for tag in "abc"] == [0, 2, 1]


def test_one_event_may_push_out_several_likings() -> None:
    made = signal("affinity", keep=2)
    held = fold(made, [view(T0, content_id="c1")], content=content(tags=["a", "b"]))
    fold(made, [view(T0 + DAY)], held, content=content(tags=["e", "d", "c", "b"]))
    assert sorted(held[made.slot][1]) == ["b", "e"]


def test_a_sensitive_tag_is_never_kept() -> None:
    made = signal("affinity", sensitive_tags=["health"])
    held = fold(made, [view(T0, content_id="c1")], content=content(tags=["health", "red"]))
    assert made.value(held, T0, "red") == 1.0
    assert made.value(held, T0, "health") == 0.0
    assert b"health" not in encoded(held)


def test_each_kind_of_event_adds_its_own_weight() -> None:
    made, _ = affinity(weights={"view": 1, "purchase": 5, "hide": -4, "feedback": 0.5})
    sent = [("view", None), ("purchase", None), ("feedback", "hide")]
    events = [arrived(kind, feedback=said, properties={"tag": "red"}) for kind, said in sent]
    assert made.value(fold(made, events), T0, "red") == 2.5


@given(
    st.floats(-100, 100).filter(lambda w: abs(w) > 0.01),
    st.lists(
        st.just(0.0) | st.floats(-100, 100).filter(lambda b: abs(b) > 0.001),
        min_size=1,
        max_size=2,
    ),
    st.sampled_from(["at_least", "at_most", "above", "below", "equals"]),
    st.sampled_from(["10s", "1h", "7d"]),
)
def test_a_likings_truth_changes_at_the_instant_foretold_and_not_before(
    weight: float, limits: list[float], bound: str, half_life: str
) -> None:
    made, kind = affinity(weights={"view": weight}, half_life=half_life)
    held = fold(made, [tagged(T0, "red")])
    limits = [*limits, *limits] if bound == "equals" and weight in limits else limits

    def one(seen: float, limit: float) -> bool:
        return {
            "at_least": seen >= limit,
            "at_most": seen <= limit,
            "above": seen > limit,
            "below": seen < limit,
            "equals": seen == limit,
        }[bound]

    def holds(value: Value) -> bool:
        return sum(one(number(value), limit) for limit in limits) == 1

    def at(instant: int) -> bool:
        return holds(made.value(held, instant, "red"))

    truth, until = made.outlook(held, T0, holds, "red", bounds=limits)
    assert truth == at(T0)
    if until is None:
        assert all(at(T0 + n * kind.half_life // 7) == truth for n in range(1, 400))
        return
    assert until > T0
    assert at(until) != truth
    ahead = until - T0
    assert all(at(T0 + ahead * n // 50) == truth for n in range(50))
    assert at(until - 1) == truth
    if len(limits) == 1 and bound != "equals":
        assert made.outlook(held, T0, holds, "red") == (truth, until)


@pytest.mark.parametrize("limit", [1e-6, 0.001, 0.01, 0.5])
@pytest.mark.parametrize("half_life", ["7d", "400d"])
def test_a_slow_decay_is_foretold_to_the_millisecond_with_and_without_bounds(
    half_life: str, limit: float
) -> None:
    """So slow that the nine decimals of a reading span many milliseconds."""
    made, _ = affinity(half_life=half_life)
    held = fold(made, [tagged(T0, "red")])
    foretold = made.outlook(held, T0, lambda n: number(n) >= limit, "red", bounds=[limit])
    assert foretold == made.outlook(held, T0, lambda n: number(n) >= limit, "red")
    until = foretold[1]
    assert until is not None
    assert (
        number(made.value(held, until - 1, "red")) >= limit > number(made.value(held, until, "red"))
    )


# Ratio.


BUYS: Final = {"kind": "sum", "events": "buy", "within": "1h"}
VIEWS: Final = {"kind": "count", "events": "view", "within": "30m"}
_SOLD: Final = st.lists(
    st.tuples(st.sampled_from(["buy", "view"]), st.integers(0, 2 * HOUR), st.integers(0, 9)),
    max_size=40,
)


def test_a_ratio_is_one_signal_divided_by_another_and_nothing_while_that_is_0() -> None:
    made = ratio(BUYS, VIEWS)
    r = made["r"]
    assert r.value({}, T0) is None
    assert r.empty({}, T0)
    sent = [arrived("buy", at=T0, value=3.0), view(T0 + MINUTE), view(T0 + 2 * MINUTE)]
    held = fold(made.values(), sent)
    assert r.slot not in held
    assert set(r.needs) == set(held)
    assert r.events == {"buy", "view"}
    now = T0 + 3 * MINUTE
    assert r.value(held, now) == 1.5
    # Three for one view, once the older of them leaves; then there is none to divide by.
    assert r.value(held, T0 + 31 * MINUTE) == 3.0
    assert r.value(held, T0 + 32 * MINUTE) is None
    assert r.outlook(held, now, lambda v: v is not None and number(v) > 2) == (
        False,
        T0 + 31 * MINUTE,
    )
    assert r.outlook(held, now, lambda v: v is None) == (False, T0 + 32 * MINUTE)
    assert not r.empty(held, T0 + 32 * MINUTE)
    assert r.empty(held, T0 + HOUR)


@given(_SOLD, st.integers(0, 2 * HOUR), st.integers(0, 8))
def test_a_ratios_truth_changes_at_the_instant_foretold_and_not_before(
    events: list[tuple[str, int, int]], later: int, limit: int
) -> None:
    made = ratio(BUYS, VIEWS)
    r = made["r"]
    sent = [arrived(kind, at=T0 + at, value=float(v)) for kind, at, v in events]
    held = fold(made.values(), sent)
    now = T0 + later

    def at(instant: int) -> bool:
        value = r.value(held, instant)
        return value is not None and number(value) >= limit / 4

    turns = [
        turn
        for kind, after, _ in events
        for span in (HOUR if kind == "buy" else HOUR // 2,)
        for begin in (T0 + after, (T0 + after) // (span // 64) * (span // 64))
        for turn in (T0 + after, begin + span, begin + span // 64 - 1)
    ]
    truth, until = r.outlook(held, now, lambda v: v is not None and number(v) >= limit / 4)
    assert truth == at(now)
    assert until == first_difference(at, now, [*turns, *(turn - 1 for turn in turns)])


def test_parts_of_a_ratio_are_fed_once_however_many_read_them() -> None:
    made = ratio(BUYS, {**BUYS, "kind": "count"})
    held = fold(made.values(), [arrived("buy", at=T0 + i * SECOND, value=4.0) for i in range(3)])
    assert made["r"].value(held, T0 + MINUTE) == 4.0
    assert made["a"].value(held, T0 + MINUTE) == 12.0
