"""How often did it happen between two dates?

State: [number, [the newest 16 instants, ascending]]: the number is of those older than the kept
ones. What is dated after now does not count yet, so instants are kept as far as any may still lie
ahead. State is a function of the set of events, not of their order.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from operators.arrival import Arrived
from operators.kinds import Holds, Outlook, State, at_instants
from schemas.catalogue import Content

_KEPT: Final = 16


@dataclass(frozen=True, slots=True)
class BetweenDates:
    """A count over a range of dates, half open, in ms; `end` None: no end."""

    begin: int
    end: int | None

    def add(self, state: State | None, event: Arrived, content: Content | None) -> State | None:  # noqa: ARG002
        """The state with the event in it, where it lies within the dates."""
        at = event.occurred_ms
        if at < self.begin or (self.end is not None and at >= self.end):
            return state
        if state is None:
            return [0, [at]]
        insort(state[1], at)
        if len(state[1]) > _KEPT:
            del state[1][0]
            state[0] += 1
        return state

    def value(self, state: State | None, now_ms: int, key: str | None = None) -> float:  # noqa: ARG002
        """How many so far."""
        return 0.0 if state is None else float(state[0] + bisect_right(state[1], now_ms))

    def outlook(
        self,
        state: State | None,
        now_ms: int,
        holds: Holds,
        key: str | None = None,  # noqa: ARG002
        bounds: Sequence[float] = (),  # noqa: ARG002
    ) -> Outlook:
        """`holds(count)` now, and when it first differs: only what lies ahead still joins."""
        ahead = () if state is None else state[1]
        return at_instants(lambda at: self.value(state, at), ahead, now_ms, holds)

    def empty(self, state: State | None, now_ms: int) -> bool:
        """Whether not one event counts at that instant."""
        return self.value(state, now_ms) == 0
