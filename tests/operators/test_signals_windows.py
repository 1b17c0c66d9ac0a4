"""Windows equal what a naive model that stores every event says: exactly, or within the bound."""

from __future__ import annotations

import math
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.arrival import Arrived
from operators.kinds import Value
from operators.windows import EXACT
from schemas.time import DAY, HOUR, MINUTE, SECOND
from tests.operators.builders import T0
from tests.operators.signal_builders import (
    WINDOWS,
    encoded,
    first_difference,
    fold,
    number,
    signal,
    view,
)

AMOUNTS: Final = ("sum", "mean", "min", "max")
KINDS: Final = ("count", *AMOUNTS, "distinct")

Event = tuple[int, float, str]
"""Milliseconds after T0, an amount, a tag."""


def built(events: list[Event]) -> list[Arrived]:
    return [view(T0 + at, value=v, properties={"tag": tag}) for at, v, tag in events]


def of_kind(kind: str, within: str, **fields: Any) -> Any:
    of = {"of": "properties.tag"} if kind == "distinct" else {}
    return signal(kind, within=within, **of, **fields)


def naive(kind: str, events: list[Event]) -> Value:
    """The value of the events that are in the window."""
    amounts = [v for _, v, _ in events]
    match kind:
        case "count":
            return float(len(events))
        case "sum":
            return math.fsum(amounts)
        case "distinct":
            return float(len({tag for _, _, tag in events}))
    if not amounts:
        return None
    return {"mean": math.fsum(amounts) / len(amounts), "min": min(amounts), "max": max(amounts)}[
        kind
    ]


