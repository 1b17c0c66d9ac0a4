"""Which decision led to a reward, what is learned from it, and what do the books say?"""

from __future__ import annotations

from typing import Any

import pytest

from operators.arrival import Arrived
from operators.attribute import close_windows
from operators.decide import Decide
from operators.ids import uniform
from operators.outputs import Outputs, Record
from operators.plan import Plan
from operators.profile import Profile
from tests.operators.builders import (
    T0,
    arrived,
    content,
    contents,
    placement_policy,
    plan,
    policy,
    profile,
    request,
    shard,
    shard_batch,
    tick,
)
from tests.operators.decision_builders import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    check_shapes,
    click,
    content_ids,
    decide_once,
    deciding,
    follow,
    impression_of,
)

# By default: one slot, clicks within 30 minutes of the impression, an expiry of 15 minutes.


def _shown(
    machine: Decide, person: Profile, *, at: int = T0, placement: str = "home", **asked: Any
) -> Record:
    """A decision whose items were all reported as shown the moment they were chosen."""
    record, _, _ = decide_once(machine, request(placement, at=at, **asked), person=person)
    follow(machine, [impression_of(record, at=at)], person=person)
    return record


def _rewards(person: Profile) -> list[list[dict[str, float]]]:
    return [[item.rewards for item in pending.items] for pending in person.pending]


def _positives(out: Outputs) -> list[tuple[str, str | None]]:
    return [(e.content_id, e.kind) for e in out.examples if e.kind is not None]


def _one(of: Plan | None = None) -> tuple[Decide, Profile]:
    everything = of or plan(placement_policy(model={"negatives": 1.0}), [content("a")])
    return deciding(everything), profile()


# --- impressions --------------------------------------------------------------------------------


def test_a_reported_impression_gives_each_shown_item_one_negative_example() -> None:
    of = plan(placement_policy(slots=3, model={"negatives": 1.0}))
    machine, person = _one(of)
    record, _, made = decide_once(machine, request(), person=person)
    assert made.examples == []
    _, out = follow(machine, [impression_of(record, at=T0 + SECOND)], person=person)
    assert [(e.content_id, e.kind, e.weight) for e in out.examples] == [
        (shown, None, 1.0) for shown in content_ids(record)
    ]
    assert {e.at_ms for e in out.examples} == {T0 + SECOND}
    assert {e.features for e in out.examples} == {person.pending[0].features}
    assert out.facts["impressions", "home", ""] == 3


def test_an_impression_may_name_only_what_was_seen_and_the_rest_later() -> None:
    machine, person = _one(plan(placement_policy(slots=3, model={"negatives": 1.0})))
    record, _, _ = decide_once(machine, request(), person=person)
    first, second, third = content_ids(record)
    told: list[Arrived] = [
        impression_of(record, contents=(second, "not_in_the_slate")),
        impression_of(record, content_id=first),
        impression_of(record, contents=(first, second)),
        impression_of(record, contents=()),
    ]
    _, out = follow(machine, told, person=person)
    assert [e.content_id for e in out.examples] == [second, first]
    _, out = follow(machine, [impression_of(record)], person=person)
    assert [e.content_id for e in out.examples] == [third]


def test_an_impression_of_an_unknown_decision_is_counted_and_teaches_nothing() -> None:
    machine, person = _one()
    _, out = follow(machine, [arrived("impression", decision_id="000-nothing")], person=person)
    assert out.facts["impressions_unmatched",] == 1
    assert out.examples == []


def test_an_assumed_impression_is_shown_when_decided_and_a_report_adds_nothing() -> None:
    machine, person = _one(
        plan(placement_policy(impressions="assumed", model={"negatives": 1.0}), [content("a")])
    )
    record, _, out = decide_once(machine, request(), person=person)
    assert [(e.content_id, e.kind) for e in out.examples] == [("a", None)]
    assert person.pending[0].closes_ms == T0 + 30 * MINUTE
    _, out = follow(machine, [impression_of(record, at=T0 + 1)], person=person)
    assert (out.examples, out.facts["impressions", "home", ""]) == ([], 0)


