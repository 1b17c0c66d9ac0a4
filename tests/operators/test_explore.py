"""Does the draw have exactly the probabilities that it logs?

The chance of a rank is a number in [0, 1). Sweeping it over an even grid shows the whole
distribution: the share of the grid on which a candidate is drawn is its probability.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.explore import Drawn, draw_slate, gamma_of, propensities
from operators.score import Scores
from operators.thompson import Samples
from schemas.learning import Exploration

_GRID = 500
_EVEN = [(i + 0.5) / _GRID for i in range(_GRID)]

KINDS = [
    Exploration(kind="igw"),
    Exploration(kind="igw", gamma=3.0, floor=0.0),
    Exploration(kind="epsilon_greedy", epsilon=0.2),
    Exploration(kind="epsilon_greedy", epsilon=1.0, floor=0.0),
    Exploration(kind="uniform"),
    Exploration(kind="greedy"),
    Exploration(kind="softmax", temperature=0.5),
    Exploration(kind="igw", gamma=1.0, budget=0.3),
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
    st.builds(
        Exploration,
        kind=st.just("softmax"),
        temperature=st.floats(0.01, 100),
        floor=st.floats(0, 0.9),
        budget=st.floats(0, 1),
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


# What is put rather than drawn, and slates that end short.


def _slate(
    scores: list[float] | None, slots: int, fixed: dict[int, int], *, count: int = 4
) -> list[Drawn]:
    return draw_slate(
        None if scores is None else np.array(scores),
        count=count,
        slots=slots,
        exploration=Exploration(kind="igw", gamma=5.0, floor=0.0),
        rewarded=0,
        chances=[0.999] * slots,
        fixed=fixed,
    )


def test_what_is_fixed_is_at_its_rank_and_teaches_nothing_of_other_choices() -> None:
    drawn = _slate([0.1, 0.9, 0.5, 0.3], 3, {0: 3, 2: 1})
    assert drawn[0] == Drawn(3, 1.0, True, False)
    assert drawn[2] == Drawn(1, 1.0, True, False)
    assert drawn[1].learnable
    assert drawn[1].position in (0, 2)
    # Two were open to the draw: what is fixed elsewhere is no candidate.
    assert drawn[1].propensity == pytest.approx(1 / (2 + 5 * 0.4 / 0.45))


def test_what_is_fixed_beyond_the_slots_is_a_candidate_like_others() -> None:
    drawn = _slate([0.1, 0.9, 0.5, 0.3], 1, {2: 3})
    assert drawn == _slate([0.1, 0.9, 0.5, 0.3], 1, {})
    assert drawn[0].position == 3
    assert drawn[0].learnable


def test_a_whole_slate_may_be_fixed() -> None:
    for scores in ([0.1, 0.9], None):
        drawn = draw_slate(
            None if scores is None else np.array(scores),
            count=2,
            slots=2,
            exploration=Exploration(),
            rewarded=0,
            chances=[0.1, 0.1],
            fixed={0: 0, 1: 1},
        )
        assert [d.position for d in drawn] == [0, 1]


def test_no_candidates_make_an_empty_slate() -> None:
    for scores in (None, np.array([])):
        assert (
            draw_slate(
                scores, count=0, slots=3, exploration=Exploration(), rewarded=0, chances=[0.1] * 3
            )
            == []
        )


@pytest.mark.parametrize("exploration", KINDS, ids=lambda e: f"{e.kind} {e.floor}")
def test_a_single_candidate_is_certain(exploration: Exploration) -> None:
    for scores in (None, np.array([0.3]), np.array([0.0]), np.array([-2.0])):
        drawn = draw_slate(
            scores, count=1, slots=3, exploration=exploration, rewarded=0, chances=[0.7] * 3
        )
        assert [(d.position, d.propensity) for d in drawn] == [(0, 1.0)]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", ["igw", "softmax", "greedy", "epsilon_greedy", "thompson"])
def test_scores_that_are_not_finite_are_a_bug_that_is_told(bad: float, kind: str) -> None:
    exploration = Exploration.model_validate({"kind": kind})
    with pytest.raises(ValueError, match="must be finite"):
        _draw(np.array([0.1, bad, 0.3]), exploration, 0.5)


@pytest.mark.parametrize("given", [{"kind": "thompson"}, {"kind": "igw", "optimism": 0.5}])
def test_a_spread_that_is_not_finite_is_a_bug_that_is_told(given: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        draw_slate(
            np.array([0.1, 0.2]),
            count=2,
            slots=1,
            exploration=Exploration.model_validate(given),
            rewarded=0,
            chances=[0.5],
            spread=np.array([0.1, math.nan]),
        )


def test_a_hundred_thousand_candidates_have_the_propensities_they_are_drawn_by() -> None:
    scores = np.linspace(0.0, 1.0, 100_000)
    spread = np.full(100_000, 0.1)
    for kind in ("igw", "softmax", "thompson", "epsilon_greedy", "uniform"):
        exploration = Exploration.model_validate({"kind": kind, "draws": 16})
        known: dict[str, Any] = {
            "count": 100_000,
            "exploration": exploration,
            "rewarded": 9,
            "noise_of": "many",
        }
        found = propensities(scores, spread=spread, **known)
        assert math.isclose(float(found.sum()), 1.0, rel_tol=1e-9)
        drawn = draw_slate(scores, spread=spread, slots=3, chances=[0.2, 0.995, 0.5], **known)
        assert drawn[0].propensity == found[drawn[0].position] > 0
        assert len({d.position for d in drawn}) == 3


# What each kind makes of its parameters.


def test_softmax_weighs_by_the_relative_score() -> None:
    exploration = Exploration(kind="softmax", temperature=0.5, floor=0.0)
    scores = np.array([0.4, 0.1, 0.1])
    found = propensities(scores, count=3, exploration=exploration, rewarded=0)
    # The mean is 0.2: the best is ahead by 0.3 / 0.2 / 0.5 = 3.
    assert found[0] / found[1] == pytest.approx(math.exp(3), rel=1e-6)
    cold = Exploration(kind="softmax", temperature=1e-9, floor=0.0)
    assert propensities(scores, count=3, exploration=cold, rewarded=0).tolist() == [1.0, 0.0, 0.0]
    hot = Exploration(kind="softmax", temperature=1e9, floor=0.0)
    found = propensities(scores, count=3, exploration=hot, rewarded=0)
    assert found.tolist() == pytest.approx([1 / 3] * 3, rel=1e-6)


def test_a_budget_cuts_the_others_in_proportion_and_not_their_order() -> None:
    scores = np.array([0.4, 0.3, 0.1])
    loose = Exploration(kind="igw", gamma=0.5, floor=0.1)
    tight = loose.model_copy(update={"budget": 0.05})
    free = propensities(scores, count=3, exploration=loose, rewarded=0)
    cut = propensities(scores, count=3, exploration=tight, rewarded=0)
    assert cut[0] == pytest.approx(0.95)
    assert cut[1] / cut[2] == pytest.approx(free[1] / free[2])
    never = loose.model_copy(update={"budget": 0.0})
    assert propensities(scores, count=3, exploration=never, rewarded=0).tolist() == [1, 0, 0]


def test_optimism_gives_the_benefit_of_the_doubt_where_doubt_is_known() -> None:
    scores, spread = np.array([0.30, 0.25]), np.array([0.01, 0.20])
    hopeful = Exploration(kind="greedy", optimism=0.5)
    known: dict[str, Any] = {"count": 2, "slots": 1, "rewarded": 0, "chances": [0.5]}
    assert draw_slate(scores, exploration=hopeful, spread=spread, **known)[0].position == 1
    assert draw_slate(scores, exploration=hopeful, **known)[0].position == 0
    assert scores.tolist() == [0.30, 0.25]


def test_thompson_without_a_spread_draws_by_inverse_gap_weighting() -> None:
    scores = np.array([0.4, 0.3, 0.1])
    known: dict[str, Any] = {"count": 3, "rewarded": 4}
    thompson = propensities(scores, exploration=Exploration(kind="thompson"), **known)
    assert (thompson == propensities(scores, exploration=Exploration(), **known)).all()


def test_thompson_prefers_what_may_be_better_and_follows_its_text() -> None:
    scores, spread = np.array([0.30, 0.25, 0.25]), np.array([0.01, 0.20, 0.01])
    exploration = Exploration(kind="thompson", spread=1.0, floor=0.0)
    known: dict[str, Any] = {
        "count": 3,
        "rewarded": 0,
        "spread": spread,
        "exploration": exploration,
    }
    one = propensities(scores, noise_of="one", **known)
    assert one[1] > 0.3 > 0.01 > one[2]
    assert (one == propensities(scores, noise_of="one", **known)).all()
    assert (one != propensities(scores, noise_of="two", **known)).any()
    certain: dict[str, Any] = {**known, "spread": np.zeros(3)}
    assert propensities(scores, noise_of="one", **certain).tolist() == [1.0, 0.0, 0.0]


def test_thompson_may_never_show_what_has_the_best_score() -> None:
    """The best by its score wins no sample here: it must not get a rounding error's share."""
    scores = np.array([0.30, *[0.299] * 8])
    spread = np.array([0.0, *[5.0] * 8])
    exploration = Exploration(kind="thompson", spread=10.0, draws=49, floor=0.0)
    for n in range(200):
        drawn = draw_slate(
            scores,
            count=9,
            slots=1,
            exploration=exploration,
            rewarded=0,
            chances=[0.0],
            spread=spread,
            noise_of=f"decision {n}",
        )[0]
        assert drawn.propensity >= 1 / 49 - 1e-9


def test_samples_in_parts_are_the_samples() -> None:
    """More samples than are held at once: the ranks below are filled from the same ones."""
    count = 3_000
    held = (1 << 20) // count
    draws = 2 * held
    scores = np.linspace(0.0, 0.1, count)
    spread = np.full(count, 0.05)
    samples = Samples(scores, spread, draws=draws, noise_of="parts")
    first = np.round(Samples(scores, spread, draws=held, noise_of="parts").wins(None) * held)
    second = np.round(samples.wins(None) * draws) - first
    assert (second >= 0).all()
    assert (second != first).any()
    open_ = np.ones(count, np.bool_)
    open_[int(samples.wins(None).argmax())] = False
    left = samples.wins(open_)
    assert math.isclose(float(left.sum()), 1.0)
    assert (left[open_] >= samples.wins(None)[open_]).all()
