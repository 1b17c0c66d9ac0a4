"""Are logged propensities the truth? Recomputed from the log, counted over seeds, used to estimate.

Every kind of exploration goes through every shape of slate: one slot and several, with items fixed
and without, with a limit and without, with scores of both signs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.diversity import Limit, compile_limits
from operators.explore import Drawn, draw_slate, propensities
from operators.ids import uniform
from operators.score import Scores
from schemas.learning import Exploration
from schemas.placements import Diversity
from tests.operators.catalogues import compiled
from tests.operators.naive_draw import Logged, chances_at, slates

SCORES = (0.30, 0.10, 0.28, -0.05, 0.22)
SPREAD = (0.10, 0.30, 0.05, 0.20, 0.40)
COLOURS = ("red", "blue", "red", "blue", None)
SEEDS = 3_000

KINDS: dict[str, dict[str, Any]] = {
    "igw": {"kind": "igw", "gamma": 4.0},
    "igw that grows": {"kind": "igw", "floor": 0.2},
    "igw, budget": {"kind": "igw", "gamma": 1.0, "budget": 0.3},
    "igw, optimism": {"kind": "igw", "gamma": 4.0, "optimism": 0.8},
    "epsilon": {"kind": "epsilon_greedy", "epsilon": 0.5, "floor": 0.0},
    "softmax": {"kind": "softmax", "temperature": 0.6},
    "thompson": {"kind": "thompson", "spread": 1.0, "draws": 64, "floor": 0.1},
    "thompson, optimism and budget": {
        "kind": "thompson",
        "spread": 0.7,
        "draws": 100,
        "optimism": 0.3,
        "budget": 0.4,
    },
    "uniform": {"kind": "uniform"},
    "uniform, budget": {"kind": "uniform", "budget": 0.5},
    "greedy": {"kind": "greedy"},
}
SHAPES: dict[str, tuple[int, dict[int, int], bool]] = {
    "one slot": (1, {}, False),
    "three slots": (3, {}, False),
    "three slots, limit": (3, {}, True),
    "three slots, the second fixed": (3, {1: 0}, False),
    "four slots, first and last fixed, limit": (4, {0: 1, 3: 2}, True),
    "five slots, limit: the slate ends short": (5, {}, True),
}

of_every_kind = pytest.mark.parametrize("kind", KINDS)
of_every_shape = pytest.mark.parametrize("shape", SHAPES)


def blocked(chosen: Sequence[int]) -> Collection[int]:
    """One of a colour, in plain words."""
    used = {COLOURS[i] for i in chosen} - {None}
    return {i for i, colour in enumerate(COLOURS) if colour in used}


def limit() -> Limit:
    attributes = [{} if colour is None else {"colour": colour} for colour in COLOURS]
    made = compile_limits(
        (Diversity(by="attributes.colour", most=1),),
        compiled(*({"attributes": given} for given in attributes)),
    )
    assert made is not None
    return made


def logged_of(kind: str, shape: str) -> tuple[Logged, int]:
    slots, fixed, limited = SHAPES[shape]
    logged = Logged(
        SCORES,
        Exploration.model_validate(KINDS[kind]),
        len(SCORES),
        rewarded=2,
        spread=SPREAD,
        noise_of="the same samples",
        fixed=fixed,
    )
    if limited:
        logged = Logged(**{**vars(logged), "blocked": blocked})
    return logged, slots


def draw(logged: Logged, slots: int, seed: int) -> list[Drawn]:
    return draw_slate(
        np.array(logged.scores),
        count=logged.count,
        slots=slots,
        exploration=logged.exploration,
        rewarded=logged.rewarded,
        chances=[uniform(f"{seed}|{rank}") for rank in range(slots)],
        spread=np.array(logged.spread),
        noise_of=logged.noise_of,
        fixed=logged.fixed,
        limit=limit() if logged.blocked is blocked else None,
    )


@of_every_kind
@of_every_shape
def test_a_propensity_can_be_recomputed_from_what_is_logged(kind: str, shape: str) -> None:
    logged, slots = logged_of(kind, shape)
    for seed in range(40):
        above: list[int] = []
        for rank, item in enumerate(draw(logged, slots, seed)):
            if not item.learnable:
                assert item == Drawn(logged.fixed.get(rank, item.position), 1.0, True, False)
                continue
            chances = chances_at(logged, above)
            assert item.propensity == pytest.approx(chances[item.position], rel=1e-6)
            above.append(item.position)


@of_every_kind
@of_every_shape
def test_the_probabilities_at_a_rank_are_those_it_draws_by_and_sum_to_one(
    kind: str, shape: str
) -> None:
    logged, slots = logged_of(kind, shape)
    above: list[int] = []
    for item in draw(logged, slots, seed=7):
        if not item.learnable:
            continue
        found = propensities(
            np.array(logged.scores),
            count=logged.count,
            exploration=logged.exploration,
            rewarded=logged.rewarded,
            spread=np.array(logged.spread),
            noise_of=logged.noise_of,
            taken=[*logged.fixed.values(), *above],
            limit=limit() if logged.blocked is blocked else None,
        )
        expected = chances_at(logged, above)
        assert found.tolist() == pytest.approx(
            [expected.get(i, 0.0) for i in range(logged.count)], rel=1e-6, abs=1e-12
        )
        assert math.isclose(float(found.sum()), 1.0, rel_tol=1e-12)
        assert item.propensity == found[item.position]
        above.append(item.position)


@of_every_kind
@of_every_shape
def test_slates_come_as_often_as_their_propensities_say(kind: str, shape: str) -> None:
    """Chi-square over whole slates, against the product of the recomputed propensities."""
    logged, slots = logged_of(kind, shape)
    expected = dict(slates(logged, slots))
    assert math.isclose(sum(expected.values()), 1.0, rel_tol=1e-9)
    often: Counter[tuple[int, ...]] = Counter()
    for seed in range(SEEDS):
        often[tuple(item.position for item in draw(logged, slots, seed))] += 1
    assert often.keys() <= expected.keys()
    statistic, cells, rare, rare_seen = 0.0, 0, 0.0, 0
    for slate, p in expected.items():
        if p * SEEDS < 5:
            rare, rare_seen = rare + p * SEEDS, rare_seen + often[slate]
            continue
        statistic += (often[slate] - p * SEEDS) ** 2 / (p * SEEDS)
        cells += 1
    if rare >= 5:
        statistic += (rare_seen - rare) ** 2 / rare
        cells += 1
    # Five standard deviations above the mean of chi-square: seeds are fixed, a true draw passes.
    assert statistic <= max(0, cells - 1) + 5 * math.sqrt(2 * cells)


@of_every_kind
def test_weighing_by_the_inverse_propensity_estimates_what_was_not_chosen(kind: str) -> None:
    """Each candidate's worth, estimated from draws that prefer others, within its own error."""
    logged, slots = logged_of(kind, "three slots, limit")
    worth = [1.0, 2.0, -1.0, 0.5, 3.0]
    weights = np.zeros((SEEDS, logged.count))
    for seed in range(SEEDS):
        first = draw(logged, slots, seed)[0]
        weights[seed, first.position] = worth[first.position] / first.propensity
    for candidate, chance in chances_at(logged, ()).items():
        if chance == 0:
            continue
        own = weights[:, candidate]
        error = abs(worth[candidate]) * math.sqrt((1 / chance - 1) / SEEDS)
        assert abs(float(own.mean()) - worth[candidate]) <= 4.5 * error + 1e-9