def test_a_required_impression_has_until_the_expiry_before_its_window_starts() -> None:
    machine, person = _one()
    decide_once(machine, request(), person=person)
    assert person.pending[0].closes_ms == T0 + 15 * MINUTE + 30 * MINUTE


def test_negatives_are_left_out_by_a_hash_of_the_decision_and_weigh_their_inverse() -> None:
    machine, person = _one(plan(placement_policy(model={"negatives": 0.25}), [content("a")]))
    kept = []
    for n in range(400):
        asked = request(at=T0 + n * HOUR, event_id=f"r{n}")
        record, _, _ = decide_once(machine, asked, person=person)
        _, out = follow(machine, [impression_of(record, at=T0 + n * HOUR)], person=person)
        text = f"{record['decision_id']}|a|negative"
        assert len(out.examples) == (uniform(text) < 0.25)
        kept += [example.weight for example in out.examples]
    assert set(kept) == {4.0}
    assert 60 <= len(kept) <= 140


# --- rewards ------------------------------------------------------------------------------------


def test_a_reward_with_the_decision_id_belongs_to_that_decision() -> None:
    machine, person = _one()
    first = _shown(machine, person, at=T0)
    _shown(machine, person, at=T0 + MINUTE)
    named = click("a", at=T0 + 2 * MINUTE, decision_id=first["decision_id"])
    _, out = follow(machine, [named], person=person)
    assert _rewards(person) == [[{"click": 1.0}], [{}]]
    assert _positives(out) == [("a", "click")]


def test_a_reward_without_an_id_belongs_to_the_last_impression_of_its_content() -> None:
    machine, person = _one(plan(catalogue=contents(2)))
    for at, wanted in [(T0, "c1"), (T0 + MINUTE, "c1"), (T0 + 2 * MINUTE, "c2")]:
        _shown(machine, person, at=at, candidates=(wanted,))
    follow(machine, [click("c1", at=T0 + 3 * MINUTE)], person=person)
    assert _rewards(person) == [[{}], [{"click": 1.0}], [{}]]


def test_what_was_decided_and_never_shown_earns_nothing_without_an_id() -> None:
    machine, person = _one()
    decide_once(machine, request(), person=person)
    _, out = follow(machine, [click("a", at=T0 + MINUTE)], person=person)
    assert _rewards(person) == [[{}]]
    assert out.facts["unattributed", "click"] == 1


@pytest.mark.parametrize(
    "after, attributed",
    [(0, True), (30 * MINUTE, True), (30 * MINUTE + 1, False), (-1, False)],
)
@pytest.mark.parametrize("with_id", [True, False])
def test_a_reward_counts_within_its_window_from_the_impression(
    after: int, attributed: bool, with_id: bool
) -> None:
    machine, person = _one()
    record = _shown(machine, person)
    identity = record["decision_id"] if with_id else None
    _, out = follow(machine, [click("a", at=T0 + after, decision_id=identity)], person=person)
    assert _rewards(person) == [[{"click": 1.0} if attributed else {}]]
    assert out.facts["unattributed", "click"] == (not attributed)
    assert bool(_positives(out)) == attributed


def test_a_reward_that_names_a_decision_is_never_given_to_another() -> None:
    machine, person = _one()
    closed = _shown(machine, person, at=T0)
    _shown(machine, person, at=T0 + 40 * MINUTE)
    for identity in (closed["decision_id"], "000-nothing"):
        named = click("a", at=T0 + 41 * MINUTE, decision_id=identity)
        _, out = follow(machine, [named], person=person)
        assert out.facts["unattributed", "click"] == 1
    assert _rewards(person) == [[{}], [{}]]


