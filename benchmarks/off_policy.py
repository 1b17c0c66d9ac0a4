"""What would another policy have earned, judged from a log with known propensities?

Rows are decisions: the reward r of the item shown, and the weight w of a policy, its probability of
that item over the probability with which the log showed it. No model of the rewards is trusted.

- IPS, inverse-propensity score: the mean of w r. Unbiased. Its interval is the empirical Bernstein
  bound (Maurer and Pontil 2009): it holds whatever the rewards are, and is wide.
- SNIPS, self-normalised: the sum of w r over the sum of w. A little bias for less variance. Its
  interval is Wilson's (1927) of as many rows as the effective sample size, which holds where
  successes are few.
- DR, doubly robust (Dudik, Langford and Li 2011): a model's reward of the policy, corrected by
  w times the model's error on what was shown. Unbiased if the model of a row knows only earlier
  rows. Its interval is the empirical Bernstein bound too.
- Replay (Li, Chu, Langford and Wang 2011): of a uniform log the rows in which the policy would have
  shown the same, as if it had been live.

A bootstrap is not used: resampling rows cannot show what no row has, and where a policy met no
click it would say that there is none.

The effective sample size (sum of w)^2 / (sum of w^2) is how many rows of its own the policy is
worth.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_Z: Final = 1.959963984540054
_MISSED: Final = 0.05


class Estimate(NamedTuple):
    """A mean reward per decision and its 95 % interval."""

    value: float
    low: float
    high: float


class Judged(NamedTuple):
    """What a policy is worth by each estimator, and how many rows that rests on."""

    ips: Estimate
    snips: Estimate
    dr: Estimate
    effective: float


def judge(
    rewards: Floats,
    weights: Floats,
    *,
    largest: float,
    foreseen: Floats,
    foreseen_shown: Floats,
) -> Judged:
    """Judge a policy by rewards from 0 to 1; all arrays have one number per row.

    `largest` is what a weight can be at most, `foreseen` what a model expected of the policy in
    that row, `foreseen_shown` of the item that was shown.
    """
    weighed = weights * rewards
    total, squares = float(weights.sum()), float((weights * weights).sum())
    effective = total * total / squares if squares else 0.0
    # Rewards lie between 0 and 1, what the model expects between 0 and this.
    most = max(float(foreseen.max()), float(foreseen_shown.max()))
    return Judged(
        _bernstein(weighed, largest),
        share(float(weighed.sum()) / total if total else 0.0, effective),
        _bernstein(foreseen + weights * (rewards - foreseen_shown), largest * (1 + most) + most),
        effective,
    )


def share(rate: float, of: float) -> Estimate:
    """A rate that was seen in so many rows, and its interval."""
    if not of:
        return Estimate(0.0, 0.0, 1.0)
    z2 = _Z * _Z / of
    middle = (rate + z2 / 2) / (1 + z2)
    # A self-normalised rate may lie a rounding error above 1.
    half = _Z / (1 + z2) * math.sqrt(max(0.0, rate * (1 - rate)) / of + z2 / (4 * of))
    return Estimate(rate, max(0.0, middle - half), middle + half)


def _bernstein(values: Floats, breadth: float) -> Estimate:
    mean, rows = float(values.mean()), len(values)
    doubt = math.log(4 / _MISSED)
    half = math.sqrt(2 * float(values.var(ddof=1)) * doubt / rows)
    half += 7 * breadth * doubt / (3 * (rows - 1))
    # No policy is worth less than nothing, though a corrected estimate may say so.
    return Estimate(mean, max(min(0.0, mean), mean - half), mean + half)
