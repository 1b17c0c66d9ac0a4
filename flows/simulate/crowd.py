"""Who comes to the shop, and when? Shoppers with hidden tastes, habits, a country and a device.

A taste is a weight per trait (`stock.TRAITS`). Three in ten shoppers change theirs on some day in
the middle of the run, so that what was learned about them stops being true. Nothing here depends on
what is shown: who comes when, and what they look for by themselves, is the same in every arm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from flows.simulate.chance import Bools, Chance, Floats, Ints
from flows.simulate.stock import CATEGORIES, STYLE_TAGS, TOPIC_TAGS, TRAITS
from schemas.time import DAY

COUNTRIES: Final = ("GB", "DE", "FR", "US", "BR", "IN", "JP")
UTC_OFFSET_HOURS: Final = (0, 1, 1, -5, -3, 5, 9)
_COUNTRY_SHARE: Final = (0.22, 0.22, 0.12, 0.22, 0.08, 0.08, 0.06)
DEVICES: Final = ("mobile", "desktop", "tablet")
DAYPARTS: Final = ("night", "morning", "day", "evening")

REFUSE_CONSENT: Final = 0.05
WITHDRAW_CONSENT: Final = 0.02
HIDERS: Final = 0.03
CHANGE_TASTE: Final = 0.30


@dataclass(frozen=True)
class Crowd:
    """Every shopper as arrays, index = shopper number.

    `tastes` is (2, shoppers, traits): before and after `changes_ms`. `activity` is the chance to
    come to one rush at a good hour; `thrift` (>= 0) is how much a price away from `ideal_price_z`
    puts the shopper off. `withdraws_ms` is far in the future for those who never do.
    """

    user_ids: tuple[str, ...]
    tastes: Floats
    changes_ms: Ints
    activity: Floats
    mobile: Floats
    country: Ints
    thrift: Floats
    ideal_price_z: Floats
    refuses: Bools
    withdraws_ms: Ints
    hides: Bools

    def taste(self, shoppers: Ints, at_ms: int) -> Floats:
        """The tastes that hold at an instant, shape shoppers.shape + (traits,)."""
        return self.tastes[(self.changes_ms[shoppers] <= at_ms).astype(np.int64), shoppers]


def gather_crowd(chance: Chance, *, shoppers: int, start_ms: int, days: int) -> Crowd:
    """Draw the shoppers."""
    ids = np.arange(shoppers)
    before = _tastes(chance, "before", ids)
    after = _tastes(chance, "after", ids)
    # Some of a person stays: styles are kept, what they shop for changes.
    styles_from = len(CATEGORIES) + len(TOPIC_TAGS)
    after[:, styles_from:] = before[:, styles_from:]

    never = start_ms + 1_000 * DAY
    day = start_ms + ((0.3 + 0.4 * chance.uniform("crowd/day", ids)) * days * DAY).astype(np.int64)
    changes = chance.uniform("crowd/changes", ids) < CHANGE_TASTE
    refuses = chance.uniform("crowd/refuses", ids) < REFUSE_CONSENT
    withdraws = (chance.uniform("crowd/withdraws", ids) < WITHDRAW_CONSENT) & ~refuses
    country = np.searchsorted(np.cumsum(_COUNTRY_SHARE), chance.uniform("crowd/country", ids))
    width = len(str(shoppers - 1))
    return Crowd(
        user_ids=tuple(f"s{number:0{width}d}" for number in range(shoppers)),
        tastes=np.stack([before, after]),
        changes_ms=np.where(changes, day, never),
        # A few regulars and many who seldom come: log-normal, at most nearly every rush.
        activity=np.minimum(0.2 * np.exp(0.8 * chance.normal("crowd/activity", ids)), 0.95),
        mobile=0.15 + 0.8 * chance.uniform("crowd/mobile", ids),
        country=np.minimum(country, len(COUNTRIES) - 1),
        thrift=0.12 + 0.4 * chance.uniform("crowd/thrift", ids),
        ideal_price_z=1.1 * chance.normal("crowd/ideal-price", ids),
        refuses=refuses,
        withdraws_ms=np.where(withdraws, day, never),
        hides=chance.uniform("crowd/hides", ids) < HIDERS,
    )


def daypart(local_hour: Ints) -> Ints:
    """Index into DAYPARTS of an hour 0-23.

    >>> [DAYPARTS[i] for i in daypart(np.array([3, 8, 13, 20]))]
    ['night', 'morning', 'day', 'evening']
    """
    return np.searchsorted(np.array([6, 11, 18]), local_hour, side="right")


def _tastes(chance: Chance, when: str, ids: Ints) -> Floats:
    """One taste per shopper: two loved categories, two refused ones, a topic, a few styles."""
    traits = np.arange(len(TRAITS))
    tastes = 0.25 * chance.normal(f"crowd/{when}/noise", ids[:, None], traits)
    rows = ids[:, None]
    order = _shuffled(chance, f"crowd/{when}/categories", ids, len(CATEGORIES))
    tastes[rows, order] += np.array([2.6, 1.9, 0.2, 0.0, -0.3, -0.6, -1.2, -1.6])
    for loved, weight in ((0, 0.9), (1, 0.7)):
        topic = order[:, loved] * 3 + chance.pick(f"crowd/{when}/topic-{loved}", 3, ids)
        tastes[ids, len(CATEGORIES) + topic] += weight
    styles_from = len(CATEGORIES) + len(TOPIC_TAGS)
    styles = styles_from + _shuffled(chance, f"crowd/{when}/styles", ids, len(STYLE_TAGS))
    tastes[rows, styles] += np.array([1.0, 0.7, 0.0, 0.0, 0.0, 0.0, -0.3, -0.8])
    return tastes


def _shuffled(chance: Chance, purpose: str, ids: Ints, count: int) -> Ints:
    return np.argsort(chance.uniform(purpose, ids[:, None], np.arange(count)), axis=1)
