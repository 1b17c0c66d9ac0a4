"""Does the draw have exactly the probabilities that it logs?

The chance of a rank is a number in [0, 1). Sweeping it over an even grid shows the whole
distribution: the share of the grid on which a candidate is drawn is its probability.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.explore import Drawn, draw_slate, gamma_of
from operators.score import Scores
from schemas.policy import Exploration

_GRID = 500
_EVEN = [(i + 0.5) / _GRID for i in range(_GRID)]

KINDS = [
    Exploration(kind="igw"),
    Exploration(kind="igw", gamma=3.0, floor=0.0),
    Exploration(kind="epsilon_greedy", epsilon=0.2),
    Exploration(kind="epsilon_greedy", epsilon=1.0, floor=0.0),
    Exploration(kind="uniform"),
    Exploration(kind="greedy"),
]
kinds = st.one_of(
    st.builds(
        Exploration,
        kind=st.just("igw"),
        gamma=st.none() | st.floats(0.01, 1e6),
        floor=st.floats(0, 0.9),
    ),
    st.builds(
        Exploration,
        kind=st.just("epsilon_greedy"),
        epsilon=st.floats(0, 1),
        floor=st.floats(0, 0.9),
    ),
    st.just(Exploration(kind="uniform")),
    st.just(Exploration(kind="greedy")),
)
scores_of_a_few = st.lists(
    st.floats(-10, 10, allow_subnormal=False).map(lambda x: 0.0 if abs(x) < 1e-6 else x),
    min_size=1,
    max_size=6,
)


def _draw(scores: Scores | None, exploration: Exploration, *chances: float) -> list[Drawn]:
    count = 6 if scores is None else len(scores)
    return draw_slate(
        scores,
        count=count,
        slots=len(chances),
        exploration=exploration,
        rewarded=0,
        chances=chances,
    )


def _distribution(
    scores: Scores | None, exploration: Exploration, *above: float
) -> tuple[dict[int, float], Counter[int]]:
    """Propensity by candidate at the rank below the given chances, and how often it is drawn."""
    logged: dict[int, float] = {}
    often: Counter[int] = Counter()
    for chance in [0.0, *_EVEN, math.nextafter(1.0, 0.0)]:
        drawn = _draw(scores, exploration, *above, chance)[len(above)]
        assert logged.setdefault(drawn.position, drawn.propensity) == drawn.propensity
        often[drawn.position] += chance in _EVEN_SET
    return logged, often


_EVEN_SET = frozenset(_EVEN)


@settings(max_examples=50)
@given(scores=scores_of_a_few, exploration=kinds, above=st.floats(0, 1, exclude_max=True))
def test_the_share_of_chance_that_draws_a_candidate_is_its_logged_propensity(
    scores: list[float], exploration: Exploration, above: float
) -> None:
    for ranks_above in range(min(2, len(scores) - 1) + 1):
        given_above = [above] * ranks_above
        logged, often = _distribution(np.array(scores), exploration, *given_above)
        for candidate, propensity in logged.items():
            assert abs(often[candidate] / _GRID - propensity) <= 1.5 / _GRID
        # What no chance of the grid reached is rarer than a step of the grid.
        unseen = len(scores) - ranks_above - len(logged)
        assert 1.0 - unseen * 1.5 / _GRID - 1e-9 <= sum(logged.values()) <= 1.0 + 1e-9


@pytest.mark.parametrize("exploration", KINDS, ids=lambda e: f"{e.kind} {e.floor}")
@pytest.mark.parametrize("ranks_above", [0, 1, 2])
def test_the_probabilities_of_all_candidates_sum_to_one_at_each_rank(
    exploration: Exploration, ranks_above: int
) -> None:
    scores = np.array([0.30, 0.10, 0.25, 0.0, 0.28, -0.05])
    logged, _ = _distribution(scores, exploration, *[0.999] * ranks_above)
    assert len(logged) == (1 if exploration.kind == "greedy" else 6 - ranks_above)
    assert math.isclose(sum(logged.values()), 1.0, rel_tol=1e-12)


@pytest.mark.parametrize("ranks_above", [0, 1, 5])
def test_without_a_model_every_candidate_is_as_likely_as_another(ranks_above: int) -> None:
    logged, often = _distribution(None, Exploration(kind="igw"), *[0.5] * ranks_above)
    left = 6 - ranks_above
    assert logged.keys() == often.keys()
    assert all(propensity == 1 / left for propensity in logged.values())
    assert len(logged) == left


def test_inverse_gap_weighting_gives_one_over_k_plus_gamma_times_the_relative_gap() -> None:
    exploration = Exploration(kind="igw", gamma=12.0, floor=0.0)
    logged, _ = _distribution(np.array([0.4, 0.1, 0.3]), exploration)
    mean = 0.8 / 3
    assert logged[1] == pytest.approx(1 / (3 + 12 * 0.3 / mean))
    assert logged[2] == pytest.approx(1 / (3 + 12 * 0.1 / mean))
    assert logged[0] == pytest.approx(1 - logged[1] - logged[2])


@pytest.mark.parametrize("kind", ["igw", "epsilon_greedy"])
def test_the_floor_is_a_share_drawn_uniformly(kind: str) -> None:
    scores = np.array([0.9, 1e-9, 0.5, 0.2])
    bare = Exploration.model_validate({"kind": kind, "floor": 0.0})
    floored = Exploration.model_validate({"kind": kind, "floor": 0.1})
    without, _ = _distribution(scores, bare)
    with_floor, _ = _distribution(scores, floored)
    for candidate, propensity in with_floor.items():
        assert propensity == pytest.approx(0.9 * without[candidate] + 0.1 / 4)
        assert propensity >= 0.1 / 4


@pytest.mark.parametrize("ranks_above", [0, 1, 2])
def test_the_floor_is_shared_among_those_still_left(ranks_above: int) -> None:
    exploration = Exploration(kind="epsilon_greedy", epsilon=0.0, floor=0.3)
    scores = np.array([0.9, 0.1, 0.5, 0.2, 0.3])
    logged, _ = _distribution(scores, exploration, *[0.0] * ranks_above)
    left = 5 - ranks_above
    assert sorted(logged.values())[:-1] == pytest.approx([0.3 / left] * (left - 1))


@given(
    scores=st.lists(st.floats(0.01, 1), min_size=2, max_size=6),
    unit=st.sampled_from([0.001, 7.0, 1e4]),
)
def test_the_draw_does_not_depend_on_the_unit_of_the_rewards(
    scores: list[float], unit: float
) -> None:
    exploration = Exploration(kind="igw")
    for chance in (0.0, 0.37, 0.9, 0.999):
        one = _draw(np.array(scores), exploration, chance)[0]
        other = _draw(np.array(scores) * unit, exploration, chance)[0]
        assert one.position == other.position or len(set(scores)) < len(scores)
        assert one.propensity == pytest.approx(other.propensity, rel=1e-6)


def test_more_rewards_make_the_draw_greedier_and_a_given_gamma_does_not_move() -> None:
    growing = [gamma_of(Exploration(), rewarded=n) for n in (0, 10, 1_000)]
    assert growing == sorted(growing)
    assert growing[0] < growing[-1]
    assert gamma_of(Exploration(gamma=5.0), rewarded=1_000) == 5.0


@pytest.mark.parametrize("exploration", KINDS, ids=lambda e: f"{e.kind} {e.floor}")
def test_all_scores_zero_or_equal_is_no_trouble(exploration: Exploration) -> None:
    for level in (0.0, 0.2, -0.2):
        logged, _ = _distribution(np.full(4, level), exploration)
        assert math.isclose(sum(logged.values()), 1.0, rel_tol=1e-12)


@given(
    scores=st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=1, max_size=8),
    exploration=kinds,
    slots=st.integers(1, 10),
    chances=st.lists(st.floats(0, 1, exclude_max=True), min_size=10, max_size=10),
)
def test_a_slate_never_repeats_a_candidate_and_fills_what_it_can(
    scores: list[float], exploration: Exploration, slots: int, chances: list[float]
) -> None:
    drawn = draw_slate(
        np.array(scores),
        count=len(scores),
        slots=slots,
        exploration=exploration,
        rewarded=3,
        chances=chances[:slots],
    )
    assert len(drawn) == min(slots, len(scores))
    assert len({d.position for d in drawn}) == len(drawn)
    assert all(0 < d.propensity <= 1 for d in drawn)
    if len(drawn) == len(scores):
        assert drawn[-1].propensity == pytest.approx(1.0)


def test_greedy_takes_the_best_in_order_and_scores_are_left_as_they_were() -> None:
    scores = np.array([0.1, 0.4, 0.2, 0.3])
    drawn = _draw(scores, Exploration(kind="greedy"), 0.99, 0.99, 0.99)
    assert [d.position for d in drawn] == [1, 3, 2]
    assert all(d.propensity == 1.0 and d.greedy for d in drawn)
    assert scores.tolist() == [0.1, 0.4, 0.2, 0.3]


def test_a_thousand_candidates_still_leave_the_best_its_due() -> None:
    scores = np.full(1_000, 0.05)
    scores[700] = 0.10
    for chance in (0.0, 0.5, 0.9999):
        drawn = _draw(scores, Exploration(kind="igw", floor=0.0), chance)[0]
        gap = 0.05 / float(scores.mean())
        assert drawn.propensity == pytest.approx(
            1 - 999 / (1_000 + 30 * gap) if drawn.greedy else 1 / (1_000 + 30 * gap)
        )
