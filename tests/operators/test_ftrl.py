"""Is the optimizer FTRL-Proximal, as the paper writes it and as River has it but for one step?"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import linear_model, optim

from operators.ids import uniform
from operators.models.ftrl import Ftrl

CELLS = 16
gradients = st.lists(
    st.dictionaries(
        st.integers(0, CELLS - 1), st.floats(-4, 4, allow_subnormal=False), min_size=1
    ),
    min_size=1,
    max_size=30,
)


class Plain:
    """Algorithm 1 of McMahan et al. with lambda1 = 0, one coordinate at a time."""

    def __init__(self, alpha: float, beta: float, l2: float) -> None:
        self.alpha, self.beta, self.l2 = alpha, beta, l2
        self.z = [0.0] * CELLS
        self.n = [0.0] * CELLS

    def weight(self, cell: int) -> float:
        return -self.z[cell] / ((self.beta + math.sqrt(self.n[cell])) / self.alpha + self.l2)

    def step(self, gradient: dict[int, float]) -> None:
        for cell, g in gradient.items():
            sigma = (math.sqrt(self.n[cell] + g * g) - math.sqrt(self.n[cell])) / self.alpha
            self.z[cell] += g - sigma * self.weight(cell)
            self.n[cell] += g * g


def _examples(number: int) -> list[tuple[dict[int, float], int, float]]:
    found = []
    for n in range(number):
        cells = {int(uniform(f"{n}|{i}") * CELLS): 1.0 for i in range(5)}
        label = int(uniform(f"{n}|label") < (0.7 if 3 in cells else 0.2))
        found.append((cells, label, 1.0 + n % 4))
    return found


@given(
    stream=gradients,
    alpha=st.floats(0.01, 1),
    beta=st.floats(0.1, 2),
    l2=st.floats(0, 5),
)
def test_a_stream_of_gradients_gives_the_weights_of_the_paper(
    stream: list[dict[int, float]], alpha: float, beta: float, l2: float
) -> None:
    ours = Ftrl(alpha, beta, l2, cells=CELLS)
    plain = Plain(alpha, beta, l2)
    weights: dict[int, float] = {}
    for gradient in stream:
        ours.step(weights, gradient)
        plain.step(gradient)
    expected = [plain.weight(cell) for cell in range(CELLS)]
    assert ours.weights == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert [weights.get(cell, 0.0) for cell in range(CELLS)] == pytest.approx(expected, rel=1e-9)
    assert ours.n_iterations == len(stream)


@given(stream=gradients)
def test_rivers_own_has_the_same_weights_one_step_later(stream: list[dict[int, float]]) -> None:
    ours = Ftrl(0.1, 1.0, 1.0, cells=CELLS)
    river = optim.FTRLProximal(alpha=0.1, beta=1.0, l1=0.0, l2=1.0)
    own: dict[int, float] = {}
    theirs: dict[int, float] = {}
    for gradient in stream:
        ours.step(own, gradient)
        # A gradient of nothing makes River write the weights that its last step gave.
        river.step(theirs, gradient)
        river.step(theirs, dict.fromkeys(range(CELLS), 0.0))
    assert [own.get(c, 0.0) for c in range(CELLS)] == pytest.approx(
        [float(theirs.get(c, 0.0)) for c in range(CELLS)], rel=1e-9, abs=1e-12
    )


def test_inside_rivers_logistic_regression_it_learns_as_the_plain_one() -> None:
    optimizer = Ftrl(0.1, 1.0, 1.0, cells=CELLS)
    model = linear_model.LogisticRegression(
        optimizer=optimizer, intercept_init=-1.0, intercept_lr=0.0
    )
    plain = Plain(0.1, 1.0, 1.0)
    for cells, label, weight in _examples(300):
        logit = sum(plain.weight(c) for c in cells) - 1.0
        model.learn_one(cells, label, w=weight)
        plain.step(dict.fromkeys(cells, weight * (1 / (1 + math.exp(-logit)) - label)))
    assert model.intercept == -1.0
    expected = [plain.weight(cell) for cell in range(CELLS)]
    assert [model.weights.get(c, 0.0) for c in range(CELLS)] == pytest.approx(expected, rel=1e-9)
    assert max(map(abs, expected)) > 0.2


def test_the_array_of_weights_is_what_the_model_holds_after_every_step() -> None:
    optimizer = Ftrl(cells=CELLS)
    model = linear_model.LogisticRegression(optimizer=optimizer, intercept_lr=0.0)
    for cells, label, weight in _examples(80):
        model.learn_one(cells, label, w=weight)
        held = [np.float32(model.weights.get(c, 0.0)) for c in range(CELLS)]
        assert optimizer.weights.tolist() == [float(w) for w in held]


def test_weights_come_back_from_z_and_n_alone_to_the_last_bit() -> None:
    optimizer = Ftrl(cells=CELLS)
    model = linear_model.LogisticRegression(optimizer=optimizer, intercept_lr=0.0)
    for cells, label, weight in _examples(80):
        model.learn_one(cells, label, w=weight)
    other = Ftrl(cells=CELLS)
    other.z[:], other.n[:] = optimizer.z, optimizer.n
    assert other.restored_weights() == dict(model.weights)
    assert other.weights.tolist() == optimizer.weights.tolist()
