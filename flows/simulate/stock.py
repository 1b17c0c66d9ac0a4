"""What does the shop sell? A few hundred contents with tags, price, category and a hidden quality.

Some contents enter later (`valid_from`), some are withdrawn (`valid_until`). The records follow the
catalogue contract; the arrays beside them are what the reaction model reads. Quality is in the
arrays only: nobody outside the shop can read it, it has to be learned from clicks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from flows.simulate.chance import Bools, Chance, Floats, Ints
from schemas.time import DAY, HOUR, rfc3339

TOPICS: Final[dict[str, tuple[str, ...]]] = {
    "shoes": ("running", "boots", "sandals"),
    "outdoor": ("camping", "climbing", "cycling"),
    "kitchen": ("coffee", "baking", "knives"),
    "books": ("crime", "history", "poetry"),
    "audio": ("headphones", "vinyl", "speakers"),
    "garden": ("herbs", "tools", "lanterns"),
    "toys": ("puzzles", "building", "plush"),
    "beauty": ("skincare", "fragrance", "bath"),
}
CATEGORIES: Final = tuple(TOPICS)
TOPIC_TAGS: Final = tuple(tag for tags in TOPICS.values() for tag in tags)
STYLE_TAGS: Final = (
    "minimal",
    "retro",
    "eco",
    "classic",
    "sporty",
    "cosy",
    "techy",
    "colourful",
)
TRAITS: Final = CATEGORIES + TOPIC_TAGS + STYLE_TAGS
"""The dimensions in which a content is described and a taste is held."""

BRANDS: Final = tuple(
    f"{first}{last}" for first in ("Al", "Bo", "Cas", "Del", "Em") for last in ("vik", "tra", "mo")
)
_TYPICAL_PRICE: Final = (80.0, 95.0, 45.0, 16.0, 120.0, 35.0, 28.0, 30.0)
_PRICE_SPREAD: Final = 0.5
_NEVER: Final = 2**62


@dataclass(frozen=True)
class Stock:
    """The contents as records for the flow and as arrays for the reaction model.

    `traits` is (contents, len(TRAITS)) with 1 where a trait applies; `price_z` is the log price in
    standard deviations from what is typical for the category; `enters_ms` and `leaves_ms` bound
    when a content may be shown, `is_new` marks those that were not there on the first day.
    """

    records: tuple[dict[str, Any], ...]
    content_ids: tuple[str, ...]
    index: dict[str, int]
    category: Ints
    traits: Floats
    price: Floats
    price_z: Floats
    quality: Floats
    enters_ms: Ints
    leaves_ms: Ints
    is_new: Bools

    def live(self, at_ms: int) -> Bools:
        """Which contents may be shown at an instant."""
        return (self.enters_ms <= at_ms) & (at_ms < self.leaves_ms)


def stock_shop(chance: Chance, *, contents: int, start_ms: int, days: int) -> Stock:
    """Draw a catalogue: about one in seven enters later, about one in twelve is withdrawn."""
    ids = np.arange(contents)
    category = ids % len(CATEGORIES)
    topics_each = len(TOPIC_TAGS) // len(CATEGORIES)
    topic = category * topics_each + chance.pick("stock/topic", topics_each, ids)
    style = chance.pick("stock/style", len(STYLE_TAGS), ids)
    second = chance.pick("stock/second-style", len(STYLE_TAGS), ids)
    has_second = (chance.uniform("stock/has-second-style", ids) < 0.5) & (second != style)

    traits = np.zeros((contents, len(TRAITS)))
    traits[ids, category] = 1.0
    traits[ids, len(CATEGORIES) + topic] = 1.0
    styles_from = len(CATEGORIES) + len(TOPIC_TAGS)
    traits[ids, styles_from + style] = 1.0
    traits[ids[has_second], styles_from + second[has_second]] = 1.0

    price_z = np.clip(chance.normal("stock/price", ids), -2.2, 2.2)
    typical = np.asarray(_TYPICAL_PRICE)[category]
    price = np.floor(typical * np.exp(_PRICE_SPREAD * price_z)) + 0.99

    # Whole hours, so that a record reads like something a person has planned.
    span = max(days - 2, 1) * (DAY // HOUR)
    is_new = chance.uniform("stock/new", ids) < 0.15
    enters = start_ms + (24 + chance.pick("stock/enters", span, ids)) * HOUR
    withdrawn = (chance.uniform("stock/withdrawn", ids) < 0.08) & ~is_new
    leaves = start_ms + (24 + chance.pick("stock/leaves", span, ids)) * HOUR

    width = len(str(contents - 1))
    content_ids = tuple(f"p{number:0{width}d}" for number in range(contents))
    brand = chance.pick("stock/brand", len(BRANDS), ids)
    # Editorial order is not taste: it is drawn apart from quality, as it is in most shops.
    priority = chance.pick("stock/priority", 10, ids)
    records: list[dict[str, Any]] = []
    for number in range(contents):
        tags = [TOPIC_TAGS[topic[number]], STYLE_TAGS[style[number]]]
        if has_second[number]:
            tags.append(STYLE_TAGS[second[number]])
        record: dict[str, Any] = {
            "content_id": content_ids[number],
            "type": "product",
            "tags": tags,
            "attributes": {
                "category": CATEGORIES[category[number]],
                "brand": BRANDS[brand[number]],
                "price": round(float(price[number]), 2),
                "price_band": price_band(float(price_z[number])),
            },
            "placements": ["home"],
            "priority": float(priority[number]),
        }
        if is_new[number]:
            record["valid_from"] = rfc3339(int(enters[number]))
        if withdrawn[number]:
            record["valid_until"] = rfc3339(int(leaves[number]))
        records.append(record)
    return Stock(
        records=tuple(records),
        content_ids=content_ids,
        index={content_id: number for number, content_id in enumerate(content_ids)},
        category=category,
        traits=traits,
        price=price,
        price_z=price_z,
        quality=0.25 * chance.normal("stock/quality", ids),
        enters_ms=np.where(is_new, enters, start_ms - DAY),
        leaves_ms=np.where(withdrawn, leaves, _NEVER),
        is_new=is_new,
    )


def price_band(price_z: float) -> str:
    """Which third of its category's prices a content is in.

    >>> price_band(-1.0), price_band(0.0), price_band(1.0)
    ('low', 'middle', 'high')
    """
    if price_z < -0.43:
        return "low"
    return "middle" if price_z < 0.43 else "high"
