"""What happened within a sliding window: how many, and the sum, mean or extreme of a number?

The newest 16 events are kept one by one, to the millisecond; older ones in buckets of a 64th of
the window. An event exactly as old as the window is out of it. So a value is exact while the
window holds at most 16 events, and so is a truth such as "at least 16"; beyond that an event
leaves up to a 64th of the window early, never late.

State: [times, {bucket number: cell}] for a count, with the amounts beside their times for the
others: [times, {bucket number: cell}, amounts]. Times ascend (equal ones by amount), bucket numbers
too. What is out of the window of the newest event is gone. State is a function of the set of
events, not of their order. Amounts are whole millionths.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from operator import add
from typing import Any, Final, NamedTuple

from operators.arrival import Arrived
from operators.kinds import (
    MICRO,
    Holds,
    Outlook,
    State,
    Value,
    as_ones_leave,
    as_parts_leave,
    at_instants,
    course,
    saturated,
    turn_below,
)
from schemas.catalogue import Content

EXACT: Final = 16
_BUCKETS: Final = 64

Cell = Any
"""What a bucket, or one amount, comes to: an integer, or [number, sum]."""


def bucket_size(within: int) -> int:
    """The resolution of a window, in milliseconds."""
    return max(1, within // _BUCKETS)


def _put(
    buckets: dict[int, Cell], bucket: int, cell: Cell, join: Callable[[Cell, Cell], Cell]
) -> None:
    held = buckets.get(bucket)
    if held is not None:
        buckets[bucket] = join(held, cell)
        return
    late = bool(buckets) and bucket < next(reversed(buckets))
    buckets[bucket] = cell
    if late:
        ascending = sorted(buckets.items())
        buckets.clear()
        buckets.update(ascending)


def _drop(buckets: dict[int, Cell], horizon: int) -> None:
    """Drop the buckets up to a number."""
    while buckets and (oldest := next(iter(buckets))) <= horizon:
        del buckets[oldest]


def _live(state: State, now_ms: int, within: int, size: int) -> tuple[dict[int, Cell], int, int]:
    """The buckets in the window that ends now, and where its samples begin and end."""
    times, buckets = state[0], state[1]
    horizon = now_ms - within
    end = len(times) if times[-1] <= now_ms else bisect_right(times, now_ms)
    if times[0] <= horizon:
        # What is in a bucket is no younger than the oldest sample, which is out.
        return {}, bisect_right(times, horizon), end
    if not buckets:
        return {}, 0, end
    first = horizon // size
    if times[0] > now_ms:
        # Some of the events may be yet to come: none of those ever counts.
        last = (now_ms + 1) // size
        return {b: cell for b, cell in buckets.items() if first < b < last}, 0, end
    if next(iter(buckets)) > first:
        return buckets, 0, end
    return {b: cell for b, cell in buckets.items() if b > first}, 0, end


def _instants(state: State, within: int, size: int) -> list[int]:
    """Every instant at which the value may change."""
    found = [at for time in state[0] for at in (time, time + within)]
    for bucket in state[1]:
        found += (bucket * size + within, (bucket + 1) * size - 1)
    return found


def _add(held: int, more: int) -> int:
    return saturated(held + more)


@dataclass(frozen=True, slots=True)
class CountWindow:
    """How many events are in the window."""

    within: int
    size: int

    def add(self, state: State | None, event: Arrived, content: Content | None) -> State | None:  # noqa: ARG002
        """One event more."""
        at = event.occurred_ms
        if state is None:
            return [[at], {}]
        times, buckets = state
        newest = times[-1]
        if at >= newest:
            times.append(at)
            horizon = at - self.within
            while times[0] <= horizon:
                del times[0]
        else:
            horizon = newest - self.within
            if at <= horizon:
                return state
            insort(times, at)
        if len(times) > EXACT:
            _put(buckets, times.pop(0) // self.size, 1, _add)
        if buckets:
            _drop(buckets, horizon // self.size)
        return state

    def value(self, state: State | None, now_ms: int, key: str | None = None) -> float:  # noqa: ARG002
        """How many."""
        if state is None:
            return 0.0
        times, buckets = state
        if not buckets and times[-1] <= now_ms and times[0] > now_ms - self.within:
            return float(len(times))  # as for most profiles
        live, start, end = _live(state, now_ms, self.within, self.size)
        return float(sum(live.values()) + end - start)

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
        times = state[0]
        if times[-1] > now_ms:
            instants = _instants(state, self.within, self.size)
            return at_instants(lambda at: self.value(state, at), instants, now_ms, holds)
        live, start, end = _live(state, now_ms, self.within, self.size)
        left = sum(live.values()) + end - start
        truth, turn = holds(float(left)), turn_below(left, bounds)
        if turn < 0:
            return truth, None  # as wherever too few happened yet
        if turn >= end - start:
            for bucket, number in live.items():
                left -= number
                if left > turn:
                    continue
                if bucket * self.size == times[0]:
                    turn = left - 1  # it leaves together with the first sample: asked below
                elif holds(float(left)) != truth:
                    return truth, bucket * self.size + self.within
                else:
                    turn = turn_below(left, bounds)
        return truth, as_ones_leave(times[start:end], turn, holds, truth, self.within, bounds)

    def course(self, state: State, now_ms: int) -> list[tuple[int, Value]]:
        """Now and each later instant at which events leave, with the value from then on.

        Holds where no event is yet to come.
        """
        live, start, end = _live(state, now_ms, self.within, self.size)
        numbers = [*live.values(), *[1] * (end - start)]
        left = [0.0, *map(float, accumulate(reversed(numbers)))]
        left.reverse()
        instants = [*[bucket * self.size for bucket in live], *state[0][start:end]]
        return course(left, instants, now_ms, self.within)

    def empty(self, state: State | None, now_ms: int) -> bool:
        """Whether the window holds nothing."""
        return state is None or not self.value(state, now_ms)


class Measure(NamedTuple):
    """What is made of the amounts of a window.

    `one` makes the cell of one amount (None: the amount itself), `all_of` that of several; `join`
    makes one cell of two, `put` likewise for a bucket, which has a limit; `read` gives the value
    of a cell (None: of nothing), `read_all` those of several cells.
    """

    one: Callable[[int], Cell] | None
    all_of: Callable[[list[int]], Cell]
    join: Callable[[Cell, Cell], Cell]
    put: Callable[[Cell, Cell], Cell]
    read: Callable[[Cell | None], float | None]
    read_all: Callable[[list[Cell]], list[float]]


def _join_pairs(held: list[int], more: list[int]) -> list[int]:
    return [held[0] + more[0], held[1] + more[1]]


def _put_pair(held: list[int], more: list[int]) -> list[int]:
    return [held[0] + more[0], saturated(held[1] + more[1])]


def _number(cell: int | None) -> float | None:
    return None if cell is None else cell / MICRO


def _numbers(cells: list[int]) -> list[float]:
    return [cell / MICRO for cell in cells]


SUM: Final = Measure(
    None,
    sum,
    add,
    _add,
    lambda cell: 0.0 if cell is None else cell / MICRO,
    _numbers,
)
LEAST: Final = Measure(None, min, min, min, _number, _numbers)
GREATEST: Final = Measure(None, max, max, max, _number, _numbers)
MEAN: Final = Measure(
    lambda amount: [1, amount],
    lambda amounts: [len(amounts), sum(amounts)],
    _join_pairs,
    _put_pair,
    lambda cell: None if cell is None else cell[1] / (cell[0] * MICRO),
    lambda cells: [total / (number * MICRO) for number, total in cells],
)


@dataclass(frozen=True, slots=True)
class AmountWindow:
    """What the amounts in the window come to."""

    within: int
    size: int
    amount: Callable[[Arrived, Content | None], int | None]
    measure: Measure

    def add(self, state: State | None, event: Arrived, content: Content | None) -> State | None:
        """One amount more; an event without one changes nothing."""
        amount = self.amount(event, content)
        if amount is None:
            return state
        at = event.occurred_ms
        if state is None:
            return [[at], {}, [amount]]
        times, buckets, amounts = state
        newest = times[-1]
        if at > newest:
            times.append(at)
            amounts.append(amount)
            horizon = at - self.within
            if times[0] <= horizon:
                expired = bisect_right(times, horizon)
                del times[:expired], amounts[:expired]
        else:
            horizon = newest - self.within
            if at <= horizon:
                return state
            left, right = bisect_left(times, at), bisect_right(times, at)
            place = bisect_right(amounts, amount, left, right)
            times.insert(place, at)
            amounts.insert(place, amount)
        if len(times) > EXACT:
            oldest, one = amounts.pop(0), self.measure.one
            cell = oldest if one is None else one(oldest)
            _put(buckets, times.pop(0) // self.size, cell, self.measure.put)
        if buckets:
            _drop(buckets, horizon // self.size)
        return state

    def cell(self, state: State | None, now_ms: int) -> Cell | None:
        """What the window's amounts come to, as a cell; None where it holds none."""
        if state is None:
            return None
        live, start, end = _live(state, now_ms, self.within, self.size)
        amounts = state[2] if end - start == len(state[2]) else state[2][start:end]
        if not live:
            return self.measure.all_of(amounts) if amounts else None
        cells = reduce(self.measure.join, live.values())
        return self.measure.join(cells, self.measure.all_of(amounts)) if amounts else cells

    def value(self, state: State | None, now_ms: int, key: str | None = None) -> float | None:  # noqa: ARG002
        """What they come to."""
        return self.measure.read(self.cell(state, now_ms))

    def cells_as_parts_leave(
        self, state: State, now_ms: int
    ) -> tuple[list[Cell | None], list[int]]:
        """The cell now and after each part left, and the instants of the parts, ascending.

        A part leaves one window after its instant. Holds where no event is yet to come.
        """
        live, start, end = _live(state, now_ms, self.within, self.size)
        one = self.measure.one
        parts = list(live.values())
        parts += state[2][start:end] if one is None else map(one, state[2][start:end])
        cells: list[Cell | None] = list(accumulate(reversed(parts), self.measure.join))
        cells.reverse()
        cells.append(None)
        return cells, [*map(self.size.__mul__, live), *state[0][start:end]]

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
            return holds(self.measure.read(None)), None
        if state[0][-1] > now_ms:
            instants = self.instants(state)
            return at_instants(lambda at: self.value(state, at), instants, now_ms, holds)
        values, instants = self._as_parts_leave(state, now_ms)
        return as_parts_leave(values, instants, holds, self.within, bounds)

    def course(self, state: State, now_ms: int) -> list[tuple[int, Value]]:
        """Now and each later instant at which amounts leave, with the value from then on.

        Holds where no event is yet to come.
        """
        values, instants = self._as_parts_leave(state, now_ms)
        return course(values, instants, now_ms, self.within)

    def _as_parts_leave(self, state: State, now_ms: int) -> tuple[list[float | None], list[int]]:
        cells, instants = self.cells_as_parts_leave(state, now_ms)
        nothing = self.measure.read(cells.pop())
        return [*self.measure.read_all(cells), nothing], instants

    def instants(self, state: State) -> list[int]:
        """Every instant at which the value may change."""
        return _instants(state, self.within, self.size)

    def empty(self, state: State | None, now_ms: int) -> bool:
        """Whether the window holds nothing."""
        return self.cell(state, now_ms) is None
