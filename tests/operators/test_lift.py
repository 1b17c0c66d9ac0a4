"""Does each metric count what it says, of the right profiles, for the right time?"""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.lift import SESSION_GAP_MS, Asked, Exposed, Lift, MetricLift, Study, value_of
from schemas.time import DAY, HOUR, MINUTE
from tests.operators.builders import T0

WEEK = 7 * DAY
ASKED = Asked("a", ("a", "b"), ("conversion",))


def _expose(study: Study, person: str, variant: str = "a", *, at: int = T0, **more: Any) -> None:
    fields = {"test": "t", "decision_id": f"{person}-{at}", "placement": "home", **more}
    study.expose(variant=variant, profile_id=person, at_ms=at, **fields)


def _book(study: Study, person: str, *, at: int = T0, closes: int = HOUR, **rewards: float) -> None:
    study.book(
        person,
        placement="home",
        decided_ms=at,
        closed_ms=at + closes,
        rewards=list(rewards.items()),
    )


def _result(study: Study, *metrics: str, asked: Asked = ASKED, **more: Any) -> Lift:
    fields = {"control": asked.control, "variants": asked.variants, "shares": asked.shares}
    return study.result("t", Asked(metrics=metrics, **{**fields, **more}), alpha=0.05)


def _one(study: Study, metric: str) -> MetricLift:
    (found,) = _result(study, metric).metrics
    return found


def _pair(study: Study, person: str, metric: str) -> tuple[float, float]:
    return value_of(study.tests["t"].profiles[person], metric)


# --- who counts, and for how long -----------------------------------------------------------------


def test_the_first_decision_of_a_variant_is_the_exposure_whatever_is_read_first() -> None:
    study = Study(WEEK)
    _expose(study, "u", "b", at=T0 + HOUR)
    _expose(study, "u", "a", at=T0)
    _expose(study, "u", "b", at=T0 + 2 * HOUR)
    exposed = study.tests["t"].profiles["u"]
    assert (exposed.variant, exposed.first_ms, exposed.moved) == ("a", T0, True)
    assert _result(study, "conversion").moved == 1


@pytest.mark.parametrize(
    ("at", "counts"),
    [
        (T0 - 1, False),
        (T0, True),
        (T0 + WEEK - 1, True),
        (T0 + WEEK, False),
    ],
)
def test_what_is_done_counts_from_the_exposure_to_the_horizon(at: int, counts: bool) -> None:
    study = Study(WEEK)
    _expose(study, "u")
    _expose(study, "v", at=T0 + 30 * DAY)
    _book(study, "u", at=at, click=1.0)
    study.act("u", at)
    study.react("u", at, "like")
    exposed = study.tests["t"].profiles["u"]
    assert [bool(exposed.rewards), bool(exposed.visits), bool(exposed.liked)] == [counts] * 3


def test_what_others_do_and_what_other_placements_earn_does_not_count() -> None:
    study = Study(WEEK)
    _expose(study, "u")
    _book(study, "stranger", click=1.0)
    study.book("u", placement="cart", decided_ms=T0, closed_ms=T0 + 1, rewards=[("click", 1.0)])
    study.act("stranger", T0)
    assert study.tests["t"].profiles["u"] == Exposed("a", None, T0, f"u-{T0}")


def test_what_is_decided_after_the_test_is_over_does_not_count() -> None:
    study = Study(WEEK)
    _expose(study, "u")
    _book(study, "u", at=T0 + DAY, click=1.0)
    assert _pair(study, "u", "conversion") == (0.0, 1.0)


def test_a_profile_enters_when_its_horizon_and_the_books_are_over() -> None:
    study = Study(WEEK)
    for day in range(20):
        _expose(study, f"u{day}", at=T0 + day * DAY)
        _book(study, f"u{day}", at=T0 + day * DAY, closes=2 * DAY)
    assert study.clock_ms == T0 + 21 * DAY
    # 7 days to look at, 2 until the books of the last decision are closed: days 0 to 12.
    assert _one(study, "conversion").variants[0].profiles == 13
    study.act("u0", T0)
    assert _one(study, "retention").variants[0].profiles == 15
    assert _result(study, "conversion").exposed == {"a": 20, "b": 0}


def test_tests_do_not_share_exposures() -> None:
    study = Study(WEEK)
    _expose(study, "u", at=T0)
    _expose(study, "u", at=T0 + DAY, test="other")
    _book(study, "u", at=T0, click=1.0)
    assert _pair(study, "u", "conversion") == (1.0, 1.0)
    assert value_of(study.tests["other"].profiles["u"], "conversion") == (0.0, 1.0)


# --- metrics --------------------------------------------------------------------------------------


