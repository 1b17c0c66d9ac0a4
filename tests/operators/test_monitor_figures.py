"""Are figures what the textbooks say, and do their intervals hold what they promise?"""

from __future__ import annotations

import math
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.monitor_figures import (
    Cost,
    Interval,
    Sums,
    effective,
    gap_of,
    gini,
    moved,
    quanta,
    ratio,
    z_of_all,
)

NUMBERS = st.floats(allow_nan=True, allow_infinity=True)
COUNTS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 500), max_size=8)


@given(st.lists(NUMBERS, max_size=40), st.randoms(use_true_random=False))
def test_sums_do_not_depend_on_the_order_whatever_comes(numbers: list[float], rng: Random) -> None:
    one, other = Sums(), Sums()
    for number in numbers:
        one.add(number)
    rng.shuffle(numbers)
    for number in numbers:
        other.add(number)
    assert one == other
    mean = one.mean()
    assert mean is None or all(
        math.isfinite(bound) for bound in (mean["low"], mean["high"]) if bound is not None
    )


def test_a_mean_and_its_interval_are_those_of_the_textbook() -> None:
    sums = Sums()
    for number in [1.0, 3.0] * 50:
        sums.add(number)
    mean = sums.mean()
    assert mean is not None
    assert mean["estimate"] == 2.0
    half = 1.959964 * math.sqrt(100 / 99) / 10
    assert mean["low"] == pytest.approx(2.0 - half)
    assert mean["high"] == pytest.approx(2.0 + half)


def test_zeros_that_were_not_added_count_all_the_same() -> None:
    sparse, full = Sums(), Sums()
    for i in range(100):
        full.add(float(i < 7))
    for _ in range(7):
        sparse.add(1.0)
    assert sparse.mean(100) == full.mean()


def test_few_values_get_a_mean_and_no_interval() -> None:
    sums = Sums()
    sums.add(4.0)
    assert sums.mean() == {"estimate": 4.0, "low": None, "high": None}
    assert Sums().mean() is None


def test_what_is_no_number_is_nothing() -> None:
    assert quanta(math.nan) == 0
    assert quanta(math.inf) == quanta(1e300) == -quanta(-math.inf)


def test_a_shares_interval_is_wilsons() -> None:
    share = ratio(10, 100)
    assert share is not None
    assert share["low"] == pytest.approx(0.0552, abs=1e-4)
    assert share["high"] == pytest.approx(0.1744, abs=1e-4)
    assert ratio(0, 0) is None


@given(st.integers(0, 1000), st.integers(1, 1000))
def test_a_shares_interval_holds_the_share_and_stays_a_share(part: int, of: int) -> None:
    share = ratio(min(part, of), of)
    assert share is not None
    assert share["low"] is not None
    assert share["high"] is not None
    assert 0.0 <= share["low"] <= share["estimate"] <= share["high"] <= 1.0


def test_unevenness_of_known_distributions() -> None:
    assert gini([3, 3, 3], 3) == 0.0
    assert gini([9], 3) == pytest.approx(2 / 3)
    assert gini([1, 2, 3], 3) == pytest.approx(2 / 9)
    assert gini([], 3) is None
    assert effective([5]) == 1.0
    assert effective([1, 1, 1, 1]) == pytest.approx(4.0)
    assert effective([]) is None


@given(st.lists(st.integers(0, 1000), max_size=30), st.integers(0, 40))
def test_unevenness_is_bounded(counts: list[int], of: int) -> None:
    uneven, varied = gini(counts, of), effective(counts)
    if sum(counts):
        assert uneven is not None
        assert varied is not None
        assert -1e-12 <= uneven < 1.0
        assert 1.0 - 1e-9 <= varied <= sum(c > 0 for c in counts) + 1e-9


@given(COUNTS, COUNTS)
def test_a_distance_is_symmetric_and_within_bounds(
    before: dict[str, int], after: dict[str, int]
) -> None:
    there, back = moved(before, after), moved(after, before)
    if not before or not after:
        assert there is None
        return
    assert there is not None
    assert back is not None
    assert 0.0 <= there.distance <= 1.0
    assert there.distance == pytest.approx(back.distance)
    assert there.certain == back.certain


