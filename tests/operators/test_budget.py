"""A profile that is too large gives up the least first, and never what a person stated.

The limit is `retention.profile_bytes`; the order stands in `operators.budget`.
"""

from __future__ import annotations

import copy
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.arrival import Arrived
from operators.budget import Budget, encoded_size
from operators.ids import decision_id
from operators.outputs import Outputs
from operators.plan import Plan
from operators.predict_state import Case
from operators.profile import Pending, PendingItem, Profile
from operators.reductions import coarser, fewer_likings, fewer_values, less_detail
from operators.segments import update_segments
from operators.shard import restored
from operators.signals import CompiledSignal, State
from schemas.time import DAY, HOUR, MINUTE
from tests.operators.builders import (
    T0,
    arrived,
    contents,
    plan,
    policy,
    profile,
    shard,
    shard_batch,
    tick,
)
from tests.operators.signal_builders import encoded, fold, number, signal, view

LIMIT: Final = 2_048
"""The least that a policy may ask for."""

SIGNALS: Final[dict[str, dict[str, Any]]] = {
    "seen": {"kind": "distinct", "events": "view", "within": "30d", "keep": 1_000},
    "buys": {"kind": "count", "events": "buy", "within": "30d"},
    "spent": {"kind": "sum", "events": "buy", "within": "400d"},
    "paid": {"kind": "mean", "events": "buy", "within": "1h"},
    "least": {"kind": "min", "events": "buy", "within": "7d"},
    "most": {"kind": "max", "events": "buy", "within": "7d"},
    "worth": {"kind": "rfm", "events": "buy", "monetary": [1, 2, 3, 4]},
    "taste": {
        "kind": "affinity",
        "weights": {"view": 1},
        "of": "properties.tag",
        "half_life": "7d",
        "keep": 60,
    },
    "returns": {
        "kind": "sequence",
        "first": {"events": "view"},
        "then": {"events": "buy"},
        "gap": "1h",
        "within": "30d",
    },
    "undone": {
        "kind": "sequence",
        "first": {"events": "view"},
        "not_then": {"events": "buy"},
        "gap": "1h",
        "within": "30d",
    },
    "days": {"kind": "streak", "events": "view", "per": "day"},
    "visits": {"kind": "session", "measure": "sessions", "gap": "10m"},
    "depth": {"kind": "session", "measure": "depth", "gap": "1d"},
    "first_seen": {"kind": "first", "events": "view", "of": "content_id"},
}
"""One of every kind."""


def rich_plan(limit: int = LIMIT, **sections: Any) -> Plan:
    """A plan with every kind of signal and a limit."""
    return plan(
        policy(
            signals=SIGNALS,
            segments={
                "dated": {
                    "when": {"done": "view", "from": "2026-01-01", "until": "2027-01-01"},
                },
                "paying": {"when": {"attribute": "tier", "is": "gold"}},
            },
            retention={"profile_bytes": limit},
            **sections,
        )
    )


RICH: Final = rich_plan()


def lived(of: Plan, events: int, *, step: int = 17 * MINUTE, at: int = T0) -> Profile:
    """A profile that has viewed and bought all sorts of things."""
    held = profile(at=at)
    for n in range(events):
        held.now_ms = at + n * step
        event = arrived(
            "buy" if n % 3 == 0 else "view",
            at=held.now_ms,
            content_id=f"content-{n % 700:08d}",
            value=float(n * n),
            properties={"tag": f"tag-{n % 300}"},
        )
        fold(of.signals, [event], held.signals)
    return held


def grown(of: Plan = RICH, events: int = 300) -> Profile:
    """A lived profile that holds something of everything a profile can hold."""
    held = lived(of, events)
    now = held.now_ms
    held.consent = {"ads": (True, now, 0), "email": (False, now, 1)}
    held.gpc_ms = now
    held.hidden = {f"c:c{n}": now for n in range(8)}
    held.shown = {f"c:c{n}": [now - HOUR, now] for n in range(8)}
    held.segments = {"dated": now}
    held.deadlines = {0: now + DAY}
    held.holding = {"dated:0": now}
    held.sampled = {"buys": now}
    held.last = {"home": ("001-abc", [f"c{n}" for n in range(30)])}
    held.cases = [Case("buys", now - n, now + DAY, b"\1\2\3\4" * 20) for n in range(8)]
    held.cases.append(Case("buys", now + DAY, now + DAY, b""))
    held.attributes = {"tier": "gold", "bio": "b" * 400, "city": "Ulm", "note": "n" * 300}
    held.provenance = dict.fromkeys(held.attributes, ("crm", now))
    held.records = {
        "crm": {name: (value, now) for name, value in held.attributes.items()},
        "app": {"bio": ("a" * 200, now - 1), "city": ("Bonn", now - 1)},
    }
    held.pending = [
        Pending(
            f"001-{n}",
            "home",
            now - 10 + n,
            now + HOUR,
            True,
            None,
            0.5,
            b"\1\2\3\4" * 40,
            [PendingItem(f"c{n}", 1, 0.5, now)],
        )
        for n in range(8)
    ]
    return held


