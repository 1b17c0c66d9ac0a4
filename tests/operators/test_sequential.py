"""Are the intervals right at every look, and does the sample-ratio check keep its word?

Simulated with a look every so many units. The seeds are fixed: the same figures on any machine.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.sequential import (
    LEAST_NONZERO,
    LEAST_UNITS,
    Compared,
    Moments,
    SampleRatio,
    compare,
    one_sided,
    two_sided,
)

ALPHA: Final = 0.05
LOOKS: Final = [*range(200, 2_000, 50), *range(2_000, 8_001, 250)]


def _sums(y: np.ndarray, x: np.ndarray | None = None) -> Moments:
    """The moments of whole arrays: what adding unit by unit gives."""
    ones = np.ones_like(y) if x is None else x
    return Moments(
        len(y),
        int((y != 0).sum()),
        float(y.sum()),
        float(ones.sum()),
        float((y * y).sum()),
        float((ones * y).sum()),
        float((ones * ones).sum()),
    )


def _looks(
    rng: np.random.Generator, control: np.ndarray, variant: np.ndarray
) -> list[tuple[Compared | None, float]]:
    """What each look says of units given out by a fair coin, and the usual z value at it."""
    coin = rng.random(len(control)) < 0.5
    seen = []
    for look in LOOKS:
        zero, one = control[:look][~coin[:look]], variant[:look][coin[:look]]
        error = math.sqrt(zero.var() / len(zero) + one.var() / len(one))
        z = (one.mean() - zero.mean()) / error if error else 0.0
        seen.append((compare(_sums(zero), _sums(one), ALPHA), float(z)))
    return seen


def _outside(said: Compared | None, truth: float) -> bool:
    if said is None:
        return False
    low, high = said.bounds
    assert low is not None
    assert high is not None
    return not low <= truth <= high


def _units(kind: str, rng: np.random.Generator, size: int) -> np.ndarray:
    if kind == "clicks":
        return (rng.random(size) < 0.03).astype(float)
    if kind == "revenue":
        return np.where(rng.random(size) < 0.1, rng.lognormal(3.0, 1.0, size), 0.0)
    return rng.normal(5.0, 2.0, size)


@pytest.mark.parametrize("kind", ["clicks", "revenue", "normal"])
def test_looking_all_the_time_gives_no_more_false_alarms_than_stated(kind: str) -> None:
    rng = np.random.default_rng(7)
    runs, ours, worse, usual = 300, 0, 0, 0
    for _ in range(runs):
        units = _units(kind, rng, LOOKS[-1])
        seen = _looks(rng, units, units)
        ours += any(_outside(said, 0.0) for said, _ in seen)
        worse += any(said is not None and said.worst < 0.0 for said, _ in seen)
        usual += any(abs(z) > 1.96 for _, z in seen)
    # Alpha, and two standard errors of 300 runs.
    assert ours / runs <= ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / runs)
    assert worse / runs <= ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / runs)
    assert usual / runs > 3 * ALPHA


def test_the_truth_stays_inside_at_all_looks_and_a_real_effect_is_found() -> None:
    rng = np.random.default_rng(11)
    runs, missed, found, lifts_missed = 200, 0, 0, 0
    for _ in range(runs):
        chance = rng.random(LOOKS[-1])
        control, variant = (chance < 0.10).astype(float), (chance < 0.14).astype(float)
        seen = _looks(rng, control, variant)
        missed += any(_outside(said, 0.04) for said, _ in seen)
        found += any(_outside(said, 0.0) for said, _ in seen)
        for said, _ in seen:
            if said is not None and said.lift_bounds.low is not None:
                assert said.lift_bounds.high is not None
                if not said.lift_bounds.low <= 0.4 <= said.lift_bounds.high:
                    lifts_missed += 1
                    break
    assert missed / runs <= ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / runs)
    assert lifts_missed / runs <= ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / runs)
    assert found / runs > 0.9


def test_a_ratio_of_sums_has_an_interval_of_its_own() -> None:
    """Revenue per order where profiles differ in orders: orders of one profile are alike."""
    rng = np.random.default_rng(13)
    runs, alarms = 200, 0
    for _ in range(runs):
        orders = rng.poisson(0.6, 4_000).astype(float)
        revenue = orders * rng.lognormal(3.0, 0.5, 4_000)
        coin = rng.random(4_000) < 0.5
        for look in range(400, 4_001, 200):
            arms = [
                _sums(revenue[:look][part], orders[:look][part])
                for part in (~coin[:look], coin[:look])
            ]
            if _outside(compare(arms[0], arms[1], ALPHA), 0.0):
                alarms += 1
                break
    assert alarms / runs <= ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / runs)


def test_moments_are_those_of_numpy() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(2.0, 3.0, 500)
    moments = Moments()
    for value in values.tolist():
        moments.add(value)
    assert moments.value == pytest.approx(values.mean())
    assert moments.variance == pytest.approx(values.var() / 500)


def test_units_weigh_by_their_propensity() -> None:
    """Shares that moved with the season: weighted, the season is no effect."""
    rng = np.random.default_rng(2)
    arms = (Moments(), Moments())
    plain = (Moments(), Moments())
    for n in range(20_000):
        late = n >= 10_000
        share = 0.9 if late else 0.1
        arm = int(rng.random() < share)
        value = float(rng.random() < (0.3 if late else 0.1))
        propensity = share if arm else 1.0 - share
        arms[arm].add(value, propensity=propensity)
        plain[arm].add(value)
    fair, naive = compare(*arms, ALPHA), compare(*plain, ALPHA)
    assert fair is not None
    assert naive is not None
    assert not _outside(fair, 0.0)
    assert abs(fair.difference) < 0.02
    assert naive.difference > 0.1


@given(st.integers(1, 10**9), st.floats(0.001, 0.2))
def test_an_interval_for_all_times_is_wider_than_one_for_one_time(units: int, alpha: float) -> None:
    usual = {0.05: 1.96, 0.01: 2.576}
    assert two_sided(5_000, alpha) > one_sided(5_000, alpha)
    assert one_sided(units, alpha) > 1.2
    for level, z in usual.items():
        assert two_sided(units, level) > z
    assert two_sided(units, alpha / 2) > two_sided(units, alpha)


def test_the_interval_shrinks_to_the_truth() -> None:
    widths = [two_sided(n, ALPHA) / math.sqrt(n) for n in (200, 2_000, 20_000, 200_000)]
    assert widths == sorted(widths, reverse=True)
    assert two_sided(5_000, ALPHA) < 3.1


def test_nothing_is_said_of_too_little() -> None:
    arm = _sums(np.array([1.0] * LEAST_NONZERO + [0.0] * (LEAST_UNITS - LEAST_NONZERO)))
    few = _sums(np.ones(LEAST_UNITS - 1))
    nothing = _sums(np.zeros(10_000))
    assert compare(arm, arm, ALPHA) is not None
    assert compare(arm, few, ALPHA) is None
    assert compare(few, arm, ALPHA) is None
    assert compare(nothing, nothing, ALPHA) is None
    assert compare(Moments(), Moments(), ALPHA) is None


@given(st.floats(0.02, 0.6), st.floats(0.02, 0.6), st.integers(200, 50_000))
def test_lift_and_difference_agree_on_whether_there_is_one(a: float, b: float, n: int) -> None:
    ones = [round(n * a), round(n * b)]
    arms = [_sums(np.repeat([1.0, 0.0], [one, n - one])) for one in ones]
    said = compare(arms[0], arms[1], ALPHA)
    if said is None or said.lift_bounds.low is None:
        return
    low, high = said.lift_bounds
    assert low is not None
    assert high is not None
    assert said.lift is not None
    assert low <= said.lift <= high
    outside = _outside(said, 0.0)
    assert outside == (not low <= 0.0 <= high)


def test_a_control_that_may_be_0_bounds_no_lift() -> None:
    control = _sums(np.repeat([1.0, 0.0], [2, 498]))
    variant = _sums(np.repeat([1.0, 0.0], [60, 440]))
    said = compare(control, variant, ALPHA)
    assert said is not None
    assert said.lift_bounds == (None, None)
    assert _outside(said, 0.0)


def _ratio(declared: list[float], actual: list[float], size: int, seed: int) -> SampleRatio:
    rng = np.random.default_rng(seed)
    check = SampleRatio(declared)
    for arm in rng.choice(len(actual), size=size, p=actual).tolist():
        check.add(arm)
    return check


def test_shares_as_declared_are_rarely_called_wrong_however_often_one_looks() -> None:
    runs = 400
    wrong = sum(
        _ratio([2, 1, 1], [0.5, 0.25, 0.25], 2_000, n).p_value <= ALPHA for n in range(runs)
    )
    assert wrong / runs <= ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / runs)


def test_other_shares_than_declared_are_found() -> None:
    found = sum(_ratio([1, 1], [0.47, 0.53], 6_000, n).p_value <= 0.01 for n in range(40))
    assert found >= 36
    missing = SampleRatio([1, 1, 1])
    for arm in [0, 1] * 60:
        missing.add(arm)
    assert missing.p_value < 0.001
    assert missing.counts == [60, 60, 0]


def test_units_that_are_all_alike_have_no_spread_to_judge_by() -> None:
    arms = [Moments(), Moments()]
    for n in range(3_000):
        arms[n % 2].add(0.1 * (n % 7), n % 7)
    assert arms[0].variance == 0.0
    assert compare(arms[0], arms[1], ALPHA) is None
