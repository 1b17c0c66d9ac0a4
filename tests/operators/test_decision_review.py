"""Does a decision hold what it promises where features meet: resumes, tests, rules, caps, time?"""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.arrival import Arrived
from operators.experiments import in_holdout
from operators.outputs import Outputs, Record
from operators.plan import Plan
from operators.profile import FAR, Profile, encode_profile
from operators.score import scorer_of
from schemas.catalogue import Content
from schemas.experiments import Holdout
from tests.operators.builders import T0, arrived, content, plan, policy, profile, request
from tests.operators.decision_builders import (
    DAY,
    HOUR,
    MINUTE,
    click,
    content_ids,
    decide_once,
    deciding,
    example,
    follow,
    impression_of,
    known_set,
    learner,
)

GREEDY = {"kind": "greedy"}
CLICK = {"click": {"events": ["click"], "value": 1.0, "within": "1d"}}
SCORES = {"a": 0.8, "b": 0.6, "c": 0.4, "d": 0.2}


def _plan(
    contents: list[Content] | None = None, *, home: dict[str, Any] | None = None, **sections: Any
) -> Plan:
    given: dict[str, Any] = {
        "rewards": CLICK,
        "placements": {"home": {"rewards": ["click"], "exploration": GREEDY, **(home or {})}},
        **sections,
    }
    return plan(
        policy(**given), [content(name) for name in "abcd"] if contents is None else contents
    )


def _held() -> str:
    holdout = Holdout(share=0.5)
    return next(f"u{i}" for i in range(99) if in_holdout(holdout, f"u{i}"))


def _sources(record: Record) -> list[str]:
    return [item["source"] for item in record["items"]]


# --- adopting what the topic has ------------------------------------------------------------------

BUSY: dict[str, Any] = {
    "consent": {"purposes": ["news"]},
    "signals": {"views": {"kind": "count", "events": ["view"], "within": "1h"}},
    "segments": {"keen": {"when": {"signal": "views", "at_least": 2}}},
    "rewards": CLICK,
    "placements": {
        "home": {
            "slots": 2,
            "rewards": ["click"],
            "coherence": {"within": "10m", "changes": 1},
            "caps": [{"max": 2, "within": "1h"}, {"max": 20, "within": "1h", "per": "placement"}],
        },
        "mail": {
            "triggers": [],
            "entering": ["keen"],
            "leaving": ["keen"],
            "impressions": "assumed",
            "rewards": ["click"],
            "channel": "email",
            "caps": [{"max": 3, "within": "2h", "per": "channel"}],
        },
    },
    "rules": {"push": {"pin": [{"content": "d", "rank": 2}], "when": {"segment": "keen"}}},
}


def _busy(*, weight: float) -> Plan:
    own = {"changes": {"features": {"signals": []}, "coherence": {"within": "30m"}}}
    tests = {"t": {"variants": {"one": {"weight": weight}, "own": own}}}
    listed = [*(content(name) for name in "abcd"), content("ask", asks_consent="news")]
    return plan(policy(**BUSY, experiments={"tests": tests}), listed)


_steps = st.lists(
    st.tuples(
        st.sampled_from(["home", "view", "seen", "click", "hide", "less_like_this"]),
        st.integers(1, 40 * MINUTE),
        st.sampled_from("abcd"),
    ),
    max_size=14,
)


def _events(steps: list[tuple[str, int, str]]) -> list[Arrived]:
    at, found, asked = T0, [], ""
    for i, (kind, later, about) in enumerate(steps):
        at += later
        fields: dict[str, Any] = {"at": at, "event_id": f"e{i}"}
        if kind == "home":
            found.append(request("home", **fields))
            asked = f"e{i}"
        elif kind == "seen":
            found.append(arrived("impression", decision_id=asked, **fields))
        elif kind in ("hide", "less_like_this"):
            found.append(arrived("feedback", content_id=about, feedback=kind, **fields))
        else:
            found.append(arrived(kind, content_id=about, **fields))
    return found


