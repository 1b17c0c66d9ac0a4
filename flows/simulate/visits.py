"""Which sessions are there in one rush, and what do the shoppers do by themselves in them?

A rush is a busy hour: 3 a day, each of STEPS ticks of 3 minutes. A session begins in one of the
first ticks and asks for a page in each of the next ones. Organic events (consent, page view,
search, views of contents) come before its first request and do not depend on the arm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from flows.simulate.arrivals import Arrivals
from flows.simulate.chance import Bools, Chance, Floats, Ints
from flows.simulate.crowd import COUNTRIES, DEVICES, UTC_OFFSET_HOURS, Crowd, daypart
from flows.simulate.reactions import Reactions, Situation
from flows.simulate.stock import CATEGORIES, STYLE_TAGS, TOPIC_TAGS, Stock
from schemas.time import DAY, HOUR, MINUTE, SECOND

RUSHES_PER_DAY: Final = 3
STEPS: Final = 8
"""Ticks of a rush in which pages are requested; one more brings the last reactions."""

TICK_MS: Final = 3 * MINUTE
_RUSH_HOURS: Final = (7, 12, 19)
_STARTS: Final = 3
_PAGES: Final = np.array([2, 3, 4, 5, 6])
_PAGE_SHARES: Final = np.cumsum([0.15, 0.2, 0.3, 0.2, 0.15])
_SEARCHES: Final = 0.45
_VIEW_SHARES: Final = np.cumsum([0.35, 0.35, 0.3])
_ORGANIC_FROM_MS: Final = 120 * SECOND
_SEARCHABLE: Final = TOPIC_TAGS + STYLE_TAGS


@dataclass(frozen=True)
class Rush:
    """The sessions of one rush; arrays have one entry per session.

    `visit_ids` and `contexts` are what every event of the session carries; `tag` is what is
    searched for (-1: nothing); `views` is (sessions, 2) contents looked at (-1: none); `delay_ms`
    is how much later than they happen the session's events arrive.
    """

    number: int
    start_ms: int
    shoppers: Ints
    first: Ints
    pages: Ints
    devices: Ints
    dayparts: Ints
    visit_ids: list[str]
    contexts: list[dict[str, Any]]
    tag: Ints
    views: Ints
    delay_ms: Ints

    def requesting(self, step: int) -> Ints:
        """Indices of the sessions that ask for a page in a step."""
        return np.flatnonzero((self.first <= step) & (step < self.first + self.pages))

    def situation(self, sessions: Ints, at_ms: int) -> Situation:
        """The circumstances of some sessions."""
        return Situation(
            self.shoppers[sessions], self.devices[sessions], self.dayparts[sessions], at_ms
        )


def rush_start(chance: Chance, *, number: int, start_ms: int) -> int:
    """When a rush begins: morning, noon and evening in UTC, up to an hour later by chance."""
    day, part = divmod(number, RUSHES_PER_DAY)
    late = int(chance.pick("visits/late", 60, number)[()]) * MINUTE
    return start_ms + day * DAY + _RUSH_HOURS[part] * HOUR + late


def open_rush(
    chance: Chance, *, number: int, start_ms: int, stock: Stock, crowd: Crowd, reactions: Reactions
) -> Rush:
    """Draw the sessions of a rush, the same for every arm."""
    begins = rush_start(chance, number=number, start_ms=start_ms)
    everyone = np.arange(len(crowd.user_ids))
    hours = (begins // HOUR + np.asarray(UTC_OFFSET_HOURS)[crowd.country]) % 24
    dayparts = daypart(hours)
    awake = np.where(dayparts == 0, 0.25, np.where(dayparts == 3, 1.15, 1.0))
    comes = chance.uniform("visits/comes", everyone, number) < crowd.activity * awake
    shoppers = np.flatnonzero(comes)
    # A tablet is one in eight of what is not a phone.
    held = chance.uniform("visits/device", shoppers, number)
    mobile = crowd.mobile[shoppers]
    devices = np.where(held < mobile, 0, np.where(held < mobile + (1 - mobile) / 8, 2, 1))
    campaign = chance.uniform("visits/channel", shoppers, number)
    hours, dayparts = hours[shoppers], dayparts[shoppers]
    contexts = [
        {
            "device": DEVICES[device],
            "local_hour": hour,
            "country": COUNTRIES[country],
            "channel": "app" if drawn < 0.4 else "web" if drawn < 0.8 else "email",
        }
        for device, hour, country, drawn in zip(
            devices.tolist(),
            hours.tolist(),
            crowd.country[shoppers].tolist(),
            campaign.tolist(),
            strict=True,
        )
    ]
    drawn_pages = chance.uniform("visits/pages", shoppers, number)
    situation = Situation(shoppers[:, None], devices[:, None], dayparts[:, None], begins)
    return Rush(
        number=number,
        start_ms=begins,
        shoppers=shoppers,
        first=chance.pick("visits/first", _STARTS, shoppers, number),
        pages=_PAGES[np.searchsorted(_PAGE_SHARES, drawn_pages).clip(max=len(_PAGES) - 1)],
        devices=devices,
        dayparts=dayparts,
        visit_ids=[f"{crowd.user_ids[shopper]}-{number}" for shopper in shoppers.tolist()],
        contexts=contexts,
        tag=_searches(chance, shoppers, number, crowd.taste(shoppers, begins)),
        views=_views(chance, situation, number, stock, reactions),
        delay_ms=np.where(
            chance.uniform("visits/slow", shoppers, number) < 0.1,
            chance.pick("visits/delay", 20 * SECOND, shoppers, number),
            0,
        ),
    )


def organic_events(
    rush: Rush, *, step: int, stock: Stock, crowd: Crowd, consent: Ints, into: Arrivals
) -> None:
    """Add what the sessions that begin in a step do before their first request.

    `consent` has one entry per session: 1 granted now, 0 refused or withdrawn now, -1 no change.
    """
    from_ms = rush.start_ms + step * TICK_MS + _ORGANIC_FROM_MS
    for session in np.flatnonzero(rush.first == step).tolist():
        visit = rush.visit_ids[session]
        shared = {
            "user_id": crowd.user_ids[int(rush.shoppers[session])],
            "occurred_at": "",
            "session_id": visit,
            "context": rush.contexts[session],
        }
        # Sessions begin spread over 20 s; the stride keeps neighbours apart.
        at_ms = from_ms + session * 377 % 20_000
        if (answer := int(consent[session])) >= 0:
            event = {"event_id": f"{visit}-consent", "type": "consent_changed", **shared}
            event["consent"] = {"personalization": answer == 1}
            into.add(event, at_ms=at_ms, session=session)
        event = {"event_id": f"{visit}-page", "type": "page_view", **shared}
        into.add(event, at_ms=at_ms + 500, session=session)
        if (tag := int(rush.tag[session])) >= 0:
            event = {"event_id": f"{visit}-search", "type": "search", **shared}
            event["properties"] = {"tag": _SEARCHABLE[tag]}
            into.add(event, at_ms=at_ms + 6_000, session=session)
        for number, content in enumerate(rush.views[session].tolist()):
            if content >= 0:
                event = {"event_id": f"{visit}-look{number}", "type": "view", **shared}
                event["content_id"] = stock.content_ids[content]
                into.add(event, at_ms=at_ms + 11_000 + 5_000 * number, session=session)


def _searches(chance: Chance, shoppers: Ints, number: int, tastes: Floats) -> Ints:
    """A tag per session, drawn by taste (Gumbel maximum), or -1."""
    searchable = np.arange(len(_SEARCHABLE))
    liking = tastes[:, len(CATEGORIES) :].copy()
    # A topic is wanted as much as its category is.
    liking[:, : len(TOPIC_TAGS)] += np.repeat(tastes[:, : len(CATEGORIES)], 3, axis=1)
    gumbel = _gumbel(chance, "visits/tag", shoppers[:, None], number, searchable)
    wanted = np.argmax(1.5 * liking + gumbel, axis=1)
    return np.where(chance.uniform("visits/searches", shoppers, number) < _SEARCHES, wanted, -1)


def _views(
    chance: Chance, situation: Situation, number: int, stock: Stock, reactions: Reactions
) -> Ints:
    """Up to two contents per session, drawn by appeal among the live ones, -1 where none."""
    shoppers = situation.shoppers[:, 0]
    contents = np.flatnonzero(stock.live(situation.at_ms))
    appeal = reactions.utility(situation, contents)
    appeal = appeal + _gumbel(chance, "visits/view", situation.shoppers, number, contents)
    best = contents[np.argsort(-appeal, axis=1, kind="stable")[:, :2]]
    drawn = chance.uniform("visits/views", shoppers, number)
    count = np.minimum(np.searchsorted(_VIEW_SHARES, drawn), 2)
    keep: Bools = np.arange(best.shape[1]) < count[:, None]
    return np.where(keep, best, -1)


def _gumbel(chance: Chance, purpose: str, *keys: Ints | int) -> Floats:
    return -np.log(-np.log1p(-chance.uniform(purpose, *keys)) + 1e-300)
