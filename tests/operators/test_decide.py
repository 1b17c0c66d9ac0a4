"""Is every request answered, with what may be shown, and with the probability that is logged?"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.arrival import Arrived
from operators.choose import PRIOR
from operators.ids import decision_id, uniform
from operators.outputs import Outputs, Record
from operators.parameters import LocalParameters
from operators.plan import Plan
from operators.profile import Profile
from schemas.policy import Policy
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
)
from tests.operators.decision_builders import (
    HOUR,
    MINUTE,
    check_shapes,
    click,
    content_ids,
    decide_once,
    deciding,
    follow,
    impression_of,
    known_set,
    learner,
    scorer_of,
)

RATES = {"c1": 0.05, "c2": 0.08, "c3": 0.10, "c4": 0.02, "c5": 0.20, "c6": 0.15}


def _answers(
    of: Plan, number: int, *, rewarded: int = 0, known: bool = True, **asked: Any
) -> list[Record]:
    """Decisions for the same unchanged profile, each caused by another event."""
    machine = deciding(of, parameters=known_set(of, RATES, rewarded=rewarded) if known else None)
    out = Outputs()
    for n in range(number):
        machine.apply(profile(), request(event_id=f"request{n}", **asked), shard=0, out=out)
    check_shapes(out)
    return [made.record for made in out.decisions]


# --- propensities -------------------------------------------------------------------------------

EXPLORATIONS = [
    {"kind": "igw", "gamma": 4},
    {"kind": "igw", "gamma": 40, "floor": 0.2},
    {"kind": "epsilon_greedy", "epsilon": 0.3},
    {"kind": "uniform"},
]


def _surprise(often: Counter[Any], propensity: dict[Any, float], number: int) -> float:
    """Pearson's chi-square less its mean, in its standard deviations; rare cells are pooled."""
    common = {key: p * number for key, p in propensity.items() if p * number >= 5}
    cells = [(often[key], expected) for key, expected in common.items()]
    rest = number - sum(common.values())
    if rest >= 5:
        cells.append((number - sum(seen for seen, _ in cells), rest))
    chi_square = sum((seen - expected) ** 2 / expected for seen, expected in cells)
    freedom = max(1, len(cells) - 1)
    return (chi_square - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("exploration", EXPLORATIONS, ids=str)
@pytest.mark.parametrize("known", [True, False], ids=["model", "prior"])
def test_over_many_decisions_each_content_is_shown_as_often_as_its_propensity_says(
    exploration: dict[str, Any], known: bool
) -> None:
    number = 3_000
    records = _answers(plan(placement_policy(exploration=exploration)), number, known=known)
    logged: dict[str, float] = {}
    often: Counter[str] = Counter()
    for record in records:
        [item] = record["items"]
        assert logged.setdefault(item["content_id"], item["propensity"]) == item["propensity"]
        often[item["content_id"]] += 1
    assert len(logged) == 6
    assert sum(logged.values()) == pytest.approx(1.0, abs=1e-12)
    assert abs(_surprise(often, logged, number)) < 4


@pytest.mark.parametrize("exploration", EXPLORATIONS, ids=str)
def test_over_many_slates_of_three_each_order_is_shown_as_often_as_its_propensity_says(
    exploration: dict[str, Any],
) -> None:
    number = 3_000
    records = _answers(plan(placement_policy(slots=3, exploration=exploration)), number)
    logged: dict[tuple[str, ...], float] = {}
    step: dict[tuple[str, ...], float] = {}
    often: Counter[tuple[str, ...]] = Counter()
    for record in records:
        slate = tuple(content_ids(record))
        logged[slate] = record["slate_propensity"]
        often[slate] += 1
        for rank, item in enumerate(record["items"], start=1):
            # A propensity at a rank depends on the ranks above it and on nothing else.
            assert step.setdefault(slate[:rank], item["propensity"]) == item["propensity"]
    assert abs(_surprise(often, logged, number)) < 4
    for above in {path[:-1] for path in step}:
        below = [p for path, p in step.items() if path[:-1] == above]
        assert sum(below) <= 1 + 1e-9
        if len(below) == 6 - len(above):
            assert sum(below) == pytest.approx(1.0, abs=1e-9)
    seen_first = [path for path in step if len(path) == 1]
    assert len(seen_first) == 6


def test_importance_weights_recover_what_uniform_showing_would_earn() -> None:
    exploration = {"kind": "igw", "gamma": 10, "floor": 0.1}
    records = _answers(plan(placement_policy(exploration=exploration)), 5_000)
    weights = [1 / 6 / record["slate_propensity"] for record in records]
    rates = [RATES[content_ids(record)[0]] for record in records]
    earned = sum(weight * rate for weight, rate in zip(weights, rates, strict=True))
    assert sum(weights) / 5_000 == pytest.approx(1.0, rel=0.05)
    assert earned / 5_000 == pytest.approx(sum(RATES.values()) / 6, rel=0.05)


def test_the_same_trigger_gives_the_same_decision_and_another_trigger_another_draw() -> None:
    of = plan(placement_policy(slots=3, exploration={"kind": "uniform"}))
    first, again = _answers(of, 40), _answers(of, 40)
    assert first == again
    assert len({tuple(content_ids(record)) for record in first}) > 20
    ids = [record["decision_id"] for record in first]
    assert len(set(ids)) == 40
    assert ids[3] == decision_id(shard=0, profile_id="u1", trigger_id="request3", placement="home")


def test_chance_does_not_run_through_the_placements_or_the_ranks_alike() -> None:
    both = {"rewards": ["click"], "slots": 2, "exploration": {"kind": "uniform"}}
    of = plan(policy(placements={"home": both, "mail": both}))
    machine = deciding(of)
    pairs = Counter[bool]()
    for n in range(400):
        tops = []
        for name in ("home", "mail"):
            out = Outputs()
            machine.apply(profile(), request(name, event_id=f"r{n}"), shard=0, out=out)
            tops.append(content_ids(out.decisions[0].record)[0])
        pairs[tops[0] == tops[1]] += 1
    assert 40 <= pairs[True] <= 100


def test_a_greedy_slate_is_the_scores_order_with_propensity_one_and_says_so() -> None:
    [record] = _answers(plan(placement_policy(slots=4, exploration={"kind": "greedy"})), 1)
    assert content_ids(record) == ["c5", "c6", "c3", "c2"]
    assert [item["propensity"] for item in record["items"]] == [1.0] * 4
    assert [item["score"] for item in record["items"]] == [0.2, 0.15, 0.1, 0.08]
    assert (record["explored"], record["learnable"]) == (False, True)
    assert record["model_version"] == "test.1+0"


def test_more_rewards_behind_the_set_make_the_default_draw_greedier() -> None:
    shares = []
    for rewarded in (0, 100, 10_000):
        records = _answers(plan(), 400, rewarded=rewarded)
        shares.append(sum(content_ids(record) == ["c5"] for record in records) / 400)
    assert shares == sorted(shares)
    assert shares[0] < 0.9 < shares[-1]


# --- always an answer ---------------------------------------------------------------------------


def _fallback_of(record: Record, why: str) -> list[str]:
    assert record["fallback"] == why
    assert record["learnable"] is False
    assert record["explored"] is False
    assert record["level"] == 0
    assert record["slate_propensity"] == 1.0
    assert record["model_version"] is None
    for item in record["items"]:
        assert item["propensity"] == 1.0
        assert item["score"] is None
        assert [reason["code"] for reason in item["reasons"]] == [f"fallback:{why}"]
    return content_ids(record)


EDITORIAL: dict[str, Any] = {"fallback": {"contents": ["c4", "c2"]}, "slots": 3}
CONSENT: dict[str, Any] = {"consent": {"collect": "memory", "personalise": "personal"}}


def _consent(at: int = T0, **purposes: bool) -> Arrived:
    return arrived("consent_changed", at=at, consent=purposes)


def test_level_zero_shows_the_fallback_in_editorial_order() -> None:
    of = plan(placement_policy(level=0, **EDITORIAL))
    record, _, _ = decide_once(deciding(of, parameters=known_set(of, RATES)), request())
    assert _fallback_of(record, "not_personalised") == ["c4", "c2", "c1"]
    assert (record["candidates"], record["rejections"]) == (0, {})


@pytest.mark.parametrize(
    "said, why",
    [
        ({}, "consent_unknown"),
        ({"memory": True}, "consent_unknown"),
        ({"memory": True, "personal": False}, "consent_refused"),
        ({"memory": False, "personal": True}, "consent_refused"),
        ({"memory": True, "personal": True}, None),
    ],
)
def test_without_consent_the_answer_is_the_fallback_with_its_reason(
    said: dict[str, bool], why: str | None
) -> None:
    of = plan(placement_policy(top=CONSENT, **EDITORIAL))
    machine = deciding(of, parameters=known_set(of, RATES))
    person = profile()
    if said:
        follow(machine, [_consent(**said)], person=person)
    record, _, out = decide_once(machine, request(), person=person)
    assert record["fallback"] == why
    if why:
        assert _fallback_of(record, why) == ["c4", "c2", "c1"]
    assert out.counts == {"used": 1}


def test_silence_is_consent_only_where_the_policy_says_so() -> None:
    top = {"consent": {"personalise": "personal", "before_known": "granted"}}
    machine = deciding(plan(placement_policy(top=top)))
    record, _, _ = decide_once(machine, request())
    assert record["fallback"] is None


@pytest.mark.parametrize("said", [{}, {"memory": False}])
def test_without_consent_to_collect_nothing_of_behaviour_is_kept(said: dict[str, bool]) -> None:
    signals = {
        "views": {"kind": "count", "events": ["view", "like", "feedback"], "within": "7d"},
        "taste": {"kind": "affinity", "weights": {"view": 1, "like": 3}, "half_life": "7d"},
    }
    segments = {"fan": {"when": {"signal": "views", "at_least": 1}}}
    of = plan(placement_policy(top={**CONSENT, "signals": signals, "segments": segments}))
    told = [
        arrived("view", content_id="c1", at=T0 + 1),
        arrived("feedback", feedback="like", content_id="c1", at=T0 + 2),
        arrived("feedback", feedback="hide", content_id="c2", at=T0 + 3),
        arrived("profile_updated", attributes={"age": 40}, at=T0 + 4),
        request(at=T0 + 5),
        arrived("impression", decision_id="000-x", at=T0 + 6),
        click("c1", at=T0 + 7),
    ]
    machine = deciding(of)
    person, out = follow(machine, [*([_consent(**said)] if said else []), *told])
    assert person.hidden == {"c:c2": T0 + 3}
    assert not any(_behaviour(person))
    assert out.examples == []
    assert out.counts["suppressed"] == 4
    assert out.counts.total() == len(told) + bool(said)
    assert "c2" not in content_ids(out.decisions[0].record)


def _behaviour(of: Profile) -> list[Any]:
    return [of.signals, of.segments, of.attributes, of.shown, of.pending, of.last]


def test_withdrawing_consent_forgets_behaviour_and_keeps_what_was_stated() -> None:
    signals = {"views": {"kind": "count", "events": "view", "within": "7d"}}
    segments = {"fan": {"when": {"signal": "views", "at_least": 1}}}
    of = plan(
        placement_policy(
            caps=[{"max": 9, "within": "1d"}],
            top={**CONSENT, "signals": signals, "segments": segments},
        )
    )
    machine = deciding(of)
    person, _ = follow(
        machine,
        [
            _consent(memory=True, personal=True),
            arrived("view", content_id="c1"),
            arrived("feedback", feedback="hide", content_id="c2"),
            arrived("profile_updated", attributes={"age": 40}),
        ],
    )
    record, _, _ = decide_once(machine, request(at=T0 + 1), person=person)
    follow(machine, [impression_of(record, at=T0 + 1)], person=person)
    assert all(_behaviour(person))
    _, out = follow(machine, [_consent(T0 + 2, memory=False)], person=person)
    assert not any(_behaviour(person))
    assert list(person.hidden) == ["c:c2"]
    assert person.consent["memory"] == (False, T0 + 2, 0)
    assert [(c["segment"], c["direction"]) for c in out.changes] == [("fan", "left")]


def test_a_placement_not_open_to_the_profile_shows_the_fallback() -> None:
    adults = {"attribute": "age", "at_least": 18}
    machine = deciding(plan(placement_policy(eligibility=adults, **EDITORIAL)))
    record, _, _ = decide_once(machine, request())
    assert _fallback_of(record, "not_eligible") == ["c4", "c2", "c1"]
    record, _, _ = decide_once(machine, request(), person=profile(attributes={"age": 18}))
    assert record["fallback"] is None


def test_no_eligible_candidate_shows_the_fallback_and_still_says_why_each_was_refused() -> None:
    of = plan(
        placement_policy(candidates={"types": ["video"]}, fallback={"contents": ["text"]}),
        [content("text", type="article"), content("film", type="video", stock=0)],
    )
    record, _, _ = decide_once(deciding(of), request())
    assert _fallback_of(record, "no_eligible_candidate") == ["text"]
    assert (record["candidates"], record["rejections"]) == (1, {"out_of_stock": 1})


def test_with_nothing_at_all_to_show_the_record_is_there_and_empty() -> None:
    for catalogue in ([], [content("a", stock=0)]):
        record, person, out = decide_once(deciding(plan(catalogue=catalogue)), request())
        assert _fallback_of(record, "no_eligible_candidate") == []
        assert (person.pending, person.last, out.examples) == ([], {}, [])


def test_a_placement_that_takes_its_candidates_from_the_request_needs_some() -> None:
    of = plan(placement_policy(candidates={"from": "request"}, slots=2))
    machine = deciding(of)
    record, _, _ = decide_once(machine, request(candidates=("c3", "c1", "nowhere")))
    assert sorted(content_ids(record)) == ["c1", "c3"]
    assert (record["candidates"], record["rejections"]) == (3, {"unknown_content": 1})
    for nothing in (None, ()):
        record, _, _ = decide_once(machine, request(candidates=nothing))
        assert record["fallback"] == "no_eligible_candidate"


@pytest.mark.parametrize("asked, filled", [(None, 4), (1, 1), (3, 3), (4, 4), (100, 4)])
def test_a_request_may_ask_for_fewer_slots_and_never_gets_more(
    asked: int | None, filled: int
) -> None:
    for level in (4, 0):
        machine = deciding(plan(placement_policy(slots=4, level=level)))
        record, _, _ = decide_once(machine, request(slots=asked))
        assert len(record["items"]) == filled


def test_fewer_candidates_than_slots_fill_what_they_can() -> None:
    record, _, _ = decide_once(deciding(plan(placement_policy(slots=9))), request())
    assert sorted(content_ids(record)) == [f"c{i}" for i in range(1, 7)]
    assert record["items"][-1]["propensity"] == 1.0


def test_before_any_set_was_published_the_prior_serves_uniformly_and_says_so() -> None:
    records = _answers(plan(placement_policy(slots=2)), 50, known=False)
    for record in records:
        assert record["model_version"] == PRIOR
        assert [item["propensity"] for item in record["items"]] == [1 / 6, 1 / 5]
        assert [item["score"] for item in record["items"]] == [None, None]
        assert record["learnable"] is True


def test_a_placement_without_rewards_has_no_model_and_draws_uniformly() -> None:
    of = plan(policy(placements={"home": {"rewards": []}}))
    record, person, _ = decide_once(deciding(of), request())
    assert (record["model_version"], record["fallback"]) == (None, None)
    assert person.pending[0].features == b""


# --- the holdout --------------------------------------------------------------------------------


def _with_holdout(serve: str = "uniform", **top: Any) -> Policy:
    return placement_policy(
        top={"experiments": {"holdout": {"share": 0.3, "serve": serve, "salt": "s1"}}, **top},
        **EDITORIAL,
    )


def _by_variant(of: Plan) -> dict[str, list[Record]]:
    machine = deciding(of, parameters=known_set(of, RATES))
    found: dict[str, list[Record]] = {"holdout": [], "personalised": []}
    for n in range(600):
        record, _, _ = decide_once(machine, request(event_id="r"), person=profile(f"p{n}"))
        assert record["experiment"]["id"] == "holdout"
        found[record["experiment"]["variant"]].append(record)
    return found


def test_a_stable_share_of_profiles_is_held_out_and_shown_uniform_draws() -> None:
    of = plan(_with_holdout())
    found = _by_variant(of)
    assert 140 <= len(found["holdout"]) <= 220
    for record in found["holdout"]:
        assert uniform(f"holdout|s1|{record['profile_id']}") < 0.3
        assert [item["propensity"] for item in record["items"]] == [1 / 6, 1 / 5, 1 / 4]
        assert (record["model_version"], record["fallback"]) == (None, None)
    shown = Counter(content_ids(record)[0] for record in found["holdout"])
    assert abs(_surprise(shown, dict.fromkeys(RATES, 1 / 6), len(found["holdout"]))) < 4
    assert {r["model_version"] for r in found["personalised"]} == {"test.1+0"}
    assert _by_variant(of) == found


def test_the_holdout_may_be_shown_the_fallback_instead() -> None:
    found = _by_variant(plan(_with_holdout("fallback")))
    for record in found["holdout"]:
        assert _fallback_of(record, "holdout") == ["c4", "c2", "c1"]
    assert all(record["fallback"] is None for record in found["personalised"])


def test_the_variant_goes_with_the_outcome_and_the_facts() -> None:
    of = plan(_with_holdout())
    held = next(p for n in itertools.count() if uniform(f"holdout|s1|{(p := f'p{n}')}") < 0.3)
    machine = deciding(of)
    record, person, _ = decide_once(machine, request(), person=profile(held))
    told = [impression_of(record), click(content_ids(record)[0])]
    _, out = follow(machine, told, person=person)
    assert person.pending[0].variant == "holdout"
    assert out.facts["impressions", "home", "holdout"] == 3
    assert out.facts["rewards", "home", "click", "holdout"] == 1


# --- triggers -----------------------------------------------------------------------------------


def test_an_event_triggers_every_placement_that_waits_for_it() -> None:
    of = plan(
        policy(
            placements={
                "home": {"rewards": ["click"]},
                "after_cart": {"triggers": "add_to_cart", "rewards": ["click"]},
                "mail": {"triggers": ["add_to_cart", "visit"]},
            }
        )
    )
    _, out = follow(deciding(of), [arrived("add_to_cart"), arrived("visit"), arrived("view")])
    assert [made.record["placement"] for made in out.decisions] == ["after_cart", "mail", "mail"]
    assert [made.record["trigger"]["type"] for made in out.decisions] == [
        "add_to_cart",
        "add_to_cart",
        "visit",
    ]
    assert len({made.record["decision_id"] for made in out.decisions}) == 3


def test_the_event_that_triggers_a_decision_counts_before_it() -> None:
    of = plan(
        policy(
            segments={"shopper": {"when": {"done": "add_to_cart", "within": "1d"}}},
            placements={
                "after_cart": {"triggers": "add_to_cart", "eligibility": {"segment": "shopper"}}
            },
        )
    )
    record, _, out = decide_once(deciding(of), arrived("add_to_cart"))
    assert record["fallback"] is None
    assert record["segments"] == ["shopper"]
    assert [change["direction"] for change in out.changes] == ["entered"]


def test_times_are_event_times() -> None:
    record, _, _ = decide_once(deciding(plan()), request(at=T0, received=T0 + HOUR))
    assert record["decided_at"] == "2026-01-01T00:00:00.000Z"
    assert record["expires_at"] == "2026-01-01T00:15:00.000Z"


# --- signals ------------------------------------------------------------------------------------


def test_an_event_known_by_two_names_counts_once_in_one_signal() -> None:
    signals = {
        "said": {"kind": "count", "events": ["feedback", "like"], "within": "7d"},
        "taste": {"kind": "affinity", "weights": {"feedback": 1, "like": 2}},
    }
    of = plan(placement_policy(top={"signals": signals}))
    person, _ = follow(deciding(of), [arrived("feedback", feedback="like", content_id="c1")])
    said, taste = of.signals
    assert said.value(person.signals, person.now_ms) == 1
    assert person.signals[taste.slot][1] == {"red": 3.0}


# --- reasons ------------------------------------------------------------------------------------

LIKING = {
    "taste": {"kind": "affinity", "weights": {"view": 1}},
    "brands": {"kind": "affinity", "weights": {"view": 1}, "of": "content.attributes.brand"},
}


def _liking_plan(**top: Any) -> Plan:
    catalogue = [
        content("shoe", tags=["red", "illness"], attributes={"brand": "x"}),
        content("hat", tags=["red"]),
        content("pill", tags=["red", "illness"], attributes={"brand": "x"}, sensitive=True),
    ]
    return plan(
        placement_policy(slots=3, exploration={"kind": "greedy"}, top={"signals": LIKING, **top}),
        catalogue,
    )


def _reasons(record: Record) -> dict[str, list[str]]:
    return {i["content_id"]: [reason["code"] for reason in i["reasons"]] for i in record["items"]}


def test_a_greedy_item_says_what_the_person_likes_about_it() -> None:
    of = _liking_plan()
    machine = deciding(of, parameters=known_set(of, {}))
    viewed = [arrived("view", content_id="hat"), arrived("view", content_id="shoe")]
    person, _ = follow(machine, viewed)
    record, _, _ = decide_once(machine, request(), person=person)
    assert _reasons(record) == {
        "shoe": ["affinity:taste=red", "affinity:brands=x"],
        "hat": ["affinity:taste=red"],
        "pill": ["predicted"],
    }


@given(
    viewed=st.lists(st.sampled_from(["shoe", "hat", "pill"]), max_size=8),
    greedy=st.booleans(),
)
@settings(max_examples=40)
def test_nothing_sensitive_is_ever_named_in_a_record(viewed: list[str], greedy: bool) -> None:
    of = _liking_plan(sensitive={"tags": ["illness"]})
    machine = deciding(of, parameters=known_set(of, {}) if greedy else None)
    person, _ = follow(machine, [arrived("view", content_id=c) for c in viewed])
    record, _, _ = decide_once(machine, request(), person=person)
    assert "illness" not in orjson.dumps(record).decode()
    [pill] = [item for item in record["items"] if item["content_id"] == "pill"]
    drawn_among_others = not greedy and pill["propensity"] < 1
    assert _reasons(record)["pill"] == ["explored" if drawn_among_others else "predicted"]
    assert "illness" not in str(person.signals)


def test_a_tag_declared_sensitive_later_is_not_named_though_it_was_liked_before() -> None:
    person, _ = follow(deciding(_liking_plan()), [arrived("view", content_id="shoe")])
    of = _liking_plan(sensitive={"tags": ["illness"]})
    features = of.placements["home"].features.cells(person, T0, {})
    blank = _liking_plan()
    assert len(features) < len(blank.placements["home"].features.cells(person, T0, {}))
    machine = deciding(of, parameters=known_set(of, {}))
    record, _, _ = decide_once(machine, request(), person=person)
    assert "illness" not in orjson.dumps(record).decode()


# --- parameters ---------------------------------------------------------------------------------


def test_a_new_set_is_used_from_the_next_refresh_on_and_its_version_is_named() -> None:
    of = plan(placement_policy(exploration={"kind": "greedy"}))
    store = LocalParameters()
    machine = deciding(of, parameters=store)
    answers = []
    for best in ("c1", "c4"):
        store.publish(known_set(of, {best: 0.9}, counter=1 if best == "c1" else 2))
        before, _, _ = decide_once(machine, request())
        machine.refresh()
        after, _, _ = decide_once(machine, request())
        answers.append((before["model_version"], after["model_version"], content_ids(after)))
    assert answers == [(PRIOR, "test.1+0", ["c1"]), ("test.1+0", "test.2+0", ["c4"])]


def test_a_set_with_other_reward_kinds_is_matched_by_name() -> None:
    rewards = {
        "click": {"events": "click", "value": 1, "within": "30m"},
        "buy": {"events": "purchase", "value": 10, "within": "1d"},
    }

    def with_kinds(*kinds: str) -> Plan:
        greedy = {"kind": "greedy"}
        return plan(
            policy(rewards=rewards, placements={"home": {"rewards": kinds, "exploration": greedy}})
        )

    former, of = with_kinds("buy", "click"), with_kinds("click")
    learned = known_set(former, {})
    learned.weights.flags.writeable = True
    learned.weights[0] = known_set(former, {"c1": 0.9}).weights[0]
    learned.weights[1] = known_set(former, {"c2": 0.8}).weights[1]
    record, _, _ = decide_once(deciding(of, parameters=learned), request())
    assert content_ids(record) == ["c2"]
    assert record["items"][0]["score"] == pytest.approx(0.8)


def test_what_was_learned_from_the_flows_own_examples_is_what_is_shown_next() -> None:
    of = plan(placement_policy(impressions="assumed", model={"negatives": 1.0}))
    machine, person, taught = deciding(of), profile(), learner(of)
    for n in range(300):
        at = T0 + n * MINUTE
        record, _, out = decide_once(machine, request(at=at, event_id=f"r{n}"), person=person)
        [chosen] = content_ids(record)
        if chosen == "c3":
            _, more = follow(machine, [click(chosen, at=at)], person=person)
            out.examples += more.examples
        taught.learn(out.examples)
    parameters = taught.publish()
    cells = of.placements["home"].features.cells(person, T0, {})
    scores = scorer_of(of, parameters).score(cells, of.placements["home"].pool)
    assert of.contents.ids[int(scores.argmax())] == "c3"
    assert scores[2] > 2 * max(scores[i] for i in (0, 1, 3, 4, 5))


# --- adoption -----------------------------------------------------------------------------------


def _life(machine_of: Any, *, events: list[Arrived]) -> tuple[bytes, list[Record], Outputs]:
    person: Profile = profile()
    _, out = follow(machine_of, events, person=person)
    return msgspec.msgpack.encode(person), [made.record for made in out.decisions], out


@pytest.mark.parametrize("impressions", ["required", "assumed"])
@pytest.mark.parametrize("level", [4, 0])
def test_an_adopted_decision_is_taken_over_as_recorded_and_leaves_the_same_state(
    impressions: str, level: int
) -> None:
    of = plan(
        placement_policy(
            slots=2,
            level=level,
            impressions=impressions,
            features={"context": ["device"]},
            caps=[{"max": 50, "within": "1d"}],
            top={
                "signals": {"views": {"kind": "count", "events": "view", "within": "1d"}},
                "experiments": {"holdout": {"share": 0.5}},
            },
        )
    )
    events = [
        arrived("view", content_id="c1"),
        request(at=T0 + 1, context={"device": "phone"}),
        request(at=T0 + 2, context={"device": "tv"}, slots=1),
    ]
    first_state, records, first = _life(
        deciding(of, parameters=known_set(of, RATES)), events=events
    )
    # As it comes back from the topic; the parameters have moved on since.
    topic = {r["decision_id"]: orjson.loads(orjson.dumps(r)) for r in records}
    moved = known_set(of, {"c4": 0.9}, counter=9)
    second_state, adopted, second = _life(
        deciding(of, parameters=moved, adopt=topic.get), events=events
    )
    assert adopted == records
    assert second_state == first_state
    assert second.examples == first.examples
    assert [made.adopted for made in second.decisions] == [True, True]
    assert [made.adopted for made in first.decisions] == [False, False]
    assert [m.version for m in second.decisions] == [m.version for m in first.decisions]


def test_only_the_recorded_ones_are_adopted() -> None:
    of = plan(placement_policy(exploration={"kind": "greedy"}))
    events = [request(event_id="r1"), request(event_id="r2")]
    _, records, _ = _life(deciding(of, parameters=known_set(of, {"c1": 0.9})), events=events)
    topic = {records[0]["decision_id"]: records[0]}
    now = deciding(of, parameters=known_set(of, {"c4": 0.9}), adopt=topic.get)
    _, again, out = _life(now, events=events)
    assert [content_ids(record) for record in again] == [["c1"], ["c4"]]
    assert [made.adopted for made in out.decisions] == [True, False]


# --- extremes -----------------------------------------------------------------------------------


def test_a_slate_too_improbable_for_a_float_still_has_a_propensity_above_zero() -> None:
    of = plan(placement_policy(slots=100), contents(2_500))
    record, _, _ = decide_once(deciding(of), request())
    assert len(record["items"]) == 100
    assert record["slate_propensity"] > 0