def test_metrics_of_rewards() -> None:
    study = Study(WEEK)
    _expose(study, "u")
    _expose(study, "idle", at=T0 + DAY)
    _book(study, "u", at=T0, click=1.0, purchase=30.0)
    _book(study, "u", at=T0 + HOUR, click=1.0, hidden=-2.0)
    seen = {m: _pair(study, "u", m) for m in ("conversion", "order_value", "click", "hidden")}
    assert seen == {
        "conversion": (1.0, 1.0),
        "order_value": (32.0, 3.0),
        "click": (2.0, 1.0),
        "hidden": (-2.0, 1.0),
    }
    assert _pair(study, "u", "order_value.purchase") == (30.0, 1.0)
    assert _pair(study, "u", "conversion.signup") == (0.0, 1.0)
    assert _pair(study, "idle", "order_value") == (0.0, 0.0)


def test_a_dislike_alone_is_no_conversion() -> None:
    study = Study(WEEK)
    _expose(study, "u")
    _book(study, "u", hidden=-2.0)
    assert _pair(study, "u", "conversion") == (0.0, 1.0)
    assert _pair(study, "u", "conversion.hidden") == (1.0, 1.0)


@pytest.mark.parametrize(
    ("after", "back"), [(DAY - 1, 0.0), (DAY, 1.0), (WEEK - 1, 1.0), (WEEK, 0.0)]
)
def test_retention_is_being_seen_again_a_day_or_more_later(after: int, back: float) -> None:
    study = Study(WEEK)
    _expose(study, "u")
    study.act("u", T0 + 1)
    study.act("u", T0 + after)
    assert _pair(study, "u", "retention") == (back, 1.0)


def test_satisfaction_is_likes_less_what_was_refused() -> None:
    study = Study(WEEK)
    _expose(study, "u")
    for kind in ("like", "like", "dislike", "hide", "not_interested", "less_like_this", "like"):
        study.react("u", T0, kind)
    assert _pair(study, "u", "satisfaction") == (-1.0, 1.0)


def test_session_time_is_the_mean_length_of_visits() -> None:
    study = Study(WEEK)
    _expose(study, "u")
    for minute in (0, 20, 45, 200, 201):
        study.act("u", T0 + minute * MINUTE)
    assert _pair(study, "u", "session_time") == (46 * 60.0, 2.0)


@given(st.lists(st.integers(0, 12 * HOUR), min_size=1, max_size=40), st.randoms())
def test_visits_do_not_depend_on_the_order(times: list[int], order: random.Random) -> None:
    ends = sorted(times)
    lengths, begin = 0, ends[0]
    visits = 1
    for one, two in pairwise(ends):
        if two - one > SESSION_GAP_MS:
            lengths += one - begin
            begin, visits = two, visits + 1
    lengths += ends[-1] - begin
    study = Study(WEEK)
    _expose(study, "u")
    order.shuffle(times)
    for time in times:
        study.act("u", T0 + time)
    assert _pair(study, "u", "session_time") == (lengths / 1_000, visits)


def test_visits_are_bounded() -> None:
    study = Study(400 * DAY)
    _expose(study, "u")
    for hour in range(2_000):
        study.act("u", T0 + hour * HOUR)
    assert len(study.tests["t"].profiles["u"].visits) == 1_000


def test_what_cannot_be_had_says_why() -> None:
    study = Study(DAY)
    _expose(study, "u")
    assert _one(study, "retention").missing == "needs the events"
    study.act("u", T0)
    assert _one(study, "retention").missing == "needs a horizon of more than a day"
    assert _one(study, "session_time").missing is None


# --- what is said of them -------------------------------------------------------------------------


def _world(rates: dict[str, float], *, people: int = 3_000, seed: int = 3) -> Study:
    chance = random.Random(seed)
    study = Study(WEEK)
    done = []
    for n in range(people):
        at = T0 + n * 10 * MINUTE
        variant = chance.choice(list(rates))
        _expose(study, f"u{n}", variant, at=at, share=1 / len(rates), layer="main")
        if chance.random() < rates[variant]:
            done.append((f"u{n}", at))
    study.clock_ms += WEEK
    for person, at in done:
        _book(study, person, at=at, click=1.0)
    return study


def test_a_better_variant_is_found_and_a_guardrail_that_breaks() -> None:
    study = _world({"a": 0.10, "b": 0.20})
    found = _result(study, "conversion", guardrails=("click",))
    conversion, click = found.metrics
    assert (conversion.guardrail, click.guardrail) == (False, True)
    said = conversion.variants[1].compared
    assert said is not None
    assert said.bounds.low is not None
    assert said.bounds.low > 0
    assert said.worst > 0
    assert [v.variant for v in conversion.variants] == ["a", "b"]
    assert conversion.variants[0].compared is None
    (worse,) = _result(_world({"a": 0.20, "b": 0.10}), guardrails=("click",), asked=ASKED).metrics
    broken = worse.variants[1].compared
    assert broken is not None
    assert broken.worst < 0


