"""How often did one thing follow another within a gap, or fail to follow it?

State: [times of the first step, times of the second step], ascending, in ms: the newest 32 of
each, without those that are too old to matter. State is a function of the set of events. Two
events of the same millisecond follow each other in no order. Of more than 32 it undercounts rather
than overcounts: what may have been followed by a step no longer kept does not count as failed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from operators.arrival import Arrived
from operators.filters import Matches
from operators.kinds import Holds, Outlook, State, at_instants
from schemas.catalogue import Content

_KEPT: Final = 32


class StepOf(NamedTuple):
    """Which events are one step of a sequence."""

    events: frozenset[str]
    matches: Matches | None

    def has(self, event: Arrived, content: Content | None) -> bool:
        """Whether an event is such a step."""
        return not self.events.isdisjoint(event.names) and (
            self.matches is None or self.matches(event, content)
        )


@dataclass(frozen=True, slots=True)
class FollowedBy:
    """How many second steps in the window had a first step at most `gap` before.

    With `absent`: how many first steps in the window whose gap has passed without a second. Once 32
    second steps are kept, first steps before the oldest of those no longer count: a second that is
    gone may have followed them.
    """

    first: StepOf
    second: StepOf
    gap: int
    within: int
    absent: bool

    def add(self, state: State | None, event: Arrived, content: Content | None) -> State | None:
        """The event among the steps that it is; it may be both."""
        steps = [step for step in (0, 1) if (self.first, self.second)[step].has(event, content)]
        if not steps:
            return state
        at = event.occurred_ms
        if state is None:
            state = [[], []]
        for step in steps:
            insort(state[step], at)
        newest = max(times[-1] for times in state if times)
        # A step in the window may follow one that is out of it.
        horizons = (newest - self.within - (0 if self.absent else self.gap), newest - self.within)
        for times, horizon in zip(state, horizons, strict=True):
            del times[: max(bisect_right(times, horizon), len(times) - _KEPT)]
        return state

    def value(self, state: State | None, now_ms: int, key: str | None = None) -> float:  # noqa: ARG002
        """How many."""
        if state is None:
            return 0.0
        horizon = now_ms - self.within
        firsts, seconds = state
        number = 0
        if self.absent:
            start = bisect_right(firsts, horizon)
            if len(seconds) == _KEPT:
                start = max(start, bisect_left(firsts, seconds[0]))
            for at in firsts[start:]:
                if at + self.gap >= now_ms:
                    break
                next_ = bisect_right(seconds, at)
                if next_ == len(seconds) or seconds[next_] > at + self.gap:
                    number += 1
            return float(number)
        before = 0
        for at in seconds[bisect_right(seconds, horizon) : bisect_right(seconds, now_ms)]:
            while before < len(firsts) and firsts[before] < at:
                before += 1
            if before and at - firsts[before - 1] <= self.gap:
                number += 1
        return float(number)

    def outlook(
        self,
        state: State | None,
        now_ms: int,
        holds: Holds,
        key: str | None = None,  # noqa: ARG002
        bounds: Sequence[float] = (),  # noqa: ARG002
    ) -> Outlook:
        """`holds(value)` now, and when it first differs with no new event."""
        if state is None:
            return holds(0.0), None
        if self.absent:
            instants = [turn for at in state[0] for turn in (at + self.gap + 1, at + self.within)]
        else:
            instants = [turn for at in state[1] for turn in (at, at + self.within)]
        return at_instants(lambda at: self.value(state, at), instants, now_ms, holds)

    def empty(self, state: State | None, now_ms: int) -> bool:
        """Whether the window holds no step of either kind."""
        if state is None:
            return True
        horizon = now_ms - self.within
        return all(bisect_right(times, now_ms) <= bisect_right(times, horizon) for times in state)
