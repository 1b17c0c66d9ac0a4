"""What must every kind of signal be able to do, and when does a truth about its value change?

A kind adds events to a state, reads a value from it, and foretells when a truth about that value
first differs with no new event. States are builtins (lists, dicts, integers, floats, texts), so
that they encode as they are; `Any`, because they come back from bytes untyped.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol, TypeAlias

from operators.arrival import Arrived
from schemas.catalogue import Content

State: TypeAlias = Any
"""Builtins only; each kind says which."""

Value: TypeAlias = float | str | None
"""A signal's value; None: it has none."""

Holds: TypeAlias = Callable[[Value], bool]
"""A truth about a value."""

Outlook: TypeAlias = tuple[bool, int | None]
"""A truth now, and when (ms) it first differs with no new event; None: never."""

MICRO: Final = 1_000_000
_MOST: Final = 1 << 62
_LARGEST: Final = 1e12
_LONGEST: Final = 1 << 42


class Kind(Protocol):
    """How a signal's state grows and is read. Times are milliseconds since the epoch."""

    def add(self, state: State | None, event: Arrived, content: Content | None) -> State | None:
        """The state with the event in it, which may be the same object; None: still nothing."""
        ...

    def value(self, state: State | None, now_ms: int, key: str | None = None) -> Value:
        """The value at an instant, of what happened up to it."""
        ...

    def outlook(
        self,
        state: State | None,
        now_ms: int,
        holds: Holds,
        key: str | None = None,
        bounds: Sequence[float] = (),
    ) -> Outlook:
        """`holds(value)` now, and when it first differs with no new event.

        `bounds` are the only numbers at which `holds` may differ: it is the same for any two
        numbers with none of them on either or between. Left out, it may differ anywhere; of a value
        that changes by the millisecond it is then taken to differ at most once as that moves one
        way.
        """
        ...

    def empty(self, state: State | None, now_ms: int) -> bool:
        """Whether not one event counts at that instant."""
        ...


def micros(number: float) -> int:
    """A number as whole millionths, at most 1e12 either way: integers add up in any order."""
    return round(max(-_LARGEST, min(_LARGEST, number)) * MICRO)


def saturated(total: int) -> int:
    """The total within 63 bits: snapshots hold 64, so beyond 4.6e12 a sum stops growing."""
    return total if -_MOST < total < _MOST else max(-_MOST, min(_MOST, total))


def at_instants(
    value: Callable[[int], Value], instants: Iterable[int], now_ms: int, holds: Holds
) -> Outlook:
    """The outlook of a value that changes at none but these instants."""
    truth = holds(value(now_ms))
    for instant in sorted({instant for instant in instants if instant > now_ms}):
        if holds(value(instant)) != truth:
            return truth, instant
    return truth, None


def as_parts_leave(
    values: Sequence[Value],
    instants: Sequence[int],
    holds: Holds,
    after_ms: int,
    bounds: Sequence[float],
) -> Outlook:
    """The outlook where parts leave one after the other, each `after_ms` after its own instant.

    `values[k]` is the value once the first k parts left; `instants` ascend.
    """
    truth, last = holds(values[0]), len(instants)
    low, high = _alike(values[0], bounds)
    for left, value in enumerate(values):
        # Nearly all of them are told by their number alone: asking costs several times as much.
        if isinstance(value, float) and low < value < high:
            continue
        # Parts of one instant leave together: what lies between is never seen.
        if holds(value) != truth and (left == last or instants[left] != instants[left - 1]):
            return truth, instants[left - 1] + after_ms
    return truth, None


def _alike(value: Value, bounds: Sequence[float]) -> tuple[float, float]:
    """Between which two numbers (these excluded) the truth is the same as of a value."""
    if not bounds or not isinstance(value, float):
        return 0.0, 0.0
    low, high = -math.inf, math.inf
    for bound in bounds:
        if bound < value:
            low = max(low, bound)
        elif bound > value:
            high = min(high, bound)
        else:
            return math.nextafter(value, -math.inf), math.nextafter(value, math.inf)
    return low, high


def turn_below(number: int, bounds: Sequence[float]) -> int:
    """The greatest whole number below another at which a truth may differ; negative: there is none.

    >>> turn_below(9, [3.0, 2.5]), turn_below(3, [3.0, 2.5]), turn_below(2, [3.0, 2.5])
    (3, 2, -1)
    """
    if not bounds:
        return number - 1
    turn = -1
    for bound in bounds:
        if 0 <= bound <= number:
            turn = max(turn, math.floor(bound) if bound < number else number - 1)
    return turn


def as_ones_leave(
    instants: Sequence[int],
    turn: int,
    holds: Holds,
    truth: bool,
    after_ms: int,
    bounds: Sequence[float],
) -> int | None:
    """When a truth about a number first differs where each of `instants` counts one.

    One leaves `after_ms` after its instant; `instants` ascend. `turn` is the number at which the
    truth may next differ, as from `turn_below`.
    """
    while turn >= 0:
        instant = instants[-1 - turn]
        # Those of one instant leave together: what lies between is never seen.
        left = len(instants) - bisect_right(instants, instant)
        if holds(float(left)) != truth:
            return instant + after_ms
        turn = turn_below(left, bounds)
    return None


def course(
    values: Sequence[Value], instants: Sequence[int], now_ms: int, after_ms: int
) -> list[tuple[int, Value]]:
    """The values to come where parts leave as in `as_parts_leave`: (from when on, value)."""
    found = [(now_ms, values[0])]
    last = len(instants)
    for left, instant in enumerate(instants, start=1):
        if left == last or instants[left] != instant:
            found.append((instant + after_ms, values[left]))
    return found


def of_age(age_ms: int, holds: Holds, bounds: Sequence[float] = ()) -> Outlook:
    """The outlook of an age, which grows by the millisecond; the second part is how far ahead."""
    truth = holds(float(age_ms))
    if not bounds:
        return truth, first_flip(lambda ahead: holds(float(age_ms + ahead)) != truth, _LONGEST)
    first = None
    for bound in bounds:
        for turn in (math.ceil(bound), math.floor(bound) + 1):
            sooner = turn > age_ms and (first is None or turn < first)
            if sooner and holds(float(turn)) != truth:
                first = turn
    return truth, None if first is None else first - age_ms


def first_flip(flipped: Callable[[int], bool], most: int) -> int | None:
    """The least n from 1 to `most` for which it is true, of a truth that comes and stays.

    >>> first_flip(lambda n: n >= 1_000, 1 << 20)
    1000
    """
    far = 1
    while not flipped(far):
        if far >= most:
            return None
        far = min(most, 2 * far)
    near = far // 2
    while far - near > 1:
        middle = (near + far) // 2
        if flipped(middle):
            far = middle
        else:
            near = middle
    return far