def test_alpha_is_shared_out_among_the_variants() -> None:
    study = _world({"a": 0.1, "b": 0.1, "c": 0.1})
    three = _result(study, "conversion", variants=("a", "b", "c"))
    two = _result(study, "conversion")
    assert (two.alpha, three.alpha) == (0.05, 0.025)
    narrow, wide = two.metrics[0].variants[1].compared, three.metrics[0].variants[1].compared
    assert narrow is not None
    assert wide is not None
    assert narrow.difference == wide.difference
    assert narrow.worst < wide.worst


def test_the_course_ends_with_all_that_is_finished() -> None:
    metric = _one(_world({"a": 0.1, "b": 0.1}), "conversion")
    course = metric.variants[1].course
    assert len(course) == 60
    assert [p.at_ms for p in course] == sorted(p.at_ms for p in course)
    assert course[-1].profiles == sum(v.profiles for v in metric.variants)
    assert course[0].compared is None  # 50 profiles: too little


def test_shares_that_are_kept_and_shares_that_are_not() -> None:
    study = _world({"a": 0.1, "b": 0.1})
    right = _result(study, "conversion").ratio_p
    wrong = _result(study, "conversion", shares={"a": 0.6, "b": 0.4}).ratio_p
    assert right is not None
    assert wrong is not None
    assert right > 0.01
    assert wrong < 1e-6


def test_a_variant_that_nobody_met_breaks_the_shares() -> None:
    study = Study(WEEK)
    for n in range(300):
        _expose(study, f"u{n}", "ab"[n % 2], at=T0 + n, share=1 / 3)
    p_value = _result(study, "conversion").ratio_p
    assert p_value is not None
    assert p_value < 1e-6


def test_shares_that_are_not_told_are_not_checked() -> None:
    study = Study(WEEK)
    for n in range(300):
        _expose(study, f"u{n}", "ab"[n % 2], at=T0 + n)
    assert _result(study, "conversion").ratio_p is None
    assert _result(study, "conversion", shares={"a": 0.5, "b": 0.5}).ratio_p is not None


def test_shares_that_moved_weigh_profiles_and_are_not_checked() -> None:
    """Two seasons with other rates and other shares: unweighted, b would look far better."""
    chance = random.Random(4)
    study = Study(WEEK)
    done = []
    for n in range(12_000):
        good = n >= 6_000
        share = 0.8 if good else 0.2
        variant = "b" if chance.random() < share else "a"
        given_out = share if variant == "b" else 1.0 - share
        _expose(study, f"u{n}", variant, at=T0 + n * MINUTE, share=given_out)
        if chance.random() < (0.4 if good else 0.1):
            done.append((f"u{n}", T0 + n * MINUTE))
    study.clock_ms += WEEK
    for person, at in done:
        _book(study, person, at=at, click=1.0)
    found = _result(study, "conversion")
    said = found.metrics[0].variants[1].compared
    assert found.shares_moved
    assert found.ratio_p is None
    assert said is not None
    assert abs(said.difference) < 0.03
    low, high = said.bounds
    assert low is not None
    assert high is not None
    assert low < 0 < high


def test_a_profile_of_many_decisions_is_one_unit() -> None:
    """A/A where some click always and others never: decisions taken for units alarm at once."""
    chance = random.Random(8)
    runs, ours, naive = 40, 0, 0
    for _ in range(runs):
        study = Study(WEEK)
        clicks, decisions = {"a": 0, "b": 0}, {"a": 0, "b": 0}
        done = []
        for n in range(600):
            variant, often = chance.choice("ab"), chance.randint(1, 30)
            rate = chance.choice([0.0, 0.8])
            _expose(study, f"u{n}", variant, at=T0 + n)
            decisions[variant] += often
            for _ in range(often):
                if chance.random() < rate:
                    clicks[variant] += 1
                    done.append((f"u{n}", T0 + n))
        study.tests["t"].last_ms = T0 + WEEK
        study.clock_ms += 2 * WEEK
        for person, at in done:
            _book(study, person, at=at, click=1.0)
        for metric in ("click", "order_value"):
            course = _one(study, metric).variants[1].course
            assert course[-1].profiles == 600
        seen = [p.compared.bounds for p in _one(study, "click").variants[1].course if p.compared]
        ours += any(not (low or 0.0) <= 0.0 <= (high or 0.0) for low, high in seen)
        rates = {v: clicks[v] / decisions[v] for v in "ab"}
        error = sum(r * (1 - r) / decisions[v] for v, r in rates.items()) ** 0.5
        naive += abs(rates["a"] - rates["b"]) > 1.96 * error
    assert ours <= 3
    assert naive > 10