def kept_whatever_happens(held: Profile) -> tuple[Any, ...]:
    """What no budget takes."""
    return copy.deepcopy(
        (
            held.profile_id,
            held.first_ms,
            held.now_ms,
            held.version,
            held.plan,
            held.consent,
            held.gpc_ms,
            held.hidden,
            held.shown,
            held.segments,
            held.deadlines,
            held.holding,
            held.sampled,
            set(held.signals),
            [case for case in held.cases if not case.features],
        )
    )


# The order, and what is never taken.


def test_a_profile_within_its_budget_is_left_alone() -> None:
    of = rich_plan(limit=1 << 20)
    held = grown(of)
    before, out = copy.deepcopy(held), Outputs()
    assert Budget(of).shrink(held, out=out) == []
    assert held == before
    assert not out.facts
    assert not out.outcomes


def test_everything_that_may_be_given_up_is_given_up_in_the_documented_order() -> None:
    held, out = grown(), Outputs()
    stated = kept_whatever_happens(held)
    assert Budget(RICH).shrink(held, out=out) == [
        "cases",
        "last",
        "values",
        "detail",
        "windows",
        "likings",
        "statements",
        "attributes",
        "pending",
    ]
    assert kept_whatever_happens(held) == stated
    assert out.facts["profiles_shrunk",] == 1
    assert out.facts["profile_gave_up", "pending"] == 1


@pytest.mark.parametrize("events", [0, 1, 40, 2_000])
@pytest.mark.parametrize("limit", [2_048, 3_000, 5_000, 8_000, 12_000])
def test_the_limit_is_kept_and_no_step_is_taken_that_need_not_be(events: int, limit: int) -> None:
    of = rich_plan(limit)
    held = grown(of, events)
    before = encoded_size(held)
    given_up = Budget(of).shrink(held, out=Outputs())
    assert bool(given_up) == (before > limit)
    assert encoded_size(held) <= limit
    again = copy.deepcopy(held)
    assert Budget(of).shrink(held, out=Outputs()) == []
    assert held == again


def test_it_depends_on_the_profile_alone() -> None:
    """Not on the order in which its parts came about, which differs after a restore."""
    one, other = grown(), grown()
    other.signals = dict(reversed(other.signals.items()))
    other.attributes = dict(reversed(other.attributes.items()))
    other.records = dict(reversed(other.records.items()))
    Budget(RICH).shrink(one, out=Outputs())
    Budget(RICH).shrink(other, out=Outputs())
    assert one == other


def test_what_a_person_stated_stays_even_where_it_is_above_the_limit_by_itself() -> None:
    held = grown()
    held.hidden = {f"c:{'x' * 100}{n}": T0 for n in range(200)}
    stated = kept_whatever_happens(held)
    assert Budget(RICH).shrink(held, out=Outputs())
    assert kept_whatever_happens(held) == stated
    assert encoded_size(held) > LIMIT
    # All that is left beside it is small, and there is nothing left to give.
    assert not any((held.attributes, held.pending, held.records, held.last))
    assert Budget(RICH).shrink(held, out=Outputs()) == []
    held.hidden = {}
    assert encoded_size(held) < LIMIT


def test_a_step_that_is_enough_is_the_last() -> None:
    of = rich_plan(limit=4_000)
    held = profile(attributes={"tier": "gold"}, provenance={"tier": ("crm", T0)})
    held.cases = [Case("buys", T0 + n, T0 + DAY, bytes(200)) for n in range(30)]
    assert Budget(of).shrink(held, out=Outputs()) == ["cases"]
    assert held.attributes == {"tier": "gold"}
    # The newest go: of the oldest most is known of what became of them.
    assert [case.at_ms for case in held.cases] == [T0 + n for n in range(len(held.cases))]
    assert 0 < len(held.cases) < 20


