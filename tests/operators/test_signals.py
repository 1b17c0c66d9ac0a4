"""What may be declared, where its state lives, what feeds it, and what 0.1.0 left of it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from operators.kinds import first_flip
from operators.signals import compile_signal, compile_signals
from schemas.signals import value_type
from schemas.time import DAY, HOUR
from tests.operators.builders import T0, arrived, content
from tests.operators.signal_builders import declare, encoded, fold, ratio, signal, view

KINDS: Final = (
    *("count", "sum", "mean", "min", "max", "distinct", "last", "first"),
    *("affinity", "sequence", "streak", "session", "rfm"),
)

# Slots.


def test_a_changed_definition_starts_a_new_state() -> None:
    same = signal(within="7d").slot
    assert signal(within="7d").slot == same
    others = [
        signal(within="8d"),
        signal(within="7d", name="other"),
        signal(within="7d", events=["view", "click"]),
        signal(within="7d", where={"value": {"above": 1}}),
        signal("sum", within="7d"),
        signal("mean", within="7d"),
        signal("distinct", within="7d"),
    ]
    assert len({same, *(other.slot for other in others)}) == 8


def test_slots_never_change() -> None:
    """If this fails, every signal of existing state is lost."""
    assert signal(name="views", within="7d").slot == 1846258016
    assert {kind: signal(kind).slot for kind in KINDS} == {
        "count": 324483302,
        "sum": 696348351,
        "mean": 2995740164,
        "min": 288165894,
        "max": 2905112479,
        "distinct": 1485721737,
        "last": 4205186378,
        "first": 317727785,
        "affinity": 225522757,
        "sequence": 2058286921,
        "streak": 3100561918,
        "session": 2745414690,
        "rfm": 1533254329,
    }


def test_the_slots_of_0_1_0_are_still_known() -> None:
    assert signal(name="views", within="7d").slot_v1 == 3063474840
    assert signal("affinity", name="tastes").slot_v1 == 3762325301


@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_reads_its_own_slot_and_a_ratio_those_of_its_parts(kind: str) -> None:
    made = signal(kind)
    assert made.needs == (made.slot,)
    event = arrived(
        "buy" if kind == "rfm" else "view",
        content_id="c1",
        value=1.0,
        properties={"tag": "red"},
    )
    shown = content(tags=["red"])
    held = fold(made, [event], content=shown)
    assert set(held) == {made.slot}
    assert made.empty({}, T0)
    # A second one finds its state.
    before = encoded(held)
    fold(made, [event._replace(occurred_ms=T0 + DAY)], held, content=shown)
    assert (encoded(held) == before) == (kind == "first")


@pytest.mark.parametrize("kind", KINDS)
def test_adding_never_touches_the_event(kind: str) -> None:
    event = view(T0, properties={"tag": ["red", "blue"]}, value=1.0, content_id="c1")
    before = deepcopy(event)
    of = {"of": "properties.tag"} if kind in ("distinct", "affinity", "last", "first") else {}
    held = fold(signal(kind, **of), [event])
    fold(signal(kind, **of), [view(T0 + 1, properties={"tag": "new"}, content_id="c2")], held)
    assert event == before


# Definitions.


@pytest.mark.parametrize(
    ("kind", "fields", "why"),
    [
        ("count", {"within": "999ms"}, "between 1s and 400d"),
        ("count", {"within": "401d"}, "between 1s and 400d"),
        ("mean", {"of": "nothing"}, "pattern"),
        ("sequence", {"then": None}, "one of then, not_then"),
        ("sequence", {"not_then": {"events": "buy"}}, "one of then, not_then"),
        ("sequence", {"gap": "500ms"}, "between 1s and 400d"),
        ("streak", {"zone": "Europe/Nowhere"}, "a time zone"),
        ("streak", {"zone": "../../etc/passwd"}, "a time zone"),
        ("streak", {"zone": ""}, "a time zone"),
        ("streak", {"per": "month"}, "'day' or 'week'"),
        ("session", {"gap": "10ms"}, "between 1s and 400d"),
        ("session", {"measure": "depth", "within": "1d"}, "within with measure sessions only"),
        ("session", {"of": "content.type"}, "of with measure depth only"),
        ("rfm", {"monetary": None}, "Field required"),
        ("rfm", {"monetary": [1, 2, 3]}, "Field required"),
        ("rfm", {"frequency": [2, 4, 4, 8]}, "ascending bounds in frequency"),
        ("rfm", {"recency": ["7d", "6d", "8d", "9d"]}, "ascending bounds in recency"),
        ("median", {}, "does not match any of the expected tags"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_was_expected(
    kind: str, fields: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValidationError, match=why):
        declare(kind, **fields)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_may_look_back_400_days(kind: str) -> None:
    if "within" not in type(declare(kind)).model_fields or kind == "session":
        assert declare(kind).kind == kind
        return
    made = signal(kind, within="400d")
    event = arrived("buy" if kind == "rfm" else "view", value=2.0, content_id="c1")
    followed = [event, arrived("buy", at=T0 + 1)] if kind == "sequence" else [event]
    held = fold(made, followed)
    assert made.value(held, T0 + 400 * DAY - 1)
    assert not made.value(held, T0 + 400 * DAY + 1)


def test_a_ratio_is_compiled_with_the_signals_it_divides() -> None:
    lone = declare("ratio", of="a", to="b")
    with pytest.raises(ValueError, match="together with"):
        compile_signal("r", lone)
    with pytest.raises(KeyError):
        compile_signals({"r": lone})
    made = ratio({"kind": "count"}, {"kind": "count", "within": "1h"})
    assert list(made) == ["r", "a", "b"]
    anything = ratio({"kind": "session", "measure": "events"}, {"kind": "count"})
    assert anything["r"].events == frozenset()


def test_what_a_condition_may_ask_depends_on_the_kind() -> None:
    assert value_type(declare("last")) == value_type(declare("first")) == "age"
    assert value_type(declare("last", of="value")) == "any"
    assert value_type(declare("rfm"), key="recency") == "age"
    for kind in set(KINDS) - {"last", "first"}:
        assert value_type(declare(kind)) == "number"


# Filters.


def test_a_filter_decides_what_counts() -> None:
    made = signal(where={"properties.page": ["home", "search"], "value": {"above": 2}})
    yes = view(T0, value=3.0, properties={"page": "home"})
    assert made.value(fold(made, [yes]), T0) == 1
    for no in (
        view(T0, value=2.0, properties={"page": "home"}),
        view(T0, value=3.0, properties={"page": "cart"}),
        view(T0, value=3.0),
        view(T0, properties={"page": "home"}),
    ):
        assert fold(made, [no]) == {}


@pytest.mark.parametrize(
    ("wanted", "value", "matches"),
    [
        ("red", ["blue", "red"], True),
        ("red", ["blue"], False),
        ("red", [], False),
        (["red", "green"], ["blue", "green"], True),
        ("red", [["red"], {"red": 1}, None], False),
        (3, [1, 2, 3], True),
        ({"at_least": 3}, [1, 2, 3.5], True),
        ({"at_least": 4}, [1, "5", True, 3.5], False),
        ({"at_least": 1}, {"a": 2}, False),
    ],
)
def test_a_list_matches_where_any_of_its_elements_does(
    wanted: Any, value: Any, matches: bool
) -> None:
    made = signal(where={"properties.colours": wanted})
    held = fold(made, [view(T0, properties={"colours": value})])
    assert bool(held) == matches


@pytest.mark.parametrize("kind", ["distinct", "session", "first", "last", "affinity"])
def test_a_sensitive_tag_is_in_no_state(kind: str) -> None:
    fields = {"measure": "depth"} if kind == "session" else {}
    made = signal(kind, of="content.tags", sensitive_tags=["health"], **fields)
    only = fold(made, [view(T0)], content=content(tags=["health"]))
    assert b"health" not in encoded(only)
    if kind == "distinct":
        assert only == {}
        both = fold(made, [view(T0)], content=content(tags=["health", "red"]))
        assert made.value(both, T0) == 1


# What 0.1.0 left: windows of buckets only.


def buckets_v1(events: list[tuple[int, int]], span: int) -> dict[int, int]:
    size = max(1, span // 64)
    found: dict[int, int] = {}
    for at, amount in events:
        bucket = (T0 + at) // size
        found[bucket] = found.get(bucket, 0) + amount
    return found


@given(
    st.lists(st.tuples(st.integers(0, 9 * DAY), st.integers(-9, 9)), min_size=1, max_size=80),
    st.integers(0, 12 * DAY),
)
@example([(day * DAY, day + 1) for day in range(10)], 5 * DAY)
@example([(0, 1)] * 20 + [(9 * DAY, 2)] * 20, 2 * DAY)
@pytest.mark.parametrize("kind", ["count", "sum"])
def test_a_window_of_0_1_0_goes_on_within_its_resolution(
    kind: str, events: list[tuple[int, int]], later: int
) -> None:
    made = signal(kind, within="10d")
    amounts = [(at, 1 if kind == "count" else v) for at, v in events]
    old = buckets_v1([(at, v * 1_000_000) for at, v in amounts], 10 * DAY)
    state = made.upgrade_v1({made.slot_v1: old})
    now = max(at for at, _ in events) + later
    held = {made.slot: state}
    size = 10 * DAY // 64
    expected = sum(v for at, v in amounts if (T0 + at) // size * size > T0 + now - 10 * DAY)
    assert made.value(held, T0 + now) == expected
    # New events join it as they join any state.
    fold(made, [view(T0 + now, value=5.0)] * 30, held)
    more = 30 if kind == "count" else 150
    assert made.value(held, T0 + now) == expected + more


def test_the_other_kinds_of_0_1_0_go_on() -> None:
    seen = signal("distinct", within="10d", of="properties.tag")
    size = 10 * DAY // 64
    old = {"b": (T0 + DAY) // size, "a": T0 // size}
    held = {seen.slot: seen.upgrade_v1({seen.slot_v1: old})}
    assert [seen.value(held, T0 + age) for age in (DAY, 10 * DAY, 11 * DAY)] == [2, 1, 0]
    fold(seen, [view(T0 + DAY + HOUR, properties={"tag": "a"})], held)
    assert seen.value(held, T0 + 11 * DAY) == 1
    last = signal("last")
    assert last.value({last.slot: last.upgrade_v1({last.slot_v1: T0})}, T0 + 5) == 5
    taste = signal("affinity", half_life="1d")
    liked = taste.upgrade_v1({taste.slot_v1: [T0, {"red": 2.0}]})
    assert taste.value({taste.slot: liked}, T0 + DAY, "red") == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_made_of_what_0_1_0_did_not_have(kind: str) -> None:
    made = signal(kind)
    assert made.upgrade_v1({}) is None
    assert made.upgrade_v1({made.slot_v1 + 1: {1: 1}}) is None


# The search for a truth that comes and stays.


@given(st.integers(1, 1 << 40), st.integers(1, 1 << 40))
def test_the_first_flip_is_found_wherever_it_is(at: int, most: int) -> None:
    found = first_flip(lambda n: n >= at, most)
    assert found == (at if at <= most else None)
