"""How much does one step earn over another, and is it more than luck? Paired, shopper by shopper.

A shopper is drawn again with all that he did in every step at once (a paired cluster bootstrap,
Davison and Hinkley 1997, chapter 2), within his own shop, so that each shop keeps its size; sums
over all shops give the lift. The pages of one shopper are alike, and the same shopper met every
step: both are kept. The interval speaks of these shops and of shoppers like theirs. How shops
differ from each other is told by the lift of each shop beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from flows.simulate.chance import Floats
from flows.simulate.results import Interval

COLUMNS: Final = ("shown", "clicks", "pages", "purchases", "revenue", "reward", "visits")
"""What is summed per shopper."""

DRAWS: Final = 2_000
_CHUNK: Final = 100


@dataclass(frozen=True)
class Measure:
    """A ratio of two sums."""

    name: str
    title: str
    says: str
    over: str
    under: str


MEASURES: Final = (
    Measure("reward", "reward per visit", "what the policy asks for", "reward", "visits"),
    Measure("ctr", "click rate", "clicks per content shown", "clicks", "shown"),
    Measure("conversion", "conversion", "purchases per page requested", "purchases", "pages"),
    Measure("revenue", "revenue per visit", "value of what was bought", "revenue", "visits"),
)
"""The first is what every step is asked to raise, so that it gives the verdict unless told else."""


@dataclass(frozen=True)
class Lift:
    """A relative difference (0.25 is a quarter more) with its interval, and that of each shop."""

    value: float
    low: float
    high: float
    by_seed: tuple[float, ...]

    @property
    def shown(self) -> bool:
        """Whether the whole interval is above nothing."""
        return self.low > 0.0


class Sample:
    """Every step's sums: exact, by shop, and drawn again; every comparison is of the same draws."""

    def __init__(self, sums: Sequence[Floats], *, draws: int = DRAWS, seed: int = 0) -> None:
        """Take (steps, shoppers, len(COLUMNS)) per shop; `seed` is that of the bootstrap."""
        self._by_seed = np.stack([shop.sum(axis=1) for shop in sums])
        self._exact = self._by_seed.sum(axis=0)
        generator = np.random.default_rng(seed)
        drawn = np.zeros((draws, *self._exact.shape))
        for shop in sums:
            steps, shoppers, columns = shop.shape
            rows = shop.transpose(1, 0, 2).reshape(shoppers, steps * columns)
            even = np.full(shoppers, 1.0 / shoppers)
            for start in range(0, draws, _CHUNK):
                part = slice(start, min(start + _CHUNK, draws))
                times = generator.multinomial(shoppers, even, size=part.stop - start)
                drawn[part] += (times @ rows).reshape(-1, steps, columns)
        self._drawn = drawn

    def value(self, measure: Measure, step: int) -> Interval:
        """A step's own measure; nan where it has none."""
        value = float(_ratio(self._exact[step], measure))
        low, high = _between(_ratio(self._drawn[:, step], measure))
        return Interval(value, low, high)

    def lift(self, measure: Measure, step: int, over: int) -> Lift:
        """A step's measure over that of another; nan where the other has none of it."""

        def lift(sums: Floats) -> Floats:
            ours, theirs = (_ratio(sums[..., i, :], measure) for i in (step, over))
            return _divide(ours, theirs) - 1.0

        low, high = _between(lift(self._drawn))
        by_seed = tuple(lift(self._by_seed).tolist())
        return Lift(float(lift(self._exact)), low, high, by_seed)


@dataclass(frozen=True)
class Verdict:
    """Whether a step pays over the best step below it that is worth its while."""

    step: int
    over: int
    lift: Lift

    @property
    def pays(self) -> bool:
        """Whether it was shown to."""
        return self.lift.shown


def verdicts(sample: Sample, measure: Measure, *, steps: int) -> list[Verdict]:
    """Climb: each step against the highest one so far that pays.

    The last of them that pays is the minimum complexity that pays: nothing above it was shown to
    add anything.
    """
    found: list[Verdict] = []
    stands = 0
    for step in range(1, steps):
        verdict = Verdict(step, stands, sample.lift(measure, step, stands))
        found.append(verdict)
        if verdict.pays:
            stands = step
    return found


def least_that_pays(found: Sequence[Verdict]) -> int:
    """The step to stand on; 0 where none above it was shown to pay."""
    return max((verdict.step for verdict in found if verdict.pays), default=0)


def _ratio(sums: Floats, measure: Measure) -> Floats:
    return _divide(sums[..., COLUMNS.index(measure.over)], sums[..., COLUMNS.index(measure.under)])


def _divide(over: Floats, under: Floats) -> Floats:
    over, under = np.asarray(over, np.float64), np.asarray(under, np.float64)
    return np.divide(over, under, out=np.full_like(over, np.nan), where=under != 0)


def _between(drawn: Floats) -> tuple[float, float]:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)
