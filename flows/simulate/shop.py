"""The simulated shop: a closed loop that turns decisions into the next events.

Usage: `play = shop.play("nextbest")`, `events = play.start()`, then `events = play.step(decisions)`
with the decision records made for those events, until it returns None. Every arm plays the same
shop: visits and organic events are equal, and a reaction differs only where what was shown differs.

A tick lasts 3 minutes of event time: first the reactions to the last tick's decisions, then what
sessions do by themselves, then the requests of several hundred shoppers. Between two rushes time
jumps. The default shop makes about 200,000 events; their number grows with shoppers x days.
It does not know the flow, its model or its policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from flows.simulate.arrivals import Arrivals
from flows.simulate.chance import Chance, Floats, Ints
from flows.simulate.crowd import gather_crowd
from flows.simulate.ledger import Ledger
from flows.simulate.pages import BUY, CART, CLICK, HIDE, page_events
from flows.simulate.reactions import Memory, Reactions
from flows.simulate.results import ArmResult
from flows.simulate.stock import stock_shop
from flows.simulate.visits import (
    RUSHES_PER_DAY,
    STEPS,
    TICK_MS,
    Rush,
    open_rush,
    organic_events,
    rush_start,
)
from schemas.time import DAY, SECOND, to_millis

START: Final = datetime(2026, 1, 5, tzinfo=UTC)
PLACEMENT: Final = "home"

_REQUEST_FROM_MS: Final = 162 * SECOND
_REQUEST_SPREAD_MS: Final = 16_000
_BUYS_FROM_CART: Final = 0.42
_HIDES: Final = 0.35
_DISLIKED: Final = -2.5
"""Utility below which somebody who hides things may hide one (P(click) below 3 %)."""


@dataclass(frozen=True)
class Reference:
    """Expected click rates of a first exposure: what there is to gain, known to the shop only.

    `random` shows any live contents, `best_single` the one slate that is best for everybody,
    `personal` the best slate of each request.
    """

    random: float
    best_single: float
    personal: float


class Shop:
    """A shop with its catalogue and its shoppers, drawn from a seed."""

    def __init__(
        self,
        seed: int = 1,
        *,
        shoppers: int = 2_000,
        contents: int = 300,
        days: int = 10,
        slots: int = 3,
        start: datetime = START,
    ) -> None:
        if shoppers < 1 or days < 1 or slots < 1 or contents < slots:
            raise ValueError(
                "a shop needs at least one shopper, one day, one slot and as many contents as "
                f"slots; found shoppers={shoppers}, days={days}, slots={slots}, "
                f"contents={contents}"
            )
        self.seed = seed
        self.days = days
        self.slots = slots
        self.start_ms = to_millis(start)
        self.chance = Chance(seed)
        self.stock = stock_shop(self.chance, contents=contents, start_ms=self.start_ms, days=days)
        self.crowd = gather_crowd(self.chance, shoppers=shoppers, start_ms=self.start_ms, days=days)
        self.reactions = Reactions(
            self.chance, stock=self.stock, crowd=self.crowd, start_ms=self.start_ms, days=days
        )

    @property
    def rushes(self) -> int:
        """How many busy hours there are."""
        return self.days * RUSHES_PER_DAY

    def catalogue(self) -> list[dict[str, Any]]:
        """The catalogue records; contents that enter later are in it with their `valid_from`."""
        return [dict(record) for record in self.stock.records]

    def ticks(self) -> int:
        """How many lists of events a play hands out."""
        return self.rushes * (STEPS + 1)

    def play(self, arm_name: str) -> Play:
        """A new run of the loop, for the decisions of one arm."""
        return Play(self, arm_name)

    def rush(self, number: int) -> Rush:
        """The sessions of one rush."""
        return open_rush(
            self.chance,
            number=number,
            start_ms=self.start_ms,
            stock=self.stock,
            crowd=self.crowd,
            reactions=self.reactions,
        )

    def reference(self, *, rushes: int = 6) -> Reference:
        """Expected click rates in a few rushes spread over the run, fatigue left out."""
        random, single, personal, weights = [], [], [], []
        for number in np.linspace(0, self.rushes - 1, min(rushes, self.rushes)).astype(int):
            rush = self.rush(int(number))
            live = np.flatnonzero(self.stock.live(rush.start_ms))
            every = np.arange(len(rush.shoppers))[:, None]
            rates = np.stack(
                [
                    self.reactions.click_probability(
                        rush.situation(every, rush.start_ms),
                        live,
                        ranks=np.asarray(rank),
                        memory=None,
                    )
                    for rank in range(self.slots)
                ]
            )
            ranks = np.arange(self.slots)
            best = np.argsort(-rates[0], axis=1, kind="stable")[:, : self.slots]
            popular = np.argsort(-rates[0].mean(axis=0), kind="stable")[: self.slots]
            random.append(rates.mean())
            single.append(rates[ranks, :, popular].mean())
            personal.append(rates[ranks, every, best].mean())
            weights.append(len(rush.shoppers))
        return Reference(
            *(float(np.average(rate, weights=weights)) for rate in (random, single, personal))
        )


class Play:
    """One run of the loop: hands out a tick's events, takes the decisions made for them."""

    def __init__(self, shop: Shop, arm_name: str) -> None:
        self._shop = shop
        self._memory = Memory.blank(len(shop.crowd.user_ids), len(shop.stock.records))
        self._asked = np.zeros(len(shop.crowd.user_ids), dtype=bool)
        self._withdrawn = np.zeros(len(shop.crowd.user_ids), dtype=bool)
        self._ledger = Ledger(
            arm_name, stock=shop.stock, shoppers=len(shop.crowd.user_ids), rushes=shop.rushes
        )
        self._tick = 0
        self._open: dict[str, int] = {}
        self._rush = shop.rush(0)
        self._consent = self._answers()

    @property
    def tick(self) -> int:
        """How many ticks have been handed out."""
        return self._tick

    def start(self) -> list[dict[str, Any]]:
        """The events of the first tick. Raises RuntimeError when called a second time."""
        if self._tick:
            raise RuntimeError("this play has started already: ask the shop for a new one")
        return self._next(Arrivals())

    def step(self, decisions: Sequence[dict[str, Any]]) -> list[dict[str, Any]] | None:
        """The reactions to the last tick's decisions and the next requests; None at the end.

        Decisions are matched by `trigger.event_id`. One that answers no open request (another
        trigger, a second answer) is counted as unmatched and shown to nobody; a request without a
        decision shows nothing. Raises ValueError for a content the catalogue does not have.
        """
        if not self._tick:
            raise RuntimeError("this play has not started: call start() first")
        if self._tick >= self._shop.ticks():
            return None
        if self._tick % (STEPS + 1) == 0:
            self._rush = self._shop.rush(self._tick // (STEPS + 1))
            self._memory.sleep_until((self._rush.start_ms - self._shop.start_ms) // DAY)
            self._consent = self._answers()
        arrivals = Arrivals()
        self._react(decisions, arrivals)
        return self._next(arrivals)

    def result(self) -> ArmResult:
        """What has been shown and what came of it so far."""
        return self._ledger.result(
            [
                rush_start(self._shop.chance, number=number, start_ms=self._shop.start_ms)
                for number in range(self._shop.rushes)
            ]
        )

    def best_decisions(self) -> list[dict[str, Any]]:
        """What somebody who knew the hidden model would answer to the open requests (greedily)."""
        sessions = np.asarray(list(self._open.values()), dtype=np.int64)
        rates = self._expected(sessions)
        slots = self._shop.slots
        best = np.argsort(-rates, axis=1, kind="stable")[:, :slots]
        names = self._shop.stock.content_ids
        return [
            {
                "decision_id": f"oracle:{event_id}",
                "profile_id": self._shop.crowd.user_ids[int(self._rush.shoppers[session])],
                "placement": PLACEMENT,
                "trigger": {"event_id": event_id, "type": "decision_requested"},
                "items": [
                    {
                        "content_id": names[content],
                        "rank": rank,
                        "score": float(rates[row, content]),
                        "propensity": 1.0,
                    }
                    for rank, content in enumerate(best[row].tolist(), start=1)
                ],
                "explored": False,
                "fallback": None,
            }
            for row, (event_id, session) in enumerate(self._open.items())
        ]

    def _expected(self, sessions: Ints) -> Floats:
        """P(click at the first rank) of every content for open requests, memory included."""
        shop = self._shop
        return shop.reactions.click_probability(
            self._rush.situation(sessions[:, None], self._now() - TICK_MS),
            np.arange(len(shop.stock.records)),
            ranks=np.asarray(0),
            memory=self._memory,
        )

    def _now(self) -> int:
        return self._rush.start_ms + self._tick % (STEPS + 1) * TICK_MS

    def _answers(self) -> Ints:
        """Consent given (1) or taken (0) at the start of each session of the rush, or -1."""
        crowd, shoppers = self._shop.crowd, self._rush.shoppers
        asked = self._asked[shoppers]
        takes_back = (
            asked
            & (crowd.withdraws_ms[shoppers] <= self._rush.start_ms)
            & ~self._withdrawn[shoppers]
        )
        self._asked[shoppers] = True
        self._withdrawn[shoppers] |= takes_back
        first = np.where(crowd.refuses[shoppers], 0, 1)
        return np.where(~asked, first, np.where(takes_back, 0, -1))

    def _next(self, arrivals: Arrivals) -> list[dict[str, Any]]:
        """Add organic events and requests to the reactions; close the tick."""
        rush, step = self._rush, self._tick % (STEPS + 1)
        crowd = self._shop.crowd
        self._open = {}
        if step < STEPS:
            organic_events(
                rush,
                step=step,
                stock=self._shop.stock,
                crowd=crowd,
                consent=self._consent,
                into=arrivals,
            )
            from_ms = self._now() + _REQUEST_FROM_MS
            for session in rush.requesting(step).tolist():
                visit = rush.visit_ids[session]
                event_id = f"{visit}-{step}-ask"
                self._open[event_id] = session
                arrivals.add(
                    {
                        "event_id": event_id,
                        "type": "decision_requested",
                        "user_id": crowd.user_ids[int(rush.shoppers[session])],
                        "occurred_at": "",
                        "session_id": visit,
                        "placement": PLACEMENT,
                        "slots": self._shop.slots,
                        "context": rush.contexts[session],
                    },
                    at_ms=from_ms + session * 377 % _REQUEST_SPREAD_MS,
                    session=session,
                )
        events = arrivals.in_order(rush.delay_ms)
        self._ledger.close_tick(self._now(), events=len(events))
        self._tick += 1
        return events

    def _react(self, decisions: Sequence[dict[str, Any]], arrivals: Arrivals) -> None:
        """Add what the shoppers do with what they are shown, and remember it."""
        shop, rush, now = self._shop, self._rush, self._now()
        step = self._tick % (STEPS + 1) - 1
        self._ledger.asked(rush.shoppers[list(self._open.values())])
        shown: list[tuple[int, dict[str, Any], list[int]]] = []
        for decision in decisions:
            session = self._open.pop(decision["trigger"]["event_id"], None)
            if session is None:
                self._ledger.unmatched += 1
                continue
            self._ledger.decided(decision)
            if decision["items"]:
                shown.append((session, decision, self._contents(decision)))
        if not shown:
            return
        counts = [len(contents) for _, _, contents in shown]
        sessions = np.repeat([session for session, _, _ in shown], counts)
        shoppers = rush.shoppers[sessions]
        contents = np.concatenate([contents for _, _, contents in shown])
        ranks = np.concatenate([np.arange(count) for count in counts])
        situation = rush.situation(sessions, now - TICK_MS)
        visit = rush.number * 16 + step

        def draw(purpose: str) -> Floats:
            return shop.chance.uniform(purpose, shoppers, visit, contents)

        clicks = draw("click") < shop.reactions.click_probability(
            situation, contents, ranks=ranks, memory=self._memory
        )
        carts = clicks & (draw("cart") < shop.reactions.cart_probability(shoppers, contents))
        buys = carts & (draw("buy") < _BUYS_FROM_CART)
        hides = shop.crowd.hides[shoppers] & ~clicks & (draw("hide") < _HIDES)
        if hides.any():
            of = rush.situation(sessions[hides], now - TICK_MS)
            hides[hides] = shop.reactions.utility(of, contents[hides]) < _DISLIKED
        np.add.at(self._memory.shown, (shoppers, contents), 1.0)
        self._memory.owned[shoppers[buys], contents[buys]] = True
        self._memory.hidden[shoppers[hides], contents[hides]] = True
        value = np.where(buys, shop.stock.price[contents], 0.0)
        self._ledger.reacted(
            rush.number,
            shoppers=shoppers,
            contents=contents,
            clicks=clicks,
            buys=buys,
            hides=hides,
            value=value,
        )
        pace = (draw("pace") * 1_000).astype(np.int64).tolist()
        did = (CLICK * clicks + CART * carts + BUY * buys + HIDE * hides).tolist()
        position = 0
        for (session, decision, chosen), count in zip(shown, counts, strict=True):
            page = slice(position, position + count)
            page_events(
                rush,
                session=session,
                decision=decision,
                name=f"{rush.visit_ids[session]}-{step}",
                user_id=shop.crowd.user_ids[int(rush.shoppers[session])],
                at_ms=now + 1_000 + pace[position] * 10,
                prices=shop.stock.price[chosen].tolist(),
                did=did[page],
                pace=pace[page],
                into=arrivals,
            )
            position += count

    def _contents(self, decision: dict[str, Any]) -> list[int]:
        index = self._shop.stock.index
        try:
            return [index[item["content_id"]] for item in decision["items"]]
        except KeyError as unknown:
            raise ValueError(
                f"decision {decision['decision_id']!r} shows content {unknown}, "
                "which is not in the shop's catalogue"
            ) from None
