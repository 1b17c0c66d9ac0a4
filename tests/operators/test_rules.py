"""Do rules narrow, weigh and place eligible candidates as the policy says, in its order?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.conditions import Compiler
from operators.contents import Contents, compile_contents
from operators.moment import Moment
from operators.rules import CompiledRule, Guidance, compile_rules, guide, rules_of, weigh
from operators.signals import compile_signals
from schemas.catalogue import Content
from schemas.time import rfc3339
from tests.operators.builders import T0, arrived, content, policy, profile

HOUR = 3_600_000
IDS = ("a", "b", "c", "d", "e")


def _catalogue(listed: list[Content] | None = None) -> Contents:
    return compile_contents(listed or [content(c) for c in IDS], _compiler())


def _compiler() -> Compiler:
    return Compiler(compile_signals({}))


def _rules(
    contents: Contents, compiler: Compiler | None = None, /, **rules: dict[str, Any]
) -> tuple[CompiledRule, ...]:
    return compile_rules(policy(rules=rules), contents, compiler or _compiler())


def _guide(
    *,
    listed: list[Content] | None = None,
    eligible: tuple[str, ...] = IDS,
    slots: int = 3,
    at: int = T0,
    context: dict[str, Any] | None = None,
    **rules: dict[str, Any],
) -> tuple[Guidance, dict[int, str], list[str]]:
    """The guidance, what stands at which rank, and the candidates left."""
    contents = _catalogue(listed)
    ids = tuple(c.content_id for c in listed) if listed else eligible
    positions = np.array(sorted(contents.index[c] for c in ids), np.intp)
    found = guide(_rules(contents, **rules), profile(), Moment(at, context or {}), positions, slots)
    left = [contents.ids[i] for i in found.positions]
    return found, {rank: left[at] for rank, at in found.fixed.items()}, left


# --- which rules are in force --------------------------------------------------------------------


def test_a_rule_without_a_condition_is_always_in_force() -> None:
    found, _, left = _guide(r={"exclude": {"contents": ["a"]}})
    assert (left, found.rejections, found.names) == (["b", "c", "d", "e"], {"ruled_out": 1}, ["r"])


def test_a_rule_is_in_force_where_its_condition_is_known_to_hold() -> None:
    away = {"when": {"context": "page", "is": "home"}, "exclude": {"contents": ["a"]}}
    assert _guide(context={"page": "home"}, r=away)[2] == ["b", "c", "d", "e"]
    found, _, left = _guide(context={"page": "cart"}, r=away)
    assert (left, found.names, found.rejections) == (list(IDS), [], {})


def test_what_is_unknown_does_not_hold() -> None:
    unknown = {"prediction": "never_learned", "at_least": 0.5}
    for when in (unknown, {"not": unknown}):
        assert _guide(r={"when": when, "exclude": {"contents": ["a"]}})[2] == list(IDS)


def test_a_rule_lasts_from_its_first_instant_until_just_before_its_last() -> None:
    for at, applies in [(T0 - 1, False), (T0, True), (T0 + HOUR - 1, True), (T0 + HOUR, False)]:
        found, _, _ = _guide(
            at=at,
            r={
                "valid_from": rfc3339(T0),
                "valid_until": rfc3339(T0 + HOUR),
                "exclude": {"contents": ["a"]},
            },
        )
        assert bool(found.names) is applies, at


def test_what_a_rule_counts_becomes_a_signal_of_the_shared_compiler() -> None:
    compiler, contents = _compiler(), _catalogue()
    [rule] = _rules(
        contents,
        compiler,
        r={
            "when": {"done": "search", "within": "1h", "at_least": 2},
            "exclude": {"contents": ["a"]},
        },
    )
    [signal] = compiler.signals.values()
    person = profile(at=T0 - 10 * HOUR)
    positions = np.arange(len(IDS))
    for count, left in ((1, 5), (2, 4)):
        signal.add(person.signals, arrived("search", at=T0 + count), None)
        found = guide([rule], person, Moment(T0 + 2 * count), positions, 1)
        assert len(found.positions) == left


def test_rules_are_told_apart_by_placement_and_by_what_a_variant_allows() -> None:
    rules = _rules(
        _catalogue(),
        everywhere={"explore": False},
        here={"explore": False, "placements": ["home"]},
        there={"explore": False, "placements": ["mail"]},
    )
    assert [r.name for r in rules_of(rules, "home")] == ["everywhere", "here"]
    assert [r.name for r in rules_of(rules, "home", ("here", "there"))] == ["here"]
    assert rules_of(rules, "home", ()) == ()


# --- narrowing -----------------------------------------------------------------------------------

MIXED = [
    content("a", tags=["sale", "new"]),
    content("b", type="article", attributes={"brand": "acme", "paid": True}),
    content("c", attributes={"brand": "zenith", "paid": 1}),
    content("d", sensitive=True, tags=["sale"]),
]


@pytest.mark.parametrize(
    ("select", "left"),
    [
        ({"contents": ["a", "c"]}, ["a", "c"]),
        ({"tags": ["sale"]}, ["a", "d"]),
        ({"types": ["article"]}, ["b"]),
        ({"attributes": {"brand": "acme"}}, ["b"]),
        ({"attributes": {"brand": "zenith", "paid": True}}, ["b", "c"]),
        ({"attributes": {"paid": True}}, ["b"]),
        ({"attributes": {"paid": 1}}, ["c"]),
        ({"contents": ["a"], "types": ["article"]}, ["a", "b"]),
        ({"tags": ["none"]}, []),
    ],
)
def test_a_selection_takes_what_fits_any_of_what_it_names(
    select: dict[str, Any], left: list[str]
) -> None:
    assert _guide(listed=MIXED, r={"only": select})[2] == left
    others = [c.content_id for c in MIXED if c.content_id not in left]
    found, _, kept = _guide(listed=MIXED, r={"exclude": select})
    assert kept == others
    assert found.rejections == ({"ruled_out": len(left)} if left else {})


def test_narrowing_adds_up_and_each_candidate_is_refused_once() -> None:
    found, _, left = _guide(
        one={"only": {"contents": ["a", "b", "c"]}},
        two={"only": {"contents": ["b", "c", "d"]}},
        three={"exclude": {"contents": ["c", "a"]}},
        four={"exclude": {"contents": ["a"]}},
    )
    assert left == ["b"]
    assert found.rejections == {"ruled_out": 4}
    assert found.names == ["one", "two", "three"], "four took away nothing more"


# --- weighing ------------------------------------------------------------------------------------


def test_factors_multiply_and_belong_to_the_candidates_left() -> None:
    found, _, left = _guide(
        one={"boost": {"contents": ["b", "c"], "by": 3}, "exclude": {"contents": ["a"]}},
        two={"bury": {"contents": ["c", "d"], "by": 2}},
    )
    assert left == ["b", "c", "d", "e"]
    assert found.factors is not None
    np.testing.assert_allclose(found.factors, [3, 1.5, 0.5, 1])
    assert found.names == ["one", "two"]


def test_one_rule_may_boost_and_bury() -> None:
    found, _, _ = _guide(
        r={"boost": {"contents": ["a"], "by": 4}, "bury": {"contents": ["a", "b"], "by": 2}}
    )
    assert found.factors is not None
    np.testing.assert_allclose(found.factors, [2, 0.5, 1, 1, 1])


def test_nothing_to_weigh_gives_no_factors_and_no_name() -> None:
    found, _, _ = _guide(eligible=("b",), r={"boost": {"contents": ["a"]}})
    assert (found.factors, found.names) == (None, [])


def test_a_boost_raises_and_a_burial_lowers_scores_of_both_signs() -> None:
    weighed = weigh(np.array([1.0, 1.0, -1.0, -1.0, 0.0]), np.array([2.0, 0.5, 2.0, 0.5, 2.0]))
    assert weighed is not None
    np.testing.assert_allclose(weighed, [2.0, 0.5, 0.0, -1.5, 0.0])


def test_without_scores_the_factors_order_the_candidates() -> None:
    scores, factors = np.array([0.3]), np.array([2.0])
    assert weigh(None, None) is None
    assert weigh(scores, None) is scores
    assert weigh(None, factors) is factors


# --- placing -------------------------------------------------------------------------------------


def test_what_is_forced_fills_the_slate_from_the_top_around_what_is_pinned() -> None:
    found, placed, _ = _guide(
        slots=4,
        r={"force": ["c", "a"], "pin": [{"content": "e", "rank": 2}], "reason": "editors"},
    )
    assert placed == {0: "c", 1: "e", 2: "a"}
    assert set(found.reasons.values()) == {"editors"}
    assert set(found.reasons) == set(found.fixed.values())


def test_the_first_rule_wins_a_rank_and_a_content_stands_where_it_was_put_first() -> None:
    _, placed, _ = _guide(
        one={"pin": [{"content": "a", "rank": 2}]},
        two={"pin": [{"content": "b", "rank": 2}, {"content": "a", "rank": 1}]},
        three={"force": ["a", "c"]},
    )
    assert placed == {1: "a", 0: "c"}
    _, placed, _ = _guide(one={"force": ["a"]}, two={"pin": [{"content": "b", "rank": 1}]})
    assert placed == {0: "a"}


def test_a_rule_that_lost_every_rank_is_not_named_and_gives_no_reason() -> None:
    found, _, _ = _guide(
        one={"pin": [{"content": "a"}], "reason": "first"},
        two={"pin": [{"content": "b"}], "reason": "second"},
    )
    assert (found.names, list(found.reasons.values())) == (["one"], ["first"])


@pytest.mark.parametrize(
    ("rule", "eligible"),
    [
        ({"force": ["a"]}, ("b", "c")),
        ({"pin": [{"content": "a"}]}, ("b", "c")),
        ({"force": ["a"], "exclude": {"contents": ["a"]}}, IDS),
        ({"force": ["nothing"]}, IDS),
        ({"pin": [{"content": "a", "rank": 4}]}, IDS),
        ({"pin": [{"content": "a", "rank": 3}]}, ("a", "b")),
    ],
    ids=["force", "pin", "excluded", "unknown", "beyond_slots", "beyond_candidates"],
)
def test_what_cannot_be_placed_is_passed_over(
    rule: dict[str, Any], eligible: tuple[str, ...]
) -> None:
    found, placed, _ = _guide(eligible=eligible, r=rule)
    assert placed == {}
    assert found.reasons == {}


def test_one_rule_against_exploring_is_enough() -> None:
    assert _guide(one={"boost": {"contents": ["a"]}})[0].explore
    found, _, _ = _guide(one={"explore": False}, two={"boost": {"contents": ["a"]}})
    assert (found.explore, found.names) == (False, ["one", "two"])


def test_no_rule_leaves_everything_as_it_was() -> None:
    positions = np.array([1, 3], np.intp)
    found = guide((), profile(), Moment(T0), positions, 2)
    assert found.positions is positions
    assert found[1:] == ({}, None, {}, True, [], {})


# --- laws ----------------------------------------------------------------------------------------

_SOME = st.lists(st.sampled_from([*IDS, "unknown"]), min_size=1, max_size=3, unique=True)
_RULE = st.fixed_dictionaries(
    {},
    optional={
        "force": _SOME,
        "pin": st.lists(
            st.builds(
                lambda c, rank: {"content": c, "rank": rank},
                st.sampled_from([*IDS, "unknown"]),
                st.integers(1, 5),
            ),
            min_size=1,
            max_size=3,
        ),
        "only": st.builds(lambda c: {"contents": c}, _SOME),
        "exclude": st.builds(lambda c: {"contents": c}, _SOME),
        "boost": st.builds(
            lambda c, by: {"contents": c, "by": by}, _SOME, st.sampled_from([1.0, 1.5, 4.0])
        ),
    },
).filter(bool)


def _by_hand(
    rules: list[dict[str, Any]], eligible: list[str], slots: int
) -> tuple[list[str], dict[int, str], dict[str, float]]:
    """The same, content by content: who is left, who stands where, whose score counts how much."""
    left = [
        c
        for c in eligible
        if all(
            c in rule.get("only", {"contents": [c]})["contents"]
            and c not in rule.get("exclude", {"contents": []})["contents"]
            for rule in rules
        )
    ]
    slate: list[str | None] = [None] * min(slots, len(left))
    for rule in rules:
        for pin in rule.get("pin", ()):
            c, at = pin["content"], pin["rank"] - 1
            if c in left and c not in slate and at < len(slate) and slate[at] is None:
                slate[at] = c
        for c in rule.get("force", ()):
            if c in left and c not in slate and None in slate:
                slate[slate.index(None)] = c
    weights = dict.fromkeys(left, 1.0)
    for rule in rules:
        boost = rule.get("boost", {"contents": []})
        for c in boost["contents"]:
            if c in weights:
                weights[c] *= boost["by"]
    return left, {at: c for at, c in enumerate(slate) if c is not None}, weights


@given(
    rules=st.lists(_RULE, max_size=4),
    eligible=st.lists(st.sampled_from(IDS), unique=True).map(sorted),
    slots=st.integers(1, 5),
)
def test_rules_do_what_going_through_them_by_hand_does(
    rules: list[dict[str, Any]], eligible: list[str], slots: int
) -> None:
    named: dict[str, Any] = {f"r{i}": rule for i, rule in enumerate(rules)}
    found, placed, left = _guide(eligible=tuple(eligible), slots=slots, **named)
    by_hand, standing, weights = _by_hand(rules, eligible, slots)
    assert left == by_hand
    assert placed == standing
    factors = np.ones(len(left)) if found.factors is None else found.factors
    np.testing.assert_allclose(factors, [weights[c] for c in left])
    assert len(eligible) == len(left) + sum(found.rejections.values())
