"""In which order do the events of one tick arrive?

By event time plus a delay: most devices send at once, some up to 20 s later. A session's events
share their delay, so they stay in order among themselves, as on a phone that was out of reach.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flows.simulate.chance import Ints


class Arrivals:
    """Events of one tick with their times, put into the order of arrival at the end."""

    def __init__(self) -> None:
        self._times: list[int] = []
        self._sessions: list[int] = []
        self._events: list[dict[str, Any]] = []

    def add(self, event: dict[str, Any], *, at_ms: int, session: int) -> None:
        """Keep one event of a session that happens at an instant; it is dated later."""
        self._times.append(at_ms)
        self._sessions.append(session)
        self._events.append(event)

    def in_order(self, delay_ms: Ints) -> list[dict[str, Any]]:
        """The events by arrival, dated; `delay_ms` has one entry per session of the rush."""
        if not self._events:
            return []
        times = np.asarray(self._times, dtype=np.int64)
        order = np.argsort(times + delay_ms[self._sessions], kind="stable")
        # numpy dates a whole tick at once: a tenth of what strftime costs per event.
        stamps = np.datetime_as_string(times.astype("datetime64[ms]"), unit="ms").tolist()
        events = self._events
        for event, stamp in zip(events, stamps, strict=True):
            event["occurred_at"] = stamp + "Z"
        return [events[position] for position in order.tolist()]
