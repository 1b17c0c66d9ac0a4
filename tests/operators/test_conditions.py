"""A condition's verdict: the truth now, and the first instant at which time may change it."""

from __future__ import annotations

import math
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from operators.arrival import Arrived
from operators.conditions import Compiler, Evaluate
from operators.profile import Profile
from operators.signals import compile_signal
from schemas.conditions import Condition
from schemas.signals import Signal
from schemas.time import DAY, HOUR, MINUTE
from tests.operators.builders import T0, arrived, profile

_CONDITION: Final[TypeAdapter[Any]] = TypeAdapter(Condition)
_SIGNAL: Final[TypeAdapter[Any]] = TypeAdapter(Signal)
SIGNALS: Final[dict[str, dict[str, Any]]] = {
    "views": {"kind": "count", "events": "view", "within": "1h"},
    "spent": {"kind": "sum", "events": "buy", "within": "1d"},
    "pages": {"kind": "distinct", "events": "view", "of": "properties.tag", "within": "2h"},
    "bought": {"kind": "last", "events": "buy"},
    "tastes": {
        "kind": "affinity",
        "of": "properties.tag",
        "weights": {"view": 1, "buy": 4, "dislike": -2},
        "half_life": "6h",
    },
}


class World:
    """A profile with the signals above, a condition, and events to feed it with."""

    def __init__(self, condition: dict[str, Any]) -> None:
        declared = {
            name: compile_signal(name, _SIGNAL.validate_python(s)) for name, s in SIGNALS.items()
        }
        compiler = Compiler(declared)
        self.evaluate: Evaluate = compiler.compile(_CONDITION.validate_python(condition))
        self.signals = compiler.signals
        self.profile: Profile = profile()

    def see(self, *events: Arrived) -> World:
        for event in events:
            for signal in self.signals.values():
                wanted = not signal.events.isdisjoint(event.names)
                if wanted and (signal.matches is None or signal.matches(event, None)):
                    state = signal.kind.add(self.profile.signals.get(signal.slot), event, None)
                    if state is not None:
                        self.profile.signals[signal.slot] = state
        return self

    def holds(self, at: int = T0, **context: Any) -> bool:
        return self.evaluate(self.profile, at, context).holds

    def until(self, at: int = T0) -> int | None:
        return self.evaluate(self.profile, at, {}).until_ms


def holds(condition: dict[str, Any], *events: Arrived, at: int = T0, **attributes: Any) -> bool:
    world = World(condition).see(*events)
    world.profile.attributes.update(attributes)
    return world.holds(at)


def test_all_any_and_not_combine() -> None:
    yes, no = {"not_done": "view", "within": "1h"}, {"done": "view", "within": "1h"}
    assert holds({"all": [yes, yes]})
    assert not holds({"all": [yes, no]})
    assert holds({"any": [no, yes]})
    assert not holds({"any": [no, no]})
    assert holds({"not": no})
    assert not holds({"not": {"any": [no, yes]}})


def test_done_counts_within_its_window_and_filter() -> None:
    sale = {"done": "view", "within": "1d", "where": {"properties.tag": "sale"}, "at_least": 2}
    tagged = [arrived(at=T0 - n * HOUR, properties={"tag": "sale"}) for n in (1, 2)]
    assert holds(sale, *tagged)
    assert not holds(sale, tagged[0], arrived())
    assert not holds(sale, *tagged, at=T0 + 23 * HOUR)
    assert not holds({**sale, "at_least": 1, "at_most": 1}, *tagged)


def test_not_done_is_the_opposite_of_done() -> None:
    for age in (1, 23, 25):
        seen = arrived(at=T0 - age * HOUR)
        done = holds({"done": "view", "within": "1d"}, seen)
        assert holds({"not_done": "view", "within": "1d"}, seen) is not done


def test_equal_done_conditions_share_one_signal() -> None:
    done = {"done": "view", "within": "1d"}
    shared = World({"all": [done, {**done, "at_least": 3}, {"not_done": "view", "within": "1d"}]})
    assert len(shared.signals) == len(SIGNALS) + 1


def test_last_is_within_or_not_within_a_time() -> None:
    bought = arrived("buy", at=T0 - HOUR)
    assert holds({"signal": "bought", "within": "61m"}, bought)
    assert not holds({"signal": "bought", "within": "1h"}, bought)
    assert holds({"signal": "bought", "not_within": "1h"}, bought)
    assert not holds({"signal": "bought", "not_within": "61m"}, bought)
    assert not holds({"signal": "bought", "within": "7d"})
    assert holds({"signal": "bought", "not_within": "7d"})