def test_the_same_reward_twice_counts_once() -> None:
    machine, person = _one()
    record = _shown(machine, person)
    again = [
        click("a", at=T0 + MINUTE),
        click("a", at=T0 + 2 * MINUTE),
        click("a", at=T0 + 3 * MINUTE, decision_id=record["decision_id"]),
    ]
    _, out = follow(machine, again, person=person)
    assert _rewards(person) == [[{"click": 1.0}]]
    assert out.facts["repeated", "click"] == 2
    assert out.facts["rewards", "home", "click", ""] == 1
    assert out.facts["reward_value", "home", "click", ""] == 1.0
    assert _positives(out) == [("a", "click")]


def test_a_reward_before_its_impressions_report_proves_the_impression_once() -> None:
    machine, person = _one()
    record, _, _ = decide_once(machine, request(), person=person)
    identity = record["decision_id"]
    _, out = follow(
        machine,
        [
            click("a", at=T0 + MINUTE, decision_id=identity),
            impression_of(record, at=T0 + 2 * MINUTE),
        ],
        person=person,
    )
    assert [(e.content_id, e.kind) for e in out.examples] == [("a", None), ("a", "click")]
    assert out.facts["impressions", "home", ""] == 1
    assert person.pending[0].items[0].shown_ms == T0 + 2 * MINUTE


@pytest.mark.parametrize("report_first", [True, False])
def test_a_click_dated_before_a_slow_impression_beacon_counts_in_either_order(
    report_first: bool,
) -> None:
    machine, person = _one()
    record, _, _ = decide_once(machine, request(), person=person)
    told = [
        impression_of(record, at=T0 + 2 * SECOND),
        click("a", at=T0 + SECOND, decision_id=record["decision_id"]),
    ]
    follow(machine, told if report_first else told[::-1], person=person)
    assert _rewards(person) == [[{"click": 1.0}]]


def test_a_reward_goes_to_the_slot_of_its_content() -> None:
    machine, person = _one(plan(placement_policy(slots=3, model={"negatives": 1.0})))
    record = _shown(machine, person)
    _, second, _ = content_ids(record)
    elsewhere = next(c for c in ("c1", "c2", "c3", "c4") if c not in content_ids(record))
    identity = record["decision_id"]
    _, out = follow(
        machine,
        [
            click(second, at=T0 + 1, decision_id=identity),
            click(elsewhere, at=T0 + 1, decision_id=identity),
            click(None, at=T0 + 1, decision_id=identity),
        ],
        person=person,
    )
    assert _rewards(person) == [[{}, {"click": 1.0}, {}]]
    assert out.facts["unattributed", "click"] == 2


def test_a_reward_may_leave_out_the_content_where_the_decision_has_only_one() -> None:
    machine, person = _one()
    record = _shown(machine, person)
    follow(machine, [click(None, at=T0, decision_id=record["decision_id"])], person=person)
    assert _rewards(person) == [[{"click": 1.0}]]


TWO_KINDS = {
    "click": {"events": ["click", "like"], "value": 1, "within": "30m"},
    "buy": {"events": "purchase", "value": 20, "times": "margin", "within": "1d"},
    "dislike": {"events": "dislike", "value": -2, "within": "1h"},
}


def _three_kinds() -> Plan:
    return plan(
        policy(
            rewards=TWO_KINDS,
            placements={
                "home": {"rewards": ["click", "buy", "dislike"], "model": {"negatives": 1.0}}
            },
        ),
        [content("a", margin=0.5)],
    )


def test_every_kind_of_reward_counts_once_in_its_own_window_with_its_own_value() -> None:
    machine, person = _one(_three_kinds())
    _shown(machine, person)
    _, out = follow(
        machine,
        [
            arrived("feedback", feedback="dislike", content_id="a", at=T0 + 50 * MINUTE),
            click("a", at=T0 + 50 * MINUTE),
            click("a", type="purchase", at=T0 + 23 * HOUR),
        ],
        person=person,
    )
    assert _rewards(person) == [[{"dislike": -2.0, "buy": 10.0}]]
    assert out.facts["unattributed", "click"] == 1
    assert _positives(out) == [("a", "dislike"), ("a", "buy")]


