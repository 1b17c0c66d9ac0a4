"""What comes of asking a condition, and of combining several?

A verdict is a truth and the first instant at which time alone may change it. Truth has three
values, combined after Kleene (Introduction to Metamathematics, 1952): unknown and false is false,
unknown and true is unknown. What is unknown does not hold, and neither does its negation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from operators.moment import Moment
from operators.profile import Profile


class Verdict(NamedTuple):
    """Whether it holds (None: unknown), and when that may change by time alone (None: never)."""

    holds: bool | None
    until_ms: int | None


Evaluate = Callable[[Profile, Moment], Verdict]


def sooner(one: int | None, other: int | None) -> int | None:
    """The earlier of two instants, of which either may never come."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def all_of(parts: Sequence[Evaluate]) -> Evaluate:
    """Kleene's conjunction."""
    return _combined(parts, decisive=False)


def any_of(parts: Sequence[Evaluate]) -> Evaluate:
    """Kleene's disjunction."""
    return _combined(parts, decisive=True)


def negation(part: Evaluate) -> Evaluate:
    """Kleene's negation."""

    def evaluate(profile: Profile, moment: Moment) -> Verdict:
        holds, until = part(profile, moment)
        return Verdict(None if holds is None else not holds, until)

    return evaluate


def _combined(parts: Sequence[Evaluate], *, decisive: bool) -> Evaluate:
    """A combination that one part with the decisive truth decides, whatever the others say.

    It stays decided until the last of the deciding parts turns: no timer is set for the others.
    """

    def evaluate(profile: Profile, moment: Moment) -> Verdict:
        decided, known = False, True
        soonest: int | None = None
        latest = moment.now_ms
        for part in parts:
            holds, until = part(profile, moment)
            if holds is decisive:
                if until is None:
                    return Verdict(decisive, None)
                decided = True
                latest = max(latest, until)
            else:
                known = known and holds is not None
                soonest = sooner(soonest, until)
        if decided:
            return Verdict(decisive, latest)
        return Verdict(not decisive if known else None, soonest)

    return evaluate