@pytest.mark.parametrize(
    ("asked", "value", "expected"),
    [
        ({"is": "free"}, "free", True),
        ({"is": "free"}, "paid", False),
        ({"is": "free"}, None, False),
        ({"is": None}, None, True),
        ({"one_of": ["a", "b"]}, "b", True),
        ({"one_of": ["a", "b"]}, "c", False),
        ({"one_of": ["a", "b"]}, None, False),
        ({"exists": True}, 0, True),
        ({"exists": True}, None, False),
        ({"exists": False}, None, True),
        ({"at_least": 3}, 3, True),
        ({"at_least": 3}, 2.9, False),
        ({"above": 3}, 3, False),
        ({"below": 3}, "2", False),
        ({"below": 3}, True, False),
        ({"below": 3}, None, False),
        ({"below": 3}, math.nan, False),
        ({"at_least": 3}, 10**400, False),
        ({"at_least": 1, "at_most": 2}, 1.5, True),
    ],
)
def test_an_attribute_and_a_context_field_are_asked_alike(
    asked: dict[str, Any], value: Any, expected: bool
) -> None:
    given_ = {} if value is None else {"plan": value}
    assert holds({"attribute": "plan", **asked}, **given_) is expected
    assert World({"context": "plan", **asked}).holds(**given_) is expected


def test_membership_is_what_the_profile_holds() -> None:
    world = World({"segment": "active"})
    assert not world.holds()
    world.profile.segments["active"] = T0
    assert world.holds()
    assert world.until() is None


def test_an_undeclared_signal_is_an_error() -> None:
    with pytest.raises(KeyError, match="nowhere"):
        World({"signal": "nowhere", "at_least": 1})


# The law of until: nothing changes before it, and following it misses nothing.

_LEAVES = st.one_of(
    st.builds(
        lambda signal, bound, n: {"signal": signal, bound: n},
        st.sampled_from(["views", "spent", "pages"]),
        st.sampled_from(["at_least", "at_most", "above", "below", "equals"]),
        st.integers(0, 4),
    ),
    st.builds(
        lambda bound, n: {"signal": "bought", bound: f"{n}m"},
        st.sampled_from(["within", "not_within"]),
        st.integers(1, 300),
    ),
    st.builds(
        lambda key, bound, n: {"signal": "tastes", "key": key, bound: n},
        st.sampled_from("ab"),
        st.sampled_from(["at_least", "at_most", "above", "below"]),
        st.sampled_from([-3.0, -0.7, 0.3, 1.1, 4.2]),
    ),
    st.builds(
        lambda kind, event, n: {kind: event, "within": f"{n}m"},
        st.sampled_from(["done", "not_done"]),
        st.sampled_from(["view", "buy"]),
        st.integers(1, 300),
    ),
)
CONDITIONS: Final[st.SearchStrategy[Any]] = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"all": parts})
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"any": parts})
        | inner.map(lambda part: {"not": part})
    ),
    max_leaves=4,
)
EVENTS: Final = st.lists(
    st.builds(
        lambda at, kind, tag, value: arrived(
            kind, at=T0 + at * MINUTE, properties={"tag": tag}, value=value
        ),
        st.integers(0, 240),
        st.sampled_from(["view", "buy", "dislike"]),
        st.sampled_from("ab"),
        st.sampled_from([0.5, 1.0, 3.0]),
    ),
    max_size=8,
)


@given(CONDITIONS, EVENTS, st.lists(st.integers(0, 3 * DAY), max_size=12))
def test_nothing_changes_before_the_instant_foretold(
    condition: dict[str, Any], events: list[Arrived], probes: list[int]
) -> None:
    world = World(condition).see(*events)
    now = T0 + 240 * MINUTE
    verdict = world.evaluate(world.profile, now, {})
    assert verdict.until_ms is None or verdict.until_ms > now
    # A millisecond of grace: a decay may cross its bound exactly on one.
    last = 5 * DAY if verdict.until_ms is None else verdict.until_ms - now - 2
    for probe in [last, *probes]:
        if 0 <= probe <= last:
            assert world.holds(now + probe) is verdict.holds


@given(CONDITIONS, EVENTS, st.lists(st.integers(0, 3 * DAY), min_size=1, max_size=8))
def test_following_the_instants_foretold_misses_no_change(
    condition: dict[str, Any], events: list[Arrived], probes: list[int]
) -> None:
    world = World(condition).see(*events)
    now = T0 + 240 * MINUTE
    known = [(now, world.holds(now))]
    at = world.until(now)
    while at is not None and at <= now + 3 * DAY:
        known.append((at, world.holds(at)))
        following = world.until(at)
        assert following is None or following > at
        at = following
    assert len(known) < 300
    for probe in probes:
        stamp = now + probe
        if not any(abs(stamp - turn) <= 1 for turn, _ in known):
            assert world.holds(stamp) is [truth for turn, truth in known if turn <= stamp][-1]