def test_one_event_may_stand_for_one_kind_by_two_names_and_counts_once() -> None:
    rewards = {"good": {"events": ["feedback", "like"], "value": 1, "within": "1h"}}
    machine, person = _one(
        plan(policy(rewards=rewards, placements={"home": {"rewards": ["good"]}}), [content("a")])
    )
    _shown(machine, person)
    liked = arrived("feedback", feedback="like", content_id="a", at=T0 + 1)
    _, out = follow(machine, [liked], person=person)
    assert _positives(out) == [("a", "good")]
    assert out.facts["repeated", "good"] == 0


def test_a_kind_that_the_placement_does_not_learn_is_not_its_reward() -> None:
    home = {"rewards": ["click"], "model": {"negatives": 1.0}}
    machine, person = _one(
        plan(policy(rewards=TWO_KINDS, placements={"home": home}), [content("a")])
    )
    _shown(machine, person)
    _, out = follow(machine, [click("a", type="purchase", at=T0 + 1)], person=person)
    assert _rewards(person) == [[{}]]
    assert out.facts["unattributed", "buy"] == 1


def test_a_fallbacks_reward_is_booked_and_teaches_nothing() -> None:
    machine, person = _one(plan(placement_policy(level=0), [content("a")]))
    record = _shown(machine, person)
    assert record["learnable"] is False
    _, out = follow(machine, [click("a", at=T0 + 1)], person=person)
    assert _rewards(person) == [[{"click": 1.0}]]
    assert out.examples == []
    assert person.pending[0].features == b""


def test_without_consent_to_learn_rewards_are_booked_and_teach_nothing() -> None:
    top = {"consent": {"learn": "learning"}}
    machine, person = _one(plan(placement_policy(top=top), [content("a")]))
    _shown(machine, person)
    _, out = follow(machine, [click("a", at=T0 + 1)], person=person)
    assert (_rewards(person), out.examples) == ([[{"click": 1.0}]], [])


# --- the books ----------------------------------------------------------------------------------


def test_a_closing_window_writes_the_books_once_and_no_second_example() -> None:
    machine, person = _one(_three_kinds())
    record = _shown(machine, person)
    told = [click("a", at=T0 + MINUTE), click("a", type="purchase", at=T0 + HOUR)]
    follow(machine, told, person=person)
    closes = person.pending[0].closes_ms
    assert closes == T0 + DAY + 30 * MINUTE
    out = Outputs()
    close_windows(person, closes - 1, plan=machine.plan, out=out)
    assert (out.outcomes, len(person.pending)) == ([], 1)
    close_windows(person, closes, plan=machine.plan, out=out)
    close_windows(person, closes + DAY, plan=machine.plan, out=out)
    check_shapes(out)
    [books] = out.outcomes
    assert (out.examples, person.pending) == ([], [])
    assert books["decision_id"] == record["decision_id"]
    assert books["items"] == [
        {
            "content_id": "a",
            "rank": 1,
            "propensity": record["items"][0]["propensity"],
            "learnable": True,
            "shown": True,
            "nth": 1,
            "rewards": {"click": 1.0, "buy": 10.0},
        }
    ]
    assert books["reward"] == 11.0
    assert books["learnable"] is True
    assert books["slate_propensity"] == record["slate_propensity"]


def test_a_report_after_the_reward_says_when_it_was_shown() -> None:
    machine, person = _one()
    record, _, _ = decide_once(machine, request(), person=person)
    identity = record["decision_id"]
    early = click("a", at=T0 + 2 * MINUTE, type="skip", decision_id=identity)
    told = [early, click("a", at=T0 + 3 * MINUTE, decision_id=identity)]
    follow(machine, [*told, impression_of(record, at=T0 + MINUTE)], person=person)
    assert person.pending[0].items[0].shown_ms == T0 + MINUTE
    assert person.pending[0].items[0].rewards == {"click": 1.0}


