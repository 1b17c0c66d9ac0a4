"""Which contents may be shown now, and is every refused one counted under its reason?"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.candidates import Candidates, Eligibility, reached
from operators.fallback import fallback_order, slate
from operators.moment import Context, Moment
from operators.plan import Plan
from operators.profile import Profile
from schemas.catalogue import Cap, Content
from schemas.time import rfc3339
from tests.operators.builders import (
    T0,
    arrived,
    content,
    placement_policy,
    plan,
    policy,
    profile,
    request,
)
from tests.operators.decision_builders import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    content_ids,
    decide_once,
    deciding,
    follow,
    impression_of,
)


def _narrow(
    of: Plan,
    person: Profile | None = None,
    *,
    at: int = T0,
    context: Context | None = None,
    asked: list[str] | None = None,
    placement: str = "home",
) -> Candidates:
    eligibility = Eligibility(of.placements[placement], of.contents)
    found = eligibility.narrow(person or profile(), Moment(at, context or {}), asked=asked)
    assert found.considered == len(found.positions) + sum(found.rejections.values())
    assert all(number > 0 for number in found.rejections.values())
    return found


def _ids(of: Plan, found: Candidates) -> list[str]:
    return [of.contents.ids[i] for i in found.positions]


def _catalogue(*listed: Content, **home: Any) -> Plan:
    return plan(placement_policy(**home), listed)


# --- the schedule and stock ---------------------------------------------------------------------


def test_a_content_is_open_from_its_first_instant_until_just_before_its_last() -> None:
    of = _catalogue(
        content("now", valid_from=rfc3339(T0), valid_until=rfc3339(T0 + HOUR)), content("always")
    )
    for at, is_open in [(T0 - 1, False), (T0, True), (T0 + HOUR - 1, True), (T0 + HOUR, False)]:
        found = _narrow(of, at=at)
        assert ("now" in _ids(of, found)) == is_open
        assert found.rejections == ({} if is_open else {"not_scheduled": 1})


@given(
    spans=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4)), min_size=1, max_size=5),
    moments=st.lists(st.integers(-1, 12), min_size=1, max_size=12),
)
def test_the_remembered_season_never_differs_from_the_schedule(
    spans: list[tuple[int, int]], moments: list[int]
) -> None:
    of = _catalogue(
        *(
            content(
                f"c{i}",
                valid_from=rfc3339(T0 + start * HOUR),
                valid_until=rfc3339(T0 + (start + length) * HOUR),
            )
            for i, (start, length) in enumerate(spans)
        )
    )
    # One and the same Eligibility, with moments in any order: profiles' clocks differ.
    eligibility = Eligibility(of.placements["home"], of.contents)
    for moment in moments:
        found = eligibility.narrow(profile(), Moment(T0 + moment * HOUR), asked=None)
        assert _ids(of, found) == [
            f"c{i}" for i, (start, length) in enumerate(spans) if start <= moment < start + length
        ]


def test_stock_that_ran_out_is_counted_apart_from_the_schedule() -> None:
    of = _catalogue(
        content("none_left", stock=0),
        content("oversold", stock=-2),
        content("one_left", stock=1),
        content("unlimited"),
        content("gone_and_over", stock=0, valid_until=rfc3339(T0)),
    )
    found = _narrow(of)
    assert _ids(of, found) == ["one_left", "unlimited"]
    assert found.rejections == {"out_of_stock": 2, "not_scheduled": 1}


# --- what the placement draws on ----------------------------------------------------------------


def test_the_pool_is_what_fits_the_placement_by_type_tag_and_place() -> None:
    of = _catalogue(
        content("right", type="article", tags=["red"], placements=["home", "mail"]),
        content("anywhere", type="article", tags=["red", "blue"]),
        content("elsewhere", type="article", tags=["red"], placements=["mail"]),
        content("other_type", type="video", tags=["red"]),
        content("other_tag", type="article", tags=["blue"]),
        candidates={"types": ["article"], "tags": ["red", "green"]},
    )
    found = _narrow(of)
    assert _ids(of, found) == ["anywhere", "right"]
    assert (found.considered, found.rejections) == (2, {})


def test_of_the_contents_asked_for_each_refused_one_has_its_reason() -> None:
    of = _catalogue(
        content("good"),
        content("also_good"),
        content("elsewhere", placements=["mail"]),
        content("over", valid_until=rfc3339(T0)),
        content("sold_out", stock=0),
        content("not_asked_for"),
    )
    asked = ["sold_out", "good", "nowhere", "elsewhere", "over", "also_good", "good", "no_such"]
    found = _narrow(of, asked=asked)
    assert _ids(of, found) == ["good", "also_good"]
    assert found.considered == 7
    assert found.rejections == {"unknown_content": 2, "not_a_candidate": 1, "unavailable": 2}


def test_asking_for_nothing_gives_nothing() -> None:
    of = _catalogue(content("a"))
    assert _narrow(of, asked=[]).considered == 0


# --- conditions ---------------------------------------------------------------------------------


def test_a_contents_condition_is_asked_of_the_profile_and_the_context() -> None:
    adults = {"attribute": "age", "at_least": 18}
    mobile = {"context": "device", "is": "phone"}
    of = _catalogue(
        content("beer", eligibility=adults),
        content("wine", eligibility=adults),
        content("app", eligibility=mobile),
        content("both", eligibility={"all": [adults, mobile]}),
        content("bread"),
    )
    grown = profile(attributes={"age": 40})
    assert _ids(of, _narrow(of)) == ["bread"]
    assert _narrow(of).rejections == {"not_eligible": 3, "not_in_context": 1}
    assert _ids(of, _narrow(of, grown)) == ["beer", "bread", "wine"]
    assert _ids(of, _narrow(of, context={"device": "phone"})) == ["app", "bread"]
    everything = _narrow(of, grown, context={"device": "phone"})
    assert len(everything.positions) == 5


def test_a_condition_on_what_was_done_follows_the_events() -> None:
    of = _catalogue(
        content("thanks", eligibility={"done": "purchase", "within": "1d"}),
        content("come_back", eligibility={"not_done": "visit", "within": "7d"}),
    )
    person, _ = follow(deciding(of), [arrived("purchase"), arrived("visit", at=T0 + 1)])
    assert _ids(of, _narrow(of, person, at=T0 + 1)) == ["thanks"]
    assert _ids(of, _narrow(of, person, at=T0 + 8 * DAY)) == ["come_back"]


# --- do-not-show --------------------------------------------------------------------------------


def _feedback(kind: str, at: int = T0, **what: Any) -> Any:
    return arrived("feedback", feedback=kind, at=at, **what)


RED_AND_BLUE = (
    content("r1", tags=["red"]),
    content("r2", tags=["red", "new"]),
    content("b1", tags=["blue"]),
)


@pytest.mark.parametrize("kind", ["hide", "not_interested"])
def test_do_not_show_takes_a_content_or_a_whole_tag_away(kind: str) -> None:
    of = _catalogue(*RED_AND_BLUE)
    person, _ = follow(deciding(of), [_feedback(kind, content_id="b1")])
    found = _narrow(of, person)
    assert (_ids(of, found), found.rejections) == (["r1", "r2"], {"hidden": 1})
    person, _ = follow(deciding(of), [_feedback(kind, tag="red")])
    found = _narrow(of, person)
    assert (_ids(of, found), found.rejections) == (["b1"], {"hidden": 2})


def test_do_not_show_holds_for_contents_asked_for_too() -> None:
    of = _catalogue(*RED_AND_BLUE)
    person, _ = follow(deciding(of), [_feedback("hide", tag="new")])
    found = _narrow(of, person, asked=["r2", "b1"])
    assert (_ids(of, found), found.rejections) == (["b1"], {"hidden": 1})


def test_a_like_takes_a_do_not_show_back_and_only_its_own() -> None:
    of = _catalogue(*RED_AND_BLUE)
    machine = deciding(of)
    hides = [_feedback("hide", tag="red"), _feedback("hide", content_id="b1")]
    person, _ = follow(machine, [*hides, _feedback("like", at=T0 + 1, tag="red")])
    assert _ids(of, _narrow(of, person)) == ["r1", "r2"]
    follow(machine, [_feedback("like", at=T0 + 2, content_id="b1")], person=person)
    assert _ids(of, _narrow(of, person)) == ["b1", "r1", "r2"]
    assert person.hidden == {}


def test_an_older_like_does_not_take_a_newer_do_not_show_back() -> None:
    of = _catalogue(*RED_AND_BLUE)
    person, _ = follow(
        deciding(of),
        [_feedback("hide", at=T0 + HOUR, tag="red"), _feedback("like", at=T0, tag="red")],
    )
    assert _ids(of, _narrow(of, person)) == ["b1"]


@pytest.mark.parametrize("kind", ["dislike", "less_like_this", "like"])
def test_other_feedback_hides_nothing(kind: str) -> None:
    of = _catalogue(*RED_AND_BLUE)
    person, _ = follow(deciding(of), [_feedback(kind, content_id="b1", tag="red")])
    assert len(_narrow(of, person).positions) == 3


def test_a_hidden_content_that_left_the_catalogue_is_no_trouble() -> None:
    of = _catalogue(*RED_AND_BLUE)
    person = profile(hidden={"c:gone": T0, "t:gone": T0, "c:b1": T0})
    assert _narrow(of, person).rejections == {"hidden": 1}


# --- caps ---------------------------------------------------------------------------------------


def _shown(of: Plan, *times: int, placement: str = "home") -> Profile:
    """A profile that was shown every item of a decision at each of these times."""
    machine = deciding(of)
    person = profile()
    for at in times:
        record, _, _ = decide_once(machine, request(placement, at=at), person=person)
        follow(machine, [impression_of(record, at=at)], person=person)
    return person


def test_a_cap_per_content_bites_at_its_number_and_lets_go_when_the_window_has_passed() -> None:
    of = _catalogue(content("a"), caps=[{"max": 2, "within": "1h"}])
    assert _ids(of, _narrow(of, _shown(of, T0), at=T0)) == ["a"]
    person = _shown(of, T0, T0 + MINUTE)
    capped = _narrow(of, person, at=T0 + 2 * MINUTE)
    assert (_ids(of, capped), capped.rejections) == ([], {"capped": 1})
    assert _ids(of, _narrow(of, person, at=T0 + HOUR - 1)) == []
    assert _ids(of, _narrow(of, person, at=T0 + HOUR)) == ["a"]


def test_a_decision_alone_counts_for_no_cap_where_impressions_are_reported() -> None:
    caps = [{"max": 1, "within": "1h"}]
    for impressions, left in (("required", 1), ("assumed", 0)):
        of = _catalogue(content("a"), caps=caps, impressions=impressions)
        _, person, _ = decide_once(deciding(of), request())
        assert len(_narrow(of, person).positions) == left


def test_an_impression_reported_twice_counts_once_for_a_cap() -> None:
    of = _catalogue(content("a"), caps=[{"max": 2, "within": "1h"}])
    machine = deciding(of)
    record, person, _ = decide_once(machine, request())
    follow(machine, [impression_of(record), impression_of(record, at=T0 + 1)], person=person)
    assert _ids(of, _narrow(of, person, at=T0 + 1)) == ["a"]


def test_impressions_reported_out_of_order_count_as_if_in_order() -> None:
    of = _catalogue(content("a"), caps=[{"max": 1, "within": "5m"}])
    machine = deciding(of)
    first, person, _ = decide_once(machine, request())
    second, _, _ = decide_once(machine, request(at=T0 + SECOND), person=person)
    told = [
        impression_of(second, at=T0 + 10 * MINUTE),
        impression_of(first, at=T0 + SECOND),
    ]
    follow(machine, told, person=person)
    assert _narrow(of, person, at=T0 + 11 * MINUTE).rejections == {"capped": 1}


def test_a_cap_per_tag_counts_every_content_of_the_tag() -> None:
    of = plan(
        placement_policy(slots=2, caps=[{"max": 2, "within": "1d", "per": "tag"}]),
        [content("r1", tags=["red"]), content("r2", tags=["red", "new"])],
    )
    person = _shown(of, T0)
    assert _narrow(of, person).rejections == {"capped": 2}
    more = plan(of.policy, [*RED_AND_BLUE, content("n1", tags=["new"])])
    assert _ids(more, _narrow(more, person)) == ["b1", "n1"]


def test_a_contents_own_caps_bind_it_alone_in_every_placement() -> None:
    home = {"slots": 2, "rewards": ["click"]}
    of = plan(
        policy(placements={"home": home, "mail": {**home, "slots": 1}}),
        [content("rare", caps=[{"max": 1, "within": "7d"}]), content("common")],
    )
    person = _shown(of, T0)
    for placement in ("home", "mail"):
        assert _ids(of, _narrow(of, person, at=T0 + DAY, placement=placement)) == ["common"]
        assert len(_narrow(of, person, at=T0 + 7 * DAY, placement=placement).positions) == 2


def test_a_short_cap_elsewhere_does_not_make_a_long_one_forget() -> None:
    of = plan(
        policy(
            placements={
                "home": {"rewards": ["click"], "caps": [{"max": 2, "within": "7d"}]},
                "mail": {"rewards": ["click"], "caps": [{"max": 9, "within": "1h"}]},
            }
        ),
        [content("a")],
    )
    machine = deciding(of)
    person = profile()
    for placement, at in (("home", T0), ("home", T0 + DAY), ("mail", T0 + 2 * DAY)):
        record, _, _ = decide_once(machine, request(placement, at=at), person=person)
        follow(machine, [impression_of(record, at=at)], person=person)
    assert _ids(of, _narrow(of, person, at=T0 + 3 * DAY)) == []


def test_a_cap_counts_what_any_placement_showed() -> None:
    of = plan(
        policy(
            placements={
                "home": {"rewards": ["click"], "caps": [{"max": 1, "within": "7d"}]},
                "mail": {"rewards": ["click"]},
            }
        ),
        [content("a")],
    )
    person = _shown(of, T0, placement="mail")
    assert _narrow(of, person).rejections == {"capped": 1}
    assert len(_narrow(of, person, placement="mail").positions) == 1


def test_a_sensitive_tag_is_not_remembered_for_a_cap() -> None:
    of = plan(
        placement_policy(
            caps=[{"max": 1, "within": "1d", "per": "tag"}],
            top={"sensitive": {"tags": ["illness"]}},
        ),
        [content("a", tags=["illness", "red"])],
    )
    assert list(_shown(of, T0).shown) == ["t:red"]


def test_what_is_kept_for_caps_is_bounded() -> None:
    many = [content(f"c{i:03}") for i in range(300)]
    of = plan(placement_policy(slots=100, caps=[{"max": 1, "within": "30d"}]), many)
    person = _shown(of, *(T0 + n * MINUTE for n in range(3)))
    assert len(person.shown) == 128


@given(
    times=st.lists(st.integers(0, 100), max_size=12),
    caps=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 50)), max_size=3),
    now=st.integers(0, 120),
)
def test_a_cap_is_reached_when_its_window_holds_that_many_impressions(
    times: list[int], caps: list[tuple[int, int]], now: int
) -> None:
    asked = [Cap.model_validate({"max": most, "within": f"{s}s"}) for most, s in caps]
    expected = any(
        sum(now - seconds < t <= max([now, *times]) for t in times) >= most
        for most, seconds in caps
    )
    assert reached([t * SECOND for t in sorted(times)], asked, now * SECOND) == expected


# --- the fallback -------------------------------------------------------------------------------


def _fallback(of: Plan, person: Profile | None = None, *, slots: int = 9) -> list[str]:
    home, somebody = of.placements["home"], person or profile()
    open_ = Eligibility(home, of.contents).open_to_anybody(somebody, T0)
    order = fallback_order(
        home, of.contents, somebody, open_=open_, asked=None, popular=(), personal=True
    )
    return [of.contents.ids[at] for _, (at, _) in slate(order, {}, slots=slots)]


def test_the_fallback_is_the_editorial_order_then_priority_then_the_id() -> None:
    of = _catalogue(
        content("low", priority=-1),
        content("b"),
        content("a"),
        content("high", priority=5),
        content("second"),
        content("first", priority=-9),
        fallback={"contents": ["first", "second", "not_in_the_catalogue", "high"]},
    )
    assert _fallback(of) == ["first", "second", "high", "a", "b", "low"]
    assert _fallback(of, slots=2) == ["first", "second"]


def test_the_fallback_leaves_out_what_is_closed_conditional_or_hidden() -> None:
    of = _catalogue(
        content("closed", valid_until=rfc3339(T0)),
        content("sold_out", stock=0),
        content("conditional", eligibility={"attribute": "age", "at_least": 18}),
        content("hidden"),
        content("tagged", tags=["red"]),
        content("open"),
        fallback={"contents": ["closed", "conditional", "hidden"]},
    )
    person = profile(attributes={"age": 40}, hidden={"c:hidden": T0, "t:red": T0})
    assert _fallback(of, person) == ["open"]


def test_a_cap_holds_for_the_fallback_too() -> None:
    of = _catalogue(content("a"), caps=[{"max": 1, "within": "1h"}], slots=1)
    person = _shown(of, T0)
    record, _, _ = decide_once(deciding(of), request(at=T0 + MINUTE), person=person)
    assert content_ids(record) == []
    assert record["rejections"] == {"capped": 1}
    record, _, _ = decide_once(deciding(of), request(at=T0 + HOUR), person=person)
    assert content_ids(record) == ["a"]
