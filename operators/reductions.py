"""What does each kind of signal give up first, where a profile has become too large?

Each function gives a smaller state, or None where nothing is left to give. A state that was made
smaller is a valid one: it grows and reads as ever. What is lost is the oldest or the weakest: a
count may become too low and never too high, and what made it more than 0 last stays, so that
something that was done never turns into "not done".
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from operators.affinity import DecayedAffinity
from operators.distinct import DistinctValues
from operators.fixed_dates import BetweenDates
from operators.kinds import Kind, State, saturated
from operators.rfm import Rfm
from operators.sequences import FollowedBy
from operators.sessions import Sessions
from operators.streaks import Streak
from operators.windows import AmountWindow, Cell, CountWindow

Reduce: TypeAlias = Callable[[Kind, State], State | None]

_COARSER: Final = 8
"""So many buckets become one: a 64th of a window becomes an eighth."""


def fewer_values(kind: Kind, state: State) -> State | None:
    """Distinct values: the half that was not seen for longest goes."""
    if not isinstance(kind, DistinctValues) or len(state) < 2:
        return None
    return dict(list(state.items())[len(state) // 2 :])


def less_detail(kind: Kind, state: State) -> State | None:
    """Sequences, visits, streaks, dates: the older half goes."""
    match kind:
        case FollowedBy():
            return _newer_steps(kind, state)
        case Sessions():
            return _newer_visits(state)
        case Streak():
            runs = len(state) // 2
            return state[2 * (runs // 2) :] if runs > 1 else None
        case BetweenDates():
            number, times = state
            half = len(times) // 2
            return [number + half, times[half:]] if half else None
        case _:
            return None


def _newer_steps(kind: FollowedBy, state: State) -> State | None:
    firsts, seconds = state
    instants = sorted({*firsts, *seconds})
    if len(instants) < 2:
        return None
    # Both from the same instant on: a first step must not outlive the second one that followed it.
    since = instants[len(instants) // 2]
    last = _last_unfollowed(kind, state) if kind.absent else _last_followed(kind, state)
    kept = [
        [at for at in times if at >= since or at in stays]
        for times, stays in zip(state, last, strict=True)
    ]
    return kept if kept != state else None


def _last_followed(kind: FollowedBy, state: State) -> tuple[set[int], set[int]]:
    """The steps of the newest second one that a first one came before."""
    firsts, seconds = state
    for at in reversed(seconds):
        before = bisect_left(firsts, at)
        if before and at - firsts[before - 1] <= kind.gap:
            return {firsts[before - 1]}, {at}
    return set(), set()


def _last_unfollowed(kind: FollowedBy, state: State) -> tuple[set[int], set[int]]:
    """The newest first steps that none followed: one that counts, and those that may still."""
    firsts, seconds = state
    newest = max(times[-1] for times in state if times)
    found: set[int] = set()
    for at in reversed(firsts):
        after = bisect_right(seconds, at)
        if after == len(seconds) or seconds[after] > at + kind.gap:
            found.add(at)
            if at + kind.gap < newest:
                break
    return found, set()


def _newer_visits(state: State) -> State | None:
    if len(state) > 1:
        return state[len(state) // 2 :]
    visit = state[0]
    seen = visit[3] if len(visit) > 3 else []
    # The least hashes, as always: which ones does not depend on the order of arrival.
    return [[*visit[:3], seen[: len(seen) // 2]]] if len(seen) > 1 else None


def coarser(kind: Kind, state: State) -> State | None:
    """Windows: steps of an eighth instead of a 64th; then all but the newest sample joins them."""
    if isinstance(kind, Rfm):
        kind = kind.window
    if not isinstance(kind, CountWindow | AmountWindow):
        return None
    times, buckets, *amounts = state
    join = kind.measure.put if isinstance(kind, AmountWindow) else _add
    # What is newer than an eighth of the window keeps its step: it may still lie ahead of a timer.
    settled = times[-1] // kind.size - _COARSER
    joined = _joined(buckets, settled, join)
    if len(joined) < len(buckets):
        return [times, joined, *amounts]
    if len(times) < 2:
        return None
    for place, at in enumerate(times[:-1]):
        cell = _cell(kind, amounts[0][place]) if amounts else 1
        bucket = at // kind.size
        joined[bucket] = join(joined[bucket], cell) if bucket in joined else cell
    joined = _joined(dict(sorted(joined.items())), settled, join)
    return [times[-1:], joined, *[column[-1:] for column in amounts]]


def _joined(
    buckets: dict[int, Cell], settled: int, join: Callable[[Cell, Cell], Cell]
) -> dict[int, Cell]:
    made: dict[int, Cell] = {}
    for bucket, cell in buckets.items():
        # Under the number of the oldest: what is joined leaves early, never late.
        number = bucket - bucket % _COARSER if bucket < settled else bucket
        made[number] = join(made[number], cell) if number in made else cell
    return made


def _cell(kind: CountWindow | AmountWindow, amount: int) -> Cell:
    one = kind.measure.one if isinstance(kind, AmountWindow) else None
    return amount if one is None else one(amount)


def _add(held: int, more: int) -> int:
    return saturated(held + more)


def fewer_likings(kind: Kind, state: State) -> State | None:
    """Affinities: the weaker half goes, as the weakest always does."""
    if not isinstance(kind, DecayedAffinity) or len(state[1]) < 2:
        return None
    liked: dict[str, Any] = state[1]
    strongest = sorted(liked, key=lambda text: (abs(liked[text]), text))[len(liked) // 2 :]
    kept = set(strongest)
    return [state[0], {text: weight for text, weight in liked.items() if text in kept}]