def test_what_was_never_shown_is_booked_as_such() -> None:
    machine, person = _one()
    decide_once(machine, request(), person=person)
    out = Outputs()
    close_windows(person, T0 + DAY, plan=machine.plan, out=out)
    check_shapes(out)
    [books] = out.outcomes
    assert [(item["shown"], item["rewards"]) for item in books["items"]] == [(False, {})]
    assert books["reward"] == 0


def test_in_a_shard_the_watermark_closes_the_window_and_a_reward_after_it_is_unattributed() -> None:
    machine = shard(plan(placement_policy(impressions="assumed"), [content("a")]))
    made = machine.process(shard_batch([request()]))
    assert len(made.decisions) == 1
    in_time = machine.process(shard_batch([click("a", at=T0 + 30 * MINUTE)]))
    assert in_time.outcomes == []
    closed = machine.process(tick(T0 + 30 * MINUTE))
    assert [books["reward"] for books in closed.outcomes] == [1.0]
    late = machine.process(shard_batch([click("a", at=T0 + 31 * MINUTE)]))
    assert late.facts["unattributed", "click"] == 1
    for out in (made, in_time, closed, late):
        check_shapes(out)


def test_a_reward_that_comes_after_the_watermark_is_late_and_attributed_to_nothing() -> None:
    machine = shard(plan(placement_policy(impressions="assumed"), [content("a")]))
    machine.process(shard_batch([request()]))
    machine.process(tick(T0 + 10 * MINUTE))
    out = machine.process(shard_batch([click("a", at=T0 + MINUTE)]))
    check_shapes(out)
    assert [late["type"] for late in out.late] == ["click"]
    assert (dict(out.counts), out.examples, dict(out.facts)) == ({"late": 1}, [], {})


def test_too_many_open_decisions_write_the_oldest_ones_books_early() -> None:
    top = {"retention": {"pending": 2}}
    machine, person = _one(plan(placement_policy(top=top), [content("a")]))
    records = [_shown(machine, person, at=T0 + n * SECOND) for n in range(2)]
    follow(machine, [click("a", at=T0, decision_id=records[0]["decision_id"])], person=person)
    _, _, out = decide_once(machine, request(at=T0 + 5 * SECOND), person=person)
    assert [books["decision_id"] for books in out.outcomes] == [records[0]["decision_id"]]
    assert out.outcomes[0]["reward"] == 1.0
    assert out.facts["pending_evicted",] == 1
    assert len(person.pending) == 2
    gone = click("a", at=T0 + 6 * SECOND, decision_id=records[0]["decision_id"])
    _, out = follow(machine, [gone], person=person)
    assert out.facts["unattributed", "click"] == 1


def test_a_withdrawn_content_still_gets_its_books_but_teaches_nothing() -> None:
    before = plan(placement_policy(), [content("a", margin=3.0), content("b")])
    record, person, _ = decide_once(deciding(before), request(candidates=("a",)))
    after = deciding(plan(placement_policy(), [content("b")]))
    told = [impression_of(record), click("a", at=T0 + 1)]
    _, out = follow(after, told, person=person)
    assert _rewards(person) == [[{"click": 1.0}]]
    assert _positives(out) == []


def test_a_placement_that_is_gone_closes_its_books_without_trouble() -> None:
    before = plan(policy(placements={"home": {"rewards": ["click"]}, "old": {}}), [content("a")])
    record, person, _ = decide_once(deciding(before), request("old"))
    after = deciding(plan(placement_policy(), [content("a")]))
    follow(after, [impression_of(record), click("a", at=T0 + 1)], person=person)
    out = Outputs()
    close_windows(person, T0 + 90 * DAY, plan=after.plan, out=out)
    check_shapes(out)
    assert [books["placement"] for books in out.outcomes] == ["old"]