def _run(
    of: Plan, events: list[Arrived], known: dict[str, Record], scores: dict[str, float]
) -> tuple[Profile, dict[str, Record], Outputs]:
    machine = deciding(of, parameters=known_set(of, scores), adopt=known.get)
    person, out, last = profile(), Outputs(), ""
    for event in events:
        if event.type == "impression":
            event = event._replace(decision_id=last)
        machine.apply(person, event, shard=0, out=out)
        last = next((m.record["decision_id"] for m in reversed(out.decisions)), "")
    return person, {made.record["decision_id"]: made.record for made in out.decisions}, out


@settings(max_examples=60, deadline=None)
@given(steps=_steps, weight=st.sampled_from([1e-3, 1e3]))
def test_adopting_leaves_the_state_that_deciding_left(
    steps: list[tuple[str, int, str]], weight: float
) -> None:
    events = _events(steps)
    first, decided, _ = _run(_busy(weight=weight), events, {}, SCORES)
    wire = {name: orjson.loads(orjson.dumps(record)) for name, record in decided.items()}
    # Other parameters by now, and the shares of the test have moved.
    of = _busy(weight=1.0 / weight)
    again, adopted, out = _run(of, events, wire, {"d": 0.9})
    assert adopted == wire
    assert all(made.adopted for made in out.decisions)
    again.plan = first.plan  # a policy with other weights has another mark
    assert encode_profile(again, due_ms=FAR) == encode_profile(first, due_ms=FAR)


@settings(max_examples=60, deadline=None)
@given(steps=_steps, ticks=st.lists(st.integers(0, 14), max_size=6))
def test_time_that_passes_before_an_event_changes_nothing(
    steps: list[tuple[str, int, str]], ticks: list[int]
) -> None:
    events = _events(steps)
    found = []
    for told in ([], ticks):
        machine = deciding(_busy(weight=1.0))
        person, out = profile(), Outputs()
        for i, event in enumerate(events):
            if i in told:
                machine.pass_time(person, event.occurred_ms - 1, shard=0, since={}, out=out)
            machine.apply(person, event, shard=0, out=out)
        made = [(made.record, made.version) for made in out.decisions]
        found.append((made, out.changes, encode_profile(person, due_ms=FAR)))
    # Windows of a day are all still open: only books could tell the two apart.
    assert events == [] or events[-1].occurred_ms < T0 + DAY
    assert found[0] == found[1]


# --- what the model says is what is drawn by ------------------------------------------------------


@pytest.mark.parametrize("kind", ["shared", "per_content", "factorised", "popularity"])
def test_scores_are_those_of_the_model_as_it_learned(kind: str) -> None:
    of = _plan(
        home={"rewards": ["sale"], "model": {"kind": kind, "bits": 10}},
        rewards={
            "sale": {"events": ["sold"], "value": 1, "times": "value", "within": "1d"},
        },
    )
    taught = learner(of)
    for name, value in (("a", 5.0), ("b", 500.0)) * 20:
        taught.learn([example(of, name), example(of, name, kind="sale")._replace(value=value)])
    parameters = taught.publish()
    record, person, _ = decide_once(deciding(of, parameters=parameters), request("home"))
    home = of.models["home"]
    cells = home.features.cells(person, T0, {})
    expected = scorer_of(home, of.contents, parameters).score(cells, home.pool)
    assert content_ids(record) == ["b"]
    assert record["items"][0]["score"] == pytest.approx(float(expected[1]), abs=1e-5)


def test_who_is_not_to_discover_gets_what_is_known_to_be_good() -> None:
    home = {"exploration": {"kind": "greedy", "optimism": 10}}
    calm = {"calm": {"explore": False}}
    found = {}
    for rules in ({}, calm):
        of = _plan(home=home, rules=rules)
        taught = learner(of)
        for _ in range(100):
            taught.learn([example(of, "a"), example(of, "a"), example(of, "a", kind="click")])
        machine = deciding(of, parameters=taught.publish())
        found[len(rules)] = content_ids(decide_once(machine, request("home"))[0])
    assert found[0] != ["a"], "in doubt, what is new"
    assert found[1] == ["a"]


# --- caps -----------------------------------------------------------------------------------------