def test_pending_decisions_are_closed_early_oldest_first_and_their_books_written() -> None:
    of = rich_plan()
    held = profile(at=T0 + HOUR)
    held.pending = [
        Pending(f"d{n}", "home", T0 + n, T0 + DAY, True, None, 1.0, bytes(400), [])
        for n in range(8)
    ]
    out = Outputs()
    assert Budget(of).shrink(held, out=out) == ["pending"]
    closed = [record["decision_id"] for record in out.outcomes]
    assert closed == [f"d{n}" for n in range(len(closed))]
    assert [p.decision_id for p in held.pending] == [f"d{n}" for n in range(len(closed), 8)]
    assert out.facts["pending_evicted",] == len(closed) > 0


def test_attributes_that_the_policy_uses_go_after_all_others() -> None:
    held = profile()
    held.attributes = {"tier": "gold" * 100, **{f"a{n}": f"{n}" * 200 for n in range(9)}}
    held.attributes["longest"] = "x" * 500
    held.provenance = dict.fromkeys(held.attributes, ("crm", T0))
    assert Budget(RICH).shrink(held, out=Outputs()) == ["attributes"]
    assert "tier" in held.attributes
    assert "longest" not in held.attributes
    assert held.attributes.keys() == held.provenance.keys()


def test_of_what_sources_say_that_which_is_believed_stays() -> None:
    held = profile()
    held.attributes = {f"a{n}": "v" * 20 for n in range(10)}
    held.provenance = dict.fromkeys(held.attributes, ("crm", T0))
    held.records = {
        "crm": {name: (value, T0) for name, value in held.attributes.items()},
        "app": dict.fromkeys(held.attributes, ("w" * 150, T0 - 1)),
    }
    believed = copy.deepcopy((held.attributes, held.provenance, held.records["crm"]))
    assert Budget(RICH).shrink(held, out=Outputs()) == ["statements"]
    assert (held.attributes, held.provenance, held.records["crm"]) == believed
    assert len(held.records.get("app", {})) < 10


def test_a_look_is_taken_every_64_versions_and_where_attributes_were_told() -> None:
    held, budget = grown(), Budget(RICH)
    held.version = 130
    assert not budget.keep(held, since_version=128, out=Outputs())
    assert encoded_size(held) > LIMIT
    again = copy.deepcopy(held)
    assert budget.keep(held, since_version=127, out=Outputs())
    assert encoded_size(held) <= LIMIT
    assert budget.keep(again, since_version=129, at_once=True, out=Outputs())
    assert again == held
    assert not budget.keep(held, since_version=63, out=Outputs())


# What each kind gives up.

ALL: Final = (fewer_values, less_detail, coarser, fewer_likings)
COUNTS: Final = ("seen", "buys", "spent", "returns", "undone", "days", "visits", "depth", "worth")
_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["view", "buy"]),
        st.integers(0, 40 * DAY),
        st.integers(0, 40),
        st.integers(1, 1_000),
    ),
    min_size=1,
    max_size=120,
)


def small(state: State, of: CompiledSignal) -> Iterator[State]:
    """The state after each further reduction of its kind, until nothing is left to give."""
    for reduce in ALL:
        turns = 0
        while (smaller := reduce(of.kind, state)) is not None:
            state = smaller
            yield state
            turns += 1
            assert turns < 20, "a reduction that never ends"


@settings(max_examples=150, deadline=None)
@given(_EVENTS, st.sampled_from(COUNTS))
def test_a_reduced_count_is_never_too_high_and_never_turns_into_none(
    told: list[tuple[str, int, int, int]], name: str
) -> None:
    of = RICH_SIGNALS[name]
    events = [
        arrived(kind, at=T0 + at, content_id=f"c{what}", value=float(value))
        for kind, at, what, value in told
    ]
    held = fold(of, events)
    if of.slot not in held:
        return
    newest = max(event.occurred_ms for event in events)
    whole = copy.deepcopy(held)
    for state in small(held[of.slot], of):
        smaller = {of.slot: state}
        for now in (newest, newest + HOUR, newest + 3 * DAY, newest + 29 * DAY):
            real, seen = number(of.value(whole, now)), number(of.value(smaller, now))
            assert seen <= real
        assert (number(of.value(smaller, newest)) > 0) == (number(of.value(whole, newest)) > 0)
        assert of.empty(smaller, newest) == of.empty(whole, newest)
        # It is a state like any other: it grows, encodes and foretells.
        later = arrived(told[0][0], at=newest + 5, content_id="c1", value=1.0)
        grown_on = fold(of, [later], copy.deepcopy(smaller), stored=True)
        assert number(of.value(grown_on, newest + 5)) <= number(
            of.value(fold(of, [later], copy.deepcopy(whole)), newest + 5)
        )
        truth, turns = of.outlook(smaller, newest, lambda value: value == 0.0)
        assert truth == (of.value(smaller, newest) == 0.0)
        if turns is not None:
            assert (of.value(smaller, turns) == 0.0) != truth


