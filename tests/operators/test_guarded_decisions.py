"""What guardrails, rules and levels do to whole decisions, from the trigger to the record."""

from __future__ import annotations

from typing import Any

import pytest

from operators.arrival import Arrived
from operators.controls import forget_behaviour
from operators.decide import Decide
from operators.outputs import Outputs, Record
from operators.plan import Plan
from operators.profile import Profile
from schemas.catalogue import Content
from tests.operators.builders import T0, arrived, content, plan, policy, profile, request
from tests.operators.decision_builders import (
    DAY,
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
)

GREEDY = {"kind": "greedy"}
CLICK = {"click": {"events": ["click"], "value": 1.0, "within": "1d"}}


def _plan(
    contents: list[Content] | None = None, *, home: dict[str, Any] | None = None, **sections: Any
) -> Plan:
    given: dict[str, Any] = {
        "rewards": CLICK,
        "placements": {"home": {"rewards": ["click"], "exploration": GREEDY, **(home or {})}},
        **sections,
    }
    return plan(policy(**given), contents or [content(name) for name in "abcd"])


def _best_a(of: Plan) -> Decide:
    """A machine under whose model a is better than b, b than c, and so on."""
    return deciding(of, parameters=known_set(of, {"a": 0.8, "b": 0.6, "c": 0.4, "d": 0.2}))


def _request(at: int = T0, placement: str = "home", **fields: Any) -> Arrived:
    return request(placement, at=at, **fields)


def _once(
    machine: Decide, person: Profile | None = None, *, at: int = T0, placement: str = "home"
) -> Record:
    record, _, _ = decide_once(machine, _request(at, placement), person=person)
    return record


def _sources(record: Record) -> list[str]:
    return [item["source"] for item in record["items"]]


# --- feedback -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hide", "not_interested"])
def test_do_not_show_holds_for_the_very_next_decision(kind: str) -> None:
    machine = _best_a(_plan())
    person = profile()
    assert content_ids(_once(machine, person)) == ["a"]
    follow(machine, [arrived("feedback", at=T0 + 1, content_id="a", feedback=kind)], person=person)
    record = _once(machine, person, at=T0 + 2)
    assert content_ids(record) == ["b"]
    assert record["rejections"] == {"hidden": 1}


def test_less_like_this_lowers_a_score_and_wears_off() -> None:
    machine = _best_a(_plan())
    person = profile()
    less = arrived("feedback", at=T0, content_id="a", feedback="less_like_this")
    follow(machine, [less], person=person)
    assert content_ids(_once(machine, person, at=T0 + 1)) == ["b"]
    later = T0 + 60 * DAY
    assert content_ids(_once(machine, person, at=later)) == ["a"]


def test_less_like_this_is_kept_as_a_statement_and_ends_with_a_taste_reset() -> None:
    machine = _best_a(_plan())
    person = profile()
    less = arrived("feedback", at=T0, tag="t", feedback="less_like_this")
    follow(machine, [less], person=person)
    forget_behaviour(person)
    assert person.less
    follow(machine, [arrived("taste_reset", at=T0 + 1)], person=person)
    assert not person.less


# --- levels ---------------------------------------------------------------------------------------


def test_a_person_turns_personalisation_down_and_up_again() -> None:
    machine = _best_a(_plan())
    person = profile()

    def stated(level: int, at: int) -> None:
        said = arrived("preferences_set", at=at, preferences={"level": level})
        follow(machine, [said], person=person)

    assert _once(machine, person)["level"] == 4
    stated(0, T0 + 1)
    record = _once(machine, person, at=T0 + 2)
    assert (record["level"], record["fallback"]) == (0, "not_personalised")
    assert record["learnable"] is False
    stated(2, T0 + 3)
    assert _once(machine, person, at=T0 + 4)["level"] == 2
    stated(5, T0 + 5)
    assert _once(machine, person, at=T0 + 6)["level"] == 4, "never above the placement's own"


