"""What are a person's sessions like: how many, how long, how deep?

Events closer together than the gap are one session. State: [[start, end, number of events], ...] in
ms, ascending, with the sorted hashes of the values seen for depth (the least 64). A session is
settled once it ended two gaps before the newest event: of those the newest 30 are kept where
sessions are counted, else the newest two, without hashes; of the others there are two at most.
Among events that arrive less than a gap late, order does not matter; what is later may find its
neighbours gone.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from operators.arrival import Arrived
from operators.distinct import Texts
from operators.ids import hash32
from operators.kinds import Holds, Outlook, State, as_ones_leave, at_instants, turn_below
from schemas.catalogue import Content
from schemas.time import DAY

Measure = Literal["sessions", "events", "length", "depth", "dwell"]

_COUNTED: Final = 30
_CURRENT: Final = 2
_DEPTH: Final = 64


@dataclass(frozen=True, slots=True)
class Sessions:
    """One measure of the sessions; all but `sessions` are of the current one (0: there is none)."""

    measure: Measure
    gap: int
    within: int
    texts: Texts

    def add(self, state: State | None, event: Arrived, content: Content | None) -> State | None:
        """The event in its session, which it may open or join with another."""
        at = event.occurred_ms
        deep = self.measure == "depth"
        seen = self._hashes(event, content) if deep else []
        if state is None:
            return [[at, at, 1, seen] if deep else [at, at, 1]]
        newest = state[-1]
        if newest[1] <= at < newest[1] + self.gap:
            newest[1] = at
            newest[2] += 1
            if deep:
                newest[3] = _least(newest[3], seen)
            return self._trimmed(state)
        sessions: list[list[Any]] = state
        joined: list[Any] = [at, at, 1, seen] if deep else [at, at, 1]
        apart = []
        for session in sessions:
            if session[0] - self.gap < at < session[1] + self.gap:
                joined[0] = min(joined[0], session[0])
                joined[1] = max(joined[1], session[1])
                joined[2] += session[2]
                if deep:
                    joined[3] = _least(joined[3], session[3])
            else:
                apart.append(session)
        insort(apart, joined)
        sessions[:] = apart
        return self._trimmed(sessions)

    def _trimmed(self, sessions: list[list[Any]]) -> State:
        newest, settled = sessions[-1][1], len(sessions) - 1
        # The others may yet be joined with each other. Were those counted, too, what is dropped
        # would depend on whether the event between them came before or after.
        while settled and sessions[settled - 1][1] > newest - 2 * self.gap:
            settled -= 1
        kept = _COUNTED if self.measure == "sessions" else _CURRENT
        if settled > kept:
            del sessions[: settled - kept]
            settled = kept
        if self.measure == "sessions":
            # A day more, so that an event within the lateness still finds its neighbours.
            while sessions[0][1] <= newest - self.within - self.gap - DAY:
                del sessions[0]
        elif self.measure == "depth":
            for session in sessions[:settled]:
                session[3] = []
        return sessions

    def _hashes(self, event: Arrived, content: Content | None) -> list[int]:
        return _least([], [hash32(text) for text in self.texts(event, content)])

    def value(self, state: State | None, now_ms: int, key: str | None = None) -> float:  # noqa: ARG002
        """The measure at an instant: a number, or milliseconds for length and dwell."""
        if state is None:
            return 0.0
        if self.measure == "sessions":
            horizon = now_ms - self.within
            return float(len([s for s in state if s[1] > horizon and s[0] <= now_ms]))
        session = state[-1]
        if session[0] > now_ms:
            session = next((s for s in reversed(state) if s[0] <= now_ms), None)
        if session is None or now_ms >= session[1] + self.gap:
            return 0.0
        start, end, number = session[:3]
        match self.measure:
            case "events":
                return float(number)
            case "length":
                return float(min(end, now_ms) - start)
            case "depth":
                return float(len(session[3]))
            case _:
                return (end - start) / (number - 1) if number > 1 else 0.0

    def outlook(
        self,
        state: State | None,
        now_ms: int,
        holds: Holds,
        key: str | None = None,  # noqa: ARG002
        bounds: Sequence[float] = (),
    ) -> Outlook:
        """`holds(value)` now, and when it first differs with no new event."""
        if state is None:
            return holds(0.0), None
        counted = self.measure == "sessions"
        after = self.within if counted else self.gap
        if state[-1][0] > now_ms:
            instants = [turn for session in state for turn in (session[0], session[1] + after)]
            return at_instants(lambda at: self.value(state, at), instants, now_ms, holds)
        if not counted:
            turns = [state[-1][1] + after]
            return at_instants(lambda at: self.value(state, at), turns, now_ms, holds)
        horizon = now_ms - self.within
        live = [end for _, end, _ in state if end > horizon]
        number = len(live)
        truth, turn = holds(float(number)), turn_below(number, bounds)
        return truth, as_ones_leave(live, turn, holds, truth, self.within, bounds)

    def empty(self, state: State | None, now_ms: int) -> bool:
        """Whether there is no session: in the window, or now."""
        if state is None:
            return True
        after = self.within if self.measure == "sessions" else self.gap
        return not any(start <= now_ms < end + after for start, end, *_ in state)


def _least(held: list[int], more: list[int]) -> list[int]:
    """The least 64 of both, each once: that does not depend on their order."""
    merged = list(held)
    for cell in more:
        place = bisect_left(merged, cell)
        if place == len(merged) or merged[place] != cell:
            merged.insert(place, cell)
    return merged[:_DEPTH]
