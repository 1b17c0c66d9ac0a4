"""How recently, how often and for how much: recency, frequency and monetary value, and a score.

State: that of a window of amounts (`operators.windows`), an event without a number amounting to 0.
Values by key: `recency` (ms since the newest in the window), `frequency`, `monetary`, and `score`
(also without a key): the sum of three scores of 1 to 5; 0 where the window holds nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from operators.arrival import Arrived
from operators.kinds import MICRO, Holds, Outlook, State, Value, at_instants, of_age
from operators.windows import AmountWindow, Cell
from schemas.catalogue import Content

_TOP: Final = 5


@dataclass(frozen=True, slots=True)
class Rfm:
    """Bounds ascend: ages below `recency` score 5 to 2, numbers from the others on 2 to 5."""

    window: AmountWindow
    recency: tuple[int, ...]
    frequency: tuple[int, ...]
    monetary: tuple[float, ...]

    def add(self, state: State | None, event: Arrived, content: Content | None) -> State | None:
        """One event more."""
        return self.window.add(state, event, content)

    def value(self, state: State | None, now_ms: int, key: str | None = None) -> Value:
        """The part that the key names; recency has none where nothing happened."""
        cell = self.window.cell(state, now_ms)
        age = 0 if cell is None or state is None else self._age(state, now_ms)
        return self._read(cell, age, key)

    def _age(self, state: State, now_ms: int) -> int:
        times: list[int] = state[0]
        if times[-1] <= now_ms:
            return now_ms - times[-1]
        # Some are yet to come; where all that are kept one by one are, the newest is in a bucket.
        happened = bisect_right(times, now_ms)
        if happened:
            return now_ms - times[happened - 1]
        size = self.window.size
        buckets: list[int] = [b * size for b in state[1] if (b + 1) * size - 1 <= now_ms]
        return now_ms - max(buckets)

    def _read(self, cell: Cell | None, age: int, key: str | None) -> Value:
        if cell is None:
            return None if key == "recency" else 0.0
        number, total = cell[0], cell[1] / MICRO
        match key:
            case "recency":
                return float(age)
            case "frequency":
                return float(number)
            case "monetary":
                return float(total)
            case _:
                recency = _TOP - bisect_right(self.recency, age)
                frequency = 1 + bisect_right(self.frequency, number)
                return float(recency + frequency + 1 + bisect_right(self.monetary, total))

    def outlook(
        self,
        state: State | None,
        now_ms: int,
        holds: Holds,
        key: str | None = None,
        bounds: Sequence[float] = (),
    ) -> Outlook:
        """`holds(value)` now, and when it first differs with no new event."""
        if state is None:
            return holds(self._read(None, 0, key)), None
        window, newest = self.window, state[0][-1]
        gone = newest + window.within
        if key == "recency":
            turns = window.instants(state) if newest > now_ms else [gone]
            return self._of_recency(state, now_ms, holds, bounds, turns)
        if newest > now_ms:
            instants = window.instants(state)
            instants += [time + bound for time in state[0] for bound in self.recency]
            return at_instants(lambda at: self.value(state, at, key), instants, now_ms, holds)
        cells, leaving = window.cells_as_parts_leave(state, now_ms)
        turns = [newest + bound for bound in self.recency if now_ms < newest + bound < gone]
        truth = holds(self._read(cells[0], now_ms - newest, key))
        left = 0
        for at in sorted({*turns, *(time + window.within for time in leaving)}):
            while left < len(leaving) and leaving[left] + window.within <= at:
                left += 1
            if holds(self._read(cells[left], at - newest, key)) != truth:
                return truth, at
        return truth, None

    def _of_recency(
        self, state: State, now_ms: int, holds: Holds, bounds: Sequence[float], turns: list[int]
    ) -> Outlook:
        """The age grows from one turn to the next, where it falls or ceases to be."""
        age = self.value(state, now_ms, "recency")
        truth, at = holds(age), now_ms
        for turn in [*sorted({turn for turn in turns if turn > now_ms}), None]:
            if isinstance(age, float):
                _, ahead = of_age(int(age), holds, bounds)
                if ahead is not None and (turn is None or at + ahead < turn):
                    return truth, at + ahead
            if turn is None:
                break
            age, at = self.value(state, turn, "recency"), turn
            if holds(age) != truth:
                return truth, at
        return truth, None

    def empty(self, state: State | None, now_ms: int) -> bool:
        """Whether the window holds nothing."""
        return self.window.empty(state, now_ms)