def test_what_the_model_sees_shrinks_with_the_level_a_person_allows() -> None:
    of = _plan(home={"features": {"attributes": ["plan"], "context": ["device"]}})
    machine = _best_a(of)
    home = of.placements["home"]
    person = profile(attributes={"plan": "free"})
    sizes = [
        len(home.features_at(level).cells(person, T0, {"device": "phone"})) for level in range(1, 5)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    person.preferences["level"] = (1, T0)
    _once(machine, person)
    assert len(person.pending[0].features) == 4 * sizes[0]


def test_a_placement_never_personalised_asks_nobody_and_no_rule_touches_it() -> None:
    of = _plan(
        placements={"legal": {"never_personalised": True, "fallback": {"contents": ["d"]}}},
        rules={"push": {"force": ["a"]}},
    )
    record = _once(deciding(of), placement="legal")
    assert content_ids(record) == ["d"]
    assert (record["fallback"], record["rules"]) == ("not_personalised", [])


# --- rules ----------------------------------------------------------------------------------------


def test_forced_and_pinned_items_are_certain_and_teach_nothing() -> None:
    of = _plan(
        home={"slots": 3, "impressions": "assumed"},
        rules={"sale": {"force": ["d"]}, "last": {"pin": [{"content": "c", "rank": 3}]}},
    )
    record, _, out = decide_once(_best_a(of), _request())
    assert content_ids(record) == ["d", "a", "c"]
    assert _sources(record) == ["forced", "model", "pinned"]
    assert [item["learnable"] for item in record["items"]] == [False, True, False]
    assert [item["propensity"] for item in record["items"]] == [1.0, 1.0, 1.0]
    assert record["rules"] == ["sale", "last"]
    assert {example.content_id for example in out.examples} <= {"a"}


def test_converted_profiles_leave_acquisition_content_and_stuck_ones_get_help() -> None:
    of = _plan(
        [content("join", tags=["acquisition"]), content("guide", tags=["help"]), content("more")],
        rules={
            "customers": {
                "when": {"done": ["purchase"], "within": "30d"},
                "exclude": {"tags": ["acquisition"]},
            },
            "stuck": {
                "when": {"done": ["error_shown"], "within": "1h", "at_least": 3},
                "only": {"tags": ["help"]},
                "explore": False,
            },
        },
    )
    machine = deciding(of, parameters=known_set(of, {"join": 0.9, "more": 0.5, "guide": 0.1}))
    person = profile()
    assert content_ids(_once(machine, person)) == ["join"]
    follow(machine, [arrived("purchase", at=T0 + 1)], person=person)
    record = _once(machine, person, at=T0 + 2)
    assert content_ids(record) == ["more"]
    assert record["rejections"] == {"ruled_out": 1}
    follow(machine, [arrived("error_shown", at=T0 + 3 + i) for i in range(3)], person=person)
    record = _once(machine, person, at=T0 + 9)
    assert content_ids(record) == ["guide"]
    assert record["rules"] == ["customers", "stuck"]


def test_boost_and_bury_move_scores_before_the_draw() -> None:
    of = _plan(rules={"up": {"boost": {"contents": ["b"], "by": 2}}})
    assert content_ids(_once(_best_a(of))) == ["b"]
    of = _plan(rules={"down": {"bury": {"contents": ["a"], "by": 2}}})
    record = _once(_best_a(of))
    assert content_ids(record) == ["b"]
    assert record["items"][0]["score"] == pytest.approx(0.6, abs=1e-6), "the model's own score"


# --- caps, coherence, diversity, pages ------------------------------------------------------------


def test_a_cap_of_a_channel_counts_all_its_placements() -> None:
    mail = {"channel": "email", "caps": [{"max": 2, "within": "1d", "per": "channel"}]}
    of = _plan(placements={"news": dict(mail), "offer": dict(mail)})
    machine, person = deciding(of), profile()
    for i, name in enumerate(["news", "offer"]):
        record = _once(machine, person, at=T0 + i, placement=name)
        follow(machine, [impression_of(record, at=T0 + i)], person=person)
    record = _once(machine, person, at=T0 + 5, placement="news")
    assert (record["items"], record["fallback"]) == ([], "capped")
    assert _once(machine, person, at=T0 + DAY + 2, placement="news")["items"]


def test_a_slate_stays_within_its_coherence_and_a_hide_breaks_through() -> None:
    of = _plan(home={"slots": 2, "coherence": {"within": "10m"}})
    person = profile()
    first = _once(_best_a(of), person)
    assert content_ids(first) == ["a", "b"]
    other = deciding(of, parameters=known_set(of, {"d": 0.9, "c": 0.8}))
    record = _once(other, person, at=T0 + MINUTE)
    assert content_ids(record) == ["a", "b"]
    assert _sources(record) == ["sticky", "sticky"]
    assert record["learnable"] is False
    hide = arrived("feedback", at=T0 + 2 * MINUTE, content_id="a", feedback="hide")
    follow(other, [hide], person=person)
    record = _once(other, person, at=T0 + 3 * MINUTE)
    assert content_ids(record) == ["d", "b"]
    assert _sources(record) == ["model", "sticky"]
    assert content_ids(_once(other, person, at=T0 + HOUR)) == ["d", "c"]


def test_a_slate_holds_no_two_of_a_kind_where_it_must_be_diverse() -> None:
    of = _plan(
        [content(c, attributes={"brand": brand}) for c, brand in zip("abcd", "xxyy", strict=True)],
        home={"slots": 3, "diversity": [{"by": "attributes.brand", "most": 1}]},
    )
    record = _once(_best_a(of))
    assert content_ids(record) == ["a", "c"]


def test_placements_of_one_page_do_not_repeat_each_other() -> None:
    row = {"page": "home", "rewards": ["click"], "exploration": GREEDY, "triggers": ["opened"]}
    of = _plan(placements={"top": row, "side": dict(row)})
    machine = deciding(of, parameters=known_set(of, {"a": 0.8, "b": 0.6}, model="top"))
    person, out = follow(machine, [arrived("opened", at=T0)])
    top, side = (made.record for made in out.decisions)
    assert content_ids(top) != content_ids(side)
    assert side["rejections"] == {"on_page": 1}
    _, out = follow(machine, [arrived("opened", at=T0 + HOUR)], person=person)
    assert out.decisions[0].record["rejections"] == {}, "another view of the page"


# --- the fallback chain ---------------------------------------------------------------------------


def test_short_of_signals_the_segment_default_answers_then_the_editorial_one() -> None:
    of = _plan(
        home={
            "slots": 3,
            "needs": {"signals": ["views"]},
            "fallback": {"segments": {"newcomer": ["d"]}, "contents": ["c"]},
        },
        signals={"views": {"kind": "count", "events": ["view"], "within": "7d"}},
        segments={"newcomer": {"when": {"signal": "views", "at_most": 0}}},
    )
    machine, person = _best_a(of), profile()
    record = _once(machine, person)
    assert (record["fallback"], content_ids(record)) == ("too_little_known", ["d", "c", "a"])
    follow(machine, [arrived("view", at=T0 + 1, content_id="a")], person=person)
    assert _once(machine, person, at=T0 + 2)["fallback"] is None


def test_a_message_that_is_not_worth_sending_is_a_record_without_items() -> None:
    of = _plan(
        home={
            "eligibility": {"attribute": "plan", "is": "paid"},
            "fallback": {"none": True},
        }
    )
    record = _once(_best_a(of))
    assert (record["items"], record["fallback"]) == ([], "not_eligible")
    assert record["slate_propensity"] == 1.0


# --- consent --------------------------------------------------------------------------------------


def test_a_prompt_is_shown_to_who_said_nothing_and_not_to_who_answered() -> None:
    of = _plan(
        [
            content("ask", asks_consent="personal", priority=9, caps=[{"max": 2, "within": "7d"}]),
            content("plain"),
        ],
        consent={"collect": "personal", "personalise": "personal"},
    )
    machine, person = deciding(of), profile()
    assert content_ids(_once(machine, person)) == ["ask"]
    assert content_ids(_once(machine, person, at=T0 + 1)) == ["ask"]
    assert content_ids(_once(machine, person, at=T0 + 2)) == ["plain"], "asked often enough"
    refusing = arrived("consent_changed", at=T0 + 3, consent={"personal": False})
    follow(machine, [refusing], person=person)
    assert content_ids(_once(machine, person, at=T0 + 30 * DAY)) == ["plain"]
    assert content_ids(_once(machine, person, at=T0 + 200 * DAY)) == ["ask"]


def test_content_that_needs_a_purpose_waits_for_it() -> None:
    of = _plan([content("ads", needs_consent="ads", priority=5), content("plain")])
    machine, person = deciding(of), profile()
    record = _once(machine, person)
    assert (content_ids(record), record["rejections"]) == (["plain"], {"consent": 1})
    follow(machine, [arrived("consent_changed", at=T0, consent={"ads": True})], person=person)
    assert _once(machine, person, at=T0 + 1)["rejections"] == {}


# --- learning modes -------------------------------------------------------------------------------


def test_an_apprentice_lets_the_incumbent_act_and_learns_from_it() -> None:
    of = _plan(
        home={
            "learning": "apprentice",
            "impressions": "assumed",
            "fallback": {"contents": ["d"]},
            "model": {"negatives": 1},
        }
    )
    machine = _best_a(of)
    person = profile()
    record, _, out = decide_once(machine, _request(), person=person)
    assert (content_ids(record), _sources(record)) == (["d"], ["incumbent"])
    assert record["shadow"] == {"content_ids": ["a"], "agrees": False}
    assert [example.content_id for example in out.examples] == ["d"]
    _, out = follow(machine, [click("d", at=T0 + 1)], person=person)
    assert [(e.content_id, e.kind) for e in out.examples] == [("d", "click")]


def test_logging_only_lets_the_incumbent_act_and_learns_nothing() -> None:
    of = _plan(home={"learning": "logging_only", "impressions": "assumed"})
    person = profile()
    record, _, out = decide_once(_best_a(of), _request(), person=person)
    assert (record["shadow"], out.examples) == (None, [])
    _, out = follow(
        _best_a(of), [click(record["items"][0]["content_id"], at=T0 + 1)], person=person
    )
    assert out.examples == []
    assert person.pending[0].items[0].rewards == {"click": 1.0}, "the books are kept all the same"


# --- rewards --------------------------------------------------------------------------------------


def test_rewards_count_by_field_and_by_the_events_own_value() -> None:
    of = _plan(
        [content("a")],
        home={"rewards": ["dwell", "sale", "skip"], "impressions": "assumed"},
        rewards={
            "dwell": {
                "events": ["dwell"],
                "where": {"value": {"at_least": 30}},
                "value": 0.2,
                "within": "1d",
            },
            "sale": {
                "events": ["sold"],
                "value": 0.5,
                "times": "value",
                "at_most": 100,
                "within": "1d",
            },
            "skip": {"events": ["skip"], "value": -0.3, "within": "1d"},
        },
    )
    machine, person = deciding(of), profile()
    _once(machine, person)
    told = [
        click("a", at=T0 + 1, type="dwell", value=5.0),
        click("a", at=T0 + 2, type="sold", value=250.0),
        click("a", at=T0 + 3, type="skip"),
    ]
    _, out = follow(machine, told, person=person)
    assert person.pending[0].items[0].rewards == {"sale": 50.0, "skip": -0.3}
    assert [(e.kind, e.value) for e in out.examples] == [("sale", 100.0), ("skip", 1.0)]
    assert out.facts == {
        ("rewards", "home", "sale", ""): 1,
        ("reward_value", "home", "sale", ""): 50.0,
        ("rewards", "home", "skip", ""): 1,
        ("reward_value", "home", "skip", ""): -0.3,
    }, "a dwell that is too short is no outcome"


# --- triggers -------------------------------------------------------------------------------------


def _cart() -> Plan:
    return _plan(
        placements={
            "reminder": {
                "triggers": [],
                "entering": ["left_behind"],
                "fallback": {"none": True},
                "channel": "push",
            }
        },
        segments={
            "left_behind": {
                "when": {
                    "done": ["cart_add"],
                    "within": "7d",
                    "not_then": {"done": ["purchase"], "gap": "1h"},
                }
            }
        },
    )


def test_a_timer_triggers_a_decision_and_a_purchase_in_between_prevents_it() -> None:
    machine = deciding(_cart())
    person, out = follow(machine, [arrived("cart_add", at=T0)])
    assert out.decisions == []
    out = Outputs()
    machine.pass_time(person, T0 + 2 * HOUR, shard=0, since={}, out=out)
    check_shapes(out)
    [made] = out.decisions
    assert made.record["trigger"]["type"] == "segment_entered"
    assert made.record["trigger"]["event_id"] == out.changes[0]["change_id"]
    assert made.record["decided_at"] == out.changes[0]["changed_at"]
    bought, _ = follow(machine, [arrived("cart_add", at=T0), arrived("purchase", at=T0 + 1)])
    out = Outputs()
    machine.pass_time(bought, T0 + 2 * HOUR, shard=0, since={}, out=out)
    assert out.decisions == []


def test_a_timer_that_an_event_passes_decides_as_of_its_own_time() -> None:
    machine = deciding(_cart())
    person, _ = follow(machine, [arrived("cart_add", at=T0)])
    _, out = follow(machine, [arrived("view", at=T0 + 5 * HOUR)], person=person)
    [made] = out.decisions
    assert made.record["decided_at"] == "2026-01-01T01:00:00.001Z"


def test_an_event_that_enters_a_segment_triggers_once() -> None:
    of = _plan(
        placements={"party": {"triggers": [], "entering": ["regular"], "leaving": ["regular"]}},
        segments={"regular": {"when": {"done": ["order"], "within": "30d", "at_least": 2}}},
    )
    machine = deciding(of)
    orders = [arrived("order", at=T0 + i) for i in range(4)]
    person, out = follow(machine, orders)
    assert len(out.decisions) == 1
    again = machine.is_recorded(orders[1], shard=0)
    assert again is False
    out = Outputs()
    machine.pass_time(person, T0 + 40 * DAY, shard=0, since={}, out=out)
    assert [made.record["trigger"]["type"] for made in out.decisions] == ["segment_left"]


# --- shared answers -------------------------------------------------------------------------------


def test_a_fragment_is_the_same_for_everybody_in_the_same_segments() -> None:
    of = _plan(
        placements={
            "hero": {
                "level": 1,
                "shared": True,
                "expires_after": "10m",
                "features": {"segments": ["vip"]},
            }
        },
        segments={"vip": {"when": {"attribute": "vip", "is": True}}},
    )
    machine = deciding(of)
    records = {}
    for i in range(6):
        person = profile(f"u{i}")
        vip = arrived("profile_updated", profile_id=f"u{i}", at=T0, attributes={"vip": i % 2 == 0})
        follow(machine, [vip], person=person)
        asked = request("hero", profile_id=f"u{i}", at=T0 + i * 1_000)
        records[i], _, _ = decide_once(machine, asked, person=person)
    keys = [record["fragment"]["key"] for record in records.values()]
    assert keys[0] == keys[2] == keys[4]
    assert keys[1] == keys[3] == keys[5]
    assert content_ids(records[0]) == content_ids(records[4])
    assert records[0]["fragment"]["vary"] == ["vip"]
    assert records[5]["fragment"]["max_age_s"] == 595
    assert records[0]["expires_at"] == "2026-01-01T00:10:00.000Z"


# --- tests of policies ----------------------------------------------------------------------------


def test_a_variant_decides_by_its_own_changes_and_is_told() -> None:
    of = _plan(
        experiments={
            "tests": {
                "greedier": {
                    "variants": {
                        "control": {},
                        "uniform": {"changes": {"exploration": {"kind": "uniform"}}},
                        "own": {"changes": {"model": {"alpha": 0.5}}},
                    }
                }
            }
        }
    )
    machine = _best_a(of)
    seen: dict[str, set[float]] = {}
    for i in range(60):
        record, person, _ = decide_once(
            machine, request("home", profile_id=f"u{i}"), person=profile(f"u{i}")
        )
        [exposure] = record["exposures"]
        assert (exposure["test"], exposure["layer"]) == ("greedier", "main")
        seen.setdefault(exposure["variant"], set()).add(record["items"][0]["propensity"])
        own = exposure["variant"] == "own"
        assert person.pending[0].model == ("home.greedier.own" if own else "home")
        assert person.pending[0].tests == {"greedier": exposure["variant"]}
    assert seen == {"control": {1.0}, "uniform": {0.25}, "own": {1.0}}