def test_a_slate_reported_item_by_item_counts_once_for_its_placement() -> None:
    cap = {"max": 2, "within": "1d", "per": "placement"}
    of = _plan(home={"slots": 3, "caps": [cap]})
    machine, person = deciding(of, parameters=known_set(of, SCORES)), profile()
    record, _, _ = decide_once(machine, request("home"), person=person)
    for i, name in enumerate(content_ids(record)):
        follow(machine, [impression_of(record, at=T0 + i, contents=(name,))], person=person)
    assert person.shown["p:home"] == [T0]
    follow(machine, [click(name, at=T0 + 9) for name in content_ids(record)], person=person)
    assert len(person.shown["p:home"]) == 1


def test_many_contents_do_not_make_a_channel_forget_its_cap() -> None:
    caps = [{"max": 1, "within": "7d", "per": "channel"}, {"max": 5, "within": "7d"}]
    mail = {"impressions": "assumed", "channel": "email", "caps": caps}
    listed = [content(f"c{i:03}") for i in range(200)]
    feed = {"slots": 100, "impressions": "assumed", "caps": [{"max": 1, "within": "7d"}]}
    of = _plan(listed, placements={"mail": mail, "feed": feed})
    machine, person = deciding(of), profile()
    follow(machine, [request("mail", at=T0)], person=person)
    follow(machine, [request("feed", at=T0 + i) for i in (1, 2)], person=person)
    assert len(person.shown) <= 128
    record, _, _ = decide_once(machine, request("mail", at=T0 + DAY), person=person)
    assert (record["fallback"], record["items"]) == ("capped", [])


# --- coherence ------------------------------------------------------------------------------------


def test_what_stays_of_a_slate_that_became_shorter_moves_up_in_its_order() -> None:
    of = _plan([content(name) for name in "abc"], home={"slots": 3, "coherence": {"within": "10m"}})
    machine, person = deciding(of, parameters=known_set(of, SCORES)), profile()
    record, _, _ = decide_once(machine, request("home"), person=person)
    assert content_ids(record) == ["a", "b", "c"]
    hide = arrived("feedback", at=T0 + 1, content_id="a", feedback="hide")
    follow(machine, [hide], person=person)
    record, _, _ = decide_once(machine, request("home", at=T0 + 2), person=person)
    assert content_ids(record) == ["b", "c"]
    assert _sources(record) == ["sticky", "sticky"]
    assert record["learnable"] is False


def test_coherence_of_a_variant_alone_ends_with_its_span() -> None:
    tests = {"t": {"variants": {n: {"changes": {"coherence": {"within": "10m"}}} for n in "xy"}}}
    of = _plan(experiments={"tests": tests})
    person = profile()
    for at, scores in ((0, SCORES), (6, SCORES), (11, {"d": 0.9})):
        machine = deciding(of, parameters=known_set(of, scores))
        record, _, _ = decide_once(machine, request("home", at=T0 + at * MINUTE), person=person)
    assert content_ids(record) == ["d"], "the same slate again was no change"


# --- rules, whoever acts --------------------------------------------------------------------------


@pytest.mark.parametrize("learning", ["apprentice", "logging_only"])
def test_rules_and_diversity_hold_for_an_incumbent_too(learning: str) -> None:
    brands = zip("abcd", "xxyz", strict=True)
    of = _plan(
        [content(name, attributes={"brand": brand}) for name, brand in brands],
        home={
            "slots": 3,
            "learning": learning,
            "diversity": [{"by": "attributes.brand"}],
            "impressions": "assumed",
        },
        rules={"top": {"pin": [{"content": "d", "rank": 1}]}},
    )
    machine = deciding(of, parameters=known_set(of, SCORES))
    record, _, out = decide_once(machine, request("home"))
    assert content_ids(record) == ["d", "a", "c"]
    assert _sources(record) == ["pinned", "incumbent", "incumbent"]
    taught = ["a", "c"] if learning == "apprentice" else []
    assert [one.content_id for one in out.examples] == taught
    if learning == "apprentice":
        assert record["shadow"] == {"content_ids": ["d", "a", "c"], "agrees": True}


