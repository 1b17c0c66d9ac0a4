"""What can be said of a difference while data still come in, however often one looks?

A usual 95 % interval is right once, at a sample size fixed beforehand: who looks every day and
stops at the first "significant" is wrong far more often. The intervals here hold at all times
together (a confidence sequence), so one may look, stop and go on as one likes.

Means: asymptotic confidence sequences, the normal mixture of Waudby-Smith, Arbour, Sinha, Kennedy
and Ramdas (2021), "Time-uniform central limit theory and asymptotic confidence sequences"; the
one-sided bound is the normal mixture of Howard, Ramdas, McAuliffe and Sekhon (2021), "Time-uniform,
nonparametric, nonasymptotic confidence sequences". Counts: the Dirichlet-multinomial martingale of
Lindon and Malek (2020), "Anytime-valid inference for multinomial count data". Bounds of a ratio of
two estimates are Fieller's (1954), with the sequential factor for the quantile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

TUNED_AT: Final = 5_000
"""Units at which the intervals are narrowest; at any other number they hold just as well."""
LEAST_UNITS: Final = 100
"""Units of each arm before an interval is given: the theory is asymptotic."""
LEAST_NONZERO: Final = 25
"""Units of both arms that are not at 0 before an interval is given: rare events need more units."""
CONCENTRATION: Final = 100.0
"""Weight of the declared shares in the alternative of the sample-ratio check, in units."""
_ROUNDING: Final = 1e-12


@dataclass(slots=True)
class Moments:
    """Sums over the units of one arm of a pair (y, x), each unit weighted by 1 / its propensity.

    The estimate is sum(y) / sum(x): a mean where x is 1 for all, a ratio metric elsewhere. A unit
    is one profile, whose own events may depend on each other as they like.
    """

    units: int = 0
    nonzero: int = 0
    y: float = 0.0
    x: float = 0.0
    yy: float = 0.0
    xy: float = 0.0
    xx: float = 0.0

    def add(self, y: float, x: float = 1.0, *, propensity: float = 1.0) -> None:
        """Add a unit; `propensity` is the chance that it had of this arm."""
        y, x = y / propensity, x / propensity
        self.units += 1
        self.nonzero += y != 0.0
        self.y += y
        self.x += x
        self.yy += y * y
        self.xy += x * y
        self.xx += x * x

    @property
    def value(self) -> float | None:
        """The estimate; None while the denominator is 0."""
        return self.y / self.x if self.x else None

    @property
    def variance(self) -> float:
        """The squared standard error of the estimate, by the delta method."""
        if not self.x:
            return math.inf
        ratio = self.y / self.x
        residual = self.yy - 2.0 * ratio * self.xy + ratio * ratio * self.xx
        # Where all units are alike, what is left over is rounding and no spread.
        return residual / (self.x * self.x) if residual > _ROUNDING * self.yy else 0.0


class Bounds(NamedTuple):
    """An interval; None: not bounded on that side."""

    low: float | None
    high: float | None


class Compared(NamedTuple):
    """A variant beside the control: the difference, the same as a lift, and both with intervals.

    `lift` is (variant − control) / control. Bounds of the two agree on whether 0 is excluded.
    `worst` is the most that the difference is, one-sided: below 0 the variant is worse.
    """

    difference: float
    bounds: Bounds
    lift: float | None
    lift_bounds: Bounds
    worst: float


def two_sided(units: int, alpha: float) -> float:
    """How many standard errors an interval reaches to each side, at `units` units in all."""
    x = units * _mixing(alpha)
    return math.sqrt(2.0 * (1.0 + 1.0 / x) * (0.5 * math.log1p(x) - math.log(alpha)))


def one_sided(units: int, alpha: float) -> float:
    """How many standard errors a bound to one side lies off."""
    x = units * _mixing(min(1.0, 2.0 * alpha))
    return math.sqrt(2.0 * (1.0 + 1.0 / x) * math.log1p(math.sqrt(1.0 + x) / (2.0 * alpha)))


def _mixing(alpha: float) -> float:
    """The variance of the mixture that is tightest at `TUNED_AT` units."""
    doubled = -2.0 * math.log(min(alpha, 0.5))
    return (doubled + math.log(doubled + 1.0)) / TUNED_AT


def compare(control: Moments, variant: Moments, alpha: float) -> Compared | None:
    """A variant beside the control at level alpha; None while there is too little of either.

    Too little: few units, few that are not at 0, or no spread at all to judge a difference by.

    Both intervals and the one-sided bound are each wrong at any time at all with a chance of at
    most about alpha.
    """
    base, value = control.value, variant.value
    if base is None or value is None or min(control.units, variant.units) < LEAST_UNITS:
        return None
    if control.nonzero + variant.nonzero < LEAST_NONZERO:
        return None
    units = control.units + variant.units
    error = math.sqrt(control.variance + variant.variance)
    if not error:
        return None
    reach = two_sided(units, alpha)
    difference = value - base
    return Compared(
        difference,
        Bounds(difference - reach * error, difference + reach * error),
        difference / base if base else None,
        _lift_bounds(base, control.variance, value, variant.variance, reach),
        difference + one_sided(units, alpha) * error,
    )


def _lift_bounds(
    base: float, base_variance: float, value: float, variance: float, reach: float
) -> Bounds:
    """All lifts L for which value − (1 + L) · base is within reach of 0."""
    a = base * base - reach * reach * base_variance
    c = value * value - reach * reach * variance
    inside = base * base * value * value - a * c
    if a <= 0.0 or base <= 0.0 or inside < 0.0:
        return Bounds(None, None)  # the control may be 0: any lift is possible
    half = math.sqrt(inside)
    return Bounds((base * value - half) / a - 1.0, (base * value + half) / a - 1.0)


class SampleRatio:
    """Do the arms get the shares that were declared? Watched unit by unit.

    State: one count per arm and the evidence so far. `evidence` is a martingale while the shares
    are as declared: that it ever reaches 1 / alpha has a chance of at most alpha.
    """

    def __init__(self, shares: Sequence[float]) -> None:
        total = sum(shares)
        self._shares = [share / total for share in shares]
        self.counts = [0] * len(shares)
        self._units = 0
        self._log = 0.0
        self._most = 0.0

    def add(self, arm: int) -> None:
        """Count a unit of an arm."""
        share = self._shares[arm]
        foreseen = (CONCENTRATION * share + self.counts[arm]) / (CONCENTRATION + self._units)
        self._log += math.log(foreseen / share)
        self._most = max(self._most, self._log)
        self.counts[arm] += 1
        self._units += 1

    @property
    def p_value(self) -> float:
        """Valid at any time: at most alpha with a chance of at most alpha, however often asked."""
        return math.exp(-self._most)
