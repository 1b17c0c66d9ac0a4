"""Does a published set predict what the model that published it predicts?"""

from __future__ import annotations

import math

import numpy as np
import pytest

from operators.ids import hash32
from operators.models.prediction_models import Expectation, Probability
from operators.prediction_learner import PredictionLearner
from schemas.time import DAY
from tests.operators.builders import T0
from tests.operators.prediction_builders import BUYS, World, labelled_stream, predicting, seen

SPEND = {"target": {"sum": "purchase", "of": "value", "within": "7d"}}


@pytest.mark.parametrize("prediction", [BUYS, SPEND])
def test_decide_predicts_what_the_learner_would(prediction: dict[str, object]) -> None:
    world = World(predicting({"buys": prediction}))
    learner = PredictionLearner("buys", world.policy, incarnation="life1")
    published, _ = learner.learn(
        case._replace(label=20 * case.label) for case in labelled_stream(1, 800)
    )
    assert published is not None
    world.parameters.publish(learner.publish())
    world.predictor.refresh()
    model = learner._river
    cells = [1, 103, 217]
    said = world.predictor.of_cells("buys", cells)
    assert said is not None
    x = dict.fromkeys(cells, 1.0)
    loss = model.learn(x, 0.0)
    if isinstance(model, Probability):
        assert loss == pytest.approx(-math.log(1 - said), rel=1e-5)
    else:
        assert isinstance(model, Expectation)
        assert loss == pytest.approx(math.log1p(said), rel=1e-5)


def test_two_features_in_one_cell_count_twice_in_both() -> None:
    world = World(predicting())
    learner = PredictionLearner("buys", world.policy, incarnation="life1")
    same = np.array([7, 7 + (1 << 14), 9], "<u4").tobytes()
    learner.learn(case._replace(features=same) for case in labelled_stream(1, 400))
    world.parameters.publish(learner.publish())
    world.predictor.refresh()
    weights = learner.publish().weights[0]
    raw = learner.publish().intercepts[0] + 2 * weights[7] + weights[9]
    said = world.predictor.of_cells("buys", [7, 7 + (1 << 14), 9])
    assert said == pytest.approx(1 / (1 + math.exp(-raw)), rel=1e-5)


def test_a_prediction_is_of_the_profile_at_the_moment() -> None:
    world = World(predicting({"buys": {**BUYS, "every": "60d"}}))
    world.apply(seen(at=T0))
    profile = world.profiles["u1"]
    [taken] = [case for case in profile.cases if case.features]
    learner = world.learner()
    for label in (0.0, 1.0):  # both kinds, so that a set is published
        learner.learn(
            case._replace(features=taken.features, label=label) for case in labelled_stream(1, 100)
        )
    world.parameters.publish(learner.publish())
    world.predictor.refresh()
    now = world.predictor("buys", profile, T0)
    later = world.predictor("buys", profile, T0 + 20 * DAY)
    assert now is not None
    assert later is not None
    assert now != later  # the view has left its window by then


def test_as_a_feature_a_prediction_is_a_bin_or_none() -> None:
    world = World(predicting())
    world.apply(seen(at=T0))
    profile = world.profiles["u1"]
    assert world.predictor.feature_cells(["buys"], profile, T0) == [hash32("prediction.buys~none")]
    learner = world.learner()
    learner.learn(labelled_stream(1, 400))
    world.parameters.publish(learner.publish())
    world.predictor.refresh()
    said = world.predictor("buys", profile, T0)
    assert said is not None
    bin_ = math.floor(2 * math.log2(said / (1 - said)))
    assert world.predictor.feature_cells(["buys"], profile, T0) == [
        hash32(f"prediction.buys~{bin_}")
    ]