def test_a_weight_that_nothing_was_scored_by_is_not_said_to_have_shaped_anything() -> None:
    up = {"boost": {"contents": ["b"], "by": 5}}
    rules = {"up": up, "calm": {"explore": False}, "not_c": {"exclude": {"contents": ["c"]}}}
    of = _plan(rules=rules, experiments={"holdout": {"share": 0.5}})
    machine, held = deciding(of, parameters=known_set(of, SCORES)), _held()
    asked = request("home", profile_id=held)
    record, _, _ = decide_once(machine, asked, person=profile(held))
    assert record["experiment"]["variant"] == "holdout"
    assert (record["rules"], record["items"][0]["propensity"]) == (["not_c"], 1 / 3)
    person = profile(preferences={"level": (0, T0)})
    record, _, _ = decide_once(machine, request("home"), person=person)
    assert (record["fallback"], record["rules"]) == ("not_personalised", ["not_c"])


# --- the request's own candidates -----------------------------------------------------------------


def test_the_fallback_shows_no_candidate_that_the_placement_does_not_have() -> None:
    of = _plan(
        [content("a", tags=["offers"]), content("b"), content("c")],
        home={
            "slots": 3,
            "candidates": {"tags": ["offers"]},
            "eligibility": {"attribute": "plan", "is": "paid"},
            "fallback": {"contents": ["c"]},
        },
    )
    asked = request("home", candidates=("b", "c", "a", "a", "gone"))
    record, _, _ = decide_once(deciding(of), asked)
    assert (record["fallback"], content_ids(record)) == ("not_eligible", ["c", "a"])


@pytest.mark.parametrize("listed", [[], [content("a")]])
def test_ten_thousand_unknown_candidates_and_an_empty_catalogue_are_answered(
    listed: list[Content],
) -> None:
    of = _plan(listed, home={"slots": 3})
    machine = deciding(of, parameters=known_set(of, {}))
    many = tuple(f"x{i % 9_000}" for i in range(10_000))
    record, _, _ = decide_once(machine, request("home", candidates=many, context={"x" * 999: 1}))
    assert (record["items"], record["candidates"]) == ([], 9_000)
    assert record["rejections"] == {"unknown_content": 9_000}
    record, _, _ = decide_once(machine, request("home"))
    assert content_ids(record) == [one.content_id for one in listed]


# --- rewards --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1.7e308, -1.7e308])
def test_no_value_makes_the_books_infinite(value: float) -> None:
    of = _plan(
        [content("a")],
        home={"rewards": ["sale"], "impressions": "assumed"},
        rewards={"sale": {"events": ["sold"], "value": 90, "times": "value", "within": "1d"}},
    )
    machine, person = deciding(of), profile()
    follow(
        machine, [request("home"), click("a", at=T0 + 1, type="sold", value=value)], person=person
    )
    assert abs(person.pending[0].items[0].rewards["sale"]) == 90e12


def test_the_rewards_of_a_variant_that_is_gone_do_not_teach_the_placements_model() -> None:
    changes = {"changes": {"model": {"alpha": 0.5}}}
    tests = {"t": {"variants": {"x": changes, "y": changes}}}
    home = {"impressions": "assumed"}
    person = profile()
    follow(
        deciding(_plan(home=home, experiments={"tests": tests})), [request("home")], person=person
    )
    [pending] = person.pending
    assert pending.model.startswith("home.t.")
    shown = pending.items[0].content_id
    _, out = follow(deciding(_plan(home=home)), [click(shown, at=T0 + 1)], person=person)
    assert out.examples == []
    assert pending.items[0].rewards == {"click": 1.0}, "the books are kept all the same"


# --- triggers, policies, shared answers -----------------------------------------------------------


def test_entering_by_a_consent_triggers_and_a_withdrawal_does_not() -> None:
    of = _plan(
        consent={"collect": "stats"},
        signals={"views": {"kind": "count", "events": ["view"], "within": "7d"}},
        segments={"newcomer": {"when": {"signal": "views", "at_most": 0}}},
        placements={"hello": {"triggers": [], "entering": ["newcomer"], "leaving": ["newcomer"]}},
    )
    machine, person = deciding(of), profile()
    agreed = arrived("consent_changed", at=T0, consent={"stats": True})
    _, out = follow(machine, [agreed], person=person)
    [made] = out.decisions
    assert made.record["trigger"]["event_id"] == out.changes[0]["change_id"]
    assert machine.is_recorded(agreed, shard=0) is False
    taken = arrived("consent_changed", at=T0 + 1, consent={"stats": False})
    _, out = follow(machine, [taken], person=person)
    assert [change["direction"] for change in out.changes] == ["left"]
    assert out.decisions == []