def test_noise_is_what_two_samples_of_one_distribution_differ_by() -> None:
    rng, shares = Random(1), [2.0 ** -(i % 7) for i in range(40)]
    names = [str(i) for i in range(40)]
    distances, noises, certain = [], [], 0
    for _ in range(400):
        before, after = (Counter(rng.choices(names, shares, k=n)) for n in (300, 120))
        distances.append(sum(abs(before[c] / 300 - after[c] / 120) for c in names) / 2)
        found = moved(before, after)
        assert found is not None
        noises.append(found.noise)
        certain += found.certain
    noise = sum(distances) / len(distances)
    assert noise > 0.1
    assert sum(noises) / len(noises) == pytest.approx(noise, rel=0.02)
    assert certain == 0


def test_samples_that_share_nothing_are_as_far_apart_as_can_be() -> None:
    found = moved({"a": 5_000}, {"b": 5_000})
    assert found is not None
    assert found.certain
    assert found.distance > 0.95


def _interval(low: float, high: float) -> Interval:
    return Interval(estimate=(low + high) / 2, low=low, high=high)


def test_a_gap_is_flagged_only_where_intervals_do_not_meet() -> None:
    apart = gap_of({"a": _interval(0.1, 0.2), "b": _interval(0.3, 0.4), "c": None})
    assert apart is not None
    assert (apart["highest"], apart["lowest"], apart["flagged"]) == ("b", "a", True)
    assert apart["gap"] == pytest.approx(0.2)
    meeting = gap_of({"a": _interval(0.1, 0.3), "b": _interval(0.29, 0.4)})
    assert meeting is not None
    assert not meeting["flagged"]
    assert gap_of({"a": _interval(0.1, 0.3)}) is None


def test_of_many_alike_groups_hardly_any_is_flagged() -> None:
    rng, flagged, z = Random(3), 0, z_of_all(30)
    for _ in range(200):
        figures = {
            str(group): ratio(sum(rng.random() < 0.1 for _ in range(80)), 80, z)
            for group in range(30)
        }
        gap = gap_of(figures)
        assert gap is not None
        flagged += gap["flagged"]
    assert flagged == 0


def test_the_cost_of_exploration_is_what_the_greedy_choice_would_have_brought_more() -> None:
    """Greedy pays 0.3 or 0.1 by context, and explores most where it costs least: as models do."""
    rng, held = Random(5), 0
    contexts = ((0.3, 0.05, 0.9), (0.1, 0.09, 0.5))
    estimates = []
    truth = sum((1 - p) * (best - other) for best, other, p in contexts) / 2
    for _ in range(60):
        cost = Cost()
        for _ in range(2_000):
            best, other, p = contexts[rng.random() < 0.5]
            greedy = rng.random() < p
            reward = float(rng.random() < (best if greedy else other))
            cost.add(reward, p if greedy else 1 - p, greedy=greedy)
        found = cost.per_impression()
        assert found is not None
        assert found["low"] is not None
        assert found["high"] is not None
        held += found["low"] <= truth <= found["high"]
        estimates.append(found["estimate"])
    assert held >= 52
    assert sum(estimates) / len(estimates) == pytest.approx(truth, abs=0.004)


def test_without_greedy_draws_nothing_is_said_of_the_cost() -> None:
    cost = Cost()
    for _ in range(100):
        cost.add(1.0, 0.1, greedy=False)
    assert cost.per_impression() is None


@given(st.lists(st.tuples(NUMBERS, st.floats(1e-300, 1.0), st.booleans()), min_size=30))
def test_a_cost_is_finite_whatever_comes(items: list[tuple[float, float, bool]]) -> None:
    cost = Cost()
    for reward, propensity, greedy in items:
        cost.add(reward, propensity, greedy=greedy)
    found = cost.per_impression()
    if found is not None:
        figures = (found["estimate"], found["low"], found["high"])
        assert all(figure is not None and math.isfinite(figure) for figure in figures)


def test_the_noise_of_one_draw_each_is_certain() -> None:
    """Given what both hold together, two samples of one can differ in one way only."""
    differ, agree = moved({"a": 1}, {"b": 1}), moved({"a": 1}, {"a": 1})
    assert differ is not None
    assert agree is not None
    assert differ.noise == pytest.approx(1.0)
    assert agree.noise == 0.0
    assert differ.distance == pytest.approx(0.0)
    assert not differ.certain
