"""Does this shopper click, buy or hide this content, here and now?

P(click) = attention x examination(rank) x sigmoid(utility), where utility adds taste, price fit,
quality, device and hour, trend and novelty, and takes away fatigue for what was shown before. The
level is calibrated at the start, so that a random shop has the wanted click rate for every seed.
Click rates at random and at best must be far apart: a shop where everybody likes the same things
would show nothing about personalisation, one where nothing matters would show less.
State: what each shopper has been shown, owns and has hidden; one `Memory` per arm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from flows.simulate.chance import Bools, Chance, Floats, Ints
from flows.simulate.crowd import DAYPARTS, DEVICES, Crowd
from flows.simulate.stock import CATEGORIES, STYLE_TAGS, TOPIC_TAGS, Stock
from schemas.time import DAY

RANDOM_CTR: Final = 0.06
"""What the calibration aims at for a random slate of three, before fatigue."""

_ATTENTION: Final = 0.36
_EXAMINATION: Final = np.array([1.0, 0.88, 0.78, 0.7, 0.64, 0.59, 0.55, 0.52])
_FATIGUE: Final = 0.25
_FATIGUE_LIMIT: Final = 1.5
_FORGET_PER_DAY: Final = 0.75
_OWNED: Final = 4.0
_HIDDEN: Final = 6.0
_NOVELTY: Final = 0.5
_TREND: Final = 0.6


@dataclass
class Memory:
    """What one arm has done to the shoppers so far; arrays are (shoppers, contents)."""

    shown: Floats
    owned: Bools
    hidden: Bools
    _day: int = 0

    @classmethod
    def blank(cls, shoppers: int, contents: int) -> Memory:
        """Nobody has seen anything."""
        shape = (shoppers, contents)
        return cls(np.zeros(shape), np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool))

    def sleep_until(self, day: int) -> None:
        """Fade what was shown, once per day that has passed."""
        if day > self._day:
            self.shown *= _FORGET_PER_DAY ** (day - self._day)
            self._day = day


@dataclass(frozen=True)
class Situation:
    """The circumstances of page requests: arrays of one length, and one instant for all."""

    shoppers: Ints
    devices: Ints
    dayparts: Ints
    at_ms: int


class Reactions:
    """The hidden reaction model: the truth that an arm can only learn from outcomes."""

    def __init__(
        self, chance: Chance, *, stock: Stock, crowd: Crowd, start_ms: int, days: int
    ) -> None:
        self._stock = stock
        self._crowd = crowd
        self._start_ms = start_ms
        self._days = days
        categories = np.arange(len(CATEGORIES))
        self._by_device = 0.55 * chance.normal(
            "reactions/device", np.arange(len(DEVICES))[:, None], categories
        )
        self._by_daypart = 0.55 * chance.normal(
            "reactions/daypart", np.arange(len(DAYPARTS))[:, None], categories
        )
        styles = np.arange(len(STYLE_TAGS))
        rising, falling = np.argsort(chance.uniform("reactions/trend", styles))[:2]
        styles_from = len(CATEGORIES) + len(TOPIC_TAGS)
        self._trend = stock.traits[:, styles_from + rising] - stock.traits[:, styles_from + falling]
        self._level = 0.0
        self._level = self._calibrate(chance)

    def utility(self, situation: Situation, contents: Ints) -> Floats:
        """How much contents appeal, fatigue left out.

        `situation` arrays and `contents` broadcast against each other: (n,) with (n,) for what
        was shown, (n, 1) with (m,) for everything that could be.
        """
        stock, crowd, at_ms = self._stock, self._crowd, situation.at_ms
        shoppers = situation.shoppers
        taste = np.einsum("...k,...k->...", crowd.taste(shoppers, at_ms), stock.traits[contents])
        misfit = np.minimum(np.abs(stock.price_z[contents] - crowd.ideal_price_z[shoppers]), 2.5)
        category = stock.category[contents]
        context = self._by_device[situation.devices, category]
        context = context + self._by_daypart[situation.dayparts, category]
        progress = (at_ms - self._start_ms) / (self._days * DAY) - 0.5
        age_days = np.maximum(at_ms - stock.enters_ms[contents], 0) / DAY
        novelty = _NOVELTY * stock.is_new[contents] * np.exp(-age_days / 2.0)
        appeal: Floats = (
            self._level
            + taste
            - crowd.thrift[shoppers] * misfit**2
            + stock.quality[contents]
            + context
            + _TREND * progress * self._trend[contents]
            + novelty
        )
        return appeal

    def click_probability(
        self, situation: Situation, contents: Ints, *, ranks: Ints, memory: Memory | None
    ) -> Floats:
        """P(click) of contents at ranks (from 0); without a memory, for a first exposure."""
        appeal = self.utility(situation, contents)
        if memory is not None:
            seen = situation.shoppers, contents
            appeal = appeal - np.minimum(_FATIGUE * memory.shown[seen], _FATIGUE_LIMIT)
            appeal = appeal - _OWNED * memory.owned[seen] - _HIDDEN * memory.hidden[seen]
        alive = self._stock.live(situation.at_ms)[contents]
        examined = _EXAMINATION[np.minimum(ranks, len(_EXAMINATION) - 1)]
        return _ATTENTION * examined * alive / (1.0 + np.exp(-appeal))

    def cart_probability(self, shoppers: Ints, contents: Ints) -> Floats:
        """P(add to cart | click): falls with the distance from the price the shopper likes."""
        misfit = self._stock.price_z[contents] - self._crowd.ideal_price_z[shoppers]
        return 0.26 * np.exp(-0.35 * misfit**2)

    def _calibrate(self, chance: Chance) -> float:
        """The level at which random slates get RANDOM_CTR: bisection on sampled situations."""
        draws = np.arange(4_000)
        shoppers = chance.pick("calibrate/shopper", len(self._crowd.activity), draws)
        contents = chance.pick("calibrate/content", len(self._stock.records), draws)
        middle = self._start_ms + self._days * DAY // 2
        situation = Situation(
            shoppers,
            (chance.uniform("calibrate/device", draws) > self._crowd.mobile[shoppers]).astype(int),
            _daypart_of_sample(chance, draws),
            middle,
        )
        appeal = self.utility(situation, contents)
        # Regulars make most of the page requests, so they weigh as much in the mean.
        weights = self._crowd.activity[shoppers] / self._crowd.activity[shoppers].sum()
        wanted = RANDOM_CTR / (_ATTENTION * float(_EXAMINATION[:3].mean()))
        low, high = -12.0, 6.0
        for _ in range(50):
            level = (low + high) / 2
            reached = float(weights @ (1.0 / (1.0 + np.exp(-appeal - level))))
            low, high = (level, high) if reached < wanted else (low, level)
        return (low + high) / 2


def _daypart_of_sample(chance: Chance, draws: Ints) -> Ints:
    """Dayparts in about the shares in which shoppers come."""
    shares = np.cumsum([0.05, 0.25, 0.4, 0.3])
    return np.minimum(np.searchsorted(shares, chance.uniform("calibrate/daypart", draws)), 3)
