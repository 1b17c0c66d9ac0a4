"""How sure is a figure, how uneven a distribution, how far did it move beyond chance?

Sums are exact integers of 2^-40, so that no order of arrival changes a figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import NormalDist
from typing import Final, NamedTuple, TypedDict

import msgspec

_QUANTA: Final = float(1 << 40)
_LARGEST: Final = 1e12
_ENOUGH: Final = 30
"""A mean of fewer values gets no interval: the normal one would promise too much."""
Z: Final = NormalDist().inv_cdf(0.975)
_TOGETHER: Final = 0.001
_BY_CHANCE: Final = 0.001
_GREATEST_WEIGHT: Final = 1e4


class Interval(TypedDict):
    """A figure and where it lies with 95 % (of groups: 99.9 % for all together)."""

    estimate: float
    low: float | None
    high: float | None


def _cut(value: float) -> float:
    """What is no number is 0, what is too large is cut."""
    return min(max(value, -_LARGEST), _LARGEST) if value == value else 0.0


def quanta(value: float) -> int:
    """A number in units of 2^-40; what is no number is 0, what is too large is cut."""
    return round(_cut(value) * _QUANTA)


class Sums(msgspec.Struct, array_like=True):
    """The count, the sum and the sum of squares of numbers, in any order."""

    count: int = 0
    total: int = 0
    squares: int = 0

    def add(self, value: float) -> None:
        """Take in one number."""
        self.count += 1
        if not value:  # most rewards
            return
        if not -_LARGEST <= value <= _LARGEST:
            value = _cut(value)
        self.total += round(value * _QUANTA)
        self.squares += round(value * value * _QUANTA)

    def mean(self, count: int | None = None) -> Interval | None:
        """The mean, with the normal interval; `count` adds zeros up to so many numbers."""
        count = self.count if count is None else count
        if not count:
            return None
        mean = self.total / count / _QUANTA
        if count < _ENOUGH:
            return Interval(estimate=mean, low=None, high=None)
        variance = max(self.squares / count / _QUANTA - mean * mean, 0.0) * count / (count - 1)
        half = Z * math.sqrt(variance / count)
        return Interval(estimate=mean, low=mean - half, high=mean + half)


def ratio(part: int, of: int, z: float = Z) -> Interval | None:
    """A share with Wilson's interval (Wilson, "Probable inference", JASA 1927); None of nothing.

    >>> {name: round(value, 3) for name, value in ratio(0, 10).items()}
    {'estimate': 0.0, 'low': 0.0, 'high': 0.278}
    """
    if not of:
        return None
    share = part / of
    scale = 1.0 + z * z / of
    middle = (share + z * z / (2 * of)) / scale
    half = z / scale * math.sqrt(share * (1.0 - share) / of + z * z / (4 * of * of))
    # The bounds of 0 and 1 are exactly these, but for rounding.
    low = 0.0 if part == 0 else max(0.0, middle - half)
    high = 1.0 if part == of else min(1.0, middle + half)
    return Interval(estimate=share, low=low, high=high)


def z_of_all(groups: int) -> float:
    """How wide intervals must be for all of so many groups to hold at once with 99.9 %."""
    return NormalDist().inv_cdf(1.0 - _TOGETHER / (2 * max(1, groups)))


class Gap(TypedDict):
    """The largest difference between groups; `flagged`: their intervals do not meet."""

    highest: str
    lowest: str
    gap: float
    flagged: bool


def gap_of(figures: Mapping[str, Interval | None]) -> Gap | None:
    """The largest gap between groups; None where fewer than two have a figure."""
    known = sorted(
        (name, i) for name, i in figures.items() if i is not None and i["low"] is not None
    )
    if len(known) < 2:
        return None
    highest = max(known, key=lambda one: one[1]["estimate"])
    lowest = min(known, key=lambda one: one[1]["estimate"])
    lows = max(i["low"] for _, i in known if i["low"] is not None)
    highs = min(i["high"] for _, i in known if i["high"] is not None)
    return Gap(
        highest=highest[0],
        lowest=lowest[0],
        gap=highest[1]["estimate"] - lowest[1]["estimate"],
        flagged=lows > highs,
    )


class Cost(msgspec.Struct, array_like=True):
    """What exploration costs, by what came of items drawn by a model's scores.

    The value of always taking the greedy item is estimated from the greedy draws, each weighted by
    the inverse of its propensity w and normalised (Swaminathan and Joachims, "The self-normalized
    estimator for counterfactual learning", NIPS 2015); the cost is that value less what came in.
    `moments` are the sums of r, r^2, w, w^2, w r, w r^2, w^2 r and w^2 r^2.
    """

    count: int = 0
    moments: list[int] = msgspec.field(default_factory=lambda: [0] * 8)

    def add(self, reward: float, propensity: float, *, greedy: bool) -> None:
        """Take in one shown item."""
        self.count += 1
        moments = self.moments
        w = min(1.0 / propensity, _GREATEST_WEIGHT) if greedy else 0.0
        if w:
            moments[2] += round(w * _QUANTA)
            moments[3] += round(w * w * _QUANTA)
        if not reward:  # most rewards
            return
        r = _cut(reward)
        moments[0] += quanta(r)
        moments[1] += round(r * r * _QUANTA)
        if w:
            moments[4] += round(w * r * _QUANTA)
            moments[5] += round(w * r * r * _QUANTA)
            moments[6] += round(w * w * r * _QUANTA)
            moments[7] += round(w * w * r * r * _QUANTA)

    def per_impression(self) -> Interval | None:
        """The cost per impression, with its interval by linearisation; None of too little."""
        if self.count < _ENOUGH or not self.moments[2]:
            return None
        r, r2, w, w2, wr, wr2, w2r, w2r2 = (m / self.count / _QUANTA for m in self.moments)
        best = wr / w
        cost = best - r
        # The mean square of w (r' - best) / E[w] - (r' - r), whose mean is 0.
        weighted = (w2r2 - 2 * best * w2r + best * best * w2) / (w * w)
        both = (wr2 - (best + r) * wr + best * r * w) / w
        variance = max(weighted - 2 * both + r2 - r * r, 0.0)
        half = Z * math.sqrt(variance / self.count)
        return Interval(estimate=cost, low=cost - half, high=cost + half)


def gini(counts: Iterable[int], of: int) -> float | None:
    """How unevenly `of` contents are shown: 0 all alike, towards 1 only one; None of nothing.

    >>> gini([5, 5], 2), gini([10], 2)
    (0.0, 0.5)
    """
    known = sorted(count for count in counts if count)
    of = max(of, len(known))
    total = sum(known)
    if not total:
        return None
    first = of - len(known) + 1
    weighted = sum(rank * count for rank, count in enumerate(known, start=first))
    return (2 * weighted - (of + 1) * total) / (of * total)


def effective(counts: Iterable[int]) -> float | None:
    """How many contents shown equally often would be as varied: exp of Shannon's entropy.

    >>> round(effective([7, 7, 7]), 9)
    3.0
    """
    known = sorted(count for count in counts if count)
    total = sum(known)
    if not total:
        return None
    return math.exp(-math.fsum(c / total * math.log(c / total) for c in known))


class Moved(NamedTuple):
    """How far a distribution moved beyond the `noise` of sampling, and whether beyond chance."""

    distance: float
    noise: float
    certain: bool


def moved(before: Mapping[str, int], after: Mapping[str, int]) -> Moved | None:
    """The total variation distance of two samples' shares, less what chance makes of it.

    That expectation is the one of samples from one distribution, given how often each content is in
    both together: a mean absolute deviation (de Moivre's formula, with the correction for a finite
    total). More than chance: by McDiarmid's inequality ("On the method of bounded differences",
    1989) seen once in 1,000 at most. None where a sample is empty.
    """
    m, n = sum(before.values()), sum(after.values())
    if not m or not n:
        return None
    distances, noises = [], []
    by_count: dict[int, float] = {}
    for content in before.keys() | after.keys():
        x, y = before.get(content, 0), after.get(content, 0)
        distances.append(abs(x / m - y / n))
        count = x + y
        if count not in by_count:
            left = math.sqrt((m + n - count) / (m + n - 1))
            by_count[count] = _mean_deviation(count, m / (m + n)) * left
        noises.append(by_count[count])
    both = 1.0 / m + 1.0 / n
    distance = math.fsum(distances) / 2
    noise = math.fsum(noises) * both / 2
    chance = math.sqrt(-math.log(_BY_CHANCE) * both / 2)
    return Moved(max(0.0, distance - noise), noise, distance > noise + chance)


def _mean_deviation(count: int, p: float) -> float:
    """E|X - E X| of a binomial X."""
    v = math.floor(count * p) + 1
    if v > count or not 0.0 < p < 1.0:
        return 0.0
    ways = math.lgamma(count + 1) - math.lgamma(v + 1) - math.lgamma(count - v + 1)
    return 2 * v * math.exp(ways + v * math.log(p) + (count - v + 1) * math.log1p(-p))