def test_agreeing_to_a_policy_that_began_to_ask_sends_no_messages_of_long_ago() -> None:
    known: dict[str, Any] = {
        "signals": {"views": {"kind": "count", "events": ["view"], "within": "7d"}},
        "segments": {"keen": {"when": {"signal": "views", "at_least": 1}}},
        "placements": {"hello": {"triggers": [], "entering": ["keen"]}},
    }
    person, out = follow(deciding(_plan(**known)), [arrived("view", at=T0)])
    assert len(out.decisions) == 1
    asking = deciding(_plan(**known, consent={"collect": "stats"}))
    out = Outputs()
    asking.pass_time(person, T0 + 1, shard=0, since={}, out=out)
    assert [change["direction"] for change in out.changes] == ["left"]
    agreed = arrived("consent_changed", at=T0 + 2, consent={"stats": True})
    _, agreeing = follow(asking, [agreed], person=person)
    assert [change["direction"] for change in agreeing.changes] == ["entered"]
    assert out.decisions + agreeing.decisions == []


def test_a_content_that_is_withdrawn_keeps_its_books_and_teaches_nothing() -> None:
    of = _plan([content("a"), content("b")], home={"slots": 2, "impressions": "assumed"})
    asked = request("home")
    record, person, _ = decide_once(deciding(of, parameters=known_set(of, SCORES)), asked)
    less = _plan([content("b")], home={"slots": 2, "impressions": "assumed"})
    _, out = follow(deciding(less), [click("a", at=T0 + 1)], person=person)
    assert person.pending[0].items[0].rewards == {"click": 1.0}
    assert out.examples == []
    # A resume adopts what was decided before the content went.
    again, out = follow(deciding(less, adopt={record["decision_id"]: record}.get), [asked])
    assert [item.content_id for item in again.pending[0].items] == ["a", "b"]
    assert [one.content_id for one in out.examples] == ["a", "b"]


def test_a_policy_without_a_placement_keeps_nothing_of_what_it_last_showed() -> None:
    stays = {"slots": 2, "coherence": {"within": "1h"}}
    person = profile()
    asked = [request("home"), request("old", at=T0 + 1)]
    follow(deciding(_plan(placements={"home": stays, "old": stays})), asked, person=person)
    follow(deciding(_plan(placements={"home": stays})), [arrived(at=T0 + 2)], person=person)
    assert {*person.last, *person.last_ms, *person.turned} == {"home"}


def test_a_shared_answer_varies_by_intents_and_may_expire_at_once() -> None:
    hero = {"level": 1, "shared": True, "expires_after": "0s", "rewards": ["click"]}
    of = _plan(
        placements={"hero": hero},
        signals={"views": {"kind": "count", "events": ["view"], "within": "7d"}},
        intents={"browse": {"signal": "views", "at_least": 1}},
    )
    person = profile()
    follow(deciding(of), [arrived("view", at=T0)], person=person)
    record, _, _ = decide_once(deciding(of), request("hero", at=T0 + HOUR), person=person)
    assert record["fragment"]["vary"] == ["intent.browse"]
    assert record["fragment"]["max_age_s"] == 0


def test_a_test_of_all_placements_makes_no_model_where_nothing_is_personalised() -> None:
    changes = {"changes": {"rewards": ["click"], "model": {"alpha": 0.5}}}
    of = _plan(
        placements={"home": {}, "legal": {"never_personalised": True}},
        experiments={"tests": {"t": {"variants": {"x": changes, "y": {}}}}},
    )
    assert [*of.models] == ["home.t.x"]
    record, _, _ = decide_once(deciding(of), request("legal"))
    assert (record["exposures"], record["level"]) == ([], 0)
