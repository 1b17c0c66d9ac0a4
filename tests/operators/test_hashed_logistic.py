"""Is the array model what River's logistic regression with the paper's optimizer would be?"""

from __future__ import annotations

import numpy as np
import pytest

from operators.ids import uniform
from operators.models.hashed_logistic import HashedLogistic
from tests.operators.decision_builders import PaperModel

CELLS = 64
LABELS = ("click", "buy", "dislike")

Labelled = tuple[dict[int, float], dict[str, bool], float]


def _stream(number: int) -> list[Labelled]:
    found: list[Labelled] = []
    for n in range(number):
        cells = {int(uniform(f"{n}|{i}") * CELLS): 1.0 + (i == 0) for i in range(6)}
        label = ("click", "buy", "dislike")[int(uniform(f"{n}|kind") * 3)]
        negative = uniform(f"{n}|negative") < 0.6
        truth = dict.fromkeys(LABELS, False) if negative else {label: True}
        found.append((cells, truth, 4.0 if negative else 1.0))
    return found


def test_every_label_learns_as_rivers_model_would_learn_it_alone() -> None:
    ours = HashedLogistic(LABELS, cells=CELLS)
    river = {label: PaperModel() for label in LABELS}
    for cells, truth, weight in _stream(400):
        ours.learn_one(cells, truth, weight, fake_negatives=True)
        for label, is_true in truth.items():
            river[label].learn(cells, rewarded=is_true, weight=weight)
    for cells, _, _ in _stream(50):
        said = ours.predict_proba_one(cells)
        for label in LABELS:
            assert said[label][True] == pytest.approx(river[label].predict(cells), abs=1e-5)
            assert said[label][False] == pytest.approx(1 - said[label][True])
    assert np.abs(ours.weights).max() > 0.2


def test_a_label_that_is_not_given_stays_as_it_is() -> None:
    model = HashedLogistic(LABELS, cells=CELLS)
    model.learn_one({1: 1.0, 2: 1.0}, {"buy": True})
    assert model.weights[1].any()
    assert not model.weights[[0, 2]].any()
    assert not model.n[[0, 2]].any()


def test_without_fake_negatives_a_step_is_the_plain_gradient() -> None:
    plain, weighted = (HashedLogistic(("click",), cells=CELLS) for _ in range(2))
    plain.learn_one({1: 1.0}, {"click": True}, 1.05)
    weighted.learn_one({1: 1.0}, {"click": True}, 1.0, fake_negatives=True)
    # The prior says 0.05, so a corrected positive weighs 1.05.
    assert plain.weights.tolist() == weighted.weights.tolist()


def test_before_learning_it_says_the_base_rate() -> None:
    model = HashedLogistic(LABELS, cells=CELLS, base_rates=dict.fromkeys(LABELS, 0.02))
    for said in model.predict_proba_one({3: 1.0, 9: 1.0}).values():
        assert said[True] == pytest.approx(0.02)


def test_predicting_never_learns() -> None:
    model = HashedLogistic(LABELS, cells=CELLS)
    for cells, truth, weight in _stream(50):
        model.learn_one(cells, truth, weight)
    before = model.weights.tobytes(), model.z.tobytes(), model.n.tobytes()
    for cells, _, _ in _stream(50):
        model.predict_proba_one(cells)
    assert (model.weights.tobytes(), model.z.tobytes(), model.n.tobytes()) == before


def test_absurd_weights_keep_every_number_finite() -> None:
    model = HashedLogistic(("click",), cells=CELLS)
    for n in range(200):
        model.learn_one({1: 1.0, 2: 1.0}, {"click": n % 2 == 0}, 1e6, fake_negatives=True)
    assert np.isfinite(model.weights).all()
    assert 0 <= model.predict_proba_one({1: 1.0})["click"][True] <= 1
