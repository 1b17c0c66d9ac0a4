"""Every entering and leaving is emitted once, at its own time, and adds up to the truth."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from operators.arrival import Arrived
from operators.moment import Moment
from operators.outputs import Record
from operators.plan import Plan
from operators.profile import FAR
from operators.segment_plan import segment_order
from operators.segments import pass_time, update_segments
from operators.shard import Shard
from schemas.decisions import SegmentChange
from schemas.time import DAY, HOUR, MINUTE, to_millis
from tests.operators.builders import (
    T0,
    USER,
    arrived,
    plan,
    policy,
    profile,
    shard,
    shard_batch,
    tick,
)

SECTIONS: Final[dict[str, Any]] = {
    "time": {"allowed_lateness": "0s"},
    "signals": {
        "views": {"kind": "count", "events": "view", "within": "1h"},
        "bought": {"kind": "last", "events": "buy"},
        "tastes": {
            "kind": "affinity",
            "of": "properties.tag",
            "weights": {"view": 1, "buy": 3},
            "half_life": "2h",
        },
    },
    "segments": {
        # Declared before what it needs, on purpose.
        "keen": {"when": {"all": [{"segment": "active"}, {"not": {"segment": "fresh"}}]}},
        "active": {"when": {"signal": "views", "at_least": 2}},
        "fresh": {"when": {"signal": "bought", "within": "90m"}},
        "lapsed": {
            "when": {
                "all": [
                    {"signal": "bought", "not_within": "3h"},
                    {"not_done": ["view", "buy"], "within": "2h"},
                ]
            }
        },
        "red": {"when": {"signal": "tastes", "key": "red", "above": 1.3}},
    },
}


def compiled() -> Plan:
    return plan(policy(**SECTIONS))


EVENTS: Final = st.lists(
    st.tuples(
        st.integers(0, 600), st.sampled_from(["view", "buy"]), st.sampled_from(["red", "blue"])
    ),
    min_size=1,
    max_size=15,
).map(
    lambda events: [
        arrived(kind, at=T0 + at * MINUTE, watermark=T0 + at * MINUTE, properties={"tag": tag})
        for at, kind, tag in sorted(events)
    ]
)


def at_of(change: Record) -> int:
    return to_millis(datetime.fromisoformat(change["changed_at"]))


def changes_of(events: list[Arrived], *, until: int, held: Shard | None = None) -> list[Record]:
    machine = held or shard(compiled())
    made = [machine.process(shard_batch([event])) for event in events]
    made.append(machine.process(tick(until)))
    return [change for out in made for change in out.changes]


def truly_in(events: list[Arrived], at: int) -> set[str]:
    """The segments of a profile rebuilt from all its events, asked once, with no timer."""
    of = compiled()
    fresh = profile(at=events[0].occurred_ms)
    for event in events:
        if event.occurred_ms <= at:
            for signal in of.signals_of.get(event.type, ()):
                signal.add(fresh.signals, event, None)
    update_segments(fresh, of, Moment(at), "naive")
    return set(fresh.segments)


@settings(max_examples=60)
@given(EVENTS, st.lists(st.integers(0, DAY), max_size=10))
def test_the_changes_emitted_add_up_to_the_truth_at_every_instant(
    events: list[Arrived], probes: list[int]
) -> None:
    first, last = events[0].occurred_ms, events[-1].occurred_ms
    changes = changes_of(events, until=last + DAY)
    turns = [at_of(change) for change in changes]
    asked = [e.occurred_ms for e in events] + turns + [first + p for p in probes]
    for at in asked:
        # Between a bound crossed and the millisecond that notices it, either answer is right.
        if not first <= at <= last + DAY or any(0 < t - at <= 1 for t in turns):
            continue
        members: set[str] = set()
        for change in changes:
            if at_of(change) <= at:
                (members.add if change["direction"] == "entered" else members.discard)(
                    change["segment"]
                )
        assert members == truly_in(events, at)


@settings(max_examples=60)
@given(EVENTS)
def test_entering_and_leaving_alternate_in_time(events: list[Arrived]) -> None:
    changes = changes_of(events, until=events[-1].occurred_ms + DAY)
    for segment in SECTIONS["segments"]:
        own = [change for change in changes if change["segment"] == segment]
        directions = [change["direction"] for change in own]
        assert directions == ["entered", "left"] * (len(own) // 2) + ["entered"] * (len(own) % 2)
        assert all(at_of(a) <= at_of(b) for a, b in pairwise(own))
    assert len({change["change_id"] for change in changes}) == len(changes)


@settings(max_examples=30)
@given(EVENTS)
def test_every_change_keeps_the_published_contract(events: list[Arrived]) -> None:
    for change in changes_of(events, until=events[-1].occurred_ms + DAY):
        SegmentChange.model_validate(change)


def test_a_segment_is_left_when_its_window_has_passed_and_time_is_the_cause() -> None:
    seen = [arrived(at=T0, watermark=T0), arrived(at=T0 + MINUTE, watermark=T0 + MINUTE)]
    entered, left = [c for c in changes_of(seen, until=T0 + DAY) if c["segment"] == "active"]
    assert (entered["direction"], entered["cause"]) == ("entered", seen[1].event_id)
    assert (left["direction"], left["cause"]) == ("left", "timer")
    assert at_of(left) == T0 + HOUR
    assert left["entered_at"] == entered["changed_at"]


def test_segments_are_evaluated_after_those_they_need() -> None:
    order = segment_order(policy(**SECTIONS))
    assert order.index("keen") > max(order.index("active"), order.index("fresh"))


def test_a_segment_that_is_gone_from_the_policy_is_left() -> None:
    held = profile()
    held.segments["retired"] = T0 - DAY
    changes = update_segments(held, compiled(), Moment(T0), "e1")
    left = [
        (c["segment"], c["direction"], c["cause"], c["rule"]) for c in changes if c["entered_at"]
    ]
    assert left == [("retired", "left", "policy", "no longer declared")]
    assert "retired" not in held.segments
    again = update_segments(held, compiled(), Moment(T0), "e2")
    assert again == []


def test_a_profile_without_a_deadline_has_no_timer() -> None:
    held = profile()
    plain = plan(policy())
    assert update_segments(held, plain, Moment(T0), "e1") == []
    assert held.segment_deadline() == FAR
    assert pass_time(held, plain, Moment(T0 + 400 * DAY)) == []


def test_a_control_event_from_the_past_does_not_turn_time_back() -> None:
    """A do-not-show that comes late must not re-enter a segment that was left since."""
    either = {
        "any": [
            {"signal": "views", "at_least": 2},
            {"done": "hide", "within": "1d", "at_least": 9},
        ]
    }
    machine = shard(plan(policy(**{**SECTIONS, "segments": {"active": {"when": either}}})))
    seen = [arrived(at=T0, watermark=T0), arrived(at=T0 + MINUTE, watermark=T0 + MINUTE)]
    changes = changes_of(seen, until=T0 + 5 * HOUR, held=machine)
    late = arrived(
        "feedback", feedback="hide", content_id="c1", at=T0 + 2 * MINUTE, watermark=T0 + 5 * HOUR
    )
    changes += machine.process(shard_batch([late])).changes
    changes += machine.process(tick(T0 + DAY)).changes
    active = [c["direction"] for c in changes if c["segment"] == "active"]
    assert active == ["entered", "left"]
    assert [at_of(c) for c in changes] == sorted(at_of(c) for c in changes)
    held = machine.look(USER)
    assert held is not None
    assert held.hidden == {"c:c1": T0 + 2 * MINUTE}


def test_an_event_that_goes_by_two_names_counts_once() -> None:
    """A `like` is a feedback too: a signal over both names must not count it twice."""
    feedback = {"kind": "count", "events": ["feedback", "like"], "within": "7d"}
    tastes = {
        "kind": "affinity",
        "of": "properties.tag",
        "weights": {"feedback": 1, "like": 2},
    }
    of = plan(policy(signals={"said": feedback, "tastes": tastes}))
    machine = shard(of)
    for kind in ("feedback", "like"):
        machine.process(shard_batch([arrived(kind, feedback="like", properties={"tag": "red"})]))
    held = machine.look(USER)
    assert held is not None
    said, liked = of.signals
    assert said.value(held.signals, T0) == 2
    assert liked.value(held.signals, T0, "red") == 5