def test_thompsons_share_is_its_own_probability_within_the_stated_error() -> None:
    """Two candidates: the probability that one beats the other has a closed form."""
    scores, spread = np.array([0.30, 0.20]), np.array([0.1, 0.2])
    exploration = Exploration(kind="thompson", spread=1.0, draws=256, floor=0.0, optimism=0.0)
    truth = NormalDist().cdf(0.1 / math.hypot(0.1, 0.2))
    shares = np.array(
        [
            propensities(
                scores,
                count=2,
                exploration=exploration,
                rewarded=0,
                spread=spread,
                noise_of=f"decision {i}",
            )[0]
            for i in range(400)
        ]
    )
    error = math.sqrt(truth * (1 - truth) / 256)
    assert abs(float(shares.mean()) - truth) < 4 * error / math.sqrt(400)
    assert 0.8 * error < float(shares.std()) < 1.2 * error


def test_candidates_do_not_share_noise() -> None:
    """Equal candidates win equally often: also beyond one word, one row and one chunk."""
    exploration = Exploration(kind="thompson", spread=1.0, draws=4_096, floor=0.0, optimism=0.0)
    for count in (2, 4, 5, 7, 300):
        shares = propensities(
            np.full(count, 0.1),
            count=count,
            exploration=exploration,
            rewarded=0,
            spread=np.full(count, 0.05),
            noise_of="equal",
        )
        error = math.sqrt((1 - 1 / count) / count / 4_096)
        assert float(np.abs(shares - 1 / count).max()) < 4.5 * error