def stated(kind: str, events: list[Event], *, now: int, span: int) -> list[Event]:
    """The events that count, by the stated bound: exact ones, and those of whole buckets."""
    happened = sorted(e for e in events if e[0] <= now)
    size = max(1, span // 64)
    exact = happened if kind == "distinct" else happened[-EXACT:]
    coarse = happened[: len(happened) - len(exact)]
    return [e for e in exact if e[0] > now - span] + [
        e for e in coarse if (T0 + e[0]) // size * size > T0 + now - span
    ]


# A window, its length, events at ages of up to two windows, crowded or far apart, and a "now".
@st.composite
def histories(draw: st.DrawFn, most: int = 40) -> tuple[str, int, list[Event], int]:
    text = draw(st.sampled_from(sorted(WINDOWS)))
    span = WINDOWS[text]
    crowd = max(1, span // draw(st.sampled_from([1, 10, 1_000])))
    one = st.tuples(
        st.integers(0, 2 * span) | st.integers(0, crowd),
        st.integers(-(10**9), 10**9).map(lambda n: n / 1_000),
        st.sampled_from("abcdef"),
    )
    events = draw(st.lists(one, max_size=most))
    newest = max((at for at, _, _ in events), default=0)
    return text, span, events, newest + draw(st.integers(0, 2 * span))


@given(histories(most=EXACT))
@pytest.mark.parametrize("kind", KINDS)
def test_a_window_of_few_events_is_exact(
    kind: str, history: tuple[str, int, list[Event], int]
) -> None:
    within, span, events, now = history
    made = of_kind(kind, within)
    inside = [e for e in events if e[0] > now - span]
    expected = naive(kind, inside)
    value = made.value(fold(made, built(events)), T0 + now)
    assert value == (None if expected is None else pytest.approx(expected, rel=1e-12, abs=1e-9))
    assert made.empty(fold(made, built(events)), T0 + now) == (not inside)


@given(histories(most=60))
@pytest.mark.parametrize("kind", KINDS)
def test_a_crowded_window_is_what_its_resolution_says(
    kind: str, history: tuple[str, int, list[Event], int]
) -> None:
    within, span, events, now = history
    made = of_kind(kind, within)
    expected = naive(kind, stated(kind, events, now=now, span=span))
    value = made.value(fold(made, built(events)), T0 + now)
    assert value == (None if expected is None else pytest.approx(expected, rel=1e-12, abs=1e-9))


@given(histories(most=60))
def test_an_event_leaves_a_crowded_window_up_to_a_64th_early_and_never_late(
    history: tuple[str, int, list[Event], int],
) -> None:
    within, span, events, now = history
    counting = signal(within=within)
    value = number(counting.value(fold(counting, built(events)), T0 + now))
    surely = sum(now - at < span - span // 64 for at, _, _ in events)
    perhaps = sum(now - at < span for at, _, _ in events)
    assert surely <= value <= perhaps
    if perhaps <= EXACT:
        assert value == perhaps


@given(histories(most=50), st.randoms(use_true_random=False))
@pytest.mark.parametrize("kind", KINDS)
def test_arrival_order_never_changes_the_state(
    kind: str, history: tuple[str, int, list[Event], int], shuffle: Any
) -> None:
    within, _, events, now = history
    made = of_kind(kind, within)
    ordered = fold(made, built(sorted(events)))
    shuffle.shuffle(events)
    shuffled = fold(made, built(events))
    assert encoded(shuffled) == encoded(ordered)
    assert made.value(shuffled, T0 + now) == made.value(ordered, T0 + now)


@given(st.lists(st.tuples(st.integers(0, DAY), st.text(max_size=2)), max_size=60), st.randoms())
def test_arrival_order_never_changes_which_values_are_kept(
    events: list[tuple[int, str]], shuffle: Any
) -> None:
    made = signal("distinct", within="10d", of="properties.tag", keep=5)
    ordered = fold(made, [view(T0 + at, properties={"tag": tag}) for at, tag in sorted(events)])
    shuffle.shuffle(events)
    shuffled = fold(made, [view(T0 + at, properties={"tag": tag}) for at, tag in events])
    assert encoded(shuffled) == encoded(ordered)
    different = {tag for _, tag in events}
    assert made.value(shuffled, T0 + DAY) == min(5, len(different))


@given(histories(most=30))
@pytest.mark.parametrize("kind", KINDS)
def test_a_state_that_was_stored_goes_on_as_if_it_had_not_been(
    kind: str, history: tuple[str, int, list[Event], int]
) -> None:
    within, _, events, _ = history
    made = of_kind(kind, within)
    assert encoded(fold(made, built(events), stored=True)) == encoded(fold(made, built(events)))


@given(histories(most=30), st.integers(0, 400 * DAY))
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_dated_after_now_never_counts(
    kind: str, history: tuple[str, int, list[Event], int], earlier: int
) -> None:
    within, span, events, now = history
    at = max(0, now - earlier % (3 * span))
    made = of_kind(kind, within)
    value = made.value(fold(made, built(events)), T0 + at)
    past = [e for e in events if e[0] <= at]
    if kind == "count":
        assert number(value) <= sum(e[0] > at - span for e in past)
    if not past:
        assert made.empty(fold(made, built(events)), T0 + at)
        assert value == naive(kind, [])


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_3_days_old_is_in_a_10_day_window_and_one_15_days_old_is_not(kind: str) -> None:
    made = signal(kind, within="10d")

    def of(*ages: int) -> Any:
        events = [view(T0 - age * DAY, value=float(age), content_id=f"c{age}") for age in ages]
        return made.value(fold(made, events), T0)

    assert of(3) == {"count": 1, "distinct": 1}.get(kind, 3)
    assert of(15) == {"count": 0, "sum": 0, "distinct": 0}.get(kind)
    assert of(3, 15) == of(15, 3) == of(3)


@pytest.mark.parametrize(("within", "span"), WINDOWS.items())
@pytest.mark.parametrize("kind", KINDS)
def test_an_event_as_old_as_the_window_is_out_and_a_millisecond_before_is_not(
    kind: str, within: str, span: int
) -> None:
    made = signal(kind, within=within)
    held = fold(made, [view(T0, value=5.0, content_id="c1")])
    assert made.value(held, T0) == made.value(held, T0 + span - 1)
    assert made.value(held, T0 + span - 1)
    assert not made.value(held, T0 + span)
    assert made.empty(held, T0 + span)
    assert not made.empty(held, T0 + span - 1)


@pytest.mark.parametrize("times", range(1, EXACT + 1))
def test_so_many_times_is_exact_to_the_millisecond_however_many_there_are(times: int) -> None:
    """At least n of more than n is decided by the n newest, which are kept one by one."""
    made = signal(within="1h")
    ages = [i * 97_003 % HOUR for i in range(40)]
    held = fold(made, [view(T0 - age) for age in ages])
    truth, until = made.outlook(held, T0, lambda n: number(n) >= times)
    assert truth
    assert until == T0 - sorted(ages)[times - 1] + HOUR


_BOUNDS: Final[dict[str, Any]] = {
    "at_least": lambda n, b: n >= b,
    "at_most": lambda n, b: n <= b,
    "above": lambda n, b: n > b,
    "equals": lambda n, b: n == b,
}


@given(
    histories(most=30),
    st.sampled_from(sorted(_BOUNDS)),
    st.integers(-2, 6),
    st.booleans(),
    st.data(),
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_truth_changes_at_the_instant_foretold_and_not_before(
    kind: str,
    history: tuple[str, int, list[Event], int],
    bound: str,
    limit: int,
    of_an_event: bool,
    data: st.DataObject,
) -> None:
    within, span, events, now = history
    if data.draw(st.booleans(), label="some lie ahead"):
        now = data.draw(st.integers(0, now))
    made = of_kind(kind, within)
    held = fold(made, built(events))
    if of_an_event and kind in AMOUNTS and events:
        limit = data.draw(st.sampled_from([v for _, v, _ in events]))  # type: ignore[assignment]

    def holds(value: Value) -> bool:
        return value is not None and bool(_BOUNDS[bound](value, limit))

    truth, until = made.outlook(held, T0 + now, holds)
    assert truth == holds(made.value(held, T0 + now))
    size = max(1, span // 64)
    turns = [
        turn
        for at, _, _ in events
        for begin in (T0 + at, (T0 + at) // size * size)
        for turn in (T0 + at, begin + span, begin + size - 1)
    ]
    assert until == first_difference(
        lambda at: holds(made.value(held, at)), T0 + now, [*turns, *(t - 1 for t in turns)]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_events_hold_no_more_than_a_hundred(kind: str) -> None:
    """16 one by one and 64 buckets, whatever arrives: in order, in any order, or backwards."""
    fields: dict[str, Any] = {"keep": 50} if kind == "distinct" else {}
    made = signal(kind, within="1h", **fields)
    held: dict[int, Any] = {}
    longest = 0
    for i in range(10_000):
        at = T0 + i * SECOND - i * 7_919_000 % HOUR
        fold(made, [view(at, value=1e9 * (-1) ** i, content_id=f"content-{i}")], held)
        longest = max(longest, len(encoded(held)))
    fold(made, [view(T0 - age, value=1.0) for age in range(0, 30 * DAY, HOUR)], held)
    assert max(longest, len(encoded(held))) < {"count": 900, "mean": 1_800}.get(kind, 1_500)


def test_a_sum_of_absurd_numbers_can_still_be_stored() -> None:
    """Beyond 64 bits the profile could not be encoded, and no later snapshot would succeed."""
    for kind in AMOUNTS:
        made = signal(kind)
        for value in (1e300, -1e300):
            held = fold(made, [view(T0, value=value)] * 100, stored=True)
            assert math.copysign(1.0, number(made.value(held, T0))) == math.copysign(1.0, value)


@pytest.mark.parametrize("kind", AMOUNTS)
def test_what_is_no_number_adds_nothing(kind: str) -> None:
    made = signal(kind, of="properties.price")
    bad: list[Any] = [None, "3", True, math.nan, math.inf, 10**400, [1], {"a": 1}]
    events = [view(T0, properties={"price": value}) for value in [*bad, 2, 0.5]]
    expected = {"sum": 2.5, "mean": 1.25, "min": 0.5, "max": 2.0}[kind]
    assert made.value(fold(made, [*events, view(T0)]), T0) == expected
    assert made.empty(fold(made, [view(T0)]), T0)


def test_small_amounts_add_up_exactly() -> None:
    made = signal("sum")
    assert made.value(fold(made, [view(T0, value=0.1)] * 30), T0) == 3.0


@pytest.mark.parametrize("kind", ["mean", "min", "max"])
def test_a_window_without_an_amount_has_no_mean_and_no_extreme(kind: str) -> None:
    made = signal(kind, within="1h")
    assert made.value({}, T0) is None
    held = fold(made, [view(T0, value=4.0)])
    assert made.value(held, T0 + HOUR) is None
    assert made.outlook(held, T0, lambda n: n is not None) == (True, T0 + HOUR)
    assert made.outlook(held, T0 + HOUR, lambda n: n is None) == (True, None)


def test_an_extreme_that_leaves_gives_way_to_the_next() -> None:
    made = signal("max", within="1h")
    held = fold(made, [view(T0 + i * MINUTE, value=v) for i, v in enumerate([9.0, 3.0, 7.0, 5.0])])
    seen = [made.value(held, T0 + HOUR + i * MINUTE - 1) for i in range(5)]
    assert seen == [9.0, 7.0, 7.0, 5.0, None]


def test_a_long_value_is_cut_so_that_memory_is_bounded() -> None:
    made = signal("distinct", of="properties.tag")
    held = fold(made, [view(T0, properties={"tag": "x" * 100_000})])
    assert len(encoded(held)) < 200


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_exactly_at_the_edge_of_the_newest_window_is_gone_in_any_order(kind: str) -> None:
    made = of_kind(kind, "1h")
    edge = [(0, 1.0, "a"), (1, 2.0, "b"), (HOUR, 3.0, "c")]
    for order in (edge, edge[::-1]):
        held = fold(made, built(order))
        assert encoded(held) == encoded(fold(made, built(edge[1:])))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("aligned", [True, False])
def test_events_of_one_instant_come_and_go_together(aligned: bool, kind: str) -> None:
    """Also where some are kept one by one and others in a bucket that begins right then."""
    made = of_kind(kind, "1h")
    size = HOUR // 64
    at = T0 // size * size + (0 if aligned else size // 2)
    events = [(at - T0, float(i), str(i)) for i in range(20)]
    held = fold(made, built(events))
    whole = made.value(held, at)
    # 20 at first and none at last; the bucket leaves before the instant, unless it begins with it.
    between = {
        turn: made.value(held, turn)
        for turn in range(at + HOUR - size, at + HOUR, size // 8)
        if made.value(held, turn) != whole
    }
    seen = {whole, made.value(held, at + HOUR), *between.values()}
    assert len(seen) == (2 if aligned or kind in ("max", "distinct") else 3)
    for value in range(-1, 200):
        truth, until = made.outlook(held, at, lambda n, v=value: n == v)
        assert truth == (whole == value)
        assert (until is not None) == (value in seen), value


@pytest.mark.parametrize("kind", ["count", "sum"])
def test_a_crowd_that_lies_ahead_never_counts_not_even_by_its_bucket(kind: str) -> None:
    made = signal(kind, within="64h")
    begin = T0 // HOUR * HOUR
    held = fold(made, [view(begin + 30 * MINUTE + i, value=1.0) for i in range(100)])
    for before in (begin - 1, begin, begin + 30 * MINUTE - 1):
        assert made.value(held, before) == 0
        assert made.empty(held, before)
    assert made.value(held, begin + 30 * MINUTE + 99) == 100


def test_buckets_that_begin_and_end_now_are_told_apart() -> None:
    """Of 40 that happened each minute, asked at an earlier one, only whole buckets before it."""
    made = signal(within="64m")
    begin = T0 // MINUTE * MINUTE
    held = fold(made, [view(begin + i * MINUTE + 59_999) for i in range(40)])
    for minute in range(20):
        end = begin + minute * MINUTE + 59_999
        assert made.value(held, end) == minute + 1
        assert made.value(held, end - 1) == minute
