"""How well did an arm do, and is the difference more than luck?

An `ArmResult` keeps sums per tick (for plots over time) and per shopper (for the bootstrap): the
shopper, not the page, is drawn again, because the pages of one shopper are alike. `uplift` pairs
the arms by shopper, since both arms met the same people with the same draws.
CTR = clicks per content shown. Conversion = purchases per page requested, answered or not: an arm
gains nothing by leaving pages empty, and all arms have the same pages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from flows.simulate.chance import Floats, Ints

_CHUNK: Final = 100


@dataclass(frozen=True)
class ArmResult:
    """What one arm showed and what came of it.

    Per tick: `tick_ms` (event time) and the counts after it. Per shopper: `shopper_*`. Per rush and
    content: `shown`, (rushes, contents), with `rush_ms` as its times. `unmatched` counts decision
    records that answered no open request.
    """

    name: str
    events: int
    unmatched: int
    tick_ms: Ints
    pages: Ints
    impressions: Ints
    clicks: Ints
    purchases: Ints
    hides: Ints
    revenue: Floats
    explored: Ints
    fallback: Ints
    shopper_pages: Ints
    shopper_impressions: Ints
    shopper_clicks: Ints
    shopper_purchases: Ints
    shopper_revenue: Floats
    rush_ms: Ints
    shown: Ints
    clicked: Ints
    content_ids: tuple[str, ...]
    categories: tuple[str, ...]

    @property
    def ctr(self) -> float:
        """Clicks per content shown."""
        return _ratio(self.clicks.sum(), self.impressions.sum())

    @property
    def conversion(self) -> float:
        """Purchases per page requested."""
        return _ratio(self.purchases.sum(), self.pages.sum())

    @property
    def revenue_per_shopper(self) -> float:
        """Value of all purchases over the number of shoppers who asked for a page."""
        return _ratio(self.shopper_revenue.sum(), int((self.shopper_pages > 0).sum()))


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimates:
    """Click rate, conversion and revenue per shopper: of one arm, or of one arm over another."""

    ctr: Interval
    conversion: Interval
    revenue: Interval


def uplift(a: ArmResult, b: ArmResult, *, draws: int = 1_000, seed: int = 0) -> Estimates:
    """The relative differences a / b - 1 (0.25 is a quarter more), by a paired bootstrap.

    A measure is nan where `b` has none of it. Raises ValueError where the arms did not meet the
    same number of shoppers.
    """
    if len(a.shopper_pages) != len(b.shopper_pages):
        raise ValueError(
            f"arms {a.name!r} and {b.name!r} met {len(a.shopper_pages)} and "
            f"{len(b.shopper_pages)} shoppers: only arms of the same shop can be compared"
        )
    ours, theirs = _shopper_sums(a), _shopper_sums(b)
    split = ours.shape[1]

    def relative(of: Callable[[Floats], Floats]) -> Callable[[Floats], Floats]:
        return lambda sums: _divide(of(sums[:, :split]), of(sums[:, split:])) - 1.0

    statistics = (relative(_ctr), relative(_conversion), relative(_revenue))
    return _bootstrap(np.column_stack([ours, theirs]), statistics, draws=draws, seed=seed)


def estimates(arm: ArmResult, *, draws: int = 1_000, seed: int = 0) -> Estimates:
    """An arm's own measures with bootstrap intervals; nan where nothing was shown."""
    statistics = (_ctr, _conversion, _revenue)
    return _bootstrap(_shopper_sums(arm), statistics, draws=draws, seed=seed)


def _shopper_sums(arm: ArmResult) -> Floats:
    """One row per shopper: shown, clicks, pages, purchases, revenue, came at all."""
    return np.column_stack(
        [
            arm.shopper_impressions,
            arm.shopper_clicks,
            arm.shopper_pages,
            arm.shopper_purchases,
            arm.shopper_revenue,
            arm.shopper_pages > 0,
        ]
    ).astype(np.float64)


def _ctr(totals: Floats) -> Floats:
    return _divide(totals[:, 1], totals[:, 0])


def _conversion(totals: Floats) -> Floats:
    return _divide(totals[:, 3], totals[:, 2])


def _revenue(totals: Floats) -> Floats:
    return _divide(totals[:, 4], totals[:, 5])


def _bootstrap(
    rows: Floats,
    statistics: Sequence[Callable[[Floats], Floats]],
    *,
    draws: int,
    seed: int,
) -> Estimates:
    generator = np.random.default_rng(seed)
    count = len(rows)
    totals = []
    for start in range(0, draws, _CHUNK):
        # How often each shopper is drawn, a chunk of draws at a time: 100,000 shoppers x 1,000
        # draws at once would take 800 MB.
        size = min(_CHUNK, draws - start)
        weights = generator.multinomial(count, np.full(count, 1.0 / count), size=size)
        totals.append(weights @ rows)
    drawn = np.concatenate(totals)
    exact = rows.sum(axis=0, keepdims=True)
    intervals = []
    for statistic in statistics:
        low, high = np.quantile(statistic(drawn), [0.025, 0.975])
        intervals.append(Interval(float(statistic(exact)[0]), float(low), float(high)))
    return Estimates(*intervals)


def _divide(over: Floats, under: Floats) -> Floats:
    # Without a denominator there is no ratio: nan says so, and the report shows a dash.
    return np.divide(over, under, out=np.full_like(over, np.nan), where=under != 0)


def _ratio(over: float, under: float) -> float:
    return float(over) / float(under) if under else 0.0
