"""What is an event worth, for each content and on the whole?"""

from __future__ import annotations

import pytest

from operators.models.value_means import ValueMeans
from operators.outputs import Example
from operators.score import scorer_of
from tests.operators.builders import content, placement_policy, plan
from tests.operators.decision_builders import all_positions, features_of, learner

BUY = {"buy": {"events": "purchase", "value": 2, "times": "value", "within": "1d"}}


def test_before_the_first_event_a_value_is_taken_for_one() -> None:
    assert ValueMeans().means(["a"]) == (1.0, {})


def test_a_content_is_drawn_towards_the_mean_of_all() -> None:
    means = ValueMeans()
    for _ in range(90):
        means.add("cheap", 10.0, 1.0)
    for _ in range(10):
        means.add("dear", 110.0, 1.0)
    overall, by_content = means.means(["cheap", "dear", "new"])
    assert overall == pytest.approx(20.0)
    assert by_content["dear"] == pytest.approx((10 * 110 + 10 * 20) / 20)
    assert 10.0 < by_content["cheap"] < 12.0
    assert "new" not in by_content


def test_forgetting_keeps_means_and_weakens_them() -> None:
    means = ValueMeans()
    for _ in range(40):
        means.add("a", 10.0, 1.0)
    means.forget(0.5)
    for _ in range(20):
        means.add("a", 30.0, 1.0)
    assert means.means(["a"]).overall == pytest.approx(20.0)
    means.forget(1e-6)
    assert means.keep().keys() == {""}


def test_values_that_are_not_finite_are_left_out() -> None:
    means = ValueMeans()
    for value in (float("nan"), float("inf"), -float("inf"), 5.0):
        means.add("a", value, 1.0)
    assert means.means(["a"]).overall == 5.0


def test_what_is_kept_can_be_put_back() -> None:
    means, again = ValueMeans(), ValueMeans()
    means.add("a", 3.0, 1.0)
    means.add("b", -4.0, 2.0)
    again.restore(means.keep())
    assert again.means(["a", "b"]) == means.means(["a", "b"])


def test_scores_follow_what_events_are_worth() -> None:
    policy = placement_policy(rewards=BUY)
    one = policy.placements["home"].model_copy(update={"rewards": ("buy",)})
    of = plan(
        policy.model_copy(update={"placements": {"home": one}}),
        [content("cheap"), content("dear"), content("new")],
    )
    pupil, logged = learner(of), features_of(of)
    for n in range(600):
        shown, value = ("cheap", 5.0) if n % 2 else ("dear", 100.0)
        pupil.learn([Example("home", shown, logged, None, 1.0, n)])
        if n % 10 < 2:
            pupil.learn([Example("home", shown, logged, "buy", 1.0, n, value)])
    parameters = pupil.publish()
    scorer = scorer_of(of.models["home"], of.contents, parameters)
    scores = dict(zip(of.contents.ids, scorer.score([], all_positions(of)), strict=True))
    means = parameters.means["buy"]
    assert means.by_content["dear"] > 80
    assert means.by_content["cheap"] < 15
    # Without profile cells all chances are the prior's: only the worth differs.
    assert scores["dear"] == pytest.approx(0.05 * 2 * means.by_content["dear"], rel=1e-5)
    assert scores["new"] == pytest.approx(0.05 * 2 * means.overall, rel=1e-5)
    # It survives a restart.
    revived = learner(of)
    served = revived.restore(pupil.snapshot())
    assert served is not None
    assert served.means == parameters.means