RICH_SIGNALS: Final = {s.name: s for s in RICH.signals}


def test_a_reduction_leaves_the_state_that_it_was_given() -> None:
    held = lived(RICH, 500)
    for of in RICH.signals:
        state = held.signals.get(of.slot)
        if state is None:
            continue
        before = copy.deepcopy(state)
        assert not any(smaller is state for smaller in small(state, of))
        assert state == before


@pytest.mark.parametrize("of", RICH.signals, ids=lambda of: str(of.name)[:20])
def test_every_kind_comes_down_to_a_few_hundred_bytes(of: CompiledSignal) -> None:
    held = lived(RICH, 3_000)
    state = held.signals[of.slot]
    for smaller in small(state, of):
        assert len(encoded({0: smaller})) < len(encoded({0: state}))
        state = smaller
    assert len(encoded({0: state})) < 350


def test_a_window_leaves_an_eighth_early_at_most_and_never_late() -> None:
    of = signal("count", within="64h")
    times = [T0 + n * HOUR // 4 for n in range(4 * 63)]
    held = fold(of, [view(at) for at in times])[of.slot]
    states = [held, *small(held, of)]
    assert len(states) == 3
    for state in states[1:]:
        for now in range(times[-1], times[-1] + 64 * HOUR, HOUR // 2):
            seen = number(of.value({of.slot: state}, now))
            assert seen <= sum(at > now - 64 * HOUR for at in times)
            assert seen >= sum(at > now - 56 * HOUR for at in times)


def test_an_extreme_and_a_mean_keep_what_they_are_made_of() -> None:
    for kind, expected in (("min", 1.0), ("max", 400.0), ("mean", 200.5), ("sum", 80_200.0)):
        of = signal(kind, within="10d")
        events = [view(T0 + n * MINUTE, value=float(n + 1)) for n in range(400)]
        held = fold(of, events)
        for state in small(held[of.slot], of):
            assert of.value({of.slot: state}, events[-1].occurred_ms) == expected


def test_the_values_seen_last_and_liked_most_stay() -> None:
    seen = signal("distinct", keep=100)
    held = fold(seen, [view(T0 + n, content_id=f"c{n}") for n in range(64)])
    half = fewer_values(seen.kind, held[seen.slot])
    assert half == {f"c{n}": T0 + n for n in range(32, 64)}
    liked = signal("affinity", of="properties.tag", keep=100)
    events = [view(T0, properties={"tag": f"t{n % 10}"}) for n in range(55)]
    state = fewer_likings(liked.kind, fold(liked, events)[liked.slot])
    assert state is not None
    assert state[1] == dict.fromkeys(["t0", "t1", "t2", "t3", "t4"], 6.0)


def test_a_first_step_does_not_outlive_the_second_that_followed_it() -> None:
    of = signal(
        "sequence", first={"events": "view"}, then=None, not_then={"events": "buy"}, within="90d"
    )
    events = [
        arrived(kind, at=T0 + n * HOUR + later)
        for n in range(30)
        for kind, later in (("view", 0), ("buy", 40 * MINUTE))
    ]
    held = fold(of, events)
    now = events[-1].occurred_ms + DAY
    assert of.value(held, now) == 0
    for state in small(held[of.slot], of):
        assert of.value({of.slot: state}, now) == 0


# One profile with half of all traffic.

HOT: Final = "hot"
HOT_LIMIT: Final = 16_384
_ROUND: Final = 1_800
"""After so many events the mix of `traffic` begins anew."""


def busy_plan() -> Plan:
    """Every kind of signal, timers, caps per content and tag, a placement that is asked."""
    return plan(
        policy(
            signals=SIGNALS,
            segments={
                "away": {"when": {"not_done": "view", "within": "1h"}},
                "keen": {"when": {"signal": "buys", "at_least": 3}},
                "paying": {"when": {"attribute": "a1", "exists": True}},
            },
            placements={
                "home": {
                    "slots": 2,
                    "rewards": ["click"],
                    "caps": [
                        {"max": 3, "within": "1d"},
                        {"max": 9, "within": "7d", "per": "tag"},
                    ],
                }
            },
            retention={"profile_bytes": HOT_LIMIT},
        ),
        contents(40),
    )


def traffic(who: str, number: int, *, begin: int = 0) -> list[Arrived]:
    """What somebody does who never stops: all kinds of events, nothing twice."""
    kinds = (
        *("view", "buy", "click", "view", "decision_requested", "impression"),
        *("feedback", "profile_updated"),
    )
    made = []
    for n in range(begin, begin + number):
        fields: dict[str, Any] = {
            "content_id": f"c{n % 40 + 1}",
            "value": float(n % 90),
            "properties": {"tag": f"tag-{n % 300}"},
        }
        match kinds[n % 8]:
            case "view":
                fields["content_id"] = f"content-{n % 900}"
            case "decision_requested":
                fields |= {"placement": "home", "content_id": None}
            case "impression":
                named = decision_id(
                    shard=0, profile_id=who, trigger_id=f"{who}-{n - 1}", placement="home"
                )
                fields |= {"decision_id": named, "content_id": None}
            case "feedback":
                fields["feedback"] = "hide" if n % 16 == 6 else "like"
            case "profile_updated":
                fields["attributes"] = {f"a{n % 90}": "x" * (n % 600)}
        made.append(
            arrived(
                kinds[n % 8],
                at=T0 + n * 40_000,
                profile_id=who,
                event_id=f"{who}-{n}",
                **fields,
            )
        )
    return made


def calls(work: Callable[[], object]) -> int:
    """How many functions are called while something is done: a cost that no neighbour changes."""
    number = 0

    def note(_frame: object, happened: str, _arg: object) -> None:
        nonlocal number
        number += happened in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return number


def test_a_hot_profile_neither_grows_nor_slows_and_leaves_the_others_alone() -> None:
    of = busy_plan()
    busy, quiet = shard(of), shard(of)
    others = [f"u{n}" for n in range(60)]
    costs, gave = [], Counter[str]()
    for turn in range(5):
        for step in range(0, _ROUND, 60):
            begin = turn * _ROUND + step
            hot = traffic(HOT, 60, begin=begin)
            rest = [traffic(user, 1, begin=begin + i)[0] for i, user in enumerate(others)]
            mixed = [event for pair in zip(hot, rest, strict=True) for event in pair]
            out = busy.process(shard_batch(mixed))
            quiet.process(shard_batch(rest))
            held = busy.look(HOT)
            assert held is not None
            assert encoded_size(held) <= HOT_LIMIT
            gave.update(fact[1] for fact in out.facts if fact[0] == "profile_gave_up")
            # What was foretold of its segments is foretold of what it holds now.
            anew = copy.deepcopy(held)
            update_segments(anew, of, busy.decide.moment(held.now_ms, since={}), "test")
            assert (anew.segments, anew.deadlines) == (held.segments, held.deadlines)
        if turn in (1, 4):
            alone = restored(busy.snapshot(), shards=1, decide=busy.decide, with_views=False)
            going_on = shard_batch(traffic(HOT, _ROUND, begin=(turn + 1) * _ROUND))
            costs.append(calls(partial(alone.process, going_on)))
    assert gave.keys() >= {"last", "values", "detail", "windows", "likings", "attributes"}
    assert costs[1] < 1.05 * costs[0]
    end = tick(T0 + 6 * _ROUND * 40_000)
    busy.process(end)
    quiet.process(end)
    for user in others:
        assert busy.look(user) == quiet.look(user) is not None


def test_signals_of_100_000_events_stay_within_the_budget() -> None:
    of = rich_plan(8_192)
    budget, held, out = Budget(of), profile(), Outputs()
    feeds = {
        name: [s for s in of.signals if not s.events or name in s.events]
        for name in ("view", "buy")
    }
    told = {name: arrived(name, event_id="e") for name in feeds}
    tags: list[dict[str, Any]] = [{"tag": f"tag-{n % 70}"} for n in range(3_000)]
    most = 0
    for n in range(100_000):
        name = "buy" if n % 3 == 0 else "view"
        event = told[name]._replace(
            occurred_ms=T0 + n * 40_000,
            content_id=f"content-{n % 9_000}",
            value=float(n % 90),
            properties=tags[n % 3_000],
        )
        for fed in feeds[name]:
            fed.add(held.signals, event, None)
        held.now_ms = event.occurred_ms
        held.version += 1
        if held.version % 640 == 0:
            most = max(most, encoded_size(held))
        budget.keep(held, since_version=held.version - 1, out=out)
    # Between two looks come 64 events, each of a few dozen bytes.
    assert most < 2 * budget.limit
    assert budget.shrink(held, out=out) == [] or encoded_size(held) <= budget.limit
    assert 100 < out.facts["profiles_shrunk",] < 100_000 / 64