# What holds for all scores.

distinct = st.lists(
    st.integers(-1_000, 1_000).map(lambda n: n / 1_000), min_size=1, max_size=8, unique=True
)
rules = st.builds(
    Exploration,
    kind=st.sampled_from(["igw", "epsilon_greedy", "softmax", "uniform", "thompson"]),
    gamma=st.none() | st.floats(0.01, 1e6),
    epsilon=st.floats(0, 1),
    temperature=st.floats(0.01, 100),
    draws=st.just(64),
    floor=st.floats(0, 0.9),
    budget=st.floats(0, 1),
    optimism=st.floats(0, 2),
)


def shares(scores: Sequence[float] | Scores, exploration: Exploration, **more: Any) -> Scores:
    known = {"rewarded": 5, "spread": np.abs(np.array(scores)) / 2 + 0.01, "noise_of": "n", **more}
    return propensities(np.array(scores), count=len(scores), exploration=exploration, **known)


@given(scores=distinct, exploration=rules, taken=st.sets(st.integers(0, 7), max_size=7))
def test_what_is_open_shares_all_probability_and_the_rest_has_none(
    scores: list[float], exploration: Exploration, taken: set[int]
) -> None:
    gone = sorted(i for i in taken if i < len(scores))
    found = shares(scores, exploration, taken=gone)
    assert not found[gone].any()
    assert (found >= 0).all()
    assert math.isclose(float(found.sum()), float(len(gone) < len(scores)), rel_tol=1e-9)


@given(scores=distinct, exploration=rules)
def test_the_best_keeps_what_the_budget_leaves_and_the_floor_holds_within_it(
    scores: list[float], exploration: Exploration
) -> None:
    exploration = exploration.model_copy(update={"optimism": 0.0})
    found = shares(scores, exploration)
    best = int(np.argmax(scores))
    assert found[best] >= 1 - exploration.budget - 1e-9
    floor = exploration.floor / len(scores)
    uncut = shares(scores, exploration.model_copy(update={"budget": 1.0}))
    if exploration.kind != "uniform":
        assert (uncut >= floor * (1 - 1e-9)).all()
    cut = min(1.0, exploration.budget / max(1e-300, 1 - float(uncut[best])))
    others = np.arange(len(scores)) != best
    assert (found[others] >= floor * cut * (1 - 1e-6) - 1e-12).all()


@given(
    scores=distinct,
    exploration=rules.filter(lambda rule: rule.kind != "thompson"),
    data=st.data(),
)
def test_the_order_of_the_candidates_does_not_matter(
    scores: list[float], exploration: Exploration, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(scores))))
    exploration = exploration.model_copy(update={"optimism": 0.0})
    found = shares(scores, exploration)
    shuffled = shares([scores[i] for i in order], exploration)
    assert shuffled.tolist() == pytest.approx(found[order].tolist(), rel=1e-6, abs=1e-12)


@given(
    scores=distinct,
    exploration=rules,
    unit=st.sampled_from([1e-6, 0.5, 1_000.0]),
)
def test_no_rule_depends_on_the_unit_of_the_rewards(
    scores: list[float], exploration: Exploration, unit: float
) -> None:
    spread = np.abs(np.array(scores)) / 2 + 0.01
    exploration = exploration.model_copy(update={"optimism": 0.0})
    found = shares(scores, exploration, spread=spread)
    scaled = shares(np.array(scores) * unit, exploration, spread=spread * unit)
    # A sample's win may turn on the last bit: one draw of the 64.
    close = 1.01 / 64 if exploration.kind == "thompson" else 1e-6
    assert scaled.tolist() == pytest.approx(found.tolist(), rel=1e-4, abs=close)


@given(
    scores=st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=6),
    exploration=st.builds(
        Exploration,
        kind=st.sampled_from(["igw", "softmax", "thompson"]),
        gamma=st.floats(1e-300, 1e300),
        temperature=st.floats(1e-300, 1e300),
        floor=st.sampled_from([0.0, 0.02]),
    ),
    taken=st.booleans(),
)
def test_no_finite_scores_are_too_large_or_too_small(
    scores: list[float], exploration: Exploration, taken: bool
) -> None:
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        found = shares(
            scores,
            exploration,
            spread=np.full(len(scores), 1e-3),
            taken=[0] if taken and len(scores) > 1 else [],
        )
    assert np.isfinite(found).all()
    assert math.isclose(float(found.sum()), 1.0, rel_tol=1e-9)
