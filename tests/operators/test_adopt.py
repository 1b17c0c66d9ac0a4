"""Does a shard go on under another plan with nothing lost, and what may not change that way?"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pytest

from operators.adopt import why_not_hot
from operators.arrival import Arrived
from operators.learn import Learner
from operators.outputs import Example, Outputs
from operators.plan import Plan
from operators.shard import Shard, restored
from schemas.catalogue import Content
from schemas.time import DAY, HOUR, MINUTE
from tests.operators.builders import (
    T0,
    arrived,
    contents,
    decide,
    plan,
    policy,
    request,
    shard,
    shard_batch,
    tick,
)

SECTIONS: Final[dict[str, Any]] = {
    "signals": {"views": {"kind": "count", "events": "view", "within": "1h"}},
    "segments": {"active": {"when": {"signal": "views", "at_least": 2}}},
    "placements": {"home": {"slots": 2, "rewards": ["click"], "level": 2}},
}


def compiled(catalogue: list[Content] | None = None, **sections: Any) -> Plan:
    return plan(policy(**{**SECTIONS, **sections}), catalogue or contents())


def run(held: Shard, *events: Arrived) -> Outputs:
    return held.process(shard_batch(events))


def adopted(held: Shard, of: Plan) -> Shard:
    held.adopt(decide(of))
    return held


def shown(out: Outputs) -> set[str]:
    return {item["content_id"] for made in out.decisions for item in made.record["items"]}


def without(*withdrawn: str) -> list[Content]:
    return [content for content in contents() if content.content_id not in withdrawn]


# The catalogue.


def test_withdrawn_content_is_not_decided_from_the_next_batch_on() -> None:
    held = shard(compiled())
    ask = [request(at=T0 + n * MINUTE) for n in range(40)]
    before = run(held, *ask[:20])
    assert {"c1", "c2"} <= shown(before)
    of = compiled(without("c1", "c2"))
    after = run(adopted(held, of), *ask[20:])
    assert shown(after)
    assert not shown(after) & {"c1", "c2"}


def test_a_decision_names_the_versions_that_it_was_made_under() -> None:
    first, second = compiled(), compiled(without("c1"))
    held = shard(first)
    one = run(held, request()).decisions[0].record
    two = run(adopted(held, second), request(at=T0 + MINUTE)).decisions[0].record
    assert one["catalogue_version"] == first.catalogue_version
    assert two["catalogue_version"] == second.catalogue_version
    assert one["catalogue_version"] != two["catalogue_version"]
    assert one["policy_digest"] == two["policy_digest"] == first.policy_digest


def test_another_catalogue_alone_evaluates_nobody_anew() -> None:
    held = shard(compiled())
    run(held, arrived(), arrived())
    before = held.snapshot()
    assert adopted(held, compiled(without("c1"))).snapshot() == before
    assert held.next_due_ms > T0


def test_rewards_on_content_that_was_withdrawn_meanwhile_are_still_booked() -> None:
    held = shard(compiled())
    made = run(held, request()).decisions[0].record
    item = made["items"][0]["content_id"]
    adopted(held, compiled(without(item)))
    seen = {"decision_id": made["decision_id"], "content_id": item}
    run(held, arrived("impression", at=T0 + 1, **seen))
    out = run(held, arrived("click", at=T0 + 2, **seen))
    assert out.facts["rewards", "home", "click", ""] == 1


# The policy.


def test_a_signal_keeps_its_state_and_a_segment_on_it_follows_its_new_condition() -> None:
    held = shard(compiled())
    run(held, arrived(), arrived(), arrived())
    other = {
        "active": {"when": {"signal": "views", "at_least": 3}},
        "any": {"when": {"signal": "views", "at_least": 1}},
    }
    out = adopted(held, compiled(segments=other)).process(tick(T0 + 1))
    changes = {(change["segment"], change["direction"]) for change in out.changes}
    assert changes == {("any", "entered")}
    (change,) = out.changes
    assert change["cause"] == "policy"
    found = held.look("u1")
    assert found is not None
    assert set(found.segments) == {"active", "any"}


def test_who_is_not_touched_is_swept_a_few_at_a_time() -> None:
    held = shard(compiled())
    people = [f"p{n}" for n in range(150)]
    for person in people:
        run(held, arrived(profile_id=person), arrived(profile_id=person))
    held.snapshot()
    adopted(held, compiled(segments={"watcher": SECTIONS["segments"]["active"]}))
    entered: list[str] = []
    for n in range(1, 5):
        assert held.next_due_ms < T0 or n > 3  # awake until everybody was evaluated
        out = held.process(tick(T0 + n))
        changed = [c["profile_id"] for c in out.changes if c["direction"] == "entered"]
        assert len(changed) <= 64
        entered += changed
    assert sorted(entered) == sorted(people)


def test_who_is_decoded_is_swept_as_well_as_who_is_not() -> None:
    held = shard(compiled())
    run(held, arrived(profile_id="cold"), arrived(profile_id="cold"))
    held.snapshot()
    run(held, arrived(profile_id="hot"), arrived(profile_id="hot"))
    adopted(held, compiled(segments={"watcher": SECTIONS["segments"]["active"]}))
    out = held.process(tick(T0 + 1))
    entered = {c["profile_id"] for c in out.changes if c["direction"] == "entered"}
    assert entered == {"cold", "hot"}


def test_what_a_new_signal_did_not_see_is_unknown_and_puts_nobody_in() -> None:
    held = shard(compiled())
    run(held, arrived())
    absent = {"quiet": {"when": {"not_done": "order", "within": "1h"}}}
    adopted(held, compiled(segments={**SECTIONS["segments"], **absent}))
    soon = held.process(tick(T0 + 30 * MINUTE))
    assert not [c for c in soon.changes if c["segment"] == "quiet"]
    later = held.process(tick(T0 + 2 * HOUR))
    assert [c["direction"] for c in later.changes if c["segment"] == "quiet"] == ["entered"]


def test_adopting_is_the_same_as_resuming_under_the_other_policy() -> None:
    other = compiled(
        without("c3"),
        signals={
            **SECTIONS["signals"],
            "orders": {"kind": "count", "events": "order", "within": "7d"},
        },
        segments={"buyer": {"when": {"signal": "orders", "at_least": 1}}},
    )
    events = [arrived(at=T0 + n, profile_id=f"p{n % 7}") for n in range(40)]
    later = [arrived("order", at=T0 + HOUR + n, profile_id=f"p{n % 5}") for n in range(10)]
    hot = shard(compiled())
    run(hot, *events)
    cold = restored(hot.snapshot(), shards=1, decide=decide(other), with_views=False)
    adopted(hot, other)
    assert run(hot, *later) == run(cold, *later)
    assert hot.process(tick(T0 + DAY)) == cold.process(tick(T0 + DAY))
    assert hot.snapshot() == cold.snapshot()


def test_a_roll_back_finds_the_signals_that_both_policies_have() -> None:
    first = compiled()
    second = compiled(segments={"other": {"when": {"signal": "views", "at_least": 1}}})
    held = shard(first)
    run(held, arrived(), arrived())
    adopted(held, second).process(tick(T0 + 1))
    out = adopted(held, first).process(tick(T0 + 2))
    assert {(c["segment"], c["direction"]) for c in out.changes} == {
        ("other", "left"),
        ("active", "entered"),
    }


# What needs a restart.


def test_contents_rules_of_eligibility_segments_and_exploration_may_change_hot() -> None:
    home = {
        "slots": 3,
        "rewards": ["click"],
        "level": 3,
        "exploration": {"kind": "greedy"},
        "eligibility": {"signal": "views", "at_least": 1},
        "caps": [{"max": 2, "within": "1d"}],
    }
    other = compiled(
        without("c1"), placements={"home": home}, segments={}, retention={"profile_ttl": "10d"}
    )
    assert why_not_hot(compiled(), other) is None


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"time": {"allowed_lateness": "2m"}}, "time"),
        ({"sensitive": {"tags": ["health"]}}, "sensitive"),
        ({"identity": {}}, "identity"),
        ({"health": {"types": 7}}, "health"),
    ],
)
def test_what_is_built_once_is_named(sections: dict[str, Any], named: str) -> None:
    why = why_not_hot(compiled(), compiled(**sections))
    assert why is not None
    assert named in why.split("; ")


def test_a_placement_more_and_a_model_of_another_shape_are_named() -> None:
    home = SECTIONS["placements"]["home"]
    more = compiled(placements={"home": home, "banner": {"slots": 1}})
    assert why_not_hot(compiled(), more) == "placements that are new (banner)"
    assert why_not_hot(more, compiled()) == "placements that are gone (banner)"
    wider = compiled(placements={"home": {**home, "model": {"bits": 12}}})
    assert why_not_hot(compiled(), wider) == "the settings of model home"
    silent = compiled(placements={"home": {"slots": 1}})
    assert why_not_hot(compiled(), silent) == "models that are gone (home)"


# What learns.


def test_a_learner_goes_on_with_what_it_knows_and_learns_of_contents_that_are_new() -> None:
    learner = Learner("home", compiled(without("c6")), incarnation="1")
    old, new = (
        Example(model="home", content_id=name, features=b"", kind=None, weight=1.0, at_ms=T0)
        for name in ("c1", "c6")
    )
    assert learner.learn([old, new])[1] == {"unrewarded": 1, "withdrawn": 1}
    first = learner.publish()
    learner.adopt(compiled(without("c1")))
    assert learner.learn([old, new])[1] == {"withdrawn": 1, "unrewarded": 1}
    second = learner.publish()
    assert (second.incarnation, second.counter) == (first.incarnation, first.counter + 1)
    assert second.examples == first.examples + 1


def test_a_learner_learns_by_the_features_of_the_contents_of_now() -> None:
    before, after = compiled(without("c6")), compiled(without("c1"))
    cells = np.array([1, 77, 4_321], np.uint32).tobytes()
    examples = [
        Example(model="home", content_id=name, features=cells, kind=kind, weight=1.0, at_ms=T0)
        for name in ("c2", "c3", "c6")
        for kind in (None, "click")
    ]
    hot = Learner("home", before, incarnation="1")
    hot.adopt(after)
    cold = Learner("home", after, incarnation="1")
    assert hot.learn(examples) == cold.learn(examples)
    assert hot.snapshot() == cold.snapshot()


def test_a_learner_takes_over_what_a_reward_is_worth_and_how_sure_it_must_be() -> None:
    def of(times: str | None, exploration: str) -> Plan:
        reward = {"events": "click", "value": 1, "within": "30m", "times": times}
        home = {**SECTIONS["placements"]["home"], "exploration": {"kind": exploration}}
        return compiled(rewards={"click": reward}, placements={"home": home})

    plain, valued = of(None, "igw"), of("value", "thompson")
    assert why_not_hot(plain, valued) is None
    hot = Learner("home", plain, incarnation="1")
    hot.adopt(valued)
    cold = Learner("home", valued, incarnation="1")
    example = Example(
        model="home", content_id="c1", features=b"", kind="click", weight=1.0, at_ms=T0, value=7.0
    )
    hot.learn([example])
    cold.learn([example])
    assert hot.snapshot() == cold.snapshot()
    one, two = hot.publish(), cold.publish()
    assert one.digest == two.digest
    assert one.means == two.means
