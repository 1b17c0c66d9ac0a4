"""How many days (or weeks) in a row, up to now, had an event?

State: [first period, last period, first, last, ...] of the newest 16 runs of consecutive periods,
ascending. Days are numbered from 1970-01-01 in the signal's time zone; weeks are ISO weeks. A
streak is lost once a whole period passed without an event.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from operators.arrival import Arrived
from operators.kinds import Holds, Outlook, State, at_instants
from schemas.catalogue import Content
from schemas.time import DAY, to_millis

_RUNS: Final = 16
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY: Final = _EPOCH.toordinal()
_THURSDAY: Final = 3
"""1970-01-01 was one: so many days after the Monday that begins its week."""


@dataclass(frozen=True, slots=True)
class Streak:
    """How many periods of so many days, in a time zone (None: UTC)."""

    days: int
    zone: ZoneInfo | None

    def period(self, at_ms: int) -> int:
        """The number of the period that an instant lies in."""
        if self.zone is None:
            day = at_ms // DAY
        else:
            local = (_EPOCH + timedelta(milliseconds=at_ms)).astimezone(self.zone)
            day = local.toordinal() - _EPOCH_DAY
        return day if self.days == 1 else (day + _THURSDAY) // self.days

    def begins(self, period: int) -> int:
        """The first instant of a period."""
        day = period if self.days == 1 else period * self.days - _THURSDAY
        if self.zone is None:
            return day * DAY
        midnight = datetime.fromordinal(day + _EPOCH_DAY).replace(tzinfo=self.zone)
        # A midnight that the clock skips is the instant of the skip.
        return to_millis(midnight)

    def add(self, state: State | None, event: Arrived, content: Content | None) -> State | None:  # noqa: ARG002
        """The event's period among the runs; runs that now touch become one."""
        period = self.period(event.occurred_ms)
        if state is None:
            return [period, period]
        runs: list[int] = state
        if runs[-2] <= period <= runs[-1]:
            return state  # as for most events: another one today
        firsts = runs[0::2]
        place = 2 * bisect_right(firsts, period)
        if place and period <= runs[place - 1]:
            return state
        after = place and period == runs[place - 1] + 1
        before = place < len(runs) and period == runs[place] - 1
        if after and before:
            del runs[place - 1 : place + 1]
        elif after:
            runs[place - 1] = period
        elif before:
            runs[place] = period
        else:
            runs[place:place] = [period, period]
            del runs[: -2 * _RUNS]
        return state

    def value(self, state: State | None, now_ms: int, key: str | None = None) -> float:  # noqa: ARG002
        """How many periods."""
        if state is None:
            return 0.0
        return self._length(state, self.period(now_ms))

    def _length(self, runs: list[int], period: int) -> float:
        place = 2 * bisect_right(runs[0::2], period)
        if not place:
            return 0.0
        first, last = runs[place - 2], min(runs[place - 1], period)
        return float(last - first + 1) if last >= period - 1 else 0.0

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
        period = self.period(now_ms)
        if state[-1] <= period:
            truth = holds(self._length(state, period))
            # Time alone only ever ends it, once a whole period has passed.
            ends = state[-1] >= period - 1 and holds(0.0) != truth
            return truth, self.begins(state[-1] + 2) if ends else None
        # Periods yet to come count one by one as they begin.
        instants = [self.begins(turn) for turn in range(period + 1, state[-1] + 3)]
        return at_instants(lambda at: self.value(state, at), instants, now_ms, holds)

    def empty(self, state: State | None, now_ms: int) -> bool:
        """Whether no period had an event."""
        return state is None or state[0] > self.period(now_ms)
