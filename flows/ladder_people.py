"""What do the shoppers of the ladder say of themselves? An age band, and for some an interest.

Static segments need something that is known before anybody has done anything. So every shopper
who consents states his age at once, and some name what they look for, as on a sign-up form. Both
are drawn from the taste with which a shopper begins, loosely: half of an age band's people like
what is typical of it, most of those who name an interest name the true one, and a taste that
changes later leaves both behind. The shop's own draws are not touched: its shoppers are the same.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import numpy as np

from flows.simulate.shop import Shop
from flows.simulate.stock import CATEGORIES
from schemas.time import rfc3339, to_millis

AGE_BANDS: Final = ("18-29", "30-44", "45-59", "60+")
TYPICAL: Final = 0.5
"""Share of shoppers whose age band is the one typical of what they like most; others: any band."""
NAMES_INTEREST: Final = 0.4
"""Share of shoppers who name an interest."""
NAMES_TRUE: Final = 0.7
"""Share of those who name the category that they like most; the others name any."""


class People:
    """What each shopper of a shop states when he first consents, the same for every step."""

    def __init__(self, shop: Shop) -> None:
        chance, crowd = shop.chance, shop.crowd
        ids = np.arange(len(crowd.user_ids))
        loved = np.argmax(crowd.tastes[0][:, : len(CATEGORIES)], axis=1)
        # Every band is typical of as many categories; which of them is drawn per shop.
        order = np.argsort(chance.uniform("ladder/typical", np.arange(len(CATEGORIES))))
        band_of = np.argsort(order) % len(AGE_BANDS)
        bands = np.where(
            chance.uniform("ladder/is-typical", ids) < TYPICAL,
            band_of[loved],
            chance.pick("ladder/band", len(AGE_BANDS), ids),
        )
        named = np.where(
            chance.uniform("ladder/names-true", ids) < NAMES_TRUE,
            loved,
            chance.pick("ladder/interest", len(CATEGORIES), ids),
        )
        names = chance.uniform("ladder/names", ids) < NAMES_INTEREST
        self._stated: dict[str, dict[str, str]] = {
            user_id: {"age_band": AGE_BANDS[band]} | ({"interest": CATEGORIES[of]} if says else {})
            for user_id, band, of, says in zip(
                crowd.user_ids, bands.tolist(), named.tolist(), names.tolist(), strict=True
            )
        }

    def of(self, user_id: str) -> dict[str, str]:
        """The attributes that a shopper states."""
        return dict(self._stated[user_id])

    def joined(self, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The events of a tick with a `profile_updated` after each consent that is granted."""
        found = []
        for event in events:
            found.append(event)
            if event["type"] == "consent_changed" and event["consent"]["personalization"]:
                at_ms = to_millis(datetime.fromisoformat(event["occurred_at"])) + 1
                found.append(
                    {
                        "event_id": f"{event['event_id']}-about",
                        "type": "profile_updated",
                        "user_id": event["user_id"],
                        "occurred_at": rfc3339(at_ms),
                        "session_id": event["session_id"],
                        "context": event["context"],
                        "attributes": self.of(event["user_id"]),
                    }
                )
        return found
