"""Is a case's label made of what came after it and of nothing else, and known when it can be?"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.arrival import HISTORY, OUTCOME, Arrived
from operators.features import Hashes
from operators.outputs import Labelled
from operators.predict import Cases, Predictor, compile_predictions
from operators.profile import Profile
from operators.signals import compile_signals
from schemas.predictions import MAX_CASES
from schemas.time import DAY, HOUR, MINUTE, SECOND
from tests.operators.builders import T0, content
from tests.operators.prediction_builders import BUYS, World, predicting, seen

FAR_APART: dict[str, Any] = {"every": "60d"}
"""So rarely that a test of days sees one case."""


def _world(lateness: int = MINUTE, **prediction: Any) -> World:
    return World(predicting({"buys": {**BUYS, **FAR_APART, **prediction}}), lateness_ms=lateness)


def _brief(cases: list[Labelled]) -> list[tuple[int, float, int]]:
    return [(case.at_ms - T0, case.label, case.closed_ms - T0) for case in cases]


def test_the_target_event_settles_a_case_at_once() -> None:
    world = _world()
    world.apply(seen(at=T0), seen("purchase", at=T0 + DAY), seen("purchase", at=T0 + 2 * DAY))
    assert _brief(world.labelled) == [(0, 1.0, DAY)]
    world.pass_time(T0 + 30 * DAY)
    assert len(world.labelled) == 1


def test_without_the_target_event_the_end_of_the_horizon_settles_it() -> None:
    world = _world()
    world.apply(seen(at=T0), seen(at=T0 + 3 * DAY))
    world.pass_time(T0 + 7 * DAY - 1)
    assert world.labelled == []
    world.pass_time(T0 + 7 * DAY)
    assert _brief(world.labelled) == [(0, 0.0, 7 * DAY)]


def test_of_not_done_an_event_is_the_negative_and_silence_the_positive() -> None:
    target = {"not_done": ["view", "purchase"], "within": "7d"}
    back, gone = _world(target=target), _world(target=target)
    back.apply(seen(at=T0), seen("purchase", at=T0 + DAY))
    assert _brief(back.labelled) == [(0, 0.0, DAY)]
    gone.apply(seen(at=T0))
    gone.pass_time(T0 + 7 * DAY)
    assert _brief(gone.labelled) == [(0, 1.0, 7 * DAY)]


def test_a_sum_adds_up_what_the_horizon_brings() -> None:
    world = _world(target={"sum": "purchase", "of": "value", "within": "7d"})
    world.apply(
        seen("purchase", at=T0, value=100.0),
        seen("purchase", at=T0 + DAY, value=0.1),
        seen("purchase", at=T0 + 2 * DAY, value=0.2),
        seen("purchase", at=T0 + 3 * DAY, value=None),
        seen("purchase", at=T0 + 8 * DAY, value=5.0),
    )
    world.pass_time(T0 + 8 * DAY)
    assert _brief(world.labelled) == [(0, 0.3, 7 * DAY)]


def test_a_sum_of_refunds_is_not_below_nothing() -> None:
    world = _world(target={"sum": "purchase", "of": "value", "within": "7d"})
    world.apply(seen(at=T0), seen("purchase", at=T0 + DAY, value=-20.0))
    world.pass_time(T0 + 7 * DAY)
    assert _brief(world.labelled) == [(0, 0.0, 7 * DAY)]


@pytest.mark.parametrize(
    ("after", "label"), [(0, 0.0), (1, 1.0), (7 * DAY - 1, 1.0), (7 * DAY, 0.0)]
)
def test_the_horizon_begins_after_the_moment_and_ends_before_its_end(
    after: int, label: float
) -> None:
    world = _world()
    world.apply(seen(at=T0), seen("purchase", at=T0 + after))
    world.pass_time(T0 + 8 * DAY)
    assert [case.label for case in world.labelled if case.at_ms == T0] == [label]


def test_a_late_event_counts_where_it_is_dated() -> None:
    world = _world(lateness=2 * HOUR)
    # The moment of the case is the newest thing seen, whatever came last.
    world.apply(seen(at=T0 + HOUR), seen("purchase", at=T0))
    assert world.labelled == []
    world.apply(seen(at=T0 + 7 * DAY + 2 * HOUR))
    assert world.labelled == []  # the watermark has not reached the end: it may still come
    world.apply(seen("purchase", at=T0 + 7 * DAY))
    assert _brief(world.labelled) == [(HOUR, 1.0, 7 * DAY)]


def test_a_filter_narrows_the_target() -> None:
    world = _world(
        target={"done": "purchase", "within": "7d", "where": {"value": {"at_least": 50}}}
    )
    world.apply(seen(at=T0), seen("purchase", at=T0 + DAY, value=49.0))
    assert world.labelled == []
    world.apply(seen("purchase", at=T0 + 2 * DAY, value=50.0))
    assert _brief(world.labelled) == [(0, 1.0, 2 * DAY)]


_STEPS = st.lists(
    st.tuples(st.integers(1, 40), st.sampled_from(["view", "purchase"]), st.integers(1, 99_999)),
    max_size=12,
)


@given(_STEPS, st.sampled_from(["done", "sum"]), st.randoms(use_true_random=False))
def test_arrival_order_changes_no_label(
    steps: list[tuple[int, str, int]], kind: str, shuffle: Any
) -> None:
    target: dict[str, Any] = {kind: "purchase", "within": "1d"}
    if kind == "sum":
        target["of"] = "value"
    events = [
        seen(name, at=T0 + step * HOUR, value=cents / 100 + 0.001) for step, name, cents in steps
    ]
    shuffled = list(events)
    shuffle.shuffle(shuffled)

    def labels(order: list[Arrived]) -> list[tuple[int, float]]:
        world = _world(lateness=48 * HOUR, target=target)
        world.apply(seen(at=T0), *order)
        world.pass_time(T0 + 5 * DAY)
        return [(case.at_ms, case.label) for case in world.labelled]

    assert labels(events) == labels(shuffled)


def test_an_idle_profile_gives_cases_ever_more_rarely() -> None:
    world = World(predicting({"buys": {**BUYS, "every": "1d"}}, retention={"profile_ttl": "40d"}))
    world.apply(seen(at=T0))
    world.pass_time(T0 + 100 * DAY)
    assert [(case.at_ms - T0) // DAY for case in world.labelled] == [0, 1, 2, 4, 8, 16, 32]
    assert all(case.label == 0.0 for case in world.labelled)


def test_no_case_is_taken_whose_profile_would_be_dropped_before_its_label() -> None:
    world = World(predicting({"buys": {**BUYS, "every": "1d"}}, retention={"profile_ttl": "12d"}))
    world.apply(seen(at=T0))
    world.pass_time(T0 + 100 * DAY)
    assert [(case.at_ms - T0) // DAY for case in world.labelled] == [0, 1, 2, 4]
    assert world.profiles["u1"].cases == []


def test_one_that_comes_back_is_watched_closely_again() -> None:
    world = World(predicting({"buys": {**BUYS, "every": "1d"}}))
    world.apply(seen(at=T0))
    world.pass_time(T0 + 20 * DAY)
    world.labelled.clear()
    world.apply(seen(at=T0 + 20 * DAY))
    world.pass_time(T0 + 60 * DAY)
    days = [(case.at_ms - T0) // DAY for case in world.labelled]
    assert [day for day in days if day >= 20] == [20, 21, 22, 24, 28, 36, 52]


@given(
    st.lists(st.tuples(st.integers(0, 200), st.booleans()), min_size=1, max_size=12),
    st.lists(st.integers(0, 900), max_size=30),
)
def test_a_watermark_that_leaps_gives_what_one_that_creeps_does(
    steps: list[tuple[int, bool]], stops: list[int]
) -> None:
    prediction = {**BUYS, "target": {"done": "purchase", "within": "2d"}, "every": "8h"}

    def run(stops: list[int]) -> list[Labelled]:
        world = World(predicting({"buys": prediction}))
        at = T0
        for hours, buys in steps:
            for stop in sorted(stops):
                if at <= T0 + stop * HOUR <= at + hours * HOUR - MINUTE:
                    world.pass_time(T0 + stop * HOUR)
            at += hours * HOUR
            world.apply(seen("purchase" if buys else "view", at=at))
            world.through_bytes()
        world.pass_time(at + 30 * DAY)
        return world.labelled

    assert run(stops) == run([])


def test_a_profile_keeps_few_cases_open() -> None:
    world = World(predicting({"buys": {**BUYS, "every": "1s"}}), lateness_ms=40 * DAY)
    for hour in range(0, 30 * 24, 3):
        world.apply(seen(at=T0 + hour * HOUR))
        open_ = [case for case in world.profiles["u1"].cases if case.features]
        assert len(open_) <= MAX_CASES
    assert len(open_) == MAX_CASES
    assert len(world.profiles["u1"].cases) == MAX_CASES + 1
    # An eighth of the horizon lies between two, whatever the policy asks.
    moments = [case.at_ms for case in open_]
    assert all(b - a >= 7 * DAY // 8 for a, b in pairwise(moments))


def test_a_case_sees_the_profile_as_of_its_moment() -> None:
    world = _world()
    world.apply(seen(at=T0))
    [case] = [case for case in world.profiles["u1"].cases if case.features]
    before = np.array(
        world.compiled[0].features.cells(world.profiles["u1"], T0, {}), "<u4"
    ).tobytes()
    assert case.features == before
    world.apply(seen("purchase", at=T0 + DAY))
    assert world.labelled[0].features == before


def test_where_learning_is_refused_nothing_stays_open() -> None:
    world = _world()
    world.apply(seen(at=T0))
    world.may_learn = False
    world.apply(seen("purchase", at=T0 + DAY))
    assert world.labelled == []
    assert world.profiles["u1"].cases == []


def test_events_that_are_not_behaviour_give_no_case() -> None:
    world = _world()
    world.apply(
        seen("decision_requested", at=T0, placement="home"),
        seen("impression", at=T0 + 1),
        seen("feedback", at=T0 + 2, feedback="like"),
        seen("profile_updated", at=T0 + 3, attributes={"age": 3}),
        seen("view", at=T0 + 4, mode=HISTORY),
        seen("view", at=T0 + 5, mode=OUTCOME),
    )
    assert world.profiles["u1"].cases == []


def test_history_that_comes_with_a_link_counts_where_it_is_dated() -> None:
    world = _world(lateness=2 * DAY)
    world.apply(seen(at=T0), seen("purchase", at=T0 + HOUR, mode=HISTORY))
    assert _brief(world.labelled) == [(0, 1.0, HOUR)]


def test_a_sensitive_content_neither_gives_a_case_nor_settles_one() -> None:
    world = _world()
    world.apply(seen(at=T0))
    profile = world.profiles["u1"]
    hidden = content("secret", sensitive=True)
    out: list[Labelled] = []
    world.cases.observe(
        profile, seen("purchase", at=T0 + DAY), hidden, T0 + DAY, may_learn=True, out=out
    )
    assert out == []
    other = Profile("u2", T0, T0)
    world.cases.observe(other, seen(at=T0), hidden, T0, may_learn=True, out=out)
    assert other.cases == []


def test_a_label_means_nothing_under_another_target() -> None:
    world = _world()
    world.apply(seen(at=T0))
    changed = World(
        predicting({"buys": {"target": {"done": "purchase", "within": "14d"}, **FAR_APART}})
    )
    changed.profiles = world.profiles
    changed.apply(seen("purchase", at=T0 + DAY))
    changed.pass_time(T0 + 10 * DAY)
    assert changed.labelled == []
    changed.apply(seen(at=T0 + 61 * DAY), seen("purchase", at=T0 + 62 * DAY))
    assert _brief(changed.labelled) == [(61 * DAY, 1.0, 62 * DAY)]


def test_predictions_that_see_the_same_share_one_reading() -> None:
    asked = {"buys": BUYS, "churn": {"target": {"not_done": "view", "within": "30d"}}}
    first, second = World(predicting(asked)).compiled
    assert first.features is second.features
    assert first.model == "prediction.buys"
    assert first.mark != second.mark


def test_a_look_alike_is_labelled_by_what_it_is_now() -> None:
    like = {"target": {"segment": "fans"}}
    world = World(
        predicting(
            {"vip": like},
            segments={"fans": {"when": {"signal": "views_7d", "at_least": 3}}},
        )
    )
    world.apply(seen(at=T0))
    world.profiles["u1"].segments["fans"] = T0
    world.apply(seen(at=T0 + DAY))
    assert _brief(world.labelled) == [(0, 0.0, 0), (DAY, 1.0, DAY)]
    assert world.labelled[0].model == "prediction.vip"


def _cells(policy_sections: dict[str, Any], prediction: dict[str, Any]) -> set[str]:
    """The names of what a prediction's model sees of a profile that shows everything."""
    of = predicting({"p": prediction}, **policy_sections)
    hashes = Hashes()
    signals = compile_signals(of.signals)
    [compiled] = compile_predictions(of, signals, hashes)
    names = [*of.segments, *(f"intent.{name}" for name in of.intents)]
    shown = Profile("u1", T0, T0, segments=dict.fromkeys(names, T0), attributes={"age": 40})
    compiled.features.cells(shown, T0, {})
    return {
        text.partition("=")[2] if text.startswith("segment=") else text.partition("~")[0]
        for text in hashes._known
        if text.partition("~")[0] != "1"
    }


