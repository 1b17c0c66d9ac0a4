"""What does a shopper do with one page that was shown? The same as events, with their times.

An impression, then for each content what came of it: a click and a view, perhaps a cart and a
purchase, or a hide. All bear the `decision_id` they answer. What happened has been decided before;
this module only tells it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from flows.simulate.arrivals import Arrivals
from flows.simulate.visits import Rush

CLICK: Final = 1
CART: Final = 2
BUY: Final = 4
HIDE: Final = 8


def page_events(
    rush: Rush,
    *,
    session: int,
    decision: dict[str, Any],
    name: str,
    user_id: str,
    at_ms: int,
    prices: Sequence[float],
    did: Sequence[int],
    pace: Sequence[int],
    into: Arrivals,
) -> None:
    """Add the events of one page, shown at an instant.

    `prices`, `did` (CLICK | CART | BUY | HIDE) and `pace` (0-999, how slow the shopper is) have one
    entry per item of the decision. `name` begins every event id.
    """
    shared = {
        "user_id": user_id,
        "occurred_at": "",
        "session_id": rush.visit_ids[session],
        "placement": decision["placement"],
        "decision_id": decision["decision_id"],
        "context": rush.contexts[session],
    }
    items = decision["items"]
    event = {"event_id": f"{name}-shown", "type": "impression", **shared}
    event["contents"] = [item["content_id"] for item in items]
    into.add(event, at_ms=at_ms, session=session)

    def tell(kind: str, at_ms: int, content_id: str, **fields: Any) -> None:
        event = {"event_id": f"{name}-{kind}-{content_id}", "type": kind, **shared, **fields}
        event["content_id"] = content_id
        into.add(event, at_ms=at_ms, session=session)

    for position, flags in enumerate(did):
        if not flags:
            continue
        content_id, price, wait = items[position]["content_id"], prices[position], pace[position]
        # Lower places are reached later. The slowest chain ends 95 s into the tick, before the
        # organic events of the same tick begin, so that event time keeps rising.
        then = at_ms + 3_000 + 8_000 * min(position, 4) + wait * 15
        if flags & HIDE:
            tell("feedback", then, content_id, feedback="hide")
        if flags & CLICK:
            tell("click", then, content_id)
            tell("view", then + 800, content_id)
        if flags & CART:
            tell("add_to_cart", then + 8_000 + wait * 8, content_id, value=price)
        if flags & BUY:
            tell("purchase", then + 18_000 + wait * 16, content_id, value=price)
