"""Are the contents that each segment could be shown counted, and those that hang on more apart?"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.candidates import Eligibility
from operators.conditions import Compiler
from operators.coverage import Covered, coverage, implied, truth
from operators.moment import Moment
from operators.rules import compile_rules, guide
from operators.signals import compile_signals
from schemas.catalogue import Content
from schemas.policy import Policy
from schemas.time import rfc3339
from tests.operators.builders import T0, content, placement_policy, plan, profile
from tests.operators.condition_builders import CONDITION

HOUR = 3_600_000
SEGMENTS = {
    "active": {"when": {"attribute": "a", "is": 1}},
    "loyal": {"when": {"all": [{"segment": "active"}, {"attribute": "b", "is": 1}]}},
    "lost": {"when": {"not": {"segment": "active"}}},
}


def _policy(*, top: dict[str, Any] | None = None, **home: Any) -> Policy:
    return placement_policy(top={"segments": SEGMENTS, **(top or {})}, **home)


def _covered(
    listed: list[Content], of: Policy | None = None, *, at: int = T0, **more: int
) -> dict[str | None, Covered]:
    return {c.segment: c for c in coverage(of or _policy(), listed, at_ms=at, **more)}


def _of(segment: str) -> dict[str, str]:
    return {"segment": segment}


def test_each_segment_is_counted_and_nobodys_too() -> None:
    listed = [
        content("all"),
        content("active", eligibility=_of("active")),
        content("loyal", eligibility=_of("loyal")),
        content("lost", eligibility=_of("lost")),
        content("others", eligibility={"not": _of("active")}),
    ]
    found = _covered(listed)
    assert {s: c.holds for s, c in found.items()} == {None: 2, "active": 2, "loyal": 3, "lost": 3}
    assert found["loyal"].refused == {"not_in_audience": 2}
    assert all(c.untold == 0 and c.wanted == 4 for c in found.values())


def test_a_segment_brings_those_that_it_implies() -> None:
    of = _policy()
    assert implied(of, "loyal") == {"loyal", "active"}
    assert implied(of, "lost") == {"lost"}


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ({"segment": "in"}, True),
        ({"segment": "out"}, False),
        ({"not": {"segment": "out"}}, True),
        ({"context": "page", "is": "home"}, None),
        ({"not": {"signal": "views", "at_least": 1}}, None),
        ({"intent": "buying"}, None),
        ({"all": [{"segment": "in"}, {"attribute": "a", "is": 1}]}, None),
        ({"all": [{"segment": "out"}, {"attribute": "a", "is": 1}]}, False),
        ({"any": [{"segment": "in"}, {"attribute": "a", "is": 1}]}, True),
        ({"any": [{"segment": "out"}, {"attribute": "a", "is": 1}]}, None),
        ({"any": [{"segment": "out"}, {"not": {"segment": "in"}}]}, False),
    ],
)
def test_a_condition_is_told_by_memberships_alone(
    condition: dict[str, Any], holds: bool | None
) -> None:
    assert truth(CONDITION.validate_python(condition), frozenset({"in"})) is holds


def test_what_cannot_be_told_is_counted_apart() -> None:
    listed = [
        content("always"),
        content("mobile", eligibility={"context": "device", "is": "mobile"}),
        content("prompt", asks_consent="ads"),
        content("other", needs_consent="surveys"),
        content("granted", needs_consent="personalization"),
    ]
    of = _policy(top={"consent": {"personalise": "personalization"}})
    for found in _covered(listed, of).values():
        assert (found.holds, found.untold) == (2, 3)
        assert (found.short, found.surely_short) == (True, False)


def test_schedule_and_stock_are_those_of_the_instant() -> None:
    listed = [
        content("later", valid_from=rfc3339(T0 + HOUR)),
        content("over", valid_until=rfc3339(T0 + HOUR)),
        content("gone", stock=0),
        content("left", stock=1),
    ]
    assert _covered(listed)[None].holds == 2
    assert _covered(listed)[None].refused == {"not_scheduled": 1, "out_of_stock": 1}
    later = _covered(listed, at=T0 + HOUR)[None]
    assert (later.holds, later.refused) == (2, {"not_scheduled": 1, "out_of_stock": 1})
    assert _covered(listed, at=T0 - HOUR)[None].holds == 2


def test_rules_narrow_where_they_are_in_force_and_leave_open_where_that_cannot_be_told() -> None:
    listed = [content("a", tags=["sale"]), content("b"), content("c")]
    of = _policy(
        top={
            "rules": {
                "no_sale": {"when": _of("loyal"), "exclude": {"tags": ["sale"]}},
                "only_b": {
                    "when": {"context": "page", "is": "b"},
                    "only": {"contents": ["a", "b"]},
                },
                "over": {"valid_until": rfc3339(T0), "exclude": {"types": ["product"]}},
                "elsewhere": {"placements": ["mail"], "exclude": {"types": ["product"]}},
                "boost": {"boost": {"contents": ["a"]}},
            },
            "placements": {"home": {"rewards": ["click"]}, "mail": {"rewards": ["click"]}},
        }
    )
    at_home = {c.segment: c for c in coverage(of, listed, at_ms=T0) if c.placement == "home"}
    assert (at_home[None].holds, at_home[None].untold, at_home[None].refused) == (2, 1, {})
    loyal = at_home["loyal"]
    assert (loyal.holds, loyal.untold, loyal.refused) == (1, 1, {"ruled_out": 1})
    in_mail = [c for c in coverage(of, listed, at_ms=T0) if c.placement == "mail"]
    assert {c.refused["ruled_out"] for c in in_mail} == {3}


def test_wanted_are_the_slots_and_some_to_choose_from() -> None:
    listed = [content(f"c{i}") for i in range(5)]
    of = _policy(slots=3)
    assert _covered(listed, of)[None].wanted == 6
    assert _covered(listed, of)[None].surely_short
    assert not _covered(listed, of, at_least=2)[None].short


def test_segments_that_the_placement_shuts_out_are_left_out() -> None:
    of = _policy(eligibility={"not": _of("active")})
    assert set(_covered([content("a")], of)) == {None, "lost"}


def test_a_placement_at_level_0_has_one_line_without_what_asks_of_the_person() -> None:
    listed = [
        content("all"),
        content("named", type="list"),
        content("some", eligibility={"not": _of("lost")}),
        content("out"),
    ]
    rules = {
        "r": {"exclude": {"contents": ["out"]}},
        "s": {"when": {"not": _of("active")}, "exclude": {"contents": ["all"]}},
    }
    fixed = {"candidates": {"types": ["product"]}, "fallback": {"contents": ["named"]}}
    [line] = coverage(
        _policy(level=0, top={"rules": rules}, eligibility=_of("lost"), **fixed),
        listed,
        at_ms=T0,
    )
    assert (line.segment, line.holds, line.untold, line.wanted) == (None, 2, 0, 1)
    assert line.refused == {"not_in_audience": 1, "ruled_out": 1}
    of = _policy(never_personalised=True, top={"rules": rules}, **fixed)
    [line] = coverage(of, listed, at_ms=T0)
    assert (line.holds, line.refused) == (3, {"not_in_audience": 1})


def test_candidates_of_the_request_cannot_be_counted() -> None:
    assert coverage(_policy(candidates={"from": "request"}), [content("a")], at_ms=T0) == []


_WHEN = st.one_of(
    st.none(),
    st.sampled_from([*SEGMENTS]).map(_of),
    st.sampled_from([*SEGMENTS]).map(lambda name: {"not": _of(name)}),
)


@given(
    conditions=st.lists(_WHEN, min_size=1, max_size=6),
    stocks=st.lists(st.sampled_from([None, 0, 1]), min_size=6, max_size=6),
    delicate=st.sets(st.integers(0, 5)),
    may_be_sensitive=st.booleans(),
    rule=_WHEN,
    excluded=st.sets(st.integers(0, 5), min_size=1),
)
def test_what_is_counted_is_what_a_decision_would_have(
    conditions: list[Any],
    stocks: list[Any],
    delicate: set[int],
    may_be_sensitive: bool,
    rule: Any,
    excluded: set[int],
) -> None:
    listed = [
        content(f"c{i}", eligibility=when, stock=stocks[i], sensitive=i in delicate)
        for i, when in enumerate(conditions)
    ]
    out = {"exclude": {"contents": [f"c{i}" for i in sorted(excluded)]}}
    of = _policy(
        top={"rules": {"r": {**out, **({"when": rule} if rule else {})}}},
        candidates={"sensitive": may_be_sensitive},
    )
    compiled = plan(of, listed)
    rules = compile_rules(of, compiled.contents, Compiler(compile_signals({})))
    eligibility = Eligibility(compiled.placements["home"], compiled.contents)
    for segment, found in _covered(listed, of).items():
        held = implied(of, segment) if segment else ()
        person = profile(segments=dict.fromkeys(held, T0))
        narrowed = eligibility.narrow(person, Moment(T0), asked=None)
        guided = guide(rules, person, Moment(T0), narrowed.positions, 1)
        assert (found.holds, found.untold) == (len(guided.positions), 0)
        assert found.holds + sum(found.refused.values()) == len(listed)