_TIERS: dict[str, Any] = {
    "signals": {
        "views": {"kind": "count", "events": "view", "within": "7d"},
        "orders": {"kind": "count", "events": "purchase", "within": "90d"},
        "orders_7d": {"kind": "count", "events": "purchase", "within": "7d"},
        "per_view": {"kind": "ratio", "of": "orders", "to": "views"},
        "clicks": {"kind": "count", "events": "click", "within": "7d"},
    },
    "segments": {
        "buyer": {"when": {"signal": "orders", "at_least": 1}},
        "vip": {"when": {"all": [{"segment": "buyer"}, {"attribute": "age", "at_least": 18}]}},
        "not_vip": {"when": {"not": {"segment": "vip"}}},
        "big": {"when": {"done": "purchase", "within": "30d", "at_least": 2}},
        "clicker": {"when": {"signal": "clicks", "at_least": 1}},
        "likely": {"when": {"prediction": "p", "at_least": 0.5}},
    },
}


def test_a_look_alike_does_not_see_what_its_segment_asks_about() -> None:
    found = _cells(_TIERS, {"target": {"segment": "vip"}, "features": {"attributes": ["age"]}})
    assert found == {"views", "clicks", "clicker"}


def test_a_look_alike_may_be_shown_other_windows_of_the_same_events() -> None:
    shown = {"signals": ["orders", "orders_7d", "per_view"], "segments": ["buyer", "big"]}
    found = _cells(_TIERS, {"target": {"segment": "vip"}, "features": shown})
    assert found == {"orders_7d", "big"}


def test_no_model_sees_a_segment_that_asks_about_a_prediction() -> None:
    found = _cells(_TIERS, {"target": {"done": "purchase", "within": "7d"}})
    assert "likely" not in found
    assert {"buyer", "vip", "not_vip", "big", "clicker", "orders", "per_view"} <= found


def test_a_moment_without_anything_published_is_not_predicted() -> None:
    world = _world()
    world.apply(seen(at=T0), seen("purchase", at=T0 + SECOND))
    assert world.labelled[0].predicted is None
    assert world.predictor("buys", world.profiles["u1"], T0) is None
    assert world.predictor.version("buys") is None
    with pytest.raises(KeyError):
        world.predictor("sells", world.profiles["u1"], T0)


def test_the_machine_needs_no_predictions() -> None:
    of = predicting({"buys": BUYS})
    hashes = Hashes()
    world = World(of)
    idle = Cases((), Predictor((), world.parameters, hashes))
    profile, out = Profile("u1", T0, T0), list[Labelled]()
    idle.observe(profile, seen(at=T0), None, T0, may_learn=True, out=out)
    idle.close(profile, T0 + DAY, out)
    assert (profile.cases, out) == ([], [])
