"""How long a condition must hold, and a membership lasts; intents; what is told of a change."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.conditions import Compiler
from operators.moment import Moment
from operators.outputs import Record
from operators.plan import Plan
from operators.profile import Profile
from operators.segment_plan import compile_segments, declarations
from operators.segments import (
    intent_of,
    leave_segments,
    memberships,
    pass_time,
    update_segments,
    why,
)
from schemas.time import DAY, HOUR, MINUTE, rfc3339
from tests.operators.builders import T0, arrived, plan, policy, profile

BUSY: Final[dict[str, Any]] = {"signal": "views", "at_least": 2}
SIGNALS: Final[dict[str, Any]] = {"views": {"kind": "count", "events": "view", "within": "1h"}}


class Life:
    """One profile under a policy: events and time come, changes are written down."""

    def __init__(self, segments: dict[str, Any] | None = None, **sections: Any) -> None:
        self.plan: Plan = plan(
            policy(**{"signals": SIGNALS, "segments": segments or {}, **sections})
        )
        self.profile: Profile = profile(at=T0 - 400 * DAY)
        self.changes: list[Record] = []
        self.predicted: float | None = None

    def adopt(self, of: Plan, at: int) -> Life:
        """Another policy comes; the profile is evaluated under it."""
        self.plan = of
        self.changes += update_segments(self.profile, of, self.moment(at), "policy")
        return self

    def moment(self, at: int) -> Moment:
        return Moment(at, predict=lambda *_: self.predicted)

    def view(self, *minutes: int, type: str = "view", **attributes: Any) -> Life:
        """Events at these minutes, everything due before them included."""
        for minute in minutes:
            event = arrived(type, at=T0 + minute * MINUTE)
            moment = self.moment(event.occurred_ms)
            self.changes += pass_time(self.profile, self.plan, moment)
            for signal in self.plan.signals_of.get(type, ()):
                signal.add(self.profile.signals, event, None)
            self.profile.attributes.update(attributes)
            self.changes += update_segments(
                self.profile,
                self.plan,
                moment,
                event.event_id,
                events=(type,),
                attributes=bool(attributes),
            )
        return self

    def wait(self, minute: int) -> Life:
        """Nothing happens until then."""
        self.changes += pass_time(self.profile, self.plan, self.moment(T0 + minute * MINUTE))
        return self

    def told(self, segment: str = "busy") -> list[tuple[str, int]]:
        """The changes of a segment: direction and minute."""
        minutes = {rfc3339(T0 + m * MINUTE): m for m in range(-10, 3 * 24 * 60)}
        return [
            (change["direction"], minutes[change["changed_at"]])
            for change in self.changes
            if change["segment"] == segment
        ]


def test_a_condition_must_hold_for_so_long_before_entry() -> None:
    life = Life({"busy": {"when": BUSY, "for_at_least": "30m"}})
    assert life.view(0, 10).wait(39).told() == []
    assert life.wait(40).told() == [("entered", 40)]
    # The view at 0 leaves the window at 60: the condition fails, and so does the membership.
    assert life.wait(600).told() == [("entered", 40), ("left", 60)]


def test_a_condition_that_failed_meanwhile_begins_anew() -> None:
    life = Life({"busy": {"when": BUSY, "for_at_least": "55m"}})
    # Held from 10 to 60, and again from 65 on.
    assert life.view(0, 10, 65, 68).wait(119).told() == []
    assert life.wait(120).told() == [("entered", 120)]


def test_a_member_stays_at_least_so_long() -> None:
    life = Life({"busy": {"when": BUSY, "stay_at_least": "3h"}})
    assert life.view(0, 10).wait(600).told() == [("entered", 10), ("left", 190)]
    # What holds again by then goes on without a change.
    again = Life({"busy": {"when": BUSY, "stay_at_least": "3h"}})
    assert again.view(0, 10, 180, 185).wait(600).told() == [("entered", 10), ("left", 240)]


def test_a_member_leaves_after_so_long_and_enters_again_once_the_condition_failed() -> None:
    life = Life({"busy": {"when": BUSY, "leave_after": "30m"}})
    life.view(0, 10)
    assert life.wait(40).told() == [("entered", 10), ("left", 40)]
    # It goes on to hold: no entry.
    assert life.view(45, 50).wait(109).told() == [("entered", 10), ("left", 40)]
    assert life.changes[-1]["rule"] == "left after 30m"
    # It fails at 105; re-entry is a new entry.
    assert life.view(120, 121).told()[2:] == [("entered", 121)]
    assert life.wait(600).told()[3:] == [("left", 151)]


def test_a_member_whose_condition_fails_leaves_before_its_age_says_so() -> None:
    life = Life({"busy": {"when": BUSY, "leave_after": "5h", "stay_at_least": "20m"}})
    assert life.view(0, 10).wait(600).told() == [("entered", 10), ("left", 60)]


def test_a_membership_that_time_alone_holds_open_asks_for_no_more_than_its_deadlines() -> None:
    life = Life(
        {"busy": {"when": BUSY, "for_at_least": "5m", "stay_at_least": "3h", "leave_after": "4h"}}
    )
    life.view(0, 10)
    due = []
    while life.profile.deadlines:
        (deadline,) = life.profile.deadlines.values()
        due.append((deadline - T0) // MINUTE)
        life.wait(due[-1])
    # Entered at 15; the condition fails at 60, and the stay ends at 195.
    assert due == [15, 60, 195]
    assert life.told() == [("entered", 15), ("left", 195)]
    assert life.profile.holding == {}


SPANS: Final = st.sampled_from([None, "1m", "7m", "30m", "90m"])


@settings(max_examples=150)
@given(
    st.lists(st.integers(0, 240), min_size=1, max_size=12).map(sorted),
    st.tuples(SPANS, SPANS, SPANS),
)
def test_spans_are_those_of_a_reading_minute_by_minute(
    minutes: list[int], spans: tuple[str | None, str | None, str | None]
) -> None:
    names = ("for_at_least", "stay_at_least", "leave_after")
    asked = {name: span for name, span in zip(names, spans, strict=True) if span}
    hold, stay, leave = (int(span[:-1]) if span else None for span in spans)
    life = Life({"busy": {"when": BUSY, **asked}}).view(*minutes).wait(600)
    told: list[tuple[str, int]] = []
    since: int | None = None
    entered: int | None = None
    spent = False
    # What is due at an instant happens before an event of that instant.
    readings = [(minute, with_events) for minute in range(601) for with_events in (False, True)]
    for minute, with_events in readings:
        if with_events and minute not in minutes:
            continue
        past = [at for at in minutes if at < minute or (with_events and at == minute)]
        holds = sum(minute - 60 < at for at in past) >= 2
        since = (minute if since is None else since) if holds else None
        spent = spent and holds
        if entered is not None:
            aged = leave is not None and minute >= entered + leave
            if aged or (not holds and minute >= entered + (stay or 0)):
                told.append(("left", minute))
                entered, spent = None, aged and holds
        elif since is not None and not spent and minute >= since + (hold or 0):
            entered = minute
            told.append(("entered", minute))
    assert life.told() == told
    assert len(life.profile.holding) <= 1


INTENTS: Final[dict[str, Any]] = {
    "buying": {"done": "cart", "within": "10m"},
    "comparing": {"signal": "views", "at_least": 3},
    "browsing": {"done": "view", "within": "30m"},
}


def test_the_first_intent_that_holds_is_the_profiles() -> None:
    life = Life(intents=INTENTS)
    assert intent_of(life.profile) is None
    seen = [
        intent_of(life.view(0).profile),
        intent_of(life.view(1, 2).profile),
        intent_of(life.view(5, type="cart").profile),
        intent_of(life.wait(15).profile),
        intent_of(life.wait(60).profile),
        intent_of(life.wait(99).profile),
    ]
    # The cart is ten minutes old at 15; at 60 two views are left, all older than 30 minutes.
    assert seen == ["browsing", "comparing", "buying", "comparing", None, None]
    assert memberships(life.profile) == []
    assert life.told("intent.comparing") == [
        *(("entered", 2), ("left", 5), ("entered", 15), ("left", 60))
    ]


@given(
    st.lists(st.tuples(st.integers(0, 120), st.sampled_from(["view", "cart"])), max_size=12).map(
        sorted
    )
)
def test_there_is_one_intent_at_most_and_it_is_the_first(events: list[tuple[int, str]]) -> None:
    life = Life(intents=INTENTS)
    for i, (minute, kind) in enumerate(events):
        life.view(minute, type=kind)
        ages = {
            name: [minute - at for at, type_ in events[: i + 1] if type_ == name]
            for name in ("view", "cart")
        }
        holding = {
            "buying": any(age < 10 for age in ages["cart"]),
            "comparing": sum(age < 60 for age in ages["view"]) >= 3,
            "browsing": any(age < 30 for age in ages["view"]),
        }
        first = next((name for name, holds in holding.items() if holds), None)
        held = [name for name in life.profile.segments if name.startswith("intent.")]
        assert held == ([] if first is None else [f"intent.{first}"])


def test_segments_and_intents_may_ask_about_each_other() -> None:
    life = Life(
        {"hot": {"when": {"intent": "buying"}}, "busy": {"when": BUSY}},
        intents={"looking": {"segment": "busy"}, "buying": {"done": "cart", "within": "10m"}},
    )
    life.view(0, type="cart").view(1, 2)
    assert life.told("hot") == [("entered", 0), ("left", 2)]
    assert intent_of(life.profile) == "looking"


def test_a_cycle_is_refused_by_name() -> None:
    of = policy(
        segments={"a": {"when": {"intent": "second"}}},
        intents={"first": {"segment": "a"}, "second": {"done": "view", "within": "1h"}},
    )
    with pytest.raises(ValueError, match=r"a -> intent\.second -> intent\.first -> a"):
        plan(of)


def test_a_change_tells_the_rule_that_matched_and_what_it_saw() -> None:
    life = Life(
        {
            "busy": {
                "when": {
                    "any": [
                        {"attribute": "plan", "one_of": ["gold", "silver"]},
                        {"all": [BUSY, {"not": {"done": "cart", "within": "7d"}}]},
                    ]
                }
            }
        }
    )
    life.view(0, 1, plan="bronze").wait(600)
    entered, left = life.changes
    assert entered["cause"] == "e2"
    assert entered["rule"] == "views at least 2 and not (cart done within 7d)"
    assert entered["values"] == {
        "attribute plan is one of gold, silver": "bronze",
        "views at least 2": 2,
        "cart done within 7d": 0,
    }
    assert entered["entered_at"] is None
    assert left["cause"] == "timer"
    assert left["values"]["views at least 2"] == 1
    assert left["entered_at"] == entered["changed_at"]


def test_an_exit_names_the_part_that_failed() -> None:
    life = Life({"busy": {"when": {"all": [{"attribute": "plan", "is": "gold"}, {"any": [BUSY]}]}}})
    life.view(0, 1, plan="gold").view(2, plan="free")
    assert life.changes[-1]["rule"] == "attribute plan is gold"


def test_why_a_profile_is_a_member_is_told_in_words_with_what_was_seen() -> None:
    life = Life(
        {
            "busy": {
                "when": {
                    "all": [
                        BUSY,
                        {"signal": "bought", "within": "7d"},
                        {"not": {"attribute": "plan", "exists": True}},
                        {"weekday": "thu", "zone": "Europe/Berlin"},
                    ]
                },
                "stay_at_least": "2d",
            }
        },
        signals={**SIGNALS, "bought": {"kind": "last", "events": "buy"}},
    )
    (segment,) = life.plan.segments
    assert why(life.profile, segment, life.moment(T0)) == []
    life.view(0, type="buy").view(1, 2)
    assert why(life.profile, segment, life.moment(T0 + 2 * MINUTE)) == [
        "views at least 2: 2",
        "bought within 7d: 2026-01-01T00:00:00.000Z",
        "not (attribute plan exists): none",
        "local weekday thu in Europe/Berlin: thu 01:02",
    ]
    life.wait(600)
    assert why(life.profile, segment, life.moment(T0 + 10 * HOUR)) == ["stays for at least 2d"]


def test_a_prediction_is_asked_at_every_touch_and_daily() -> None:
    life = Life({"busy": {"when": {"prediction": "churn", "at_least": 0.5}}})
    life.view(0, type="anything")
    assert life.told() == []
    life.predicted = 0.75
    life.view(1, type="anything")
    assert life.told() == [("entered", 1)]
    assert life.changes[-1]["values"] == {"prediction churn at least 0.5": 0.75}
    life.predicted = 0.25
    (due,) = life.profile.deadlines.values()
    assert T0 < due <= T0 + DAY + MINUTE
    life.changes += pass_time(life.profile, life.plan, life.moment(due))
    assert life.changes[-1]["direction"] == "left"
    assert life.changes[-1]["changed_at"] == rfc3339(due)


def test_a_changed_definition_is_the_cause_where_a_profile_is_evaluated_under_it() -> None:
    life = Life({"busy": {"when": BUSY}}).view(0)
    assert life.told() == []
    easier = Life({"busy": {"when": {**BUSY, "at_least": 1}}}).plan
    life.adopt(easier, T0 + MINUTE)
    assert [(c["direction"], c["cause"]) for c in life.changes] == [("entered", "policy")]
    # Under the same policy nothing is evaluated twice.
    life.adopt(easier, T0 + 2 * MINUTE)
    assert len(life.changes) == 1


def test_a_deadline_of_another_policy_changes_memberships_by_this_one() -> None:
    life = Life({"busy": {"when": BUSY}}).view(0, 1)
    life.plan = Life({"busy": {"when": {**BUSY, "at_least": 9}}}).plan
    life.wait(600)
    assert life.told() == [("entered", 1), ("left", 60)]
    assert life.changes[-1]["cause"] == "policy"


def test_a_wait_goes_on_under_another_policy_unless_its_own_condition_changed() -> None:
    waiting = {"busy": {"when": BUSY, "for_at_least": "30m"}}
    other = {"other": {"when": {"attribute": "x", "exists": True}}, **waiting}
    changed = {"busy": {"when": {**BUSY, "above": 0}, "for_at_least": "30m"}}
    for sections, entered in ((other, 31), (changed, 50)):
        life = Life(waiting).view(0, 1)
        life.adopt(Life(sections).plan, T0 + 20 * MINUTE)
        assert life.wait(55).told() == [("entered", entered)]


def test_what_was_waited_for_is_forgotten_with_its_definition() -> None:
    life = Life({"busy": {"when": BUSY, "for_at_least": "30m"}}).view(0, 1)
    assert life.profile.holding
    life.adopt(Life({}).plan, T0 + 20 * MINUTE)
    assert life.profile.holding == {}
    assert life.profile.deadlines == {}


def test_leaving_everything_tells_of_each_membership_and_keeps_no_wait() -> None:
    life = Life({"busy": {"when": BUSY}, "long": {"when": BUSY, "for_at_least": "30m"}}).view(0, 1)
    changes = leave_segments(life.profile, life.plan, life.moment(T0 + 2 * MINUTE), "e9")
    assert [(c["segment"], c["direction"], c["cause"]) for c in changes] == [("busy", "left", "e9")]
    assert changes[0]["entered_at"] == rfc3339(T0 + MINUTE)
    assert (life.profile.segments, life.profile.holding, life.profile.deadlines) == ({}, {}, {})


def test_only_what_an_event_touches_is_evaluated() -> None:
    asked: list[str] = []
    segments: dict[str, Any] = {
        f"s{i}": {"when": {"done": f"t{i}", "within": "1d"}} for i in range(50)
    }
    segments["of_s7"] = {"when": {"segment": "s7"}}
    segments["of_of_s7"] = {"when": {"not": {"segment": "of_s7"}}}
    segments["of_plan"] = {"when": {"attribute": "plan", "exists": True}}
    life = Life(segments)
    life.view(0, type="nothing")
    for segment in life.plan.segments:
        evaluate = segment.evaluate

        def spied(*args: Any, name: str = segment.name, told: Any = evaluate) -> Any:
            asked.append(name)
            return told(*args)

        object.__setattr__(segment, "evaluate", spied)
    life.view(1, type="nothing")
    assert asked == []
    life.view(2, type="t7")
    assert asked == ["s7", "of_s7", "of_of_s7"]
    asked.clear()
    life.view(3, type="t7")  # what they ask about is as it was
    assert asked == ["s7"]
    asked.clear()
    life.view(4, type="nothing", plan="gold")
    assert asked == ["of_plan"]
    asked.clear()
    life.wait(24 * 60 + 2)
    assert asked == []  # the event at 3 is in the window still
    life.wait(24 * 60 + 3)
    assert asked == ["s7", "of_s7", "of_of_s7"]


def test_a_threshold_that_follows_feedback_is_the_one_in_force() -> None:
    of = policy(
        signals=SIGNALS,
        segments={
            "busy": {
                "when": {"all": [BUSY, {"not": {"signal": "views", "at_least": 9}}]},
                "follow": {
                    "signal": "views",
                    "bound": "at_least",
                    "between": [1, 5],
                    "reward": "click",
                },
            }
        },
    )
    moved: dict[str, float] = {}
    views = plan(of).signals[0]
    (segment,) = compile_segments(of, Compiler({"views": views}), moved.get)
    held = profile()
    for minute in (0, 1, 2):
        views.add(held.signals, arrived(at=T0 + minute * MINUTE), None)
    moment = Moment(T0 + 2 * MINUTE)
    assert segment.evaluate(held, moment) == (True, T0 + HOUR + MINUTE)
    moved["busy"] = 3.0
    assert segment.evaluate(held, moment) == (True, T0 + HOUR)
    moved["busy"] = 3.5
    assert segment.evaluate(held, moment).holds is False
    assert segment.rule.values(held, moment) == {
        "views at least 2": 3,
        "views at least 2, moved to": 3.5,
        "views at least 9": 3,
    }


def test_every_segment_has_words() -> None:
    of = policy(segments={"busy": {"when": {"done": "view", "within": "7d"}}}, intents=INTENTS)
    declared = {"views": plan(policy(signals=SIGNALS)).signals[0]}
    compiled = compile_segments(of, Compiler(declared))
    assert [segment.rule.text for segment in compiled] == [
        "view done within 7d",
        "cart done within 10m",
        "views at least 3 and not (intent is buying)",
        "view done within 30m and not (intent is buying) and not (intent is comparing)",
    ]
    assert [segment.name for segment in compiled] == list(declarations(of))
