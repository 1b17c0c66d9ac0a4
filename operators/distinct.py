"""How many different values did a sliding window see?

State: {value: newest instant in ms}, ascending by (instant, value): at most `keep` values, the
stalest give way. A value is out of the window once it was last seen exactly a window ago. What is
out of the window of the newest event is gone. State is a function of the set of events.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from operators.arrival import Arrived
from operators.kinds import Holds, Outlook, State, as_ones_leave, at_instants, turn_below
from schemas.catalogue import Content

Texts = Callable[[Arrived, Content | None], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class DistinctValues:
    """How many different values are in the window, at most `keep`."""

    within: int
    texts: Texts
    keep: int

    def add(self, state: State | None, event: Arrived, content: Content | None) -> State | None:
        """The event's values, as seen when it happened."""
        texts = self.texts(event, content)
        if not texts:
            return state
        at = event.occurred_ms
        seen: dict[str, int] = {} if state is None else state
        newest = seen[next(reversed(seen))] if seen else at
        if at <= newest - self.within:
            return state
        for text in texts:
            held = seen.get(text)
            if held is not None:
                if held >= at:
                    continue
                del seen[text]
            seen[text] = at
        if at <= newest or len(texts) > 1:
            ascending = sorted(seen.items(), key=lambda item: (item[1], item[0]))
            seen.clear()
            seen.update(ascending)
        horizon = max(at, newest) - self.within
        while len(seen) > self.keep or seen[next(iter(seen))] <= horizon:
            del seen[next(iter(seen))]
        return seen

    def value(self, state: State | None, now_ms: int, key: str | None = None) -> float:  # noqa: ARG002
        """How many different values."""
        if not state:
            return 0.0
        newest, oldest = state[next(reversed(state))], state[next(iter(state))]
        if newest <= now_ms and oldest > now_ms - self.within:
            return float(len(state))
        times = list(state.values())
        return float(bisect_right(times, now_ms) - bisect_right(times, now_ms - self.within))

    def outlook(
        self,
        state: State | None,
        now_ms: int,
        holds: Holds,
        key: str | None = None,  # noqa: ARG002
        bounds: Sequence[float] = (),
    ) -> Outlook:
        """`holds(value)` now, and when it first differs with no new event."""
        if not state:
            return holds(0.0), None
        times = list(state.values())
        if times[-1] > now_ms:
            instants = [at for time in times for at in (time, time + self.within)]
            return at_instants(lambda at: self.value(state, at), instants, now_ms, holds)
        live = times[bisect_right(times, now_ms - self.within) :]
        number = len(live)
        truth, turn = holds(float(number)), turn_below(number, bounds)
        return truth, as_ones_leave(live, turn, holds, truth, self.within, bounds)

    def empty(self, state: State | None, now_ms: int) -> bool:
        """Whether the window saw no value."""
        return not self.value(state, now_ms)
