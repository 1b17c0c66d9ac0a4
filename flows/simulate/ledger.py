"""What has one arm shown so far, and what came of it? The mutable book behind an `ArmResult`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from flows.simulate.chance import Bools, Floats, Ints
from flows.simulate.results import ArmResult
from flows.simulate.stock import CATEGORIES, Stock

_COLUMNS: Final = (
    "pages",
    "impressions",
    "clicks",
    "purchases",
    "hides",
    "revenue",
    "explored",
    "fallback",
)


class Ledger:
    """Counts per tick, per shopper and per content of one arm."""

    def __init__(self, name: str, *, stock: Stock, shoppers: int, rushes: int) -> None:
        self.unmatched = 0
        self._name = name
        self._stock = stock
        self._events = 0
        self._tick: dict[str, float] = dict.fromkeys(_COLUMNS, 0.0)
        self._ticks: list[tuple[int, dict[str, float]]] = []
        self._shoppers = np.zeros((5, shoppers))
        self._shown = np.zeros((rushes, len(stock.records)), dtype=np.int64)
        self._clicked = np.zeros_like(self._shown)

    def asked(self, shoppers: Ints) -> None:
        """Count page requests, whether they were answered or not (shopper of each)."""
        self._tick["pages"] += len(shoppers)
        np.add.at(self._shoppers[0], shoppers, 1)

    def decided(self, decision: dict[str, Any]) -> None:
        """Count one decision that answers a request."""
        self._tick["explored"] += bool(decision.get("explored"))
        self._tick["fallback"] += decision.get("fallback") is not None

    def reacted(
        self,
        rush: int,
        *,
        shoppers: Ints,
        contents: Ints,
        clicks: Bools,
        buys: Bools,
        hides: Bools,
        value: Floats,
    ) -> None:
        """Count what was shown and what came of it, one entry per content shown."""
        tick = self._tick
        tick["impressions"] += len(contents)
        tick["clicks"] += int(clicks.sum())
        tick["purchases"] += int(buys.sum())
        tick["hides"] += int(hides.sum())
        tick["revenue"] += float(value.sum())
        for row, amount in enumerate((np.ones(len(contents)), clicks, buys, value), start=1):
            np.add.at(self._shoppers[row], shoppers, amount)
        np.add.at(self._shown[rush], contents, 1)
        np.add.at(self._clicked[rush], contents[clicks], 1)

    def close_tick(self, at_ms: int, *, events: int) -> None:
        """Book what was counted since the last tick under an instant of event time."""
        self._events += events
        self._ticks.append((at_ms, self._tick))
        self._tick = dict.fromkeys(_COLUMNS, 0.0)

    def result(self, rush_ms: Sequence[int]) -> ArmResult:
        """The books as they stand."""
        columns = {name: np.array([counts[name] for _, counts in self._ticks]) for name in _COLUMNS}
        whole = {name: column.astype(np.int64) for name, column in columns.items()}
        people = self._shoppers.astype(np.int64)
        return ArmResult(
            name=self._name,
            events=self._events,
            unmatched=self.unmatched,
            tick_ms=np.array([at_ms for at_ms, _ in self._ticks], dtype=np.int64),
            pages=whole["pages"],
            impressions=whole["impressions"],
            clicks=whole["clicks"],
            purchases=whole["purchases"],
            hides=whole["hides"],
            revenue=columns["revenue"],
            explored=whole["explored"],
            fallback=whole["fallback"],
            shopper_pages=people[0],
            shopper_impressions=people[1],
            shopper_clicks=people[2],
            shopper_purchases=people[3],
            shopper_revenue=self._shoppers[4].copy(),
            rush_ms=np.asarray(rush_ms, dtype=np.int64),
            shown=self._shown.copy(),
            clicked=self._clicked.copy(),
            content_ids=self._stock.content_ids,
            categories=tuple(CATEGORIES[number] for number in self._stock.category.tolist()),
        )
