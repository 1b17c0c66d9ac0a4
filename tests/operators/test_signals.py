"""Signals equal what a naive model that stores every event says, within the stated resolution."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any, Final

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from operators.arrival import Arrived
from operators.signals import (
    CompiledSignal,
    DecayedAffinity,
    DistinctValues,
    LastTime,
    Windowed,
    compile_signal,
)
from schemas.conditions import NumberRange
from schemas.signals import Signal
from schemas.time import DAY, HOUR, MINUTE, SECOND
from tests.operators.builders import T0, arrived, content

_SIGNAL: Final[TypeAdapter[Any]] = TypeAdapter(Signal)
WINDOWS: Final = {
    "1s": SECOND,
    "7s": 7 * SECOND,
    "1m": MINUTE,
    "1h": HOUR,
    "1d": DAY,
    "10d": 10 * DAY,
    "90d": 90 * DAY,
}


def signal(kind: str = "count", *, name: str = "s", **fields: Any) -> CompiledSignal:
    default: dict[str, Any] = {"kind": kind}
    if kind == "affinity":
        default["weights"] = {"view": 1}
    else:
        default["events"] = "view"
    if kind in ("count", "sum", "distinct"):
        default["within"] = "10d"
    hidden = fields.pop("sensitive_tags", ())
    declared = _SIGNAL.validate_python({**default, **fields})
    return compile_signal(name, declared, sensitive_tags=hidden)


def windowed(kind: str = "count", **fields: Any) -> Windowed | DistinctValues:
    made = signal(kind, **fields).kind
    assert isinstance(made, Windowed | DistinctValues)
    return made


def affinity(**fields: Any) -> DecayedAffinity:
    made = signal("affinity", **{"of": "properties.tag", **fields}).kind
    assert isinstance(made, DecayedAffinity)
    return made


def after(kind: Any, events: list[Arrived]) -> Any:
    state = None
    for event in events:
        state = kind.add(state, event, None)
    return state


def view(at: int, **fields: Any) -> Arrived:
    return arrived("view", at=at, **fields)


# A window, its length in milliseconds, and events at ages of up to three windows.
@st.composite
def histories(draw: st.DrawFn) -> tuple[str, int, list[tuple[int, float, str]], int]:
    text = draw(st.sampled_from(sorted(WINDOWS)))
    span = WINDOWS[text]
    one = st.tuples(
        st.integers(0, 3 * span),
        st.floats(-1e6, 1e6, allow_nan=False),
        st.sampled_from("abcdef"),
    )
    events = draw(st.lists(one, max_size=40))
    newest = max((at for at, _, _ in events), default=0)
    return text, span, events, newest + draw(st.integers(0, 2 * span))


def built(events: list[tuple[int, float, str]]) -> list[Arrived]:
    return [view(T0 + at, value=v, properties={"tag": tag}) for at, v, tag in events]


@given(histories())
def test_a_count_is_within_its_stated_resolution_of_the_truth(
    history: tuple[str, int, list[tuple[int, float, str]], int],
) -> None:
    within, span, events, now = history
    counting = windowed(within=within)
    value = counting.value(after(counting, built(events)), T0 + now)
    surely = sum(now - at < span - span // 32 for at, _, _ in events)
    perhaps = sum(now - at < span for at, _, _ in events)
    assert surely <= value <= perhaps


@given(histories())
def test_a_sum_equals_that_of_all_events_whose_bucket_is_in_the_window(
    history: tuple[str, int, list[tuple[int, float, str]], int],
) -> None:
    within, _, events, now = history
    summing = windowed("sum", within=within)
    value = summing.value(after(summing, built(events)), T0 + now)
    first = (T0 + now) // summing.resolution - summing.buckets
    held = [v for at, v, _ in events if (T0 + at) // summing.resolution > first]
    assert value == pytest.approx(math.fsum(held), abs=1e-6 * (1 + len(held)))


@given(histories())
def test_a_distinct_count_is_within_its_stated_resolution_of_the_truth(
    history: tuple[str, int, list[tuple[int, float, str]], int],
) -> None:
    within, span, events, now = history
    counting = windowed("distinct", within=within, of="properties.tag")
    value = counting.value(after(counting, built(events)), T0 + now)
    surely = len({tag for at, _, tag in events if now - at < span - span // 32})
    perhaps = len({tag for at, _, tag in events if now - at < span})
    assert surely <= value <= perhaps


@given(histories(), st.randoms(use_true_random=False))
@pytest.mark.parametrize("kind", ["count", "sum", "distinct"])
def test_arrival_order_never_changes_a_window(
    kind: str, history: tuple[str, int, list[tuple[int, float, str]], int], shuffle: Any
) -> None:
    within, _, events, now = history
    of = {"of": "properties.tag"} if kind == "distinct" else {}
    window = windowed(kind, within=within, **of)
    ordered = window.value(after(window, built(sorted(events))), T0 + now)
    shuffle.shuffle(events)
    assert window.value(after(window, built(events)), T0 + now) == ordered


@pytest.mark.parametrize("kind", ["count", "sum", "distinct"])
def test_an_event_3_days_old_is_in_a_10_day_window_and_one_15_days_old_is_not(kind: str) -> None:
    window = windowed(kind, within="10d")
    recent = after(window, [view(T0 - 3 * DAY, value=5.0, content_id="c1")])
    assert window.value(recent, T0) > 0
    old = after(window, [view(T0 - 15 * DAY, value=5.0, content_id="c1")])
    assert window.value(old, T0) == 0
    both = after(
        window,
        [view(T0 - age * DAY, value=5.0, content_id=f"c{age}") for age in (3, 15)],
    )
    assert window.value(both, T0) == window.value(recent, T0)


@pytest.mark.parametrize(("within", "span"), WINDOWS.items())
def test_an_event_leaves_at_most_a_window_later_and_two_buckets_earlier(
    within: str, span: int
) -> None:
    window = windowed(within=within)
    assert window.resolution <= max(1, span // 64)
    for offset in (0, 1, window.resolution - 1, window.resolution):
        at = T0 + offset
        state = after(window, [view(at)])
        _, leaves = window.outlook(state, at, lambda n: n >= 1)
        assert leaves is not None
        assert span - 2 * window.resolution <= leaves - at <= span
        assert window.value(state, leaves - 1) == 1
        assert window.value(state, leaves) == 0


def test_a_window_holds_at_most_its_buckets_however_many_events_come() -> None:
    window = windowed("sum", within="1h")
    state: Any = None
    for at in range(0, 3 * HOUR, 7 * SECOND):
        state = window.add(state, view(T0 + at, value=1.0), None)
        assert len(state) <= 64
    for age in range(0, 30 * DAY, HOUR):
        state = window.add(state, view(T0 - age, value=1.0), None)
        assert len(state) <= 64


def test_a_sum_of_absurd_numbers_can_still_be_stored() -> None:
    """Beyond 64 bits the profile could not be encoded, and no later snapshot would succeed."""
    window = windowed("sum")
    for value in (1e300, -1e300):
        state = after(window, [view(T0, value=value)] * 100)
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(state)) == state
        assert math.copysign(1.0, window.value(state, T0)) == math.copysign(1.0, value)


def test_what_is_no_number_adds_nothing_to_a_sum() -> None:
    window = windowed("sum", of="properties.price")
    bad: list[Any] = [None, "3", True, math.nan, math.inf, 10**400, [1], {"a": 1}]
    events = [view(T0, properties={"price": value}) for value in [*bad, 2, 0.5]]
    assert window.value(after(window, [*events, view(T0)]), T0) == 2.5


def test_small_amounts_add_up_exactly() -> None:
    window = windowed("sum")
    assert window.value(after(window, [view(T0, value=0.1)] * 10), T0) == 1.0


@given(st.lists(st.tuples(st.integers(0, DAY), st.text(max_size=3)), max_size=60))
def test_distinct_values_kept_are_bounded_and_the_stalest_give_way(
    events: list[tuple[int, str]],
) -> None:
    window = windowed("distinct", within="10d", of="properties.tag", keep=5)
    state = after(window, [view(T0 + at, properties={"tag": tag}) for at, tag in events])
    different = {tag for _, tag in events}
    assert window.value(state, T0 + DAY) == min(5, len(different))
    assert len(state or ()) <= 5


def test_a_long_value_is_cut_so_that_memory_is_bounded() -> None:
    window = windowed("distinct", of="properties.tag")
    assert isinstance(window, DistinctValues)
    (held,) = after(window, [view(T0, properties={"tag": "x" * 100_000})])
    assert len(held) == 128


# Last.


@given(st.lists(st.integers(0, DAY), min_size=1), st.integers(0, DAY))
def test_last_is_the_newest_whatever_the_order(times: list[int], later: int) -> None:
    last = LastTime()
    state = after(last, [view(T0 + at) for at in times])
    assert last.value(state, T0 + max(times) + later) == later


def test_what_never_happened_is_infinitely_long_ago() -> None:
    assert LastTime().value(None, T0) == math.inf


# Affinity.


@given(
    st.lists(st.tuples(st.integers(0, 40 * HOUR), st.sampled_from("abc")), min_size=1, max_size=30),
    st.integers(0, 40 * HOUR),
    st.sampled_from(["1m", "1h", "7d"]),
)
def test_affinity_equals_the_closed_formula(
    events: list[tuple[int, str]], later: int, half_life: str
) -> None:
    kind = affinity(half_life=half_life)
    state = after(kind, [view(T0 + at, properties={"tag": tag}) for at, tag in events])
    now = max(at for at, _ in events) + later
    for tag in "abc":
        expected = math.fsum(
            2.0 ** (-(now - at) / kind.half_life) for at, tagged in events if tagged == tag
        )
        assert kind.value_of(state, tag, T0 + now) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@given(
    st.lists(st.tuples(st.integers(0, 40 * HOUR), st.sampled_from("abc")), min_size=1, max_size=30),
    st.randoms(use_true_random=False),
)
def test_arrival_order_never_changes_an_affinity(
    events: list[tuple[int, str]], shuffle: Any
) -> None:
    """Up to the last digits: floating-point addition is not associative."""
    kind = affinity(half_life="1h")
    now = T0 + max(at for at, _ in events)
    ordered = after(kind, [view(T0 + at, properties={"tag": tag}) for at, tag in sorted(events)])
    shuffle.shuffle(events)
    shuffled = after(kind, [view(T0 + at, properties={"tag": tag}) for at, tag in events])
    for tag in "abc":
        assert kind.value_of(shuffled, tag, now) == pytest.approx(
            kind.value_of(ordered, tag, now), rel=1e-9, abs=1e-300
        )


def test_affinity_halves_with_every_half_life() -> None:
    kind = affinity(half_life="7d", weights={"view": 3})
    state = after(kind, [view(T0, properties={"tag": "red"})])
    values = [kind.value_of(state, "red", T0 + n * 7 * DAY) for n in range(4)]
    assert values == [3.0, 1.5, 0.75, 0.375]


def test_affinity_outlasts_a_century_of_half_lives() -> None:
    kind = affinity(half_life="1s")
    state = after(kind, [view(T0 + at, properties={"tag": "red"}) for at in (0, 90 * DAY)])
    assert kind.value_of(state, "red", T0 + 90 * DAY) == 1.0
    older = kind.add(state, view(T0 - 400 * DAY, properties={"tag": "blue"}), None)
    assert kind.value_of(older, "blue", T0 + 90 * DAY) == 0.0


def test_the_weakest_liking_gives_way() -> None:
    kind = affinity(keep=2)
    tags = ["red", "red", "red", "blue", "blue", "green"]
    state = after(kind, [view(T0, properties={"tag": tag}) for tag in tags])
    assert [tag for tag, _ in kind.top(state, T0, 5)] == ["red", "blue"]


def test_a_sensitive_tag_is_never_kept() -> None:
    kind = signal("affinity", sensitive_tags=["health"]).kind
    assert isinstance(kind, DecayedAffinity)
    state = kind.add(None, view(T0, content_id="c1"), content(tags=["health", "red"]))
    assert kind.top(state, T0, 5) == [("red", 1.0)]
    assert "health" not in repr(state)


def test_each_kind_of_event_adds_its_own_weight() -> None:
    kind = affinity(weights={"view": 1, "purchase": 5, "hide": -4, "feedback": 0.5})
    state = None
    for type_, feedback in (("view", None), ("purchase", None), ("feedback", "hide")):
        given_ = arrived(type_, feedback=feedback, properties={"tag": "red"})
        state = kind.add(state, given_, None)
    assert kind.value_of(state, "red", T0) == 2.5


# When will time alone change it?

_BOUNDS: Final[dict[str, Any]] = {
    "at_least": lambda n, b: n >= b,
    "at_most": lambda n, b: n <= b,
    "above": lambda n, b: n > b,
    "below": lambda n, b: n < b,
    "equals": lambda n, b: n == b,
}


@given(
    histories(),
    st.sampled_from(["count", "sum", "distinct"]),
    st.sampled_from(sorted(_BOUNDS)),
    st.integers(-3, 6),
    st.data(),
)
def test_a_windows_truth_changes_at_the_instant_foretold_and_not_before(
    history: tuple[str, int, list[tuple[int, float, str]], int],
    kind: str,
    bound: str,
    limit: int,
    data: st.DataObject,
) -> None:
    within, span, events, now = history
    of = {"of": "properties.tag"} if kind == "distinct" else {}
    window = windowed(kind, within=within, **of)
    state = after(window, built(events))

    def holds(number: float) -> bool:
        return bool(_BOUNDS[bound](number, limit))

    start = T0 + now
    before = holds(window.value(state, start))
    _, change = window.outlook(state, start, holds)
    end = start + 2 * span if change is None else change
    for probe in [end - 1, data.draw(st.integers(start, end - 1))]:
        assert holds(window.value(state, probe)) == before
    # Several different values may leave at once, so `equals` may be stepped over.
    if change is not None and not (kind == "distinct" and bound == "equals"):
        assert change > start
        assert holds(window.value(state, change)) != before


@given(
    st.floats(-100, 100).filter(lambda w: abs(w) > 0.01),
    st.floats(-100, 100).filter(lambda b: abs(b) > 0.001),
    st.sampled_from(["at_least", "at_most", "above", "below"]),
    st.sampled_from(["10s", "1h", "7d", "30d"]),
)
def test_an_affinitys_truth_changes_at_the_instant_foretold_and_not_before(
    weight: float, limit: float, bound: str, half_life: str
) -> None:
    kind = affinity(weights={"view": weight}, half_life=half_life)
    state = after(kind, [view(T0, properties={"tag": "red"})])
    asked = NumberRange.model_validate({bound: limit})

    def holds(at: int) -> bool:
        return asked.holds(kind.value_of(state, "red", at))

    change = kind.next_change_of(state, "red", T0, asked)
    if change is None:
        assert all(holds(T0 + n * kind.half_life) == holds(T0) for n in range(1, 40))
        return
    assume(change - T0 > 2)
    # A millisecond of grace where the crossing falls on a whole one.
    assert holds(change) != holds(T0)
    assert holds(change - 2) == holds(T0)
    assert holds(T0 + (change - T0) // 2) == holds(T0)


# Definitions.


def test_a_changed_definition_starts_a_new_state() -> None:
    same = signal(within="7d").slot
    assert signal(within="7d").slot == same
    others = [
        signal(within="8d"),
        signal(within="7d", name="other"),
        signal(within="7d", events=["view", "click"]),
        signal(within="7d", where={"value": {"above": 1}}),
        signal("sum", within="7d"),
        signal("distinct", within="7d"),
    ]
    assert len({same, *(other.slot for other in others)}) == 7


def test_slots_never_change() -> None:
    """If this fails, every signal of existing state is lost."""
    assert signal(name="views", within="7d").slot == 3063474840
    assert signal("affinity", name="tastes").slot == 3762325301


def test_a_filter_decides_what_counts() -> None:
    made = signal(where={"properties.page": ["home", "search"], "value": {"above": 2}})
    assert made.matches is not None
    yes = view(T0, value=3.0, properties={"page": "home"})
    assert made.matches(yes, None)
    for no in (
        view(T0, value=2.0, properties={"page": "home"}),
        view(T0, value=3.0, properties={"page": "cart"}),
        view(T0, value=3.0),
        view(T0, properties={"page": "home"}),
    ):
        assert not made.matches(no, None)


def test_adding_never_touches_the_event() -> None:
    event = view(T0, properties={"tag": ["red", "blue"]}, value=1.0)
    before = deepcopy(event)
    for kind in ("count", "sum", "distinct"):
        windowed(kind).add(None, event, None)
    affinity().add(None, event, None)
    assert event == before
